"""Soups against plain code, over the whole list of networks."""

import copy
import functools
import json
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file
from torch import Tensor, nn

from direct import equal, everything, random_state
from modeconn import Run, error_barrier
from modeconn.analysis.averaging.average import average
from modeconn.analysis.connectivity.soup import soup
from modeconn.analysis.connectivity.soup_result import Soup, Step
from modeconn.analysis.paths.recalibrate import recalibrate
from modeconn.errors import DataError, ModeconnError, NetworkError, OptionError, StoreError
from modeconn.weights.plain_copy import plain_copy
from networks import by_name


def _labelled() -> tuple[Tensor, Tensor]:
    """Enough examples that two averages hardly ever make equally many errors."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1000, 6, generator=generator)
    with torch.no_grad():
        logits = by_name("mlp").network(7)(inputs)
    return inputs, (logits + 0.1 * torch.randn(logits.shape, generator=generator)).argmax(1)


_DATA = _labelled()


@functools.cache
def _fine_tunes(count: int = 6, seed: int = 0, spread: float = 0.7) -> tuple[nn.Module, ...]:
    """Networks around one: some averages of them are better than the best, and some are not."""
    generator = torch.Generator().manual_seed(seed)
    center = by_name("mlp").network(7)
    networks = []
    for _ in range(count):
        network = copy.deepcopy(center)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * spread * parameter.abs().mean())
        networks.append(network)
    return tuple(networks)


@torch.no_grad()
def _error(network: nn.Module) -> float:
    return float((network(_DATA[0]).argmax(1) != _DATA[1]).double().mean())


def _plain_average(networks: list[nn.Module]) -> nn.Module:
    mean = copy.deepcopy(networks[0])
    states = [network.state_dict() for network in networks]
    mean.load_state_dict({name: sum(state[name].double() for state in states) / len(states) for name in states[0]})
    return mean


def _plain_greedy(networks: tuple[nn.Module, ...]) -> tuple[list[int], float]:
    """Wortsman et al. 2022, recipe 1, as a plain loop."""
    order = sorted(range(len(networks)), key=lambda index: _error(networks[index]))
    members, best = [order[0]], _error(networks[order[0]])
    for index in order[1:]:
        error = _error(_plain_average([networks[member] for member in (*members, index)]))
        if error <= best:
            members, best = [*members, index], error
    return members, best


@pytest.mark.parametrize("seed", range(8))
def test_a_greedy_soup_is_that_of_a_plain_loop(seed: int) -> None:
    networks = _fine_tunes(seed=seed)
    members, value = _plain_greedy(networks)
    result = soup(networks, _DATA, "greedy", gate=None)
    assert result.members == tuple("abcdef"[member] for member in members)
    assert result.value == pytest.approx(value)
    assert result.values == pytest.approx({"abcdef"[i]: _error(network) for i, network in enumerate(networks)})
    expected = _plain_average([networks[member] for member in members])
    torch.testing.assert_close(dict(result.state), dict(expected.state_dict()))
    assert result.left_out.keys() == set("abcdef") - set(result.members)
    soup_so_far: list[nn.Module] = []
    for step in result.steps:
        candidate = [*soup_so_far, networks["abcdef".index(step.network)]]
        assert step.value == pytest.approx(_error(_plain_average(candidate)), abs=2e-3)
        soup_so_far = candidate if step.added else soup_so_far


def test_the_greedy_soups_of_these_tests_keep_some_networks_and_leave_out_others() -> None:
    sizes = {len(_plain_greedy(_fine_tunes(seed=seed))[0]) for seed in range(8)}
    assert len(sizes) > 2


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([None, 0.0, 0.1]), st.integers(1, 5))
def test_a_greedy_soup_is_never_worse_than_the_best_network_on_its_data(
    seed: int, gate: float | None, count: int
) -> None:
    networks = _fine_tunes(count, seed, 2.0)
    result = soup(networks, _DATA, "greedy", gate=gate)
    assert result.value <= min(map(_error, networks))
    added = [step.value for step in result.steps if step.added]
    assert added == sorted(added, reverse=True)
    assert result.value == added[-1]


@pytest.mark.parametrize("name", ["mlp", "layernorm", "tied", "complex", "recurrent", "pruned", "gpt-2", "bfloat16"])
def test_a_uniform_soup_without_a_gate_is_the_average(name: str) -> None:
    case = by_name(name)
    networks = [case.network(seed) for seed in (1, 2, 3)]
    result = soup(networks, case.batches(), "uniform", gate=None, evaluate=case.evaluate, names=["x", "y", "z"])
    ranked = [networks["xyz".index(member)] for member in result.members]
    assert equal(result.state, average(ranked))
    own = [error_barrier(network, network, case.batches(), evaluate=case.evaluate, alphas=3) for network in ranked]
    assert list(result.values.values()) == sorted(barrier.end_values()[0] for barrier in own)
    mixed = plain_copy(networks[0])
    mixed.load_state_dict(dict(result.state))
    barrier = error_barrier(mixed, mixed, case.batches(), evaluate=case.evaluate, alphas=3)
    for metric, value in result.of_soup.items():
        assert value == barrier.end_values(metric)[0]


@pytest.mark.parametrize("kind", ["uniform", "greedy"])
@pytest.mark.parametrize("name", ["mlp", "batchnorm", "complex", "float16", "weight norm"])
def test_a_soup_of_copies_of_one_network_is_that_network(kind: str, name: str) -> None:
    case = by_name(name)
    networks = [case.network(1) for _ in range(4)]
    result = soup(networks, case.batches(), kind, batchnorm="interpolate", gate=0.0)
    assert result.members == ("a", "b", "c", "d")
    assert equal(result.state, average(networks[:1]))
    assert set(result.values.values()) == {result.value}


def _other_basin(network: nn.Module) -> nn.Module:
    """The same function with its hidden units in another order."""
    other: Any = copy.deepcopy(network)
    order = torch.arange(11, -1, -1)
    with torch.no_grad():
        for layer, following in ((other[0], other[2]), (other[2], other[4])):
            layer.weight.copy_(layer.weight[order])
            layer.bias.copy_(layer.bias[order])
            following.weight.copy_(following.weight[:, order])
    return other


@functools.cache
def _basins() -> tuple[tuple[nn.Module, ...], tuple[Tensor, Tensor]]:
    """Three networks of one basin and one of another, all as good, and data that they label well."""
    center = by_name("mlp").network(3)
    with torch.no_grad():
        for name, parameter in center.named_parameters():
            parameter.mul_(3 if name.endswith("weight") else 0)
    networks = [center]
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        near = copy.deepcopy(center)
        with torch.no_grad():
            for parameter in near.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.003)
        networks.append(near)
    inputs = torch.randn(200, 6, generator=generator)
    with torch.no_grad():
        labels = center(inputs).argmax(1)
    return (*networks, _other_basin(center)), (inputs, labels)


@pytest.mark.parametrize("definition", ["chord_barrier", "barrier"])
@pytest.mark.parametrize("kind", ["uniform", "greedy"])
def test_the_gate_leaves_out_a_network_behind_a_barrier(kind: str, definition: str) -> None:
    networks, data = _basins()
    names = ["center", "near", "near too", "far"]
    result = soup(networks, data, kind, names=names, definition=definition)
    assert set(result.members) == {"center", "near", "near too"}
    assert result.values["far"] == 0
    if kind == "uniform":
        assert result.members[0] == "center"
        walked = error_barrier(networks[0], networks[3], data, alphas=5)
        assert result.left_out == {"far": getattr(walked, definition)}
    assert result.left_out["far"] > 0.1
    assert next(step.reason for step in result.steps if step.network == "far") == "barrier"
    assert f"Left out: far (0 %), behind a barrier of {100 * result.left_out['far']:.4g} %." in str(result)
    without = soup(networks, data, "uniform", gate=None)
    assert without.value > result.value + 0.05
    assert without.members[-1] in "abcd"
    assert len(without.members) == 4


def test_the_gate_is_measured_from_the_soup_so_far_on_the_grid_and_at_the_average() -> None:
    networks = _fine_tunes(3, 5, 3.0)
    result = soup(networks, _DATA, "greedy", gate=10.0, alphas=[0.25, 0.75], definition="barrier")
    rank = list(result.values)
    best, second, third = (networks["abc".index(name)] for name in rank)
    first = error_barrier(best, second, _DATA, alphas=[0.25, 0.5, 0.75])
    assert (result.steps[1].barrier, result.steps[1].value) == (first.barrier, first.error[2])
    base = average([best, second]) if result.steps[1].added else best
    share = 1 / 3 if result.steps[1].added else 0.5
    then = error_barrier(base, third, _DATA, alphas=[0.25, share, 0.75], model=best)
    assert result.steps[2].barrier == pytest.approx(then.barrier)
    assert result.steps[2].value == pytest.approx(then.error[list(then.alphas).index(share)])


def test_a_straight_path_to_a_worse_network_is_no_barrier_over_the_chord() -> None:
    """Networks of one parameter, whose error it is: only the mean of the ends makes a barrier of the difference."""

    def own(network: Any, batch: Any) -> dict[str, tuple[float, int]]:
        return {"error": (float(network["w"]), 1)}

    networks = [nn.ParameterDict({"w": torch.tensor(value)}) for value in (0.125, 0.5)]
    assert soup(networks, [0], "uniform", evaluate=own).members == ("a", "b")
    result = soup(networks, [0], "uniform", evaluate=own, definition="barrier")
    assert (result.members, result.left_out) == (("a",), {"b": pytest.approx(0.1875)})


def test_a_metric_that_is_better_when_higher_ranks_and_gates_the_other_way_round() -> None:
    networks, data = _basins()

    def accuracy(network: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        right = (network(batch[0]).argmax(1) == batch[1]).float()
        return {"accuracy": (right, torch.ones_like(right))}

    for kind in ("uniform", "greedy"):
        by_error = soup(networks, data, kind)
        result = soup(networks, data, kind, evaluate=accuracy, higher_is_better=True)
        assert result.members == by_error.members
        assert result.value == pytest.approx(1 - by_error.value)
        assert result.left_out == pytest.approx(by_error.left_out)
    values = list(soup(_fine_tunes(), _DATA, evaluate=accuracy, higher_is_better=True, gate=None).values.values())
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 1


def test_a_network_whose_metric_is_not_a_number_is_last_and_left_out() -> None:
    networks = [nn.ParameterDict({"w": torch.tensor(value)}) for value in (-1.0, 0.25, 0.5)]

    def own(network: Any, batch: Any) -> dict[str, tuple[float, int]]:
        return {"loss": (float(network["w"].sqrt()), 1)}

    for kind in ("uniform", "greedy"):
        result = soup(networks, [0], kind, evaluate=own, gate=0.5)
        assert list(result.values) == ["b", "c", "a"]
        assert result.left_out.keys() >= {"a"}
        assert any("loss of a is not finite" in note for note in result.notes)


# --- BatchNorm


@functools.cache
def _normalized() -> tuple[tuple[nn.Module, ...], list[Any], Tensor]:
    case = by_name("batchnorm")
    networks = tuple(case.network(seed) for seed in (1, 2, 3))
    for network in networks:
        for name, buffer in network.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(3)
    return networks, case.batches(), torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 1


@pytest.mark.parametrize("kind", ["uniform", "greedy"])
def test_statistics_of_a_soup_are_those_that_the_calibration_data_give(kind: str) -> None:
    networks, data, images = _normalized()
    calibration = [images[:30], images[30:]]
    result = soup(networks, data, kind, calibration=calibration, gate=None)
    chosen = [networks["abc".index(member)] for member in result.members]
    expected: Any = _plain_average(chosen).eval()
    recalibrate(expected, calibration)
    assert result.batchnorm == "recalibrate"
    torch.testing.assert_close(dict(result.state), dict(expected.state_dict()))
    with torch.no_grad():  # the first layer's, by their definition
        outputs = expected[0](images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(result.state["1.running_mean"], outputs.mean(1))
    torch.testing.assert_close(result.state["1.running_var"], outputs.var(1, unbiased=False))
    # and they are what was measured
    loaded = copy.deepcopy(networks[0])
    loaded.load_state_dict(dict(result.state))
    direct = error_barrier(loaded, loaded, data, alphas=3)
    assert (result.of_soup["error"], result.of_soup["loss"]) == (direct.error[0], direct.loss[0])


def test_each_network_is_ranked_with_statistics_measured_anew() -> None:
    networks, data, images = _normalized()
    result = soup(networks, data, calibration=[images], gate=None)
    for name, network in zip("abc", networks, strict=True):
        expected = copy.deepcopy(network)
        recalibrate(expected, [images])
        barrier = error_barrier(expected, expected, data, alphas=3)
        assert result.outcomes[name]["loss"] == pytest.approx(barrier.loss[0])


def test_a_network_with_batchnorm_needs_calibration_data_or_a_choice() -> None:
    networks, data, _ = _normalized()
    with pytest.raises(OptionError, match=r"needs calibration= data.*batchnorm=\"interpolate\""):
        soup(networks, data)
    result = soup(networks, data, batchnorm="interpolate", gate=None)
    assert result.batchnorm == "interpolate"
    ranked = [networks["abc".index(member)] for member in result.members]
    assert equal(result.state, average(ranked))


def test_repair_is_refused() -> None:
    with pytest.raises(OptionError, match="repair"):
        soup(_fine_tunes(), _DATA, batchnorm="repair", calibration=[_DATA[0]])


def test_counters_that_differ_are_the_best_networks_and_this_is_said() -> None:
    networks: list[Any] = [by_name("batchnorm").network(seed) for seed in (1, 2)]
    for network, calls in zip(networks, (3, 5), strict=True):
        network[1].num_batches_tracked.fill_(calls)
        network[4].num_batches_tracked.fill_(calls)
    result = soup(networks, by_name("batchnorm").batches(), "uniform", batchnorm="interpolate", gate=None)
    best = networks["ab".index(result.members[0])]
    assert int(result.state["1.num_batches_tracked"]) == int(best[1].num_batches_tracked)
    assert any("1.num_batches_tracked, 4.num_batches_tracked" in note for note in result.notes)


# --- what goes in and what comes out


@pytest.mark.parametrize("kind", ["uniform", "greedy"])
@pytest.mark.parametrize("name", ["mlp", "batchnorm", "tied", "dropout", "pruned"])
def test_nothing_of_the_callers_changes(kind: str, name: str) -> None:
    case = by_name(name)
    networks = [case.network(seed) for seed in (1, 2, 3)]
    for network in networks:
        for index, (module, parameter) in enumerate(zip(network.modules(), network.parameters(), strict=False)):
            module.training = index % 2 == 0
            parameter.grad = torch.ones_like(parameter)
    data = case.batches()
    before = [everything(network) for network in networks], copy.deepcopy(data), random_state()
    how = {"batchnorm": "recalibrate", "calibration": [batch[0] for batch in data]}
    result = soup(networks, data, kind, **how)  # type: ignore[arg-type]
    with torch.no_grad():
        for tensor in result.state.values():  # it shares no memory with a network
            tensor.fill_(1)
    for tensor in _average_quietly(networks).values():
        tensor.fill_(1)
    assert [everything(network) for network in networks] == before[0]
    for batch, other in zip(data, before[1], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(batch, other, strict=True))
    assert random_state() == before[2]


def test_a_soup_takes_files_and_state_dicts_in_different_types(tmp_path: Path) -> None:
    a, b, c = _fine_tunes(3)
    save_file(a.state_dict(), tmp_path / "a.safetensors")
    half = {name: tensor.bfloat16() for name, tensor in b.state_dict().items()}
    result = soup([tmp_path / "a.safetensors", half, c], _DATA, model=by_name("mlp").build, gate=None)
    assert {tensor.dtype for tensor in result.state.values()} == {torch.float32}
    rounded = copy.deepcopy(b)
    rounded.load_state_dict(half)
    expected = soup([a, rounded, c], _DATA, gate=None)
    assert result.value == expected.value
    torch.testing.assert_close(dict(result.state), dict(expected.state))
    assert any("differ in type" in note for note in result.notes)


@pytest.mark.parametrize("name", ["mlp", "tied", "complex", "channels last", "bfloat16"])
def test_a_saved_soup_is_read_back_as_it_was(name: str, tmp_path: Path) -> None:
    case = by_name(name)
    networks = case.pair()
    result = soup(networks, case.batches(), gate=None, batchnorm="interpolate")
    file = tmp_path / "soup.safetensors"
    result.save(file)
    result.save(file)  # over what is there
    assert [path.name for path in tmp_path.iterdir()] == ["soup.safetensors"]
    loaded = case.network(9)
    load_model(loaded, file)
    assert equal(loaded.state_dict(), dict(result.state))
    again = error_barrier(file, dict(result.state), case.batches(), model=networks[0], alphas=3)
    assert again.end_values() == (result.value, result.value)
    with safe_open(file, "pt") as opened:
        about = json.loads(opened.metadata()["modeconn"])
    assert (about["members"], about["value"][about["metric"]]) == (list(result.members), result.value)
    assert about["networks"].keys() == {"a", "b"}


def test_a_tied_matrix_is_saved_once(tmp_path: Path) -> None:
    case = by_name("tied")
    soup(case.pair(), case.batches(), gate=None).save(tmp_path / "soup.safetensors")
    assert load_file(tmp_path / "soup.safetensors").keys() == {"embedding.weight", "body.0.weight"} | {
        "body.0.bias",
        "head.bias",
    }


def test_a_soup_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    result = soup(_fine_tunes(2), _DATA, "uniform")
    for place in (tmp_path / "nowhere" / "soup.safetensors", tmp_path):
        with pytest.raises(StoreError, match="cannot write"):
            result.save(place)
    assert list(tmp_path.iterdir()) == []


def test_a_metric_that_is_not_finite_can_be_saved(tmp_path: Path) -> None:
    result = soup([nn.Linear(1, 1)], [0], evaluate=lambda network, batch: {"loss": (torch.tensor(torch.nan), 1)})
    result.save(tmp_path / "soup.safetensors")
    with safe_open(tmp_path / "soup.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["modeconn"])["value"] == {"loss": None}


def test_steps_have_a_row_for_each_network() -> None:
    result = soup(_fine_tunes(), _DATA, "greedy")
    frame = result.to_frame()
    assert list(frame.columns) == ["step", "network", "value", "barrier", "added", "reason"]
    assert list(frame["network"]) == list(result.values)
    assert list(frame["network"][frame["added"]]) == list(result.members)
    assert frame["value"][0] == result.values[result.members[0]]
    assert np.isnan(frame["barrier"][0])
    assert soup(_fine_tunes(), _DATA, "uniform").to_frame()["value"][1:].isna().all()


@pytest.mark.parametrize(("kind", "gate"), [("uniform", None), ("uniform", 0.1), ("greedy", None), ("greedy", 0.1)])
def test_progress_ends_at_its_total(kind: str, gate: float | None) -> None:
    seen: list[tuple[int, float]] = []
    soup(_fine_tunes(3), _DATA, kind, gate=gate, alphas=4, report=lambda p: seen.append((p.done, p.total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total in seen} == {len(seen)}


def test_stored_runs_make_a_soup_with_their_own_data(runs: tuple[Run, Run]) -> None:
    result = soup(runs, "test", "greedy", gate=None, names=["first", "second"])
    assert set(result.values) == {"first", "second"}
    assert any("chosen on test data" in note for note in result.notes)
    assert not any("chosen on test data" in note for note in soup(runs, "train", "greedy", gate=None).notes)
    assert not any("chosen on test data" in note for note in soup(runs, kind="uniform", gate=None).notes)
    with pytest.raises(OptionError, match="must be held out"):
        soup(runs, kind="greedy")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "gready"}, "unknown kind of soup 'gready'; did you mean 'greedy'"),
        ({"definition": "chord"}, "unknown definition 'chord'"),
        ({"gate": -0.1}, "gate must be a number of at least 0"),
        ({"gate": "2%"}, "gate must be a number of at least 0"),
        ({"alphas": 2}, "at least 3 alphas"),
        ({"alphas": "adaptive"}, "fixed grid"),
        ({"alphas": [0.5, 1.5]}, "between 0 and 1"),
        ({"data": None}, "give data"),
        ({"data": None, "kind": "greedy"}, "must be held out"),
        ({"higher_is_better": True}, "errors and losses are better when lower"),
        ({"names": ["x"]}, "different names"),
        ({"networks": []}, "no networks"),
        ({"batchnorm": "freeze"}, "unknown choice for BatchNorm"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], says: str) -> None:
    given = {"networks": _fine_tunes(2), "data": _DATA} | options
    with pytest.raises(OptionError, match=says):
        soup(**given)


def test_weights_that_are_not_finite_are_refused_before_anything_is_measured() -> None:
    networks = [copy.deepcopy(network) for network in _fine_tunes(2)]
    with torch.no_grad():
        networks[1][2].bias[0] = torch.nan  # type: ignore[index]
    with pytest.raises(NetworkError, match=r"NaN or infinite: 2\.bias in b"):
        soup(networks, _DATA, report=pytest.fail)


def test_a_measure_that_changes_its_mind_is_refused() -> None:
    first = _fine_tunes(2)[0][0].weight.detach()
    name = lambda network: "error" if torch.equal(network[0].weight, first) else "loss"  # noqa: E731
    with pytest.raises(ModeconnError, match="for one network and not for another"):
        soup(_fine_tunes(2), [0], evaluate=lambda network, batch: {name(network): (1.0, 1)})
    with pytest.raises(DataError, match="empty"):
        soup(_fine_tunes(2), [])


# --- its figure


def test_the_figure_shows_every_network_and_every_step() -> None:
    networks, data = _basins()
    result = soup(networks, data, "greedy", names=["center", "near", "near too", "far"])
    ax = result.plot()
    ax.figure.draw_without_rendering()
    drawn = {line.get_label(): line for line in ax.lines}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(result.values)
    inside = [100 * result.values[name] for name in result.members]
    assert drawn["network in the soup"].get_ydata().tolist() == pytest.approx(inside)
    steps = [100 * step.value for step in result.steps[1:] if step.added]
    assert drawn["soup after it joined"].get_ydata().tolist() == pytest.approx(steps)
    assert drawn["soup if it had joined"].get_xdata().tolist() == [list(result.values).index("far")]
    level = next(line for label, line in drawn.items() if label.startswith("soup: "))
    assert set(level.get_ydata()) == {100 * result.value}
    far = next(step for step in result.steps if step.network == "far")
    assert f"{100 * far.value:.3g}" in [text.get_text() for text in ax.texts]  # beyond the edge, with its number


def test_a_network_far_outside_is_drawn_at_the_edge_with_its_number() -> None:
    networks = [nn.ParameterDict({"w": torch.tensor(value)}) for value in (0.125, 0.5, 0.13)]
    measure = lambda network, batch: {"error": (float(network["w"]), 1)}  # noqa: E731
    ax = soup(networks, [0], "uniform", evaluate=measure, definition="barrier").plot()
    ax.figure.draw_without_rendering()
    left_out = next(line for line in ax.lines if line.get_label() == "network left out")
    assert (left_out.get_xdata().tolist(), left_out.get_markerfacecolor()) == ([2], "white")
    assert 13 < left_out.get_ydata()[0] < 20
    assert [text.get_text() for text in ax.texts] == ["50"]
    assert ax.get_ylim()[1] < 25


def test_a_soup_of_one_network_shows_the_others_and_no_number_over_another() -> None:
    values = {"best": 0.02, "near": 0.03, "far": 0.05, "lost": 0.9}
    steps = [Step(0, "best", 0.02, math.nan, True, "best")]
    steps += [
        Step(i, name, with_it, 0.1, False, "worse")
        for i, (name, with_it) in enumerate([("near", 0.04), ("far", 0.06), ("lost", 0.8)], start=1)
    ]
    outcomes = {name: {"error": value} for name, value in values.items()}
    ax = Soup({}, ("best",), tuple(steps), outcomes, {"error": 0.02}, kind="greedy").plot()
    low, high = ax.get_ylim()
    assert low < 2 < 3 < 5 < 6 < high < 50  # percent; what is far beyond is at the edge
    at_lost = [text for text in ax.texts if text.xy[0] == 3]
    assert sorted(text.get_text() for text in at_lost) == ["80", "90"]
    assert len({text.get_position() for text in at_lost}) == 2


def test_a_figure_goes_on_the_axes_it_is_given() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert soup(_fine_tunes(), _DATA).plot(ax=ax) is ax


@pytest.mark.parametrize("count", [1, 2, 60])
def test_any_number_of_networks_can_be_drawn(count: int) -> None:
    networks = [copy.deepcopy(network) for network in _fine_tunes(2)] * count
    result = soup(networks[:count], _DATA, gate=None)
    result.plot().figure.draw_without_rendering()


def test_a_soup_of_values_that_are_not_finite_can_be_drawn() -> None:
    result: Soup = soup([nn.Linear(1, 1)], [0], evaluate=lambda network, batch: {"loss": (torch.tensor(torch.nan), 1)})
    result.plot().figure.draw_without_rendering()


def _average_quietly(networks: list[nn.Module]) -> dict[str, Tensor]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return average(networks)
