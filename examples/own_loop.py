"""Instability analysis of a plain training loop of your own.

    python examples/own_loop.py

Three functions are all that modeconn asks for: `init` makes the network from a seed, `train` takes a state from one
iteration to a later one under the noise of a seed, and the data say where errors are measured. What `train` returns is
stored, so that the same command goes on after an interruption.

A small convolutional network learns at a high learning rate, so that copies forked at the initialisation part: their
instability is tens of points with interpolated BatchNorm statistics, and above 2 points with recalibrated ones. It
falls with k. Takes half a minute.
"""

import itertools
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import modeconn

ITERATIONS = 300


def data() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The 8x8 digits, one in five for testing."""
    digits = load_digits()
    inputs = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16  # [1797, 1, 8, 8]
    labels = torch.tensor(digits.target)
    test = torch.arange(len(labels)) % 5 == 0
    return {"test": (inputs[test], labels[test]), "train": (inputs[~test], labels[~test])}


def init(seed: int) -> nn.Module:
    """The network at iteration 0."""
    torch.manual_seed(seed)
    layers = [
        (nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
        for before, after in itertools.pairwise([1, 12, 12, 12, 12])
    ]
    return nn.Sequential(*itertools.chain(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))


def train(state: dict, start: int, stop: int, seed: int) -> dict:
    """From iteration `start` to `stop`, in batches of 32 that the seed draws, at a rate that falls to zero."""
    network = init(0)
    network.load_state_dict(state["model"])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3, momentum=0.9)
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    inputs, labels = data()["train"]
    draw = torch.Generator().manual_seed(seed)
    for iteration in range(start, stop):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - iteration / ITERATIONS)
        batch = torch.randint(len(labels), (32,), generator=draw)
        loss = nn.functional.cross_entropy(network(inputs[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"model": network, "optimizer": optimizer.state_dict()}


if __name__ == "__main__":
    result = modeconn.instability(
        "own-loop",
        train=train,
        init=init,
        data=data(),
        iterations=ITERATIONS,
        rewind_iters=[0, 6, 30, 90],
        alphas=11,
        replicates=2,
        out=sys.argv[1] if len(sys.argv) > 1 else "modeconn-results/own-loop",
    )
    print(result)
