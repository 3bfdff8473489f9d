"""What a curve is: its ends, its length, its points, and how it is measured, saved and read."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from trained import TEST, TRAIN, mlp, trained

from direct import everything, random_state
from modeconn import error_barrier, fit_curve, load_curve, neb, recalibrate
from modeconn.analysis.landscape.curves.curve import Curve
from modeconn.analysis.landscape.curves.curve_result import CurveResult
from modeconn.analysis.landscape.curves.shapes import coefficients, length
from modeconn.errors import DataError, OptionError
from modeconn.weights.tensor_files import read_tensors
from modeconn.weights.writing import write_weights
from networks import Network, by_name, each_network

FEW = {"alphas": 5}
SMALL_TEST = (TEST[0][:100], TEST[1][:100])


def bent(a: nn.Module, b: nn.Module, kind: str, *bends: dict[str, torch.Tensor]) -> Curve:
    """A curve with these control points; a training of one step gives everything else."""
    found = fit_curve(a, b, TRAIN, kind=kind, bends=len(bends), steps=1, learning_rate=1e-9)
    return Curve(**vars(found) | {"points": (found.points[0], *bends, found.points[-1])})


@torch.no_grad()
def cross_entropy(network: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> float:
    return float(nn.functional.cross_entropy(network.eval()(data[0]), data[1]))


def between(a: nn.Module, b: nn.Module, alpha: float) -> dict[str, torch.Tensor]:
    other = b.state_dict()
    return {name: torch.lerp(tensor, other[name], alpha) for name, tensor in a.state_dict().items()}


@pytest.mark.parametrize(("kind", "bends"), [("bezier", 1), ("bezier", 3), ("polychain", 1), ("polychain", 2)])
def test_a_curve_with_its_control_points_on_the_segment_is_the_segment(kind: str, bends: int) -> None:
    a, b = mlp(1), mlp(2)
    curve = bent(a, b, kind, *(between(a, b, i / (bends + 1)) for i in range(1, bends + 1)))
    for t in (0.25, 0.4):
        for name, tensor in curve.state_at(t).items():
            torch.testing.assert_close(tensor, between(a, b, t)[name], rtol=1e-6, atol=1e-7)
    assert curve.length == pytest.approx(curve.chord, rel=1e-6)
    result = curve.barrier(SMALL_TEST, **FEW)
    np.testing.assert_allclose(result.curve.loss, result.segment.loss, rtol=1e-5)
    np.testing.assert_array_equal(result.segment.loss, error_barrier(a, b, SMALL_TEST, alphas=5).loss)


@given(st.integers(1, 6), st.floats(0, 1), st.sampled_from(["bezier", "polychain"]))
def test_shares_of_control_points_are_a_mean_and_exact_at_the_ends(bends: int, t: float, kind: str) -> None:
    shares = coefficients(kind, bends, t)
    assert min(shares) >= 0
    assert sum(shares) == pytest.approx(1)
    assert coefficients(kind, bends, 0) == (1.0, *[0.0] * (bends + 1))
    assert coefficients(kind, bends, 1) == (*[0.0] * (bends + 1), 1.0)
    # Both curves give straight lines back: control points at i / n lie at t.
    assert sum(share * i / (bends + 1) for i, share in enumerate(shares)) == pytest.approx(t)
    # De Casteljau's construction, repeated linear interpolation, gives the same point of a Bezier curve.
    if kind == "bezier":
        points = np.random.default_rng(bends).normal(size=(bends + 2, 3))
        steps = points
        while len(steps) > 1:
            steps = (1 - t) * steps[:-1] + t * steps[1:]
        np.testing.assert_allclose(shares @ points, steps[0], atol=1e-12)


@settings(max_examples=30)
@given(st.integers(1, 4), st.sampled_from(["bezier", "polychain"]), st.integers(0, 50))
def test_the_length_is_that_of_many_small_steps_and_at_least_the_chord(bends: int, kind: str, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(bends + 2, 4))
    steps = np.diff(points, axis=0)
    found = length(kind, steps @ steps.T)
    at = np.array([coefficients(kind, bends, t) for t in np.linspace(0, 1, 400 * (bends + 1) + 1)]) @ points
    assert found == pytest.approx(np.linalg.norm(np.diff(at, axis=0), axis=1).sum(), rel=1e-4)
    assert found >= np.linalg.norm(points[-1] - points[0]) * (1 - 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_ends_are_the_networks_to_the_bit_also_from_a_file(dtype: torch.dtype, tmp_path) -> None:
    a, b = mlp(1, norm=True).to(dtype), mlp(2, norm=True).to(dtype)
    data = TRAIN[0].to(dtype), TRAIN[1]
    curve = fit_curve(a, b, data, steps=2)
    curve.save(tmp_path / "curve.safetensors")
    for one in (curve, load_curve(tmp_path / "curve.safetensors")):
        for t, network in ((0, a), (1, b)):
            state = one.state_at(t)
            assert state.keys() == network.state_dict().keys()
            assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
            assert all(state[name].dtype == tensor.dtype for name, tensor in network.state_dict().items())
        middle = mlp(0, norm=True).to(dtype)
        middle.load_state_dict(one.state_at(0.5))
        assert one.state_at(0.5)["0.weight"].dtype == dtype
        assert one.length_ratio >= 1


def test_networks_of_two_types_keep_theirs_at_the_ends() -> None:
    a, b = mlp(1).half(), mlp(2)
    curve = fit_curve(a, b, TRAIN, steps=1)
    assert [curve.state_at(t)["0.weight"].dtype for t in (0, 0.5, 1)] == [torch.float16, torch.float32, torch.float32]
    assert torch.equal(curve.state_at(0)["0.weight"], a[0].weight)


def test_a_curve_from_a_file_is_measured_to_the_same_numbers(tmp_path) -> None:
    a, b = mlp(1, norm=True), mlp(2, norm=True)
    curve = fit_curve(a, b, TRAIN, steps=20, bends=2, names=["one", "two"])
    curve.save(tmp_path / "curve.safetensors")
    read = load_curve(tmp_path / "curve.safetensors")
    assert (read.length, read.names, read.losses, read.settings) == (
        curve.length,
        ("one", "two"),
        curve.losses,
        json.loads(json.dumps(dict(curve.settings))),
    )
    with pytest.raises(OptionError, match="give model="):
        read.barrier(SMALL_TEST, calibration=TRAIN)
    with pytest.raises(OptionError, match="needs calibration="):
        read.barrier(SMALL_TEST, model=a)
    found = read.barrier(SMALL_TEST, model=a, calibration=TRAIN, **FEW)
    np.testing.assert_array_equal(found.curve.loss, curve.barrier(SMALL_TEST, **FEW).curve.loss)


def test_epochs_are_counted_by_whole_numbers() -> None:
    curve = replace(fit_curve(mlp(1), mlp(2), TRAIN, steps=1), losses=tuple(np.linspace(2, 1, 20)))
    assert all(tick == round(tick) for tick in curve.plot().get_xticks())


def test_a_file_of_more_bends_than_tensors_is_refused_at_once(tmp_path) -> None:
    file = tmp_path / "curve.safetensors"
    fit_curve(mlp(1), mlp(2), TRAIN, steps=1).save(file)
    tensors, metadata = read_tensors(file.read_bytes())
    content = json.loads(metadata["curve"]) | {"bends": 10**12}
    write_weights(tensors, file, {"curve": json.dumps(content)})
    with pytest.raises(DataError, match="no tensors for 1000000000000 bends"):
        load_curve(file)


def test_a_damaged_file_is_refused(tmp_path) -> None:
    file = tmp_path / "curve.safetensors"
    with pytest.raises(DataError, match="no curve that can be read"):
        load_curve(file)
    fit_curve(mlp(1), mlp(2), TRAIN, steps=1).save(file)
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content.replace(b"modeconn curve 1", b"modeconn curve 9"), b"{}"):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="no curve that can be read"):
            load_curve(file)


def test_statistics_are_measured_anew_at_every_t_on_the_training_data() -> None:
    """As by hand: the weights at t in a network of one's own, recalibrated, and its loss by PyTorch."""
    a, b = (trained(mlp(seed, norm=True), seed, steps=20) for seed in (1, 2))
    result = (curve := fit_curve(a, b, TRAIN, steps=20)).barrier(TEST, **FEW)
    assert result.curve.batchnorm == "recalibrate"
    for t, loss in zip(result.curve.alphas, result.curve.loss, strict=True):
        network = mlp(0, norm=True)
        network.load_state_dict(curve.state_at(t))
        assert loss == pytest.approx(cross_entropy(recalibrate(network, TRAIN).network, TEST), rel=1e-5)
    kept = curve.barrier(TEST, batchnorm="interpolate", **FEW)
    middle = mlp(0, norm=True)
    middle.load_state_dict(curve.state_at(0.5))
    assert kept.curve.loss[2] == pytest.approx(cross_entropy(middle, TEST), rel=1e-5)


