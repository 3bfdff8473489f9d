"""Layer-wise barriers: against plain code on state dicts, and what must be the same numbers."""

import copy
import functools
import itertools
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils import prune

from direct import direct
from modeconn import Barrier, error_barrier
from modeconn.analysis.connectivity.layers import choose_layers, with_layers, with_noise
from modeconn.analysis.connectivity.layerwise import layerwise_barrier
from modeconn.analysis.connectivity.layerwise_result import MODES, LayerwiseBarrier
from modeconn.analysis.connectivity.samples import Samples
from modeconn.errors import DataError, NetworkError, OptionError
from modeconn.models import build_network
from modeconn.weights.sources import weights_of
from modeconn.weights.state_dicts import Weights
from networks import Network, by_name, each_network


@functools.cache
def _pair(case: Network) -> tuple[nn.Module, nn.Module]:
    return case.pair()


def _of(name: str, **how: Any) -> LayerwiseBarrier:
    case = by_name(name)
    return layerwise_barrier(*_pair(case), case.batches(), **({"alphas": 3} | how))


# --- the full path, and what coincides with it


@each_network
def test_all_layers_together_are_the_path_of_error_barrier(case: Network) -> None:
    network = _pair(case)[0]
    layers = sorted({name.split(".")[0] for name in case.plain(network).state_dict()})
    result = layerwise_barrier(
        *_pair(case), case.batches(), evaluate=case.evaluate, alphas=3, layers={"all": layers}, modes=MODES
    )
    expected = error_barrier(*_pair(case), case.batches(), evaluate=case.evaluate, alphas=3)
    assert result.metrics == expected.metrics
    for metric in expected.metrics:
        assert np.array_equal(result.full.values(metric), expected.values(metric))
        for mode in ("single", "from input", "from output"):
            assert np.array_equal(result.values(mode, metric), expected.values(metric)[None])
            assert result.heights(mode, metric).tolist() == [expected.heights(metric).barrier]
    assert result.distance[0] == pytest.approx(expected.ends.l2, rel=1e-5)
    assert np.isfinite(result.values("random")).all()


@pytest.mark.parametrize("name", ["mlp", "batchnorm", "layernorm", "tied", "two inputs", "recurrent", "pruned"])
def test_cumulative_modes_end_in_the_path_of_error_barrier(name: str) -> None:
    case, result = by_name(name), _of(name, alphas=4)
    expected = error_barrier(*_pair(case), case.batches(), alphas=4)
    for metric in expected.metrics:
        assert np.array_equal(result.values("from input", metric)[-1], expected.values(metric))
        assert np.array_equal(result.values("from output", metric)[0], expected.values(metric))
        assert np.array_equal(result.values("from input", metric)[0], result.values("single", metric)[0])
        assert np.array_equal(result.values("from output", metric)[-1], result.values("single", metric)[-1])
    assert len(result.layers) > 1


def test_a_network_of_one_layer_has_the_path_of_error_barrier_in_every_mode() -> None:
    a, b = (nn.Linear(3, 2) for _ in range(2))
    data = torch.randn(20, 3), torch.randint(2, (20,))
    result, expected = layerwise_barrier(a, b, data), error_barrier(a, b, data, alphas=11)
    assert result.layers == ("(root)",)
    for mode in ("single", "from input", "from output"):
        assert np.array_equal(result.values(mode, "loss"), expected.loss[None])
    assert result.distance[0] == pytest.approx(expected.ends.l2)


@pytest.mark.parametrize("batchnorm", ["interpolate", "recalibrate", "repair"])
def test_every_choice_for_batchnorm_ends_in_that_of_error_barrier(batchnorm: str) -> None:
    case = by_name("batchnorm")
    how: Any = {"batchnorm": batchnorm, "calibration": case.batches(5), "alphas": 4}
    result = layerwise_barrier(*_pair(case), case.data, **how)
    expected = error_barrier(*_pair(case), case.data, **how)
    assert result.full.batchnorm == batchnorm
    for curve in (result.full.loss, result.values("from input", "loss")[-1], result.values("from output", "loss")[0]):
        assert np.array_equal(curve, expected.loss)
    assert np.isfinite(result.values("random", "loss")).all()


# --- plain code


