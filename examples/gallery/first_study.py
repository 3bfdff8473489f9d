"""
A first study: from which iteration on is training stable?
==========================================================

*Instability analysis* (Frankle et al. 2020) trains a network to iteration k, forks copies that see different SGD noise
(another data order, other augmentation), trains them to the end, and measures the error on the straight line between
them. If it does not rise, the copies have ended in the same linearly connected minimum, and training is called *stable*
from iteration k on.

Here with a small convolutional network on 8x8 digits, for half of its usual iterations and one initialisation, so that
it takes seconds. At a shell, ``modeconn instability`` is the full study, in under a minute on two cores.
"""

import matplotlib.pyplot as plt

import modeconn

result = modeconn.instability(
    "digits-conv", rewind_iters=[0, 10, 40], iterations=200, replicates=1, copies=2, alphas=11, workers=0
)
print(result)

# %%
# Instability is the barrier: the largest error on the path minus the mean error of its two ends. Below 2 percentage
# points the pair counts as connected. Two curves belong to each data set, since BatchNorm's running statistics can be
# *interpolated* like weights or *recalibrated* at every point of the path; :doc:`/batchnorm` says why that matters.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for ax, choice in zip(axes, result.batchnorm, strict=True):
    result.plot(ax, choice)

# %%
# The error along the path between the two copies of one k, where the barrier is seen directly:

fig, axes = plt.subplots(1, 3, figsize=(9, 3), sharey=True, layout="constrained")
for ax, k in zip(axes, result.rewind_iters, strict=True):
    result.plot_path(k, ax, "interpolate")

# %%
# The earliest stable iteration, at a threshold that you choose, and the rows as a table:

print(result.stable_from(threshold=0.02))
print(result.rows[0])

# %%
# The full run
# ------------
#
# Five values of k, three initialisations, all 400 iterations: ``modeconn reproduce lmc2020-figure-3 --network
# digits-conv --protocol paper``. The rows are in the repository, in ``figures/lmc2020-figure-3/``.
#
# .. figure:: ../../figures/lmc2020-figure-3/digits-conv-paper.png
#    :alt: Instability over the rewinding iteration, with BatchNorm's statistics interpolated and recalibrated
#
#    Mean and one standard deviation over three initialisations.
