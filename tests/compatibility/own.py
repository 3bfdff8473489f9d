"""A network and a training loop of somebody's own. Names of runs contain what stands here, so leave it as it is."""

import torch
from torch import nn

INPUTS = torch.arange(240.0).reshape(40, 6) % 7 - 3  # [examples, features]
DATA = {"test": (INPUTS[:16], (INPUTS[:16, 0] > INPUTS[:16, 1]).long()), "train": (INPUTS, (INPUTS[:, 0] > 0).long())}


def network(classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))


def init(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


def train(state: dict, start: int, stop: int, seed: int) -> dict:
    raise NotImplementedError("names are asked for, and nothing is trained")
