"""
A plane through three networks
==============================

Three points span a plane: error and loss on a grid of it show whether the three lie in one basin (Garipov et al. 2018,
Izmailov et al. 2018). Here two copies that were forked late from one trunk, and a third network from another
initialisation.
"""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from modeconn import plane

digits = load_digits()
inputs, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
train, test = (inputs[:1200], labels[:1200]), (inputs[1200:], labels[1200:])


def initialised(seed):
    """A network at initialisation."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


def trained(network, seed, steps):
    """A copy of a network after so many steps of SGD, whose batches the seed draws."""
    network, draw = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(len(train[1]), (32,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(train[0][batch]), train[1][batch]).backward()
        optimizer.step()
    return network


trunk = trained(initialised(0), seed=0, steps=60)
copy_1, copy_2 = trained(trunk, seed=1, steps=200), trained(trunk, seed=2, steps=200)
other = trained(initialised(1), seed=3, steps=260)

# %%
# The three networks are measured at themselves and shown at their places; x and y are distances between weights.

result = plane(copy_1, copy_2, other, test, points=15, names=["copy 1", "copy 2", "other seed"])
print(result)

# %%

fig, ax = plt.subplots(figsize=(4.5, 5), layout="constrained")
result.plot(ax=ax)

# %%
# The full run
# ------------
#
# Three copies of one trunk over k: they end in three valleys when they part early, and in one when they part late.
# ``modeconn reproduce beyond-planes --network digits-conv --protocol paper``; :doc:`/planes` says how to read it.
#
# .. figure:: ../../figures/beyond-planes/digits-conv-paper.png
#    :alt: The plane through three copies of one trunk, for several k
