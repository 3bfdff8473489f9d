"""The barriers between all pairs of networks: those of error_barrier, every network evaluated once, and groups."""

import functools
import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import Tensor, nn

from modeconn import Barrier, error_barrier
from modeconn.analysis.connectivity.matrix import barrier_matrix
from modeconn.analysis.connectivity.matrix_result import BarrierMatrix, connected_groups
from modeconn.analysis.connectivity.samples import Ends, Samples
from modeconn.errors import DataError, NetworkError, OptionError
from networks import Network, by_name, each_network

THREE = [(0, 1), (0, 2), (1, 2)]


@functools.cache
def _three(case: Network) -> list[nn.Module]:
    return [case.network(seed) for seed in (1, 2, 3)]


def _hand_made(barriers: np.ndarray, names: str = "abcdefghijklmnopqrstuvwxyz") -> BarrierMatrix:
    """With these barriers, over ends whose errors are 0."""

    def path(i: int, j: int) -> Barrier:
        samples = Samples(np.array([[0.0], [barriers[i, j]], [0.0]]), np.ones((3, 1)), "all")
        return Barrier(np.array([0, 0.5, 1]), {"error": samples}, "error", names=(names[i], names[j]))

    n = len(barriers)
    return BarrierMatrix(tuple(names[:n]), tuple(itertools.starmap(path, itertools.combinations(range(n), 2))))


def _symmetric(n: int, *values: float) -> np.ndarray:
    found = np.zeros((n, n))
    found[np.triu_indices(n, 1)] = values
    return found + found.T


# --- pairs are those of error_barrier


@each_network
def test_every_pair_equals_error_barrier(case: Network) -> None:
    result = barrier_matrix(_three(case), case.batches(), evaluate=case.evaluate, alphas=3)
    for i, j in THREE:
        expected = error_barrier(_three(case)[i], _three(case)[j], case.batches(), evaluate=case.evaluate, alphas=3)
        _assert_equal(result.pair(i, j), expected)
        assert result.barrier[i, j] == result.barrier[j, i] == expected.barrier
        assert result.chord_barrier[i, j] == result.chord_barrier[j, i] == expected.chord_barrier
        assert result.distance[i, j] == result.distance[j, i] == expected.ends.l2
        assert (result.errors[i], result.errors[j]) == expected.end_values()
    for matrix in (result.barrier, result.chord_barrier, result.distance):
        assert (matrix.dtype, matrix.shape) == (np.float64, (3, 3))
        assert not np.diag(matrix).any()


def _assert_equal(found: Barrier, expected: Barrier) -> None:
    assert found.metrics == expected.metrics
    assert np.array_equal(found.alphas, expected.alphas)
    for name in expected.metrics:
        assert np.array_equal(found.values(name), expected.values(name))
        assert found.samples[name].per == "all"
        assert found.samples[name].sums.shape == (len(found.alphas), 1)
    np.testing.assert_equal(found.ends, expected.ends)
    assert (found.metric, found.batchnorm) == (expected.metric, expected.batchnorm)


@pytest.mark.parametrize("batchnorm", ["interpolate", "recalibrate", "repair"])
def test_every_choice_for_batchnorm_equals_that_of_error_barrier(batchnorm: str) -> None:
    case = by_name("batchnorm")
    how: Any = {"batchnorm": batchnorm, "calibration": case.batches(5), "calibration_batches": 2, "alphas": 4}
    result = barrier_matrix(_three(case), case.data, **how)
    assert result.batchnorm == batchnorm
    for i, j in THREE:
        expected = error_barrier(_three(case)[i], _three(case)[j], case.data, **how)
        _assert_equal(result.pair(i, j), expected)
        assert result.settings == expected.settings
        # Notes name the three networks a, b, c; those on the choice are the same.
        assert next(note for note in expected.notes if "running" in note or "rescaled" in note) in result.notes


