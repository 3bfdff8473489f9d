"""What the papers' networks have in common."""

import pytest
import torch
from torch import nn

from modeconn.models.layers import INITS, NORMS, Architecture

SHAPE = (3, 32, 24)


@pytest.mark.parametrize(
    ("width", "count", "expected"), [(1.0, 64, 64), (0.5, 16, 8), (1.5, 3, 4), (0.3, 10, 3), (0.001, 512, 1)]
)
def test_channels_are_rounded_and_at_least_one(width, count, expected):
    assert Architecture(SHAPE, 10, width=width).channels(count) == expected


@pytest.mark.parametrize("norm", NORMS)
def test_only_without_a_norm_has_a_convolution_a_bias(norm):
    wanted = Architecture(SHAPE, 10, norm=norm)
    assert wanted.bias == (norm == "none")
    images = torch.randn(4, 6, 5, 5)
    layer = wanted.normalization(6)
    assert layer(images).shape == images.shape
    assert torch.equal(layer(images), images) == (norm == "none")
    # A norm takes away what a bias would add.
    shifted = images + torch.arange(6.0)[:, None, None] if norm == "batch" else images + 3
    assert torch.allclose(layer(shifted), layer(images), atol=1e-5) == (norm != "none")


def test_dropout_is_a_layer_or_none():
    assert Architecture(SHAPE, 10).dropout_layers() == []
    (layer,) = Architecture(SHAPE, 10, dropout=0.3).dropout_layers()
    assert isinstance(layer, nn.Dropout)
    assert layer.p == 0.3


def test_sizes_are_said_as_height_and_width():
    assert Architecture(SHAPE, 10).image_size == "32x24"


@pytest.mark.parametrize("init", [name for name in INITS if name != "own"])
def test_an_initialization_draws_anew_whatever_was_there(init):
    layer = nn.Linear(30, 20)
    nn.init.constant_(layer.weight, 7)
    nn.init.constant_(layer.bias, 7)
    INITS[init](layer)
    assert layer.weight.abs().max() < 7
    assert layer.weight.std() > 0
    assert not layer.bias.any()
    INITS[init](nn.Linear(3, 2, bias=False))
