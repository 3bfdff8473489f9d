"""Conv-2, Conv-4 and Conv-6: small VGG-like networks (Frankle & Carbin 2019, Figure 2)."""

from torch import nn

from modeconn.models.layers import Architecture

_CHANNELS = (64, 128, 256)  # of each pair of convolutions; a pooling layer follows every pair


def build(depth: str, wanted: Architecture) -> nn.Module:
    """`depth` 3x3 convolutions in pairs, each pair followed by max-pooling, then 256, 256 and the classes."""
    channels, height, width = wanted.input_shape  # of what the next layer gets
    layers: list[nn.Module] = []
    for pair in range(int(depth) // 2):
        out = wanted.channels(_CHANNELS[pair])
        for _ in range(2):
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=wanted.bias), wanted.normalization(out), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2))
        height, width = height // 2, width // 2
    if not height * width:
        raise ValueError(f"images of {wanted.image_size} are too small for {int(depth) // 2} poolings")
    layers.append(nn.Flatten())
    fan_in = channels * height * width
    for _ in range(2):
        layers += [nn.Linear(fan_in, 256), nn.ReLU(), *wanted.dropout_layers()]
        fan_in = 256
    return nn.Sequential(*layers, nn.Linear(fan_in, wanted.classes))
