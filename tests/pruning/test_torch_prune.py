"""Masks to and from torch.nn.utils.prune."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from cases import with_tied_weights
from modeconn.errors import NetworkError
from modeconn.pruning.masks import Mask
from modeconn.pruning.prunable import prunable
from modeconn.pruning.torch_prune import from_torch_prune, to_torch_prune
from modeconn.weights.plain_copy import plain_copy
from networks import Network, by_name, each_network


def _random_mask(network: nn.Module) -> Mask:
    return Mask({name: torch.rand(weight.shape) < 0.5 for name, weight in prunable(network).items()})


@each_network
def test_there_and_back(case: Network) -> None:
    network = plain_copy(case.network(1))
    mask, ours = _random_mask(network), copy.deepcopy(network)
    mask.apply(ours)
    to_torch_prune(nn.DataParallel(network), mask)
    assert from_torch_prune(network) == mask
    assert list(from_torch_prune(nn.DataParallel(network))) == list(mask)
    pruned = plain_copy(network).state_dict()
    assert all(torch.equal(tensor, pruned[name]) for name, tensor in ours.state_dict().items())


def test_the_network_computes_with_the_mask_wherever_a_weight_is_shared() -> None:
    network = with_tied_weights()
    mask, images = _random_mask(network), torch.randn(3, 64)
    ours = copy.deepcopy(network)
    mask.apply(ours)
    before = {id(parameter) for parameter in network.parameters()}
    to_torch_prune(network, mask)
    assert torch.allclose(network(images), ours(images))
    assert {id(parameter) for parameter in network.parameters()} == before
    assert from_torch_prune(network) == mask


def test_what_pytorch_pruned_several_times_and_in_part() -> None:
    network = by_name("pruned").network(1)
    mask = from_torch_prune(network)
    assert list(mask) == ["0.weight", "2.weight", "2.bias"]
    assert torch.equal(mask["2.weight"], network[2].weight_mask.bool())
    mask.apply(plain := plain_copy(network))
    assert all(
        torch.equal(tensor, plain.state_dict()[name]) for name, tensor in plain_copy(network).state_dict().items()
    )


def test_what_does_not_fit_changes_nothing() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    mask = {"0.weight": torch.ones(2, 2, dtype=torch.bool), "1.weight": torch.ones(3, dtype=torch.bool)}
    with pytest.raises(NetworkError, match=r"1\.weight is \[3\] in the mask and \[2, 2\] in the network"):
        to_torch_prune(network, mask)
    assert list(network.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_what_was_not_pruned_or_is_no_mask() -> None:
    with pytest.raises(NetworkError, match="nothing in this Linear was pruned"):
        from_torch_prune(nn.Linear(2, 2))
    layer = torch_prune.custom_from_mask(nn.Linear(2, 2), "weight", torch.full((2, 2), 0.5))
    with pytest.raises(NetworkError, match="the mask of weight holds other numbers"):
        from_torch_prune(layer)
