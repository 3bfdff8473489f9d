"""Vision transformers (Dosovitskiy et al. 2021), small ones, for small images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeconn.models.layers import Architecture

_HEADS, _BLOCKS = 4, 6
_CHANNELS = 128
_MLP = 2  # times the channels


def build(patch: str, wanted: Architecture) -> nn.Module:
    """Six pre-norm blocks of four heads over patches of so many pixels, the mean over patches, and a linear layer."""
    if wanted.norm != "layer":
        raise ValueError(f'it normalizes by LayerNorm: choose norm "layer"; got {wanted.norm!r}')
    size = int(patch)
    if size < 1 or any(pixels % size for pixels in wanted.input_shape[1:]):
        raise ValueError(f"patches of {patch} pixels do not fill {wanted.image_size} images")
    return _VisionTransformer(wanted, size)


class _VisionTransformer(nn.Module):
    def __init__(self, wanted: Architecture, patch: int) -> None:
        super().__init__()
        channels = _HEADS * wanted.channels(_CHANNELS // _HEADS)
        count = (wanted.input_shape[1] // patch) * (wanted.input_shape[2] // patch)
        self.patches = nn.Conv2d(wanted.input_shape[0], channels, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(count, channels))
        self.blocks = nn.Sequential(*(_Block(channels) for _ in range(_BLOCKS)))
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, wanted.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, height, width]."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions  # [batch, patches, channels]
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.up, self.down = nn.Linear(channels, _MLP * channels), nn.Linear(_MLP * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._attention(self.norm1(tokens))
        return tokens + self.down(F.gelu(self.up(self.norm2(tokens))))

    def _attention(self, tokens: Tensor) -> Tensor:
        batch, count, channels = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, count, 3, _HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)  # [batch, heads, patches, channels of a head]
        return self.out(mixed.transpose(1, 2).reshape(batch, count, channels))