def test_both_paths_have_the_same_ends_and_a_result_comes_back_from_json() -> None:
    a, b = trained(mlp(1), 1, 30), trained(mlp(2), 2, 30)
    seen = []
    result = fit_curve(a, b, TRAIN, steps=30).barrier(SMALL_TEST, report=seen.append, **FEW)
    assert [progress.done for progress in seen] == list(range(1, 9))  # two ends once, and three points of each path
    assert {progress.jobs for progress in seen} == {8}
    for name in ("error", "loss"):
        assert result.curve.end_values(name) == result.segment.end_values(name)
    again = CurveResult.from_json(result.to_json())
    assert str(again) == str(result)
    assert again.rows() == result.rows()
    assert again.t_at_max == result.curve.alpha_at_max
    assert CurveResult.from_json(result.to_json(examples=False)).barrier == result.barrier
    with pytest.raises(DataError, match="not a measured curve"):
        CurveResult.from_json(result.curve.to_json())
    assert len(result.to_frame()) == 10


def test_it_is_drawn_in_panels_or_on_axes_that_are_given() -> None:
    from matplotlib.figure import Figure

    curve = fit_curve(mlp(1), mlp(2), TRAIN, steps=2)
    result = curve.barrier(SMALL_TEST, **FEW)
    assert [ax.get_ylabel() for ax in result.plot().figure.axes] == ["error (%)", "loss"]
    ax = Figure().subplots()
    assert result.plot(ax, "loss") is ax
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), result.curve.loss)
    assert curve.plot(Figure().subplots()).get_xlabel() == "epoch"