def test_adaptive_alphas_are_chosen_on_each_path_by_itself() -> None:
    networks = [{"weight": torch.tensor([[value]], dtype=torch.float64)} for value in (0.0, 1.0, 2.5)]
    how: Any = {
        "model": nn.Linear(1, 1, bias=False).double(),
        "evaluate": lambda network, batch: {"wave": (torch.sin(3 * network.weight).flatten().expand(len(batch[0])), 1)},
        "alphas": "adaptive",
        "tolerance": 1e-4,
    }
    data = (torch.zeros(1000),)
    result = barrier_matrix(networks, data, **how)
    for i, j in THREE:
        _assert_equal(result.pair(i, j), error_barrier(networks[i], networks[j], data, **how))
    points = [tuple(pair.alphas) for pair in result.pairs]
    assert len(set(points)) == 3
    assert max(map(len, points)) < 9
    assert result.settings["tolerance"] == 1e-4


def test_perplexity_and_metrics_that_fall_have_matrices_too() -> None:
    def evaluate(network: nn.Module, batch: Any) -> dict[str, tuple[Tensor, int]]:
        right = network(batch[0]).argmax(1) == batch[1]
        return {"accuracy": (right.float(), 1), "error": (~right, 1)}

    case = by_name("mlp")
    how: Any = {"evaluate": evaluate, "alphas": 9, "higher_is_better": ["accuracy"]}
    result = barrier_matrix(_three(case), case.data, **how)
    assert result.metric == "error"
    assert result.higher_is_better == {"accuracy"}
    assert result.matrix("barrier", "accuracy") == pytest.approx(result.barrier)
    assert result.matrix("chord_barrier", "accuracy") == pytest.approx(result.chord_barrier)
    assert result.barrier.max() > 0
    assert result.values("accuracy") == pytest.approx(1 - result.errors)
    tied = barrier_matrix(_three(by_name("tied")), by_name("tied").data, alphas=3)
    assert np.allclose(tied.values("perplexity"), np.exp(tied.values("loss")))


# --- each network is evaluated once


def test_every_network_is_evaluated_once_and_every_other_point_too() -> None:
    seen: Counter[tuple[float, ...]] = Counter()

    def evaluate(network: nn.Module, batch: Any) -> dict[str, tuple[float, int]]:
        seen[tuple(network.weight.flatten().tolist())] += 1
        return {"loss": (0.0, 1)}

    networks = [nn.Linear(2, 2).double() for _ in range(4)]
    progress: list[Any] = []
    barrier_matrix(networks, [None], evaluate=evaluate, alphas=6, report=progress.append)
    assert len(seen) == 4 + 6 * 4
    # All but the first are also shown to be computed by the network in which paths are measured, in two passes.
    assert [seen.pop(tuple(network.weight.flatten().tolist())) for network in networks] == [1, 3, 3, 3]
    assert set(seen.values()) == {1}
    assert [(p.done, p.jobs) for p in progress] == [(done, 28) for done in range(1, 29)]


def test_a_network_that_does_not_fit_is_found_before_anything_is_measured() -> None:
    calls = []
    networks = [nn.Linear(2, 2) for _ in range(3)]
    nn.init.constant_(networks[2].bias, math.nan)
    with pytest.raises(NetworkError, match=r"bias in c"):
        barrier_matrix(networks, [None], evaluate=lambda *args: calls.append(args))
    assert len(calls) == 2 * 2  # of b and c, to see that they are computed in the network of a


def test_ends_that_are_measured_differently_are_refused() -> None:
    def evaluate(network: nn.Module, batch: Any) -> dict[str, tuple[Tensor, int]]:
        return {"loss": (torch.zeros(2 if network.weight > 2.5 else 1), 1)}

    networks = [{"weight": torch.full((1, 1), float(value))} for value in range(4)]
    with pytest.raises(DataError, match="another number of examples"):
        barrier_matrix(networks, [None], model=nn.Linear(1, 1, bias=False), evaluate=evaluate, alphas=3)


