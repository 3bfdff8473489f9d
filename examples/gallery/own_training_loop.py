"""
Your own training loop
======================

``instability`` takes any training loop: a function from a state to a later one. Three things are yours: ``init`` makes
the network from a seed, ``train`` goes from one iteration to a later one under the noise of a seed, and the data say
where errors are measured.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import modeconn

digits = load_digits()
INPUTS, LABELS = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
ITERATIONS = 200


def init(seed):
    """The network at iteration 0."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


# %%
# ``state`` is a dict: ``state["model"]`` is a state dict, and whatever else ``train`` returned comes back, here the
# optimizer's state. Everything random in the loop (order of examples, augmentation, dropout) is drawn from ``seed``:
# copies of one trunk differ in nothing else.


def train(state, start, stop, seed):
    """From iteration ``start`` to ``stop``, in batches of 32."""
    network = init(0)
    network.load_state_dict(state["model"])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    draw = torch.Generator().manual_seed(seed)
    for _ in range(start, stop):
        batch = torch.randint(1200, (32,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(INPUTS[batch]), LABELS[batch]).backward()
        optimizer.step()
    return {"model": network, "optimizer": optimizer.state_dict()}


# %%
# The study forks, trains, and measures as it does for tasks of its own. What each call of ``train`` returned is kept in
# the store, so that an interrupted study goes on; another learning rate, or any other change of what ``train`` and
# ``init`` refer to, is another study.

result = modeconn.instability(
    "own-loop",
    train=train,
    init=init,
    data={"test": (INPUTS[1200:], LABELS[1200:]), "train": (INPUTS[:1200], LABELS[:1200])},
    iterations=ITERATIONS,
    rewind_iters=[0, 10, 50],
    replicates=1,
    alphas=11,
)
print(result)

# %%

fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for ax, choice in zip(axes, result.batchnorm, strict=True):
    result.plot(ax, choice)

# %%
# :doc:`/gallery/trainers` shows a Hugging Face ``Trainer`` in this place.
