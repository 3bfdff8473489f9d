import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import modeconn
from modeconn.weights.loadable import loadable
from modeconn.weights.plain_copy import plain_copy

INPUTS = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))


def make(norm, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 3)).eval()


def average_by_hand(networks: list[nn.Module]) -> Tensor:
    """What the network with the averages of effective weights gives."""
    plain = [plain_copy(network) for network in networks]
    with torch.no_grad():
        for parameters in zip(*(network.parameters() for network in plain), strict=True):
            parameters[0].copy_(torch.stack(parameters).mean(0))
        return plain[0](INPUTS)


NORMS = {
    "parametrization": parametrizations.weight_norm,
    "hook": weight_norm,
    "of columns": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "of the whole": lambda layer: weight_norm(layer, dim=None),
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_averages_and_soups_go_back_into_networks_with_weight_normalization(norm):
    networks = [make(norm, seed) for seed in range(2)]
    labels = torch.arange(20) % 3
    for state in (modeconn.average(networks), modeconn.soup(networks, (INPUTS, labels), "uniform", gate=None).state):
        network = copy.deepcopy(networks[0]) if norm is NORMS["parametrization"] else make(norm, 7)
        network.load_state_dict(state)
        torch.testing.assert_close(network(INPUTS), average_by_hand(networks))


def test_a_weight_of_length_zero_stays_zero():
    layer = parametrizations.weight_norm(nn.Linear(3, 2, bias=False))
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 2.0]])
    layer.load_state_dict(loadable({"weight": weight}, layer))
    torch.testing.assert_close(layer.weight, weight)


@pytest.mark.parametrize("norm", [spectral_norm, parametrizations.spectral_norm, prune.identity])
def test_what_cannot_hold_other_weights_keeps_effective_names(norm):
    networks = [make((lambda layer: norm(layer, "weight")), seed) for seed in range(2)]
    plain = plain_copy(networks[0])
    plain.load_state_dict(modeconn.average(networks))
    torch.testing.assert_close(plain(INPUTS), average_by_hand(networks))


def test_wrappers_inside_are_taken_off():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    networks = [nn.Sequential(checkpoint_wrapper(make(parametrizations.weight_norm, seed))) for seed in range(2)]
    networks[0].load_state_dict(modeconn.average(networks))
    torch.testing.assert_close(
        networks[0](INPUTS),
        average_by_hand([nn.Sequential(make(parametrizations.weight_norm, seed)) for seed in range(2)]),
    )
