"""Conv-2, Conv-4 and Conv-6: small VGG-like networks (Frankle & Carbin 2019, Figure 2)."""

from collections.abc import Callable

from torch import nn

from modeconn.models.layers import has_bias

_CHANNELS = (64, 128, 256)  # of each pair of convolutions; a pooling layer follows every pair


def build(
    depth: str,
    input_shape: tuple[int, int, int],
    classes: int,
    width: float,
    norm: Callable[[int], nn.Module],
    dropout: float,
) -> nn.Module:
    """`depth` 3x3 convolutions in pairs, each pair followed by max-pooling, then 256, 256 and the classes."""
    channels, height, image_width = input_shape
    layers: list[nn.Module] = []
    for pair in range(int(depth) // 2):
        out = max(1, round(width * _CHANNELS[pair]))
        for _ in range(2):
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=has_bias(norm)), norm(out), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2))
        height, image_width = height // 2, image_width // 2
    if not height * image_width:
        raise ValueError(f"images of {input_shape[1]}x{input_shape[2]} are too small for {int(depth) // 2} poolings")
    layers.append(nn.Flatten())
    fan_in = channels * height * image_width
    for _ in range(2):
        layers += [nn.Linear(fan_in, 256), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        fan_in = 256
    return nn.Sequential(*layers, nn.Linear(fan_in, classes))