@given(st.permutations(range(4)))
@pytest.mark.slow
def test_another_order_of_the_networks_is_another_order_of_the_matrix(order: list[int]) -> None:
    result, networks, data = _four()
    found = barrier_matrix([networks[i] for i in order], data, alphas=5, names=[str(i) for i in order])
    at = np.ix_(order, order)
    assert np.array_equal(found.errors, result.errors[order])
    for metric in ("error", "loss"):
        assert found.matrix("barrier", metric) == pytest.approx(result.matrix("barrier", metric)[at], abs=1e-12)
        expected = result.matrix("chord_barrier", metric)[at]
        assert found.matrix("chord_barrier", metric) == pytest.approx(expected, abs=1e-12)
    assert found.distance == pytest.approx(result.distance[at], rel=1e-12)
    i, j = 0, 2
    assert found.pair(str(i), str(j)).values("loss") == pytest.approx(result.pair(i, j).values("loss"), rel=1e-12)


@functools.cache
def _four() -> tuple[BarrierMatrix, list[nn.Module], Any]:
    case = by_name("float64")
    networks = [case.network(seed) for seed in range(4)]
    return barrier_matrix(networks, case.data, alphas=5), networks, case.data


def test_a_pair_the_other_way_round_is_mirrored() -> None:
    result, networks, data = _four()
    there, back = result.pair(0, 2), result.pair("c", "a")
    assert back.names == ("c", "a")
    assert np.allclose(back.alphas, there.alphas)
    for name in there.metrics:
        assert np.array_equal(back.values(name), there.values(name)[::-1])
    walked = error_barrier(networks[2], networks[0], data, alphas=5)
    assert back.values("loss") == pytest.approx(walked.values("loss"), rel=1e-12)
    assert back.end_values() == there.end_values()[::-1]


def test_nothing_of_the_callers_changes() -> None:
    case = by_name("batchnorm")
    networks = [case.network(seed).train() for seed in (1, 2)]
    before = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in networks]
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    barrier_matrix(networks, case.data, alphas=3, batchnorm="recalibrate", calibration=case.data)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
        assert all(module.training for module in network.modules())
        assert all(parameter.grad is None for parameter in network.parameters())


# --- groups


def test_groups_are_strictly_below_the_threshold() -> None:
    just_below = np.nextafter(0.02, 0)
    assert connected_groups(_symmetric(2, 0.02), 0.02) == [[0], [1]]
    assert connected_groups(_symmetric(2, just_below), 0.02) == [[0, 1]]
    assert connected_groups(_symmetric(2, 0.02), np.nextafter(0.02, 1)) == [[0, 1]]
    assert _hand_made(_symmetric(3, 0.02, just_below, 0.02)).groups() == [["a", "c"], ["b"]]


def test_every_pair_in_a_group_is_connected_though_a_chain_would_join_more() -> None:
    #                    ab    ac    ad    bc    bd    cd
    chain = _symmetric(4, 0.01, 0.05, 0.05, 0.015, 0.05, 0.011)
    assert _hand_made(chain).groups() == [["a", "b"], ["c", "d"]]
    assert _hand_made(chain).groups(threshold=0.06) == [["a", "b", "c", "d"]]
    assert _hand_made(chain).groups(threshold=0.001) == [["a"], ["b"], ["c"], ["d"]]


def test_groups_come_largest_first_and_then_in_the_order_of_the_networks() -> None:
    apart = np.ones((6, 6)) - np.eye(6)
    for group in ([0, 4], [1, 3, 5]):
        apart[np.ix_(group, group)] = 0
    assert _hand_made(apart).groups() == [["b", "d", "f"], ["a", "e"], ["c"]]


def test_paths_that_were_not_finite_connect_nothing() -> None:
    result = _hand_made(_symmetric(3, math.nan, 0.01, math.inf))
    assert result.groups() == [["a", "c"], ["b"]]
    assert result.groups(threshold=1e6) == [["a", "c"], ["b"]]
    assert sorted(result.order()) == [0, 1, 2]
    assert connected_groups(_symmetric(2, math.nan), 5) == [[0], [1]]


def _matrices() -> st.SearchStrategy[np.ndarray]:
    value = st.sampled_from([0.0, 0.01, np.nextafter(0.02, 0), 0.02, 0.03]) | st.floats(0, 0.1)
    sizes = st.integers(2, 7)
    return sizes.flatmap(
        lambda n: st.lists(value, min_size=n * (n - 1) // 2, max_size=n * (n - 1) // 2).map(
            lambda values: _symmetric(n, *values)
        )
    )


