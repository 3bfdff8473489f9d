"""
Many networks: which are connected, and their soup
==================================================

Six networks of one architecture: three fine-tuned from one pretrained network, and three from other initialisations.
Which of them are linearly connected, and which can be averaged?
"""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from modeconn import barrier_matrix, soup

digits = load_digits()
inputs, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
train, held_out, test = ((inputs[part], labels[part]) for part in (slice(1000), slice(1000, 1400), slice(1400, None)))


def trained(network, seed, steps, lr=0.1):
    """A copy of a network after so many steps of SGD, whose batches the seed draws."""
    network, draw = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(len(train[1]), (32,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(train[0][batch]), train[1][batch]).backward()
        optimizer.step()
    return network


def initialised(seed):
    """A network at initialisation."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


base = trained(initialised(0), seed=0, steps=200)
networks = {f"fine-tune {seed}": trained(base, seed, steps=60, lr=0.03) for seed in (1, 2, 3)}
networks |= {f"seed {seed}": trained(initialised(seed), seed, steps=200) for seed in (1, 2, 3)}

# %%
# All pairs are measured, and networks that are connected to each other by paths below the threshold form a group.

matrix = barrier_matrix(list(networks.values()), test, names=list(networks), alphas=11)
print(matrix)

# %%
# Groups are formed by the *chord barrier*, the excess over the straight line between the errors of the two ends: two
# networks that merely differ in error have none.

fig, ax = plt.subplots(figsize=(6, 5), layout="constrained")
matrix.plot(ax)

# %%
# A *soup* is an average of weights (Wortsman et al. 2022). The greedy one ranks the networks on held-out data and takes
# each that no barrier separates from the soup so far and that does not make it worse. Networks from other
# initialisations stay out, and so do those that do not help.

mixed = soup(list(networks.values()), held_out, "greedy", names=list(networks))
print(mixed)

# %%
# ``mixed.state`` is a state dict: ``network.load_state_dict(mixed.state)``.

fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
mixed.plot(ax)