def leaves_alone(case: Network, fit: Callable[..., Curve], **how: Any) -> None:
    """The caller's networks, data and generators are as they were; the ends are those of the curve."""
    a, b = case.pair()
    a.train()
    before, generators = (everything(a), everything(b)), random_state()
    data, copied = case.batches(), copy.deepcopy(case.batches())
    curve = fit(a, b, data, **how)
    curve.barrier(data, alphas=3)
    assert (everything(a), everything(b)) == before
    assert random_state() == generators
    for batch, other in zip(data, copied, strict=True):
        pairs = zip(*(one.values() if isinstance(one, dict) else one for one in (batch, other)), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)
    for t, network in ((0, a), (1, b)):
        # A mask is no weight: what is pruned is loaded by a network without one.
        loaded = case.plain(case.network(5)) if case.name == "pruned" else case.network(5)
        loaded.load_state_dict(curve.state_at(t), strict=False)
        outputs = [case.call(one.eval(), case.batches()[0]) for one in (loaded, network)]
        torch.testing.assert_close(*outputs)


@each_network
def test_nothing_of_the_callers_changes(case: Network) -> None:
    loss = None if case.evaluate == "auto" else lambda network, batch: (network(batch[0]) - batch[0]).square().mean()
    leaves_alone(case, fit_curve, steps=2, evaluate=case.evaluate, learning_rate=1e-4, loss=loss)


@pytest.mark.parametrize("name", ["batchnorm", "dropout", "tied", "recurrent", "weight norm", "float16"])
def test_nothing_of_the_callers_changes_by_an_elastic_band(name: str) -> None:
    leaves_alone(by_name(name), neb, cycles=[(1, 0.001), (1, 0.001)], pivots=1)


def test_a_curve_keeps_the_networks_of_when_it_was_fitted() -> None:
    a, b = mlp(1), mlp(2)
    curve = fit_curve(a, b, TRAIN, steps=3)
    before = curve.barrier(SMALL_TEST, **FEW).curve.loss
    with torch.no_grad():
        a[0].weight.zero_()
    np.testing.assert_array_equal(curve.barrier(SMALL_TEST, **FEW).curve.loss, before)
    curve.state_at(0)["0.weight"].zero_()
    assert not math.isclose(float(curve.state_at(0)["0.weight"].abs().sum()), 0)


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_there_is_no_point_outside(t: float) -> None:
    with pytest.raises(OptionError, match="from t = 0 to t = 1"):
        fit_curve(mlp(1), mlp(2), TRAIN, steps=1).state_at(t)


def test_repair_is_refused() -> None:
    with pytest.raises(OptionError, match="on the segment and not on a curve"):
        fit_curve(mlp(1), mlp(2), TRAIN, steps=1).barrier(TEST, batchnorm="repair", calibration=TRAIN)
