"""`plane`: what is measured at points of a plane, against error_barrier, closed forms and plain loops."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import networks
from modeconn import error_barrier, plane

INPUTS = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
DATA = INPUTS, (INPUTS[:, 0] * INPUTS[:, 1] > 0).long()


def mlp(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def batchnorm(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return networks.with_statistics(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)))


def vector(network: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().flatten().double() for p in network.parameters()]).numpy()


def at(three: list[nn.Module], coefficients: np.ndarray) -> nn.Module:
    """A network with a sum of three networks' tensors, as one would write it."""
    found = copy.deepcopy(three[0])
    states = [network.state_dict() for network in three]
    mixed = {
        name: sum(c * state[name].double() for c, state in zip(coefficients, states, strict=True)).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }
    found.load_state_dict(mixed)
    return found.eval()


@torch.no_grad()
def by_hand(network: nn.Module, data: tuple[Tensor, Tensor] = DATA) -> dict[str, float]:
    inputs, labels = data
    outputs = network(inputs)
    loss = nn.functional.cross_entropy(outputs.double(), labels)
    return {"error": float((outputs.argmax(1) != labels).double().mean()), "loss": float(loss)}


def test_the_three_networks_have_the_values_that_error_barrier_gives_them():
    a, b, c = mlp(1), mlp(2), mlp(3)
    found = plane(a, b, c, DATA, points=2)
    for (name, one), (other, two) in itertools.combinations({"a": a, "b": b, "c": c}.items(), 2):
        barrier = error_barrier(one, two, DATA, alphas=3)
        for metric in ("error", "loss"):
            ends = tuple(found.place(place).values[metric] for place in (name, other))
            assert ends == barrier.end_values(metric)


def test_grid_points_at_the_networks_are_the_networks_to_the_bit():
    """With c at a right angle over a, three corners of a grid without margin are the networks."""
    a, b = mlp(1), mlp(2)
    c = copy.deepcopy(a)
    with torch.no_grad():
        c[0].bias += 1  # where b is as a
        b[0].bias.copy_(a[0].bias)
    found = plane(a, b, c, DATA, points=3, margin=0)
    assert found.place("c").x == 0
    corners = {"a": (0, 0), "b": (0, 2), "c": (2, 0)}
    for name, corner in corners.items():
        for metric in found.metrics:
            assert found.grid(metric)[corner] == found.place(name).values[metric]


def test_distances_in_the_plane_are_distances_between_weights():
    three = [mlp(seed) for seed in range(3)]
    found = plane(*three, DATA, points=2)
    for i, j in itertools.combinations(range(3), 2):
        p, q = found.places[i], found.places[j]
        expected = np.linalg.norm(vector(three[i]) - vector(three[j]))
        assert math.hypot(p.x - q.x, p.y - q.y) == pytest.approx(expected, rel=1e-9)
    barrier = error_barrier(*three[:2], DATA, alphas=3)
    assert found.place("b").x == pytest.approx(barrier.distance, rel=1e-12)
    assert [axis.length for axis in found.axes] == pytest.approx([1, 1], rel=1e-12)
    assert found.cosine == pytest.approx(0, abs=1e-12)


def test_the_segment_from_a_to_b_is_the_path_that_error_barrier_measures():
    a, b = mlp(1), mlp(2)
    with torch.no_grad():
        c = at([a, b, mlp(3)], np.array([0.5, 0.5, 0]))
        c[2].weight += 0.5
    found = plane(a, b, c, DATA, points=(9, 2), margin=0)
    assert found.y[0] == 0
    path = error_barrier(a, b, DATA, alphas=9)
    assert found.x[:9] / found.place("b").x == pytest.approx(path.alphas)
    for metric in ("error", "loss"):
        assert found.grid(metric)[0] == pytest.approx(path.values(metric), rel=1e-5)


@pytest.mark.parametrize("make", [mlp, batchnorm])
def test_every_point_is_the_network_with_these_weights(make):
    three = [make(seed) for seed in range(3)]
    found = plane(*three, DATA, points=4, margin=0.3)
    p, q, r = (vector(network) for network in three)
    u = (q - p) / np.linalg.norm(q - p)
    v = (r - p) - ((r - p) @ u) * u
    v /= np.linalg.norm(v)
    steps = np.linalg.inv(np.array([[(q - p) @ u, (r - p) @ u], [0, (r - p) @ v]]))
    checked = 0
    for x, y, loss, error in zip(found.x, found.y, found.values["loss"], found.values["error"], strict=True):
        s, t = steps @ (x, y)
        here = at(three, np.array([1 - s - t, s, t]))
        variances = [layer.running_var for layer in here.modules() if isinstance(layer, nn.BatchNorm1d)]
        if any((variance < 0).any() for variance in variances):
            assert math.isnan(loss)
            continue
        expected = by_hand(here)
        assert loss == pytest.approx(expected["loss"], rel=1e-4)
        assert error == pytest.approx(expected["error"], abs=1.5 / 90)
        checked += 1
    assert checked > 8


