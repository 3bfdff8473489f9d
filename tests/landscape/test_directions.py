"""`directions`: what filter normalisation leaves unchanged, and what moves (Li et al. 2018)."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import networks
from modeconn import directions
from modeconn.analysis.landscape.filters import as_weights, normalised, random_direction
from modeconn.analysis.paths.combination import combination
from modeconn.errors import NetworkError, OptionError
from modeconn.weights.sources import weights_of

INPUTS = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
DATA = INPUTS, (INPUTS[:, 0] * INPUTS[:, 1] > 0).long()


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def rescaled(network: nn.Sequential, c: float) -> nn.Sequential:
    """The same function: a hidden layer's outputs times c, and the next layer's weights over c."""
    found = copy.deepcopy(network)
    with torch.no_grad():
        found[0].weight.mul_(c)
        found[0].bias.mul_(c)
        found[2].weight.div_(c)
    return found


@settings(max_examples=15, deadline=None)
@given(power=st.floats(-4, 4), seed=st.integers(0, 20))
def test_a_rescaled_network_has_the_same_curve_under_the_same_raw_direction(power, seed):
    network = mlp()
    curves = [
        directions(one, DATA, points=7, seed=seed).values["loss"] for one in (network, rescaled(network, 2**power))
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_without_normalisation_a_rescaled_network_has_another_curve():
    network = mlp()
    how = {"points": 7, "normalization": "none"}
    plain, other = (directions(one, DATA, **how).values["loss"] for one in (network, rescaled(network, 8.0)))
    assert np.abs(plain - other).max() > 0.05 * plain.max()
    assert plain[3] == pytest.approx(other[3], rel=1e-5)


@pytest.mark.parametrize("normalization", ["filter", "layer"])
def test_every_filter_or_layer_moves_by_its_own_length(normalization):
    network = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 2))
    )
    weights = weights_of(network, "a")
    names = tuple(name for name, _ in network.named_parameters())
    raw = random_direction(weights, names, torch.Generator().manual_seed(0))
    found = normalised(raw, weights, network, normalization)
    for name, parameter in network.named_parameters():
        direction, weight = found[name], parameter.detach()
        if weight.ndim < 2:
            assert (direction == 0).all()
        elif normalization == "layer":
            assert direction.norm() == pytest.approx(float(weight.norm()), rel=1e-5)
            assert direction / raw[name] == pytest.approx(float((direction / raw[name]).flatten()[0]), rel=1e-4)
        elif name.startswith("2."):
            for group in range(2):  # 3 of the 6 inputs make 2 of the 4 outputs
                for out in range(2):
                    part = slice(3 * group, 3 * group + 3)
                    assert direction[part, out].norm() == pytest.approx(float(weight[part, out].norm()), rel=1e-5)
        else:
            for one, other in zip(direction, weight, strict=True):
                assert one.norm() == pytest.approx(float(other.norm()), rel=1e-5)


def test_a_filter_that_is_pruned_away_stays_away():
    network = mlp()
    with torch.no_grad():
        network[0].weight[3] = 0
    weights = weights_of(network, "a")
    names = tuple(name for name, _ in network.named_parameters())
    found = normalised(random_direction(weights, names, torch.Generator()), weights, network, "filter")
    assert (found["0.weight"][3] == 0).all()
    assert all(tensor.isfinite().all() for tensor in found.values())


def test_a_point_is_the_network_plus_its_directions():
    network = mlp()
    found = directions(network, DATA, count=2, points=3, seed=4, extent=0.5)
    weights = weights_of(network, "a")
    names = tuple(name for name, _ in network.named_parameters())
    draw = torch.Generator().manual_seed(4)
    steps = [normalised(random_direction(weights, names, draw), weights, network, "filter") for _ in range(2)]
    for x, y, loss in zip(found.x, found.y, found.values["loss"], strict=True):
        here = copy.deepcopy(network)
        with torch.no_grad():
            for name, parameter in here.named_parameters():
                parameter.add_(x * steps[0][name] + y * steps[1][name])
            expected = nn.functional.cross_entropy(here(DATA[0]), DATA[1])
        assert loss == pytest.approx(float(expected), rel=1e-4)
    assert (found.x.min(), found.x.max()) == (-0.5, 0.5)
    lengths = [math.sqrt(sum(float(t.double().norm() ** 2) for t in step.values())) for step in steps]
    assert [axis.length for axis in found.axes] == pytest.approx(lengths)


def test_the_middle_is_the_network_itself():
    network = mlp()
    found = directions(network, DATA, points=5)
    assert found.values["loss"][2] == found.place("a").values["loss"]
    assert np.isnan(found.y).all()


def test_the_first_of_two_directions_is_the_one_that_is_drawn_alone():
    line = directions(mlp(), DATA, points=3, seed=1)
    pair = directions(mlp(), DATA, points=3, count=2, seed=1)
    assert pair.grid("loss")[1].tolist() == line.grid("loss").tolist()
    other = directions(mlp(), DATA, points=3, seed=2)
    assert other.grid("loss").tolist() != line.grid("loss").tolist()


def test_buffers_stay_and_norms_do_not_move():
    network = networks.with_statistics(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)))
    weights = weights_of(network, "a")
    names = tuple(name for name, _ in network.named_parameters())
    step = as_weights(random_direction(weights, names, torch.Generator()), weights, "a direction")
    point = combination([weights, step], [1.0, 0.7])
    for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "0.bias"):
        assert torch.equal(point.read(name), network.state_dict()[name])
    assert not torch.equal(point.read("0.weight"), network[0].weight)
    found = directions(network, DATA, points=3)
    assert any("those of the network at every point" in note for note in found.notes)
    assert found.batchnorm == "interpolate"
    again = directions(network, DATA, points=3, batchnorm="recalibrate", calibration=DATA)
    assert again.values["loss"][0] != found.values["loss"][0]


def test_given_directions_are_taken_as_they_are():
    network = mlp()
    along = {"4.bias": torch.tensor([1.0, -1.0])}
    found = directions(network, DATA, directions=[along], points=5, extent=2)
    for x, loss in zip(found.x, found.values["loss"], strict=True):
        here = copy.deepcopy(network)
        with torch.no_grad():
            here[4].bias += x * along["4.bias"]
            expected = nn.functional.cross_entropy(here(DATA[0]), DATA[1])
        assert loss == pytest.approx(float(expected), rel=1e-5)
    assert found.axes[0].length == pytest.approx(math.sqrt(2))


def test_biases_of_a_given_direction_stay_where_it_is_normalised():
    network = mlp()
    weights = weights_of(network, "a")
    raw = {name: torch.ones_like(tensor) for name, tensor in network.state_dict().items()}
    for normalization in ("filter", "layer"):
        found = normalised(raw, weights, network, normalization)
        assert all((tensor == 0).all() == (tensor.ndim < 2) for tensor in found.values())
    assert all((tensor == 1).all() for tensor in normalised(raw, weights, network, "none").values())


def test_what_cannot_be_a_direction_is_named():
    network = mlp()
    step = {"0.weight": torch.ones(8, 4)}
    refused = [
        ({"count": 3}, OptionError, "one or two directions; got 3"),
        ({"count": 0}, OptionError, "count must be 1 or 2"),
        ({"normalization": "filters"}, OptionError, "did you mean 'filter'"),
        ({"extent": 0}, OptionError, "extent must be a number above 0"),
        ({"seed": -1}, OptionError, "seed must be"),
        ({"points": 1}, OptionError, "points must be"),
        ({"refine": 5}, OptionError, "refine= is for planes"),
        ({"directions": []}, OptionError, "directions= is a list"),
        ({"directions": step}, OptionError, "directions= is a list"),
        ({"directions": [{"x": torch.ones(2)}]}, OptionError, "names none of the network's parameters; it has x"),
        ({"directions": [{"0.weight": torch.ones(3)}]}, NetworkError, r"0.weight is \[8, 4\] in the network"),
        ({"directions": [{"0.weight": torch.full((8, 4), math.nan)}]}, NetworkError, "NaN or infinite"),
        ({"directions": [{"0.weight": torch.zeros(8, 4)}]}, NetworkError, "direction 1 is zero"),
        ({"directions": [step, step]}, NetworkError, "parallel"),
        ({"batchnorm": "repair"}, OptionError, "not on a plane"),
    ]
    for how, kind, said in refused:
        with pytest.raises(kind, match=said):
            directions(network, DATA, **how)


@networks.each_network
def test_anyones_network_has_directions(case):
    network = case.network(1)
    before = copy.deepcopy(network.state_dict())
    found = directions(network, case.batches(), points=3, evaluate=case.evaluate)
    assert found.values[found.metric][1] == found.place("a").values[found.metric]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
