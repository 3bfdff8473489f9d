"""The small network of the default study: six 3x3 convolutions of width 8, for 8x8 images."""

from collections.abc import Callable

from torch import nn

from modeconn.models.layers import has_bias


def build(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    width: float,
    norm: Callable[[int], nn.Module],
    dropout: float,
) -> nn.Module:
    """Three pairs of convolutions with max-pooling between them, mean pooling, and a linear layer."""
    if min(input_shape[1:]) < 4:
        raise ValueError(f"images must be at least 4 pixels wide and high; got {input_shape[1]}x{input_shape[2]}")
    channels, out = input_shape[0], max(1, round(8 * width))
    layers: list[nn.Module] = []
    for pair in range(3):
        for _ in range(2):
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=has_bias(norm)), norm(out), nn.ReLU()]
            channels = out
        if pair < 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(out, classes))
