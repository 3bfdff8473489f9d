"""A training loop of somebody's own, which notes its calls."""

import torch
from torch import nn

CALLS: list[tuple[int, int, int]] = []


def points(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()


DATA = {"test": points(60, 0), "train": points(80, 1)}


def init(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def train(state: dict, start: int, stop: int, seed: int) -> dict:
    CALLS.append((start, stop, seed))
    network = init(0)
    network.load_state_dict(state["model"])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    assert state.get("seen", 0) == start
    draw = torch.Generator().manual_seed(seed)
    inputs, labels = DATA["train"]
    for _ in range(start, stop):
        batch = torch.randint(len(labels), (16,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    return {"model": network, "optimizer": optimizer.state_dict(), "seen": stop}
