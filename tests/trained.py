"""Small networks that learn the digits, for pairs whose verdict is known."""

import copy

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

_DIGITS = load_digits()
_INPUTS, _LABELS = torch.tensor(_DIGITS.data, dtype=torch.float32) / 16, torch.tensor(_DIGITS.target)
TRAIN, TEST = (_INPUTS[:1200], _LABELS[:1200]), (_INPUTS[1200:], _LABELS[1200:])


def mlp(seed: int, norm: bool = False, depth: int = 2, width: int = 32) -> nn.Sequential:
    """64-32-32-10, or with other hidden layers; with BatchNorm if asked."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs in (64, *[width] * (depth - 1)):
        layers += [nn.Linear(inputs, width), *([nn.BatchNorm1d(width)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def trained(network: nn.Module, seed: int, steps: int = 200, rate: float = 0.2) -> nn.Module:
    """A copy of the network after some steps of SGD with momentum under this noise, in evaluation mode."""
    network = copy.deepcopy(network).train()
    optimizer = torch.optim.SGD(network.parameters(), rate, momentum=0.9)
    draw = torch.Generator().manual_seed(seed)
    inputs, labels = TRAIN
    for _ in range(steps):
        batch = torch.randint(len(labels), (64,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def error(network: nn.Module, data: tuple[Tensor, Tensor] = TEST) -> float:
    inputs, labels = data
    return float((network(inputs).argmax(1) != labels).double().mean())


@torch.no_grad()
def averaged(a: nn.Module, b: nn.Module) -> nn.Module:
    mean = copy.deepcopy(a)
    for to, other in zip((*mean.parameters(), *mean.buffers()), (*b.parameters(), *b.buffers()), strict=True):
        if to.is_floating_point():
            to.lerp_(other, 0.5)
    return mean
