"""Building blocks of the papers' networks: their dimensions, normalization layers and initializations by name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Architecture:
    """Dimensions and options that all of the papers' networks take, whichever their family.

    Attributes:
        input_shape: channels, height and width of an image.
        classes: number of outputs.
        width: multiplies the number of channels, or of a LeNet's units.
        norm: name of the normalization layer, one of `NORMS`.
        dropout: probability before every fully-connected layer but the first.

    >>> Architecture((3, 32, 32), 10, width=0.5).channels(64)
    32
    """

    input_shape: tuple[int, int, int]
    classes: int
    width: float = 1.0
    norm: str = "batch"
    dropout: float = 0.0

    @property
    def bias(self) -> bool:
        """Whether convolutions have a bias: only without normalization, whose shift would absorb it."""
        return self.norm == "none"

    @property
    def image_size(self) -> str:
        """Height and width, for messages."""
        return f"{self.input_shape[1]}x{self.input_shape[2]}"

    def channels(self, count: int) -> int:
        """The number of channels (or units) times the width, at least 1."""
        return max(1, round(self.width * count))

    def normalization(self, channels: int) -> nn.Module:
        """The normalization layer after a convolution with that many channels."""
        return NORMS[self.norm](channels)

    def dropout_layers(self) -> list[nn.Module]:
        """The layers after a hidden fully-connected one: dropout, or none."""
        return [nn.Dropout(self.dropout)] if self.dropout else []


def _layer_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(1, channels)  # over channels and pixels, with a scale and shift per channel


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(max(groups for groups in range(1, 9) if channels % groups == 0), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": _layer_norm,
    "group": _group_norm,  # 8 groups, or the largest smaller number that divides the channels
    "none": lambda channels: nn.Identity(),
}


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


# Weights of linear and convolutional layers; N(0, v) is the normal distribution with variance v. Biases are 0.
INITS: dict[str, Callable[[nn.Module], None]] = {
    # N(0, 2 / (fan_in + fan_out)), Glorot & Bengio 2010; for the Conv networks in Frankle & Carbin 2019, Figure 2.
    "glorot": _weights(nn.init.xavier_normal_),
    # N(0, 2 / fan_in), He et al. 2015: ReLU halves the second moment, which the 2 makes good.
    "kaiming": _weights(nn.init.kaiming_normal_),
    # As in the authors' framework: kaiming, and the scales of normalization layers uniform in [0, 1).
    "open-lth": _open_lth,
    # As the layers' own code has it: PyTorch's are uniform in +-1 / sqrt(fan_in), biases too.
    "own": lambda layer: None,
}
