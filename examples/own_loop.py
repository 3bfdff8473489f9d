"""Instability analysis of a plain training loop of your own.

    python examples/own_loop.py

Three functions are all that modeconn asks for: `init` makes the network from a seed, `train` takes a state from one
iteration to a later one under the noise of a seed, and the data say where errors are measured. What `train` returns is
stored, so that the same command goes on after an interruption.
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import modeconn

ITERATIONS = 300


def data() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The 8x8 digits, one in five for testing."""
    digits = load_digits()
    inputs = torch.tensor(digits.data, dtype=torch.float32) / 16  # [1797, 64]
    labels = torch.tensor(digits.target)
    test = torch.arange(len(labels)) % 5 == 0
    return {"test": (inputs[test], labels[test]), "train": (inputs[~test], labels[~test])}


def init(seed: int) -> nn.Module:
    """The network at iteration 0."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


def train(state: dict, start: int, stop: int, seed: int) -> dict:
    """From iteration `start` to `stop`, in batches of 64 that the seed draws."""
    network = init(0)
    network.load_state_dict(state["model"])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    inputs, labels = data()["train"]
    draw = torch.Generator().manual_seed(seed)
    for _ in range(start, stop):
        batch = torch.randint(len(labels), (64,), generator=draw)
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
        rewind_iters=[0, 10, 30, 100],
        replicates=2,
        out=sys.argv[1] if len(sys.argv) > 1 else "modeconn-results/own-loop",
    )
    print(result)
