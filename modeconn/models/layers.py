"""Normalization layers and initialisations, by name."""

from collections.abc import Callable

import torch
from torch import nn


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(max(groups for groups in range(1, 9) if channels % groups == 0), channels)


def _layer_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(1, channels)  # over channels and pixels, with a scale and shift per channel


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": _layer_norm,
    "group": _group_norm,  # 8 groups, or the largest smaller number that divides the channels
    "none": lambda channels: nn.Identity(),
}


def has_bias(norm: Callable[[int], nn.Module]) -> bool:
    """Whether a convolution before this norm needs a bias of its own."""
    return norm is NORMS["none"]


def _weights(draw: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[nn.Module], None]:
    def init(layer: nn.Module) -> None:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    return init


def _open_lth(layer: nn.Module) -> None:
    _weights(nn.init.kaiming_normal_)(layer)
    if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.uniform_(layer.weight)


INITS: dict[str, Callable[[nn.Module], None]] = {
    "glorot": _weights(nn.init.xavier_normal_),  # Frankle & Carbin 2019, Figure 2
    "kaiming": _weights(nn.init.kaiming_normal_),
    "open-lth": _open_lth,  # the authors' framework: kaiming, and norm scales uniform in [0, 1)
    "own": lambda layer: None,
}
