"""CIFAR VGGs with one fully-connected layer (Simonyan & Zisserman 2015; 14,728,266 parameters at depth 16)."""

from torch import nn

from modeconn.models.layers import Architecture

_PLANS = {  # convolutions in each of the five stages
    "11": (1, 1, 2, 2, 2),
    "13": (2, 2, 2, 2, 2),
    "16": (2, 2, 3, 3, 3),
    "19": (2, 2, 4, 4, 4),
}
_CHANNELS = (64, 128, 256, 512, 512)


def build(depth: str, wanted: Architecture) -> nn.Module:
    """Stages of 3x3 convolutions with max-pooling between them, mean pooling, and a linear layer."""
    if min(wanted.input_shape[1:]) < 16:
        raise ValueError(f"images must be at least 16 pixels wide and high; got {wanted.image_size}")
    channels = wanted.input_shape[0]
    layers: list[nn.Module] = []
    for stage, convolutions in enumerate(_PLANS[depth]):
        out = wanted.channels(_CHANNELS[stage])
        for _ in range(convolutions):
            # The authors' framework keeps the bias before BatchNorm too; the count above contains it.
            layers += [nn.Conv2d(channels, out, 3, padding=1), wanted.normalization(out), nn.ReLU()]
            channels = out
        if stage < 4:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, wanted.classes))