def test_a_linear_network_with_squared_error_has_a_quadratic_plane():
    """With residuals of a point p + x u + y v linear in (x, y), the loss is a polynomial of degree 2."""
    three = [nn.Linear(4, 1).double() for _ in range(3)]
    targets = torch.randn(90, 1, generator=torch.Generator().manual_seed(1)).double()
    inputs = INPUTS.double()
    found = plane(*three, (inputs, targets), points=6, evaluate="regression")
    (metric,) = found.metrics
    x, y = found.x, found.y
    with torch.no_grad():
        p, q, r = (torch.cat([n.weight.flatten(), n.bias]).numpy() for n in three)
    u = (q - p) / np.linalg.norm(q - p)
    v = (r - p) - ((r - p) @ u) * u
    v /= np.linalg.norm(v)
    design = np.column_stack([inputs.numpy(), np.ones(90)])
    residual = design @ p - targets.numpy()[:, 0]
    du, dv = design @ u, design @ v
    expected = [float(np.mean((residual + i * du + j * dv) ** 2)) for i, j in zip(x, y, strict=True)]
    assert found.values[metric] == pytest.approx(expected, rel=1e-9)


def test_interpolated_statistics_are_sums_and_recalibrated_ones_are_measured_anew():
    three = [batchnorm(seed) for seed in range(3)]
    calibration = (torch.randn(64, 4, generator=torch.Generator().manual_seed(9)),)
    found = plane(*three, DATA, points=3, batchnorm="recalibrate", calibration=calibration)
    assert np.isfinite(found.values["loss"]).all()
    p, q, r = (vector(network) for network in three)
    along, across = (q - p), (r - p)
    for place, network in zip(found.places, three, strict=True):
        assert place.values["loss"] == pytest.approx(by_hand(recalibrated(network, calibration[0]))["loss"], rel=1e-4)
    for x, y, loss in zip(found.x, found.y, found.values["loss"], strict=True):
        length = np.linalg.norm(along)
        height = np.linalg.norm(across - (across @ along) / length**2 * along)
        t = y / height
        s = (x - t * (across @ along) / length) / length
        here = at(three, np.array([1 - s - t, s, t]))
        assert loss == pytest.approx(by_hand(recalibrated(here, calibration[0]))["loss"], rel=1e-3)


@torch.no_grad()
def recalibrated(network: nn.Module, inputs: Tensor) -> nn.Module:
    """With the mean and population variance of the inputs of its one BatchNorm layer."""
    found = copy.deepcopy(network).eval()
    hidden = found[0](inputs)
    found[1].running_mean.copy_(hidden.mean(0))
    found[1].running_var.copy_(hidden.var(0, correction=0))
    return found


def test_points_with_a_running_variance_below_0_are_left_out_and_counted():
    three = [batchnorm(seed) for seed in range(3)]
    with torch.no_grad():
        three[1][1].running_var.fill_(30.0)
    found = plane(*three, DATA, points=9, margin=1.0)
    missing = np.isnan(found.values["loss"])
    assert 0 < missing.sum() < len(missing)
    assert np.isfinite(found.values["loss"][~missing]).all()
    (note,) = [note for note in found.notes if "below 0" in note]
    assert note.startswith(f"{missing.sum()} points ")
    assert "recalibrate" in note
    assert np.isnan(found.grid("error")[-1, 0])  # far from b


def test_a_network_without_batchnorm_is_measured_everywhere_and_none_is_said():
    found = plane(mlp(0), mlp(1), mlp(2), DATA, points=3, margin=3)
    assert found.batchnorm == "none"
    assert np.isfinite(found.values["loss"]).all()
    assert not [note for note in found.notes if "statistics" in note]


@settings(max_examples=10, deadline=None)
@given(order=st.permutations([0, 1, 2]))
def test_the_order_of_the_networks_turns_the_plane_and_changes_no_distance(order):
    three = [mlp(seed) for seed in range(3)]
    shuffled = plane(*(three[i] for i in order), DATA, points=2)
    for (i, p), (j, q) in itertools.combinations(zip(order, shuffled.places, strict=True), 2):
        expected = np.linalg.norm(vector(three[i]) - vector(three[j]))
        assert math.hypot(p.x - q.x, p.y - q.y) == pytest.approx(expected, rel=1e-9)


def test_nothing_of_the_callers_changes():
    three = [batchnorm(seed).train() for seed in range(3)]
    before = [copy.deepcopy(network.state_dict()) for network in three]
    torch.manual_seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    plane(*three, DATA, points=3, refine=3, batchnorm="recalibrate", calibration=DATA)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    for network, values in zip(three, before, strict=True):
        assert all(module.training for module in network.modules())
        assert all(p.grad is None for p in network.parameters())
        assert all(torch.equal(tensor, values[name]) for name, tensor in network.state_dict().items())


def test_every_point_is_reported():
    reports = []
    plane(mlp(0), mlp(1), mlp(2), DATA, points=(3, 2), refine=2, report=reports.append)
    assert [report.done for report in reports] == list(range(1, 12))
    assert reports[-1].done == reports[-1].jobs


@networks.each_network
def test_anyones_networks_span_a_plane(case):
    """The networks' own values are those of error_barrier, whatever kind of network it is."""
    three = [case.network(seed) for seed in (1, 2, 3)]
    found = plane(*three, case.batches(), points=2, evaluate=case.evaluate)
    barrier = error_barrier(three[0], three[2], case.batches(), alphas=3, evaluate=case.evaluate)
    values = [found.place(name).values[found.metric] for name in ("a", "c")]
    assert values == pytest.approx(list(barrier.end_values(found.metric)), rel=1e-6)