@pytest.mark.parametrize("name", ["mlp", "batchnorm", "layernorm"])
def test_every_point_is_what_plain_code_finds(name: str) -> None:
    case, alphas = by_name(name), [0.0, 0.25, 0.5, 1.0]
    a, b = _pair(case)
    result = _of(name, alphas=alphas)
    owners = list(dict.fromkeys(key.rpartition(".")[0] or "(root)" for key in a.state_dict()))
    assert result.layers == tuple(owners)
    for place, alpha in itertools.product(range(len(owners)), range(4)):
        moving = {"single": owners[place : place + 1], "from input": owners[: place + 1], "from output": owners[place:]}
        for mode, layers in moving.items():
            expected = direct(case, _mixed(a, b, layers, alphas[alpha]), case.batches())
            for metric in ("error", "loss"):
                sums = expected[metric][0].astype(np.float64)
                exact = metric == "error" or alphas[alpha] in (0, 1)
                found = result.values(mode, metric)[place, alpha]
                assert found == pytest.approx(sums.mean(), rel=1e-12 if exact else 1e-5)


@torch.no_grad()
def _mixed(a: nn.Module, b: nn.Module, layers: list[str], alpha: float) -> nn.Module:
    network, state, other = copy.deepcopy(a), a.state_dict(), b.state_dict()
    for key, value in state.items():
        if (key.rpartition(".")[0] or "(root)") in layers:
            if value.is_floating_point():
                state[key] = ((1 - alpha) * value.double() + alpha * other[key].double()).to(value.dtype)
            elif alpha == 1:
                state[key] = other[key]
    network.load_state_dict(state)
    return network


def test_the_host_is_a_and_hosting_in_b_is_another_matter() -> None:
    case = by_name("mlp")
    a, b = _pair(case)
    result = layerwise_barrier(a, b, case.data, alphas=3)
    other = layerwise_barrier(b, a, case.data, alphas=3)
    for mode in MODES:
        assert np.ptp(result.values(mode, "loss")[:, 0]) == 0
        assert result.values(mode, "loss")[0, 0] == result.full.end_values("loss")[0]
        assert other.values(mode, "loss")[0, 0] == result.full.end_values("loss")[1]
    assert not np.allclose(result.heights("single", "loss"), other.heights("single", "loss"))
    # Layers up to k of b in a, and those after k of a in b, are the same network.
    assert np.array_equal(result.values("from input", "loss")[:-1, -1], other.values("from output", "loss")[1:, -1])


def test_barriers_are_over_the_mean_of_the_full_networks() -> None:
    samples = Samples(np.array([[10.0], [50.0], [30.0]]), np.full((3, 1), 100), "all")
    curves = {"error": np.array([[0.1, 0.1, 0.05], [0.1, 0.2, 0.4]]), "accuracy": np.array([[0.9, 0.8, 0.7]] * 2)}
    fall = Samples(np.array([[90.0], [50.0], [70.0]]), np.full((3, 1), 100), "all")
    full = Barrier(np.array([0, 0.5, 1]), {"error": samples, "accuracy": fall}, "error", frozenset(["accuracy"]))
    result = LayerwiseBarrier(("0", "2"), full, {"single": curves}, np.ones(2))
    assert result.single == pytest.approx([-0.1, 0.2])
    assert result.heights("single", "accuracy") == pytest.approx([0.1, 0.1])


def test_metrics_that_fall_have_dips_for_barriers() -> None:
    def evaluate(network: nn.Module, batch: Any) -> dict[str, tuple[Tensor, int]]:
        right = network(batch[0]).argmax(1) == batch[1]
        return {"accuracy": (right.float(), 1), "error": (~right, 1)}

    result = _of("mlp", evaluate=evaluate, higher_is_better="accuracy", alphas=9)
    for mode in MODES:
        assert result.heights(mode, "accuracy") == pytest.approx(result.heights(mode, "error"))
    assert result.single.max() > 0


# --- what is measured


def _seen(a: nn.Module, b: nn.Module, **how: Any) -> tuple[LayerwiseBarrier, Counter[tuple[float, ...]], list[Any]]:
    """The result, how often each set of weights was evaluated, and the reports."""
    seen: Counter[tuple[float, ...]] = Counter()
    progress: list[Any] = []

    def weights(network: nn.Module) -> tuple[float, ...]:
        return tuple(torch.cat([tensor.double().flatten() for tensor in network.state_dict().values()]).tolist())

    def evaluate(network: nn.Module, batch: Any) -> dict[str, tuple[float, int]]:
        seen[weights(network)] += 1
        return {"loss": (0.0, 1)}

    result = layerwise_barrier(a, b, [None], evaluate=evaluate, report=progress.append, **how)
    seen[weights(b)] -= 2  # by itself and in the scratch network, to see that both agree
    return result, seen, progress


