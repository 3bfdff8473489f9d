"""
Lottery tickets
===============

Iterative magnitude pruning: train, remove the smallest 20 % of the remaining weights, rewind the others to iteration k,
again. The sparse networks *match* if they reach the dense network's error, and Frankle et al. (2020) found that they do
where two copies of them end linearly connected. The controls keep the density and change the mask (``random``) or the
weights (``reinit``).

Three levels, for a fifth of the usual iterations; ``modeconn lottery`` is the full study.
"""

import matplotlib.pyplot as plt

import modeconn

tickets = modeconn.lottery(
    "digits-conv",
    levels=3,
    fraction=0.5,
    rewind_iter=8,
    conditions=["imp", "random"],
    iterations=80,
    replicates=1,
    validation=0,
    alphas=5,
    workers=0,
)
print(tickets)

# %%
# Error over density, each network after its own training:

fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
tickets.plot(axes[0])
tickets.plot(axes[1], "instability_test")

# %%
# Masks of your own networks
# --------------------------
#
# ``prune`` finds a mask for any network, by magnitude, at random, or by SNIP, GraSP or SynFlow:

import torch  # noqa: E402
from torch import nn  # noqa: E402

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
batch = torch.randn(128, 64), torch.randint(10, (128,))
mask = modeconn.prune(network, "snip", density=0.2, data=[batch])
print(mask)
mask.apply(network)  # after every optimizer step

# %%
# The full run
# ------------
#
# LeNet-300-100 on MNIST, 10,000 iterations: with half of the weights and fewer, tickets learn sooner and err less than
# the dense network, and than their masks on new weights. ``modeconn reproduce lth2019-figure-4 --network mnist-lenet``.
#
# .. figure:: ../../figures/lth2019-figure-4/mnist-lenet-short.png
#    :alt: Early-stopping iteration and test error of LeNet's tickets over density
