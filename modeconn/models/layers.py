"""What the papers' networks are made of: an architecture's dimensions, norms and initialisations by name."""

from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Architecture:
    """What a network of the papers is asked to be, whichever its family.

    Attributes:
        input_shape: channels, height, width of an image.
        classes: number of outputs.
        width: multiplies the number of channels.
        norm: makes the normalization layer of so many channels.
        dropout: probability before fully-connected layers.
    """

    input_shape: tuple[int, int, int]
    classes: int
    width: float
    norm: Callable[[int], nn.Module]
    dropout: float

    @property
    def bias(self) -> bool:
        """Whether a convolution needs a bias of its own, as no norm follows it."""
        return self.norm is NORMS["none"]

    @property
    def image_size(self) -> str:
        """Height and width, for messages."""
        return f"{self.input_shape[1]}x{self.input_shape[2]}"

    def channels(self, count: int) -> int:
        """So many channels (or units), times the width."""
        return max(1, round(self.width * count))

    def dropout_layers(self) -> list[nn.Module]:
        """The layer after a fully-connected one, if there is dropout."""
        return [nn.Dropout(self.dropout)] if self.dropout else []


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