def _chain() -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(2, 2) for _ in range(4))).double()


def test_what_coincides_is_measured_once() -> None:
    a, b = _chain(), _chain()
    _, seen, progress = _seen(a, b, alphas=5)
    # a; the full path; 4 single; 2 more from the input; 2 more from the output; 4 random
    paths = 1 + 4 + 2 + 2 + 4
    # Layers 1 and 2 of b in a: as "from input" ends there, so "single" or "from output" do not.
    assert set(seen.values()) == {1}
    assert sum(seen.values()) == len(seen) == 1 + paths * 4
    assert [(report.done, report.jobs) for report in progress] == [(k, 1 + paths * 4) for k in range(1, 54)]


def test_layers_that_are_equal_are_not_measured() -> None:
    a, b = _chain(), _chain()
    for layer in (0, 2):
        b[layer].load_state_dict(a[layer].state_dict())
    result, seen, _ = _seen(a, b, alphas=5)
    # a; the full path; layers 1 and 3 alone and at random
    assert set(seen.values()) == {1}
    assert len(seen) == 1 + (1 + 2 + 2) * 4
    assert result.distance[[0, 2]].tolist() == [0, 0]
    assert "equal in both networks: 0, 2" in result.notes
    same = _of_equal()
    assert np.ptp([same.values(mode, "loss") for mode in MODES]) == 0
    assert [note for note in same.notes if "all weights and buffers are equal" in note]


def _of_equal() -> LayerwiseBarrier:
    case = by_name("mlp")
    return layerwise_barrier(_pair(case)[0], _pair(case)[0], case.data, alphas=3)


def test_only_the_modes_that_are_asked_for_are_measured() -> None:
    a, b = _chain(), _chain()
    result, seen, _ = _seen(a, b, alphas=5, modes=["from input", "single"])
    assert result.modes == ("single", "from input")
    assert len(seen) == 1 + (1 + 4 + 2) * 4
    assert _seen(a, b, alphas=3, modes="random")[0].modes == ("random",)
    with pytest.raises(OptionError, match=r"unknown mode 'random'; did you mean|unknown mode 'random'"):
        _ = result.random


# --- the control


def test_the_control_has_exactly_the_norm_of_every_tensor_and_leaves_the_rest() -> None:
    a, b = _chain(), _chain()
    start = a.state_dict()

    def evaluate(network: nn.Module, batch: Any) -> dict[str, tuple[Tensor, int]]:
        return {name: ((tensor - start[name]).norm(), 1) for name, tensor in network.state_dict().items()}

    result = layerwise_barrier(a, b, [None], evaluate=evaluate, alphas=[0, 0.3, 1])
    for place, layer in enumerate(result.layers):
        for name in start:
            moved = result.values("random", name)[place]
            if name.startswith(f"{layer}."):
                norm = float((b.state_dict()[name] - start[name]).norm())
                assert moved == pytest.approx([0, 0.3 * norm, norm], rel=1e-12)
                assert moved == pytest.approx(result.values("single", name)[place], rel=1e-12)
            else:
                assert not moved.any()


