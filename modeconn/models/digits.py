"""The small network of the default study: six 3x3 convolutions of width 8, for 8x8 images."""

from torch import nn

from modeconn.models.layers import Architecture


def build(name: str, wanted: Architecture) -> nn.Module:
    """Three pairs of convolutions with max-pooling between them, mean pooling, and a linear layer."""
    if min(wanted.input_shape[1:]) < 4:
        raise ValueError(f"images must be at least 4 pixels wide and high; got {wanted.image_size}")
    channels, out = wanted.input_shape[0], wanted.channels(8)
    layers: list[nn.Module] = []
    for pair in range(3):
        for _ in range(2):
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=wanted.bias), wanted.normalization(out), nn.ReLU()]
            channels = out
        if pair < 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(out, wanted.classes))
