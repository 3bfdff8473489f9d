"""Lottery tickets of a plain training loop of your own.

    python examples/own_loop_lottery.py

The loop of `own_loop.py`, with one parameter more: `mask`, None for the dense network, and for a subnetwork the weights
that remain. `mask.apply(network)` after every step keeps the others zero, and weights that grow back are refused. The
instability of the same loop says which iteration tickets are rewound to.
"""

import itertools
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import modeconn

ITERATIONS = 200


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


def train(state: dict, start: int, stop: int, seed: int, mask: modeconn.Mask | None = None) -> dict:
    """From iteration `start` to `stop`, under a mask if there is one."""
    network = init(0)
    network.load_state_dict(state["model"])  # pruned weights are zero already
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3, momentum=0.9)
    if "optimizer" in state:  # the trunk goes on; a ticket begins anew
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
        if mask is not None:
            mask.apply(network)
    return {"model": network, "optimizer": optimizer.state_dict()}


if __name__ == "__main__":
    result = modeconn.lottery(
        "own-loop",
        train=train,
        init=init,
        data=data(),
        iterations=ITERATIONS,
        rewind_iters=[0, 20, 60, 100],
        levels=4,
        fraction=0.5,
        conditions=["imp", "random", "snip"],
        replicates=1,
        out=sys.argv[1] if len(sys.argv) > 1 else "modeconn-results/own-loop-lottery",
    )
    print(result)