@given(_matrices(), st.sampled_from([0.005, 0.02, 0.05]))
def test_groups_are_complete_apart_and_side_by_side_in_the_order(barriers: np.ndarray, threshold: float) -> None:
    groups = connected_groups(barriers, threshold)
    assert sorted(index for group in groups for index in group) == list(range(len(barriers)))
    assert all((barriers[np.ix_(group, group)] < threshold).all() for group in groups)
    for one, other in itertools.combinations(groups, 2):
        assert (barriers[np.ix_(one, other)] >= threshold).any()  # they could not be one
    order = _hand_made(barriers).order().tolist()
    assert sorted(order) == list(range(len(barriers)))
    for group in groups:
        places = sorted(order.index(index) for index in group)
        assert places == list(range(places[0], places[0] + len(group)))


def test_groups_can_be_of_another_definition_and_metric() -> None:
    alphas, names = np.array([0, 0.5, 1]), ("a", "b")
    samples = {
        "error": Samples(np.array([[10.0], [25.0], [40.0]]), np.full((3, 1), 100), "all"),  # a straight line
        "loss": Samples(np.array([[1.0], [1.5], [1.0]]), np.ones((3, 1)), "all"),
    }
    result = BarrierMatrix(names, (Barrier(alphas, samples, "error", names=names),))
    assert result.barrier[0, 1] == pytest.approx(0.15)  # half the difference of the errors, and no ridge
    assert result.groups() == [["a", "b"]]
    assert result.groups(definition="barrier") == [["a"], ["b"]]
    assert "every barrier over the chord below 2):\n  a, b" in str(result)
    assert [line.split() for line in str(result).splitlines()[5:7]] == [["a", "10", "15"], ["b", "0", "40"]]
    assert result.groups(metric="loss") == [["a"], ["b"]]
    assert result.groups(threshold=0.6, metric="loss") == [["a", "b"]]


@pytest.mark.parametrize("threshold", [0, -0.02, math.nan, math.inf, "2%", None])
def test_a_threshold_is_a_positive_number(threshold: Any) -> None:
    with pytest.raises(OptionError, match="threshold must be a positive number"):
        _hand_made(_symmetric(2, 0.1)).groups(threshold)


