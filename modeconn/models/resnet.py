"""CIFAR ResNets of depth 6n + 2 with projection shortcuts (He et al. 2016; 272,474 parameters at depth 20)."""

from torch import Tensor, nn
from torch.nn.functional import relu

from modeconn.models.layers import Architecture


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int, wanted: Architecture) -> None:
        super().__init__()
        bias, norm = wanted.bias, wanted.normalization
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=bias)
        self.norm1 = norm(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=bias)
        self.norm2 = norm(out)
        # With few channels the gradient of a strided 1x1 convolution writes out of its bounds (oneDNN, issue 6035), so
        # that the pixels are chosen before it; it computes the same.
        self.every = stride if channels < 16 else 1
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride // self.every, bias=bias), norm(out))

    def forward(self, x: Tensor) -> Tensor:  # [batch, channels, h, w] -> [batch, out, h / stride, w / stride]
        """Compute `relu(F(x) + shortcut(x))`, with F the two convolutions."""
        y = relu(self.norm1(self.conv1(x)))
        return relu(self.norm2(self.conv2(y)) + self.shortcut(x[:, :, :: self.every, :: self.every]))


def build(depth: str, wanted: Architecture) -> nn.Module:
    """A convolution, three stages of (depth - 2) / 6 blocks with 16, 32 and 64 channels, pooling, a linear layer."""
    blocks, rest = divmod(int(depth) - 2, 6)
    if blocks > 500:
        raise ValueError(f"ResNets are at most 3,002 layers deep here; got {depth:.20}")
    if rest or blocks < 1:
        raise ValueError(f"the depth of a CIFAR ResNet is 6n + 2 (20, 32, 44, 56, 110); got {depth}")
    stages = [wanted.channels(channels) for channels in (16, 32, 64)]
    channels = stages[0]
    layers: list[nn.Module] = [
        nn.Conv2d(wanted.input_shape[0], channels, 3, padding=1, bias=wanted.bias),
        wanted.normalization(channels),
        nn.ReLU(),
    ]
    for stage, out in enumerate(stages):
        for block in range(blocks):
            stride = 2 if stage and not block else 1  # the first block of a later stage halves height and width
            layers.append(Block(channels, out, stride, wanted))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, wanted.classes))