def _control(a: nn.Module, b: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    host = weights_of(a, "a")
    found = with_noise(host, weights_of(b, "b"), [name for name, _ in a.named_parameters()], seed)
    tensors = {name: found.read(name) for name in found.layout}
    assert all(found.layout[name].dtype == tensor.dtype for name, tensor in tensors.items())
    assert all(found.layout[name].shape == tensor.shape for name, tensor in tensors.items())
    return tensors


@pytest.mark.parametrize("name", ["mlp", "float16", "bfloat16", "float64", "complex", "batchnorm"])
def test_the_direction_is_gaussian_and_not_that_of_the_other_network(name: str) -> None:
    case = by_name(name)
    a, b = _pair(case)
    for key, tensor in _control(a, b).items():
        if key not in dict(a.named_parameters()):
            assert torch.equal(tensor, a.state_dict()[key])  # buffers stay
            continue
        step, moved = (_double(t) - _double(a.state_dict()[key]) for t in (b.state_dict()[key], tensor))
        assert float(moved.norm()) == pytest.approx(float(step.norm()), rel=1e-5)
        if step.numel() > 50:
            assert abs(torch.vdot(moved.flatten(), step.flatten())) < 0.5 * step.norm() ** 2
            flat = torch.view_as_real(moved).flatten() if moved.is_complex() else moved.flatten()
            kurtosis = float((flat / flat.square().mean().sqrt()).pow(4).mean())
            assert kurtosis == pytest.approx(3, abs=1.2)


def _double(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def test_the_control_is_a_function_of_its_seed() -> None:
    a, b = _pair(by_name("mlp"))
    first, again, other = _control(a, b), _control(a, b), _control(a, b, seed=1)
    for name in first:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
    assert not torch.allclose(first["0.weight"] - a[0].weight, (first["2.weight"] - a[2].weight)[:, :6])
    values = [_of("mlp", control_seed=seed).values("random", "loss") for seed in (0, 0, 1)]
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])
    assert _of("mlp", control_seed=7).settings["control_seed"] == 7


def test_pruned_weights_stay_pruned_in_the_control() -> None:
    a, b = (nn.Linear(8, 8) for _ in range(2))
    mask = torch.rand(8, 8) < 0.5
    for network in (a, b):
        prune.custom_from_mask(network, "weight", mask)
    plain_a, plain_b = ({"weight": (network.weight).detach()} for network in (a, b))
    moved = with_noise(weights_of(a, "a"), weights_of(b, "b"), ["weight"], 0).read("weight")
    assert not moved[~mask].any()
    expected = float((plain_b["weight"] - plain_a["weight"]).norm())
    assert float((moved - plain_a["weight"]).norm()) == pytest.approx(expected, rel=1e-5)


def test_the_same_values_in_two_types_have_no_direction() -> None:
    a = _pair(by_name("mlp"))[0]
    half = copy.deepcopy(a).half()
    full = copy.deepcopy(half).float()
    case = by_name("mlp")
    result = layerwise_barrier(half, full, case.data, alphas=3)
    assert not result.distance.any()
    assert np.ptp(result.values("random", "loss")) == 0


# --- layers


def test_a_batchnorm_is_a_layer_of_its_own_with_its_statistics() -> None:
    result = _of("batchnorm", alphas=3)
    assert result.layers == ("0", "1", "3", "4", "8")
    assert result.tensors["1"] == tuple(
        f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    )


def test_a_module_with_nothing_but_statistics_is_a_layer_if_they_differ() -> None:
    def build() -> nn.Module:
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))
        nn.init.uniform_(network[1].running_var, 0.5, 2)
        return network

    a, b = build(), build()
    data = torch.randn(20, 3), torch.randint(2, (20,))
    result = layerwise_barrier(a, b, data, alphas=3)
    assert result.layers == ("0", "1", "2")
    assert np.array_equal(result.values("from input", "loss")[-1], error_barrier(a, b, data, alphas=3).loss)
    assert result.distance[1] == 0
    assert np.ptp(result.values("single", "loss")[1]) > 0
    assert np.ptp(result.values("random", "loss")[1]) == 0
    b[1].load_state_dict(a[1].state_dict())
    assert layerwise_barrier(a, b, data, alphas=3).layers == ("0", "2")


