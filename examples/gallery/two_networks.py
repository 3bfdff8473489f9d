"""
Two networks of your own: the error barrier
===========================================

How high does the error rise on the straight line between two trained networks? Any two modules of one architecture
will do, with the data that you evaluate them on.

These two have BatchNorm and were trained on the digits from different initialisations.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from modeconn import error_barrier

digits = load_digits()
inputs, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
train, test = (inputs[:1200], labels[:1200]), (inputs[1200:], labels[1200:])


def trained(seed):
    """A small network with BatchNorm, after 300 steps of SGD."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(300):
        batch = torch.randint(len(train[1]), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(train[0][batch]), train[1][batch]).backward()
        optimizer.step()
    return network


net_a, net_b = trained(1), trained(2)

# %%
# One call measures the path. ``data`` may be a ``DataLoader``, a ``Dataset``, a tuple of tensors, or any iterable of
# batches; what was recognised (here: classification) is in the first line of the result, and every decision that was
# made for you is a note at its end.

result = error_barrier(net_a, net_b, test)
print(result)

# %%
# How much of this is BatchNorm? Its running statistics were taken with the weights of one network or the other, and
# fit neither in between. With statistics measured anew at every point of the path:

recalibrated = error_barrier(net_a, net_b, test, batchnorm="recalibrate", calibration=train)
print(f"interpolated {result.barrier:.3f}, recalibrated {recalibrated.barrier:.3f}")

fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for ax, measured in zip(axes, (result, recalibrated), strict=True):
    measured.plot(ax)

# %%
# Numbers to report
# -----------------
#
# ``barrier`` is a largest value of noisy ones and so biased upwards. ``interval`` is its confidence interval over test
# examples, ``cross_fitted`` chooses the place of the largest error on one half of the examples and measures it on the
# other. What each covers: :doc:`/concepts/confidence`.

print("barrier       ", round(recalibrated.barrier, 4))
print("95 % interval ", [round(float(end), 4) for end in recalibrated.interval(0.95)])
print("cross-fitted  ", round(recalibrated.cross_fitted(), 4))
print("chord barrier ", round(recalibrated.chord_barrier, 4))
print("of the loss   ", round(recalibrated.heights("loss").barrier, 4))

# %%
# The full run
# ------------
#
# Two ResNet-20 on CIFAR-10, forked at initialisation: half of the barrier is BatchNorm's statistics. ``modeconn
# reproduce lmc2020-figure-2 --network cifar10-resnet20``.
#
# .. figure:: ../../figures/lmc2020-figure-2/cifar10-resnet20-short.png
#    :alt: Error along the path between two ResNet-20
#
#    After 3,000 of the paper's 63,000 iterations.
