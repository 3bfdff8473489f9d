"""
Can I average these two?
========================

Two fine-tunes of one model, two seeds, two checkpoints: sometimes the average of their weights is as good as both,
sometimes it is as bad as guessing. ``compare`` says which it is and what has to be done first.

Two copies of a network with BatchNorm that parted after one iteration of training on the digits:
"""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from modeconn import align, average, compare

digits = load_digits()
inputs, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
train, test = (inputs[:1200], labels[:1200]), (inputs[1200:], labels[1200:])


def trained(network, seed, steps, lr):
    """A copy of a network after so many steps of SGD, whose batches the seed draws."""
    network, draw = copy.deepcopy(network).train(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(len(train[1]), (64,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(train[0][batch]), train[1][batch]).backward()
        optimizer.step()
    return network.eval()


torch.manual_seed(2)
hidden = [layer for width in (64, *[24] * 5) for layer in (nn.Linear(width, 24), nn.BatchNorm1d(24), nn.ReLU())]
trunk = trained(nn.Sequential(*hidden, nn.Linear(24, 10)), seed=2, steps=1, lr=0.2)
a, b = (trained(trunk, seed, steps=250, lr=0.3) for seed in (102, 202))

# %%
# Without data, ``compare(a, b)`` tells what the weights alone say: differences of the architectures, distances by
# layer, and whether the two look like siblings. With data it gives a verdict, and the table at its end says what each
# remedy leaves of the barrier: recalibrating BatchNorm's statistics, REPAIR, aligning the units, or two of these.

report = compare(a, b, test, calibration=train, names=["copy 1", "copy 2"])
print(report)

# %%
# Where the weights differ:

fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
report.plot(ax)

# %%
# What the remedies are in code: the average of the two as they are, with BatchNorm's statistics measured anew on
# training data, and with the second one aligned to the first before.

plain = average([a, b], data=test, model=a)
recalibrated = average([a, b], calibration=train, data=test)
aligned = average([a, align(a, b).apply(b)], calibration=train, data=test)
for name, mean in (("plain", plain), ("recalibrated", recalibrated), ("aligned and recalibrated", aligned)):
    print(f"{name:25} error {mean.value['error']:.3f}")

# %%
# The full run
# ------------
#
# The same question for copies and for two seeds, made by ``python docs/averaging_picture.py``; :doc:`/averaging` reads
# it.
#
# .. figure:: ../averaging.png
#    :alt: Relative distance and cosine by layer, of two copies and of two seeds