# --- bad input


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "list of at least two networks; got a single Sequential"),
        (nn.Linear(2, 2).state_dict(), "got a single OrderedDict"),
        ("a.safetensors", "got a single str"),
        (3, "got a single int"),
        ([nn.Linear(2, 2)], "at least two networks; got 1"),
        ([], "at least two networks; got 0"),
    ],
)
def test_fewer_than_two_networks_are_refused(networks: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        barrier_matrix(networks, (torch.zeros(1, 2), torch.zeros(1).long()))


def test_options_that_cannot_be_used_are_named() -> None:
    networks, data = [nn.Linear(2, 2) for _ in range(3)], (torch.zeros(4, 2), torch.zeros(4).long())
    with pytest.raises(OptionError, match="at least 3 alphas"):
        barrier_matrix(networks, data, alphas=2)
    with pytest.raises(OptionError, match="3 different names"):
        barrier_matrix(networks, data, names=["a", "b"])
    with pytest.raises(OptionError, match="tolerance"):
        barrier_matrix(networks, data, alphas="adaptive", tolerance=0)
    with pytest.raises(OptionError, match="higher_is_better is for metrics of your"):
        barrier_matrix(networks, data, alphas=3, higher_is_better=True)
    with pytest.raises(NetworkError, match=r"weight is \[3, 2\] in c"):
        barrier_matrix([*networks[:2], nn.Linear(2, 3)], data)
    result = barrier_matrix(networks, data, alphas=3, names=["seed 0", "seed 1", "seed 2"])
    with pytest.raises(OptionError, match="unknown definition 'chord'"):
        result.matrix("chord")
    with pytest.raises(OptionError, match="did you mean 'loss'"):
        result.matrix("barrier", "los")
    with pytest.raises(OptionError, match="between seed 1 and itself there is no path"):
        result.pair("seed 1", 1)
    for unknown in ("seed 3", 3, -1, True, 0.0):
        with pytest.raises(OptionError, match="unknown network"):
            result.pair(0, unknown)  # type: ignore[arg-type]


# --- what is kept


def test_notes_say_which_pairs_they_are_about() -> None:
    networks = [{"weight": torch.full((1, 1), float(value))} for value in (1, 1, 2, 3, 4, 5, 6)]
    data = (torch.zeros(3, 1), torch.zeros(3, 1))
    result = barrier_matrix(networks, data, model=nn.Linear(1, 1, bias=False), evaluate="regression", alphas=3)
    equal = "all weights and buffers are equal"
    assert [note for note in result.notes if equal in note] == [
        f"a and b: {next(note for note in result.pair(0, 1).notes if equal in note)}"
    ]
    assert [note for note in result.pair("b", "a").notes if equal in note]
    assert not [note for note in result.pair("a", "c").notes if equal in note]
    shared = barrier_matrix(_three(by_name("batchnorm")), by_name("batchnorm").data, alphas=3).notes
    assert [note for note in shared if note.startswith("running statistics of 2 BatchNorm layers")]


def test_a_note_on_many_pairs_names_some_and_counts_the_rest() -> None:
    paths = _hand_made(_symmetric(5, *[0.1] * 10)).pairs
    noted = [
        Barrier(p.alphas, p.samples, "error", names=p.names, notes=("odd",) * (i < 9)) for i, p in enumerate(paths)
    ]
    notes = BarrierMatrix(tuple("abcde"), tuple(noted)).notes
    assert notes == ("a and b; a and c; a and d; a and e; 5 other pairs: odd",)


def test_rows_are_one_per_pair() -> None:
    result, _, _ = _four()
    frame = result.to_frame()
    columns = ["a", "b", "barrier", "chord_barrier", "alpha_at_max", "distance", "error_a", "error_b"]
    assert list(frame) == columns
    assert frame[["a", "b"]].to_numpy().tolist() == [
        ["a", "b"],
        ["a", "c"],
        ["a", "d"],
        ["b", "c"],
        ["b", "d"],
        ["c", "d"],
    ]
    for row in result.rows():
        i, j = (result.names.index(row[end]) for end in ("a", "b"))
        assert (row["barrier"], row["chord_barrier"]) == (result.barrier[i, j], result.chord_barrier[i, j])
        assert (row["distance"], row["error_a"], row["error_b"]) == (result.distance[i, j], *result.errors[[i, j]])
        assert row["alpha_at_max"] == result.pair(i, j).alpha_at_max
    case = by_name("regression")
    assert "loss_a" in barrier_matrix(_three(case), case.data, alphas=3).rows()[0]


def test_what_was_written_is_read_back_exactly(tmp_path: Path) -> None:
    result, _, _ = _four()
    text = result.to_json(tmp_path / "matrix.json")
    for again in (BarrierMatrix.from_json(text), BarrierMatrix.from_json(tmp_path / "matrix.json")):
        assert (again.names, again.settings, again.notes) == (result.names, result.settings, result.notes)
        for name in ("barrier", "chord_barrier", "distance", "errors"):
            assert np.array_equal(getattr(again, name), getattr(result, name))
        assert np.array_equal(again.pair(3, 1).loss, result.pair(3, 1).loss)
        assert again.to_json() == text
    broken = _hand_made(_symmetric(3, math.nan, 0.01, 0.5))
    text = broken.to_json()
    assert json.loads(text)["barrier"][0][1] is None
    for source in (text, text.replace("null", '"nan"')):  # as modeconn 0.1 wrote it
        assert math.isnan(BarrierMatrix.from_json(source).barrier[0, 1])


def test_what_to_json_did_not_write_is_refused(tmp_path: Path) -> None:
    text = _hand_made(_symmetric(3, 0.1, 0.2, 0.3)).to_json()
    pair = _hand_made(_symmetric(2, 0.1)).pairs[0].to_json()
    for other in ("{}", "{", pair, text.replace('"names": [\n  "a"', '"names": [\n  "x"', 1), '{"format": 3}'):
        with pytest.raises(DataError, match="not a barrier matrix that to_json wrote"):
            BarrierMatrix.from_json(other)
    with pytest.raises(DataError, match="cannot be read"):
        BarrierMatrix.from_json(tmp_path / "nothing.json")


def test_as_text_it_shows_barriers_in_points_and_the_groups() -> None:
    text = str(_hand_made(_symmetric(3, 0.125, 0.01, 0.5)))
    assert [line.split() for line in text.splitlines()[4:8]] == [
        ["a", "b", "c"],
        ["a", "0", "12.5", "1"],
        ["b", "12.5", "0", "50"],
        ["c", "1", "50", "0"],
    ]
    assert "below 2):\n  a, c\n  b" in text
    case = by_name("regression")
    assert "groups" not in str(barrier_matrix(_three(case), case.data, alphas=3))


# --- the figure


def test_the_heat_map_shows_points_of_error_in_the_order_of_the_groups() -> None:
    barriers = _symmetric(4, 0.3, 0.01, 0.4, 0.5, 0.012, 0.25)
    result = _hand_made(barriers)  # a with c, b with d
    ax = result.plot()
    order = result.order()
    assert np.allclose(ax.images[0].get_array(), 100 * barriers[np.ix_(order, order)])
    names = ["abcd"[index] for index in order]
    assert [label.get_text() for label in ax.get_xticklabels()] == names
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    written = {(t.get_position()): t.get_text() for t in ax.texts}
    assert len(written) == 12
    assert written[names.index("a"), names.index("b")] == "30.0"
    assert written[names.index("c"), names.index("a")] == "1.0"
    borders = {
        (patch.get_x() + 0.5, patch.get_y() + 0.5, patch.get_width(), patch.get_height()) for patch in ax.patches
    }
    first = [min(names.index(name) for name in group) for group in ("ac", "bd")]
    assert borders == {(at, at, 2, 2) for at in first}
    assert ax.get_title() == "2 groups with every barrier below 2 points"
    assert ax.figure.axes[1].get_ylabel() == "barrier over the chord (percentage points)"


def test_the_heat_map_takes_axes_metrics_definitions_and_thresholds() -> None:
    result, _, _ = _four()
    ax = Figure().subplots()
    assert result.plot(ax, metric="loss", definition="chord_barrier") is ax
    assert ax.figure.axes[1].get_ylabel() == "barrier over the chord (loss)"
    assert not ax.patches
    assert len(result.plot(metric="loss", threshold=1e9).patches) == 1
    assert len(result.plot(threshold=0.01).patches) == len(result.groups(0.01)) > 1


@pytest.mark.parametrize("n", [2, 12, 13, 26])
def test_any_number_of_networks_can_be_drawn_and_values_are_written_up_to_twelve(n: int) -> None:
    barriers = np.random.default_rng(0).random((n, n))
    barriers = np.triu(barriers, 1) + np.triu(barriers, 1).T
    barriers[0, 1] = barriers[1, 0] = math.nan if n < 20 else math.inf
    ax = _hand_made(barriers).plot()
    ax.figure.canvas.draw()
    assert np.isfinite(ax.images[0].get_array().filled(np.nan)).sum() == n * n - 2
    assert len(ax.texts) == (n * (n - 1) if n <= 12 else 0)
    labels = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(labels))


def test_equal_networks_can_be_drawn() -> None:
    ax = _hand_made(np.zeros((3, 3))).plot()
    assert ax.get_title() == "1 group with every barrier below 2 points"
    assert {text.get_text() for text in ax.texts} == {"0"}


def test_ends_are_kept_with_each_pair() -> None:
    ends = Ends(1.0, 0.5, 0.25, 0.1, 1.0, 0.5, 2.0)
    path = Barrier(np.array([0, 0.5, 1]), _hand_made(_symmetric(2, 0.1)).pairs[0].samples, "error", ends=ends)
    again = BarrierMatrix.from_json(BarrierMatrix(("a", "b"), (path,)).to_json())
    assert again.pair("b", "a").ends == ends
