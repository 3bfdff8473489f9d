"""
Align two networks: is the barrier one of permutations?
=======================================================

Two networks trained from different initialisations may compute similar functions with their hidden units in another
order. ``align`` finds the order of b's units in which it is most like a, for any network that ``torch.export`` can
export (Ainsworth et al. 2023).
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from modeconn import align, error_barrier

digits = load_digits()
inputs, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
train, test = (inputs[:1200], labels[:1200]), (inputs[1200:], labels[1200:])


def trained(seed):
    """A wide network after 300 steps of SGD; the wider, the more alignment helps."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(300):
        batch = torch.randint(len(train[1]), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(train[0][batch]), train[1][batch]).backward()
        optimizer.step()
    return network


a, b = trained(1), trained(2)

# %%
# From the weights alone. The table names the groups of units that may change places, and what stays and why.

alignment = align(a, b)
print(alignment)

# %%
# ``alignment.apply(b)`` is a network of b's class that computes what b computes:

aligned = alignment.apply(b)
print(torch.allclose(aligned(test[0]), b(test[0]), atol=1e-4))

# %%
# The path to it, and the path without alignment:

plain, permuted = error_barrier(a, b, test), error_barrier(a, aligned, test)
print(f"loss barrier {plain.heights('loss').barrier:.3f}, aligned {permuted.heights('loss').barrier:.3f}")

fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for ax, measured in zip(axes, (plain, permuted), strict=True):
    measured.plot(ax, "loss")

# %%
# The full run
# ------------
#
# With BatchNorm, alignment needs recalibrated statistics as well: ResNet-20 of several widths on CIFAR-10, ``modeconn
# reproduce beyond-alignment-batchnorm``. How it works, and where it ends: :doc:`/alignment`.
#
# .. figure:: ../../figures/beyond-alignment-batchnorm/cifar10-resnet20-short.png
#    :alt: Barriers between ResNet-20 of several widths, aligned and not, with three choices for BatchNorm
