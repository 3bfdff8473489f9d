"""
Reproduce a figure of the papers
================================

Every figure and table of the three papers has a script, which states what the paper found, computes it, and says
whether the two agree. At a shell:

.. code-block:: console

   $ modeconn reproduce --list
   $ modeconn reproduce lmc2020-figure-3 --network mnist-lenet --protocol short --data-dir DIR

``paper`` is the paper's length, network and replicates, ``short`` a stated part of it, and ``smoke``, here, a try of
seconds whose numbers mean nothing. First it says how many trainings are needed and how long they will take.
"""

import matplotlib.pyplot as plt

from modeconn.reproduce.run import reproduce
from modeconn.reproduce.scripts import load_figure

figure = load_figure("lmc2020-figure-3")
picture = reproduce(
    figure, "lmc2020-figure-3", protocol="smoke", workers=0, out="modeconn-results/lmc2020-figure-3", say=print
)
print(*sorted(path.name for path in picture.parent.iterdir()), sep="\n")

# %%

fig, ax = plt.subplots(figsize=(9, 3.6), layout="constrained")
ax.imshow(plt.imread(next(picture.parent.glob("*.png"))))
ax.axis("off")

# %%
# The full run
# ------------
#
# LeNet-300-100 on MNIST by the paper's protocol: stable from k = 0, as the paper says. What every figure gave is in
# :doc:`/ledger`.
#
# .. figure:: ../../figures/lmc2020-figure-3/mnist-lenet-paper.png
#    :alt: Instability of LeNet over the rewinding iteration