class Order(nn.Module):
    """Nothing but an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(6))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.order]


def test_integer_buffers_are_the_other_networks_where_the_layer_is_wholly_its() -> None:
    case = by_name("mlp")
    a, b = (nn.Sequential(Order(), network) for network in case.pair())
    b[0].order.copy_(a[0].order.flip(0))
    result = layerwise_barrier(a, b, case.data, alphas=3)
    expected = error_barrier(a, b, case.data, alphas=3)
    assert result.layers[0] == "0"
    assert np.array_equal(result.values("from input", "loss")[-1], expected.loss)
    host, half, other = result.values("single", "loss")[0]
    assert host == half != other  # not interpolated
    b[0].order.copy_(a[0].order)
    assert layerwise_barrier(a, b, case.data, alphas=3).layers == ("1.0", "1.2", "1.4")


def test_tied_weights_count_once_and_are_said() -> None:
    result = _of("tied")
    assert result.layers == ("embedding", "body.0", "head")
    assert result.tensors["embedding"] == ("embedding.weight",)
    assert result.tensors["head"] == ("head.bias",)
    assert "head.weight is tied to embedding.weight, and counts once, in layer embedding" in result.notes
    assert not [note for note in result.notes if "in no layer" in note]
    expected = error_barrier(*_pair(by_name("tied")), by_name("tied").batches(), alphas=3)
    assert np.linalg.norm(result.distance) == pytest.approx(expected.ends.l2, rel=1e-5)


@pytest.mark.parametrize("order", [("head", "embedding"), ("embedding", "head")])
def test_a_tie_between_two_groups_is_in_that_of_its_first_name(order: tuple[str, ...]) -> None:
    result = _of("tied", layers=order)
    assert result.layers == order
    assert result.tensors["embedding"] == ("embedding.weight",)
    assert result.tensors["head"] == ("head.bias",)
    alone = _of("tied", layers=["head"])
    assert alone.tensors["head"] == ("embedding.weight", "head.bias")
    with pytest.raises(OptionError, match="'output' has nothing but tensors that are tied"):
        _of("tied", layers={"input": ["embedding"], "output": ["head.weight"]})


def test_groups_are_whole_names_of_modules_and_tensors() -> None:
    a, b = (nn.Sequential(*(nn.Linear(2, 2) for _ in range(11))) for _ in range(2))
    data = torch.randn(5, 2), torch.randint(2, (5,))
    result = layerwise_barrier(a, b, data, alphas=3, layers={"first": ["1", "0.bias"], "last": "10."})
    assert result.layers == ("first", "last")
    assert result.tensors["first"] == ("0.bias", "1.weight", "1.bias")
    assert result.tensors["last"] == ("10.weight", "10.bias")
    missing = [note for note in result.notes if "in no layer" in note]
    assert missing == ["in no layer, and those of the host throughout: 17 tensors (0.weight, 2.weight, 2.bias, ...)"]
    assert not np.array_equal(result.values("from input", "loss")[-1], result.full.loss)
    listed = layerwise_barrier(a, b, data, alphas=3, layers=["10", "3.weight"])
    assert listed.layers == ("10", "3.weight")


def test_cumulative_modes_follow_the_order_of_the_groups() -> None:
    forwards, backwards = (_of("mlp", layers=order) for order in (["0", "2", "4"], ["4", "2", "0"]))
    assert np.array_equal(forwards.values("from input", "loss"), backwards.values("from output", "loss")[::-1])


def test_a_class_token_belongs_to_the_network_itself() -> None:
    result = _of("layernorm")
    assert result.layers[0] == "(root)"
    assert result.tensors["(root)"] == ("token",)


def test_tensors_are_read_only_where_they_come_from() -> None:
    a, b = (weights_of(_pair(by_name("mlp"))[i], "ab"[i]) for i in range(2))
    read: list[tuple[str, str]] = []

    def watched(weights: Weights) -> Weights:
        def reading(name: str) -> Tensor:
            read.append((weights.origin, name))
            return weights.read(name)

        return Weights(weights.layout, reading, weights.origin)

    mixed = with_layers(watched(a), watched(b), ["2.weight"], "mixed")
    for name in mixed.layout:
        mixed.read(name)
    assert read == [("b" if name == "2.weight" else "a", name) for name in a.layout]
    with pytest.raises(OptionError, match="no parameters"):
        choose_layers(a, [], None)


# --- bad input


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["0", "ayer"], "is called 'ayer' or is in a module of that name; the names begin with 0, 2, 4"),
        (["0.weigth"], "did you mean '0.weight'"),
        ({"all": ["0", "2"], "more": ["2.bias"]}, "2.bias is in two layers, 'all' and 'more'"),
        (["0", "0"], "layer '0' is given twice"),
        ([], "there is none in it"),
        ({}, "there is none in it"),
        ("0", "layers must be a mapping"),
        (3, "layers must be a mapping"),
        ({"x": []}, "for 'x' it has"),
        ({"x": 3}, "for 'x' it has 3"),
        ([0], "for 0 it has"),
        ([""], "is called ''"),
    ],
)
def test_layers_that_cannot_be_found_are_named(layers: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        _of("mlp", layers=layers)


def test_options_that_cannot_be_used_are_named() -> None:
    with pytest.raises(OptionError, match='not "adaptive"'):
        _of("mlp", alphas="adaptive")
    with pytest.raises(OptionError, match="at least 3 alphas"):
        _of("mlp", alphas=2)
    with pytest.raises(OptionError, match="unknown mode 'sinle'; did you mean 'single'"):
        _of("mlp", modes=["sinle"])
    with pytest.raises(OptionError, match="at least one mode"):
        _of("mlp", modes=[])
    for seed in (0.5, None, True, "0"):
        with pytest.raises(OptionError, match="control_seed must be a whole number"):
            _of("mlp", control_seed=seed)
    with pytest.raises(OptionError, match="needs calibration="):
        _of("batchnorm", batchnorm="recalibrate")
    with pytest.raises(NetworkError, match="only in"):
        layerwise_barrier(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), (torch.zeros(1, 2), torch.zeros(1).long()))
    result = _of("mlp")
    with pytest.raises(OptionError, match="unknown mode"):
        result.heights("all")
    with pytest.raises(OptionError, match="unknown metric"):
        result.heights("single", "accuracy")


def test_losses_that_are_not_finite_are_noted_with_their_layers() -> None:
    def evaluate(network: nn.Module, batch: Any) -> dict[str, tuple[float, int]]:
        return {"loss": (math.inf if network[1].weight.sum() > 3.9 else 1.0, 1)}

    a, b = _chain(), _chain()
    nn.init.zeros_(a[1].weight)
    nn.init.ones_(b[1].weight)
    result = layerwise_barrier(a, b, [None], evaluate=evaluate, alphas=3)
    assert "loss is not finite at some alphas of 'single': 1" in result.notes
    assert np.isnan(result.heights("single")[1])  # an infinite value over an infinite end
    assert np.isneginf(result.heights("single")[0])


# --- the caller's


@pytest.mark.parametrize("name", ["batchnorm", "pruned", "tied"])
def test_nothing_of_the_callers_changes(name: str) -> None:
    case = by_name(name)
    networks = [network.train() for network in case.pair()]
    before = [{key: tensor.clone() for key, tensor in network.state_dict().items()} for network in networks]
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    layerwise_barrier(*networks, case.data, alphas=3)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
        assert all(module.training for module in network.modules())
        assert all(parameter.grad is None for parameter in network.parameters())


# --- what is kept


def test_rows_are_one_per_mode_layer_and_alpha() -> None:
    result = _of("mlp")
    frame = result.to_frame()
    assert list(frame) == ["layer", "mode", "alpha", "error", "loss"]
    assert len(frame) == 4 * 3 * 3
    for mode, (place, layer), (point, alpha) in itertools.product(MODES, enumerate("024"), enumerate([0, 0.5, 1])):
        row = frame[(frame["mode"] == mode) & (frame["layer"] == layer) & (frame["alpha"] == alpha)]
        assert row[["error", "loss"]].to_numpy().tolist() == [
            [result.values(mode, metric)[place, point] for metric in ("error", "loss")]
        ]
    by_mode = dict(zip(MODES, (result.single, result.from_input, result.from_output, result.random), strict=True))
    assert result.barriers == [
        {"layer": layer, "mode": mode, "barrier": height}
        for mode, heights in by_mode.items()
        for layer, height in zip("024", heights.tolist(), strict=True)
    ]


def test_what_was_written_is_read_back_exactly(tmp_path: Path) -> None:
    result = _of("batchnorm", alphas="paper", modes=["single", "random"], layers=["0", "1"])
    text = result.to_json(tmp_path / "layers.json")
    for again in (LayerwiseBarrier.from_json(text), LayerwiseBarrier.from_json(tmp_path / "layers.json")):
        assert (again.layers, again.modes, again.metrics) == (result.layers, result.modes, result.metrics)
        assert (again.tensors, again.notes, again.settings) == (result.tensors, result.notes, result.settings)
        for mode, metric in itertools.product(result.modes, result.metrics):
            assert np.array_equal(again.values(mode, metric), result.values(mode, metric))
        assert np.array_equal(again.full.loss, result.full.loss)
        assert np.array_equal(again.distance, result.distance)
        assert again.to_json() == text
    assert result.settings["alphas"] == "paper"
    values = np.array([[0.1, math.nan, math.inf, *np.zeros(27)]])
    curves = {"single": dict.fromkeys(result.metrics, values)}
    broken = LayerwiseBarrier(("0",), result.full, curves, np.ones(1))
    text = broken.to_json()
    for source in (text, text.replace("null", '"nan"')):  # as modeconn 0.1 wrote it
        found = LayerwiseBarrier.from_json(source).values("single", "error")
        assert np.array_equal(found, curves["single"]["error"], equal_nan=True)


def test_what_to_json_did_not_write_is_refused(tmp_path: Path) -> None:
    text = _of("mlp").to_json()
    for other in ("{}", "{", _of("mlp").full.to_json(), text.replace('"curves"', '"curve"'), '{"format": 3}'):
        with pytest.raises(DataError, match="not a layer-wise barrier that to_json wrote"):
            LayerwiseBarrier.from_json(other)
    with pytest.raises(DataError, match="cannot be read"):
        LayerwiseBarrier.from_json(tmp_path / "nothing.json")


def test_as_text_it_has_a_line_for_each_layer() -> None:
    result = _of("mlp")
    lines = [line.split() for line in str(result).splitlines()]
    for place, layer in enumerate(result.layers):
        found = next(line for line in lines if line[:1] == [layer])
        heights = [100 * result.heights(mode)[place] for mode in MODES]
        assert [float(cell) for cell in found[1:]] == pytest.approx([*heights, result.distance[place]], rel=1e-3)
    assert f"All layers together: {100 * result.full.barrier:.4g}." in str(result)


# --- the figure


def test_the_figure_has_bars_for_single_layers_and_lines_for_several() -> None:
    result = _of("mlp", alphas=5)
    ax = result.plot()
    bars = [[bar.get_height() for bar in container] for container in ax.containers]
    assert bars == [(100 * result.single).tolist(), (100 * result.random).tolist()]
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert np.array_equal(lines["from the input to here"], 100 * result.from_input)
    assert np.array_equal(lines["from here to the output"], 100 * result.from_output)
    assert set(lines["all layers together"]) == {100 * result.full.barrier}
    assert ax.get_ylabel() == "barrier (percentage points)"
    assert ax.get_title() == "layers of b in a"
    assert ax.get_ylim()[1] > 100 * max(result.from_input)
    other = Figure().subplots()
    assert result.plot(other, metric="loss") is other
    assert other.get_ylabel() == "barrier (loss)"
    assert len(_of("mlp", modes=["single"]).plot().containers) == 1


def test_what_is_not_finite_can_be_drawn() -> None:
    samples = Samples(np.array([[1.0], [math.inf], [1.0]]), np.ones((3, 1)), "all")
    values = np.array([[1, 2, 3], [1, math.inf, 2], [1, math.nan, 3]])
    full = Barrier(np.array([0, 0.5, 1]), {"loss": samples}, "loss")
    result = LayerwiseBarrier(tuple("abc"), full, {mode: {"loss": values} for mode in MODES}, np.ones(3))
    assert "All layers together: inf." in str(result)
    ax = result.plot()
    ax.figure.canvas.draw()
    assert np.isfinite(ax.get_ylim()).all()
    line = next(line for line in ax.lines if line.get_label() == "from the input to here")
    assert np.array_equal(np.isnan(line.get_ydata()), [False, True, True])


@pytest.mark.parametrize("width", [None, 4])
def test_labels_of_a_resnets_layers_do_not_overlap(width: float | None) -> None:
    names = choose_layers(
        weights := weights_of(build_network("resnet-20", (3, 8, 8), 10, seed=0), "a"), weights.layout, None
    )
    layers = tuple(names[0])
    assert len(layers) == 43
    curves = np.random.default_rng(0).random((len(layers), 3))
    full = Barrier(
        np.array([0, 0.5, 1]), {"error": Samples(np.array([[0.0], [0.5], [0.0]]), np.ones((3, 1)), "all")}, "error"
    )
    result = LayerwiseBarrier(layers, full, {mode: {"error": curves} for mode in MODES}, np.ones(43))
    ax = result.plot(None if width is None else Figure(figsize=(width, 3), layout="constrained").subplots())
    ax.figure.canvas.draw()
    shown = [label for label in ax.get_xticklabels() if label.get_text()]
    assert len(shown) == 43 if width is None else 10 < len(shown) < 43
    boxes = [label.get_window_extent() for label in shown]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))
    legend = ax.get_legend().get_window_extent()
    assert legend.x0 >= ax.get_window_extent().x0
    assert legend.x1 <= ax.get_window_extent().x1
    highest = ax.transData.transform([0, 100 * max(result.from_input)])[1]
    assert highest < legend.y0
