"""Soups of networks that are first aligned to one of them."""

import numpy as np
import pytest
import torch
from torch import nn

from modeconn import Alignment, ModeconnError, align, soup


def test_permuted_copies_average_to_what_they_are() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    symmetry = align(network, network).symmetry
    copies = [
        Alignment(
            symmetry, symmetry.random(np.random.default_rng(seed)), "given", 0, 0, (), 0, ("a", "b"), (), {}
        ).apply(network)
        for seed in range(2)
    ]
    x = torch.randn(40, 4, dtype=torch.float64)
    data = x, network(x).argmax(1)
    plain, aligned = (
        soup([network, *copies], data, "uniform", gate=None, align=method, batchnorm="interpolate")
        for method in (None, "weights")
    )
    assert all(torch.allclose(tensor, network.state_dict()[name]) for name, tensor in aligned.state.items())
    assert not torch.allclose(plain.state["0.weight"], network.state_dict()["0.weight"])
    assert aligned.of_soup["error"] == 0
    assert any("aligned to a by weight matching" in note for note in aligned.notes)
    with pytest.raises(ModeconnError, match="method of alignment"):
        soup([network, *copies], data, align="weighs")
