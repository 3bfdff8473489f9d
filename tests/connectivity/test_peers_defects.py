"""Mistakes of published interpolation code, found by reading it; each test is named after one.

Without a test, because what they are about is not here: a linear assignment that runs on the CPU alone, directions
drawn uniformly where a Gaussian is meant, two regularisers of one name, and a path between curves whose networks are
written twice. That the package can be parsed and imported is tested in test_public_names.py.
"""

import ast
import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import modeconn
from modeconn import error_barrier
from modeconn.analysis.paths.alphas import grid
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import make_line
from modeconn.evaluation.meters import CLASSIFICATION
from modeconn.weights.sources import weights_of

X = torch.randn(101, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] + X[:, 1] > 0).long()
CURVE = {0.0: 0.10, 0.25: 0.20, 0.5: 0.38, 0.75: 0.39, 1.0: 0.40}


class Dial(nn.Module):
    """One number, so that any curve can be had on a path from 0 to 1."""

    def __init__(self, position: float) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.tensor(position, dtype=torch.float64))


def on_a_dial(curve, **options):
    """The barrier of a curve that is given as a mapping or a function of alpha."""
    at = curve.__getitem__ if isinstance(curve, dict) else curve
    options.setdefault("alphas", sorted(curve) if isinstance(curve, dict) else 31)
    name = "accuracy" if options.get("higher_is_better") else "error"
    evaluate = lambda network, batch: {name: (at(float(network.position)), 1.0)}  # noqa: E731
    return error_barrier(Dial(0.0), Dial(1.0), [X], evaluate=evaluate, **options)


def make(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    network[1].running_mean.normal_()
    network[1].running_var.uniform_(0.5, 2)
    return network


def wrong(network: nn.Module) -> float:
    with torch.no_grad():
        return float((copy.deepcopy(network).eval()(X).argmax(1) != Y).double().mean())


def test_the_chord_barrier_taken_where_the_raw_value_is_largest():
    """At 1, where the excess over the chord is 0."""
    result = on_a_dial(CURVE)
    assert result.chord_barrier == pytest.approx(0.13)
    assert result.barrier == pytest.approx(0.15)
    assert result.alpha_at_max == 1


def test_the_largest_accuracy_taken_for_the_worst():
    result = on_a_dial({alpha: 1 - error for alpha, error in CURVE.items()}, higher_is_better=True)
    assert result.chord_barrier == pytest.approx(0.13)
    assert result.barrier == pytest.approx(0.15)


def test_a_straight_line_between_unequal_ends_is_a_barrier_by_one_definition_alone():
    result = on_a_dial(lambda alpha: 0.10 + 0.30 * alpha)
    assert result.barrier == pytest.approx(0.15)
    assert result.chord_barrier == pytest.approx(0, abs=1e-7)


def test_the_value_in_the_middle_taken_for_the_barrier():
    """Without the ends' values subtracted, and where the path may be highest elsewhere."""
    result = on_a_dial({0.0: 0.3, 0.25: 0.36, 0.5: 0.35, 1.0: 0.3})
    assert (result.barrier, result.alpha_at_max) == (pytest.approx(0.06), 0.25)


def test_no_grad_and_autocast_joined_by_and_so_that_one_is_lost():
    seen = []

    def evaluate(network, batch):
        seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return {"error": (0, 1)}

    error_barrier(make(0), make(1), (X, Y), evaluate=evaluate, precision="bfloat16", alphas=3)
    assert set(seen) == {(False, True)}


def test_training_data_reported_as_test_data():
    split = {"test": [(X[:10], Y[:10])], "train": [(X, 1 - Y)]}
    found = PathEvaluator(make(0), CLASSIFICATION, split).measure(make(0))
    assert {name: len(measured.sums["error"]) for name, measured in found.items()} == {"test": 10, "train": 101}
    assert found["train"].mean("error") == pytest.approx(1 - wrong(make(0)))


@pytest.mark.parametrize("alphas", [31, "adaptive", "paper", [0, 0.5, 0.5, 1, 0.3]])
def test_points_measured_twice_or_an_end_left_out(alphas):
    calls = []

    def curve(alpha):
        calls.append(alpha)
        return 0.4 - (alpha - 0.4) ** 2

    found = on_a_dial(curve, alphas=alphas).alphas
    assert (np.diff(found) > 0).all()
    assert (found[0], found[-1]) == (0, 1)
    shown, measured = calls[:2], calls[2:]  # first, that the second end's function is computed between the ends
    assert shown == [1.0, 1.0]
    assert len(measured) == len(set(measured)) == len(found)


@pytest.mark.parametrize("count", [3, 5, 30])
def test_an_asymmetric_grid(count):
    """A single inner point at 1/3."""
    points = grid(count)
    assert np.allclose(points, [1 - point for point in points[::-1]], atol=1e-15)
    assert grid(3)[1] == 0.5


@pytest.mark.parametrize("count", [11, 21, 31])
def test_a_path_that_ends_just_before_its_end(count):
    """Steps of 0.1 add up to 0.9999999999999999."""
    a, b = (nn.Linear(6, 2).bfloat16() for _ in range(2))
    seen = []

    def evaluate(network, batch):
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return {"error": (0, 1)}

    assert error_barrier(a, b, [X], evaluate=evaluate, alphas=count).alphas[-1] == 1.0
    # One measurement of each is of the end to the last bit; before, both ways to compute the second are compared.
    for end, passes in ((a, 1), (b, 2 + 1)):
        assert sum(all(torch.equal(s[name], t) for name, t in end.state_dict().items()) for s in seen) == passes


class Tokens(nn.Module):
    """Parameters and buffers that are called neither weight nor bias."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.cls_token = nn.Parameter(torch.randn(2, generator=generator))
        self.pos_embed = nn.Parameter(torch.randn(3, generator=generator))
        self.register_buffer("scale", torch.rand((), generator=generator))


def test_only_what_is_called_weight_or_bias_interpolated():
    a, b, scratch = Tokens(0), Tokens(1), Tokens(2)
    make_line(weights_of(a, "a"), weights_of(b, "b"), ["cls_token", "pos_embed"]).load(scratch, 0.5)
    for name, value in scratch.state_dict().items():
        torch.testing.assert_close(value, (a.state_dict()[name] + b.state_dict()[name]) / 2)


def only_norm(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(6))
    nn.init.normal_(network[1].weight)
    return network.train()


def test_statistics_of_the_same_first_batch_again_or_of_the_last_few_or_with_a_short_batch_weighted_up():
    """And in a network whose dropout is on, or at inner points alone, or with gradients."""

    def evaluate(network, batch):
        assert not torch.is_grad_enabled()
        network(batch)
        return {"mean": (network[1].running_mean[0], 1), "variance": (network[1].running_var[0], 1)}

    drifting = X + torch.arange(101)[:, None]
    how = {"evaluate": evaluate, "batchnorm": "recalibrate", "alphas": 3}
    result = error_barrier(only_norm(0), only_norm(1), [X], calibration=list(drifting.split(33)), **how)
    for name, value in (("mean", drifting[:, 0].mean()), ("variance", drifting[:, 0].var(correction=0))):
        assert result.values(name) == pytest.approx(np.full(3, float(value)), rel=1e-5)


@pytest.mark.parametrize("calibration", [(X, Y), {"x": X, "labels": Y}, [X, X + 1]], ids=["tuple", "dict", "inputs"])
def test_calibration_data_in_one_layout_alone(calibration):
    result = error_barrier(make(0), make(1), (X, Y), batchnorm="recalibrate", calibration=calibration, alphas=3)
    assert np.isfinite(result.loss).all()


def test_statistics_of_zero_because_the_evaluation_calls_eval():
    """As most people's evaluation does."""

    def evaluate(network, batch):
        network.eval()
        network(batch)
        return {"mean": (network[1].running_mean[0], 1), "variance": (network[1].running_var[0], 1)}

    pair = only_norm(0), only_norm(1)
    result = error_barrier(*pair, [X], evaluate=evaluate, batchnorm="recalibrate", calibration=[X + 5], alphas=3)
    assert result.values("mean") == pytest.approx(np.full(3, float(X[:, 0].mean()) + 5), rel=1e-4)


@pytest.mark.parametrize(("prefix_a", "prefix_b"), [("module.", "module."), ("module.", ""), ("", "module.")])
def test_a_prefix_stripped_on_one_side_only(prefix_a, prefix_b):
    a, b = make(0), make(1)
    states = [
        {prefix + name: value for name, value in network.state_dict().items()}
        for network, prefix in ((a, prefix_a), (b, prefix_b))
    ]
    plain, prefixed = error_barrier(a, b, (X, Y), alphas=3), error_barrier(*states, (X, Y), model=make(2), alphas=3)
    assert prefixed.error.tolist() == plain.error.tolist()
    assert prefixed.ends == plain.ends


def test_the_callers_networks_moved_along_the_path_or_frozen():
    networks = make(0), make(1).eval()
    before = [copy.deepcopy(network) for network in networks]
    error_barrier(*networks, (X, Y), alphas=5)
    for network, old in zip(networks, before, strict=True):
        assert all(torch.equal(value, old.state_dict()[name]) for name, value in network.state_dict().items())
        assert [module.training for module in network.modules()] == [module.training for module in old.modules()]
        assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_the_means_of_batches_averaged():
    results = [error_barrier(make(0), make(1), (X, Y), batch_size=size, alphas=5) for size in (101, 100, 7, 1)]
    for result in results:
        assert result.error.tolist() == results[0].error.tolist()
        assert result.loss == pytest.approx(results[0].loss, rel=1e-6)
    assert results[0].error[0] == pytest.approx(wrong(make(0)))


def test_running_statistics_of_a_at_the_end_b_and_dropout_left_on():
    result = error_barrier(make(0).train(), make(1).train(), (X, Y), alphas=3)
    assert result.end_values() == pytest.approx((wrong(make(0)), wrong(make(1))))


def test_statistics_of_the_batch_at_evaluation_without_a_word():
    """The curve then depends on how examples are divided; it cannot be helped, but it is said."""

    def stateless(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 2))

    few, many = (error_barrier(stateless(0), stateless(1), (X, Y), batch_size=n, alphas=3) for n in (6, 101))
    assert few.loss.tolist() != many.loss.tolist()
    assert all(any("depends on the batch size" in note for note in result.notes) for result in (few, many))
    assert not any("batch size" in note for note in error_barrier(make(0), make(1), (X, Y), alphas=3).notes)


def test_integer_buffers_interpolated_and_truncated():
    a, b, scratch = (nn.BatchNorm1d(2) for _ in range(3))
    b.num_batches_tracked.fill_(7)
    line = make_line(weights_of(a, "a"), weights_of(b, "b"), ["weight", "bias"])
    line.load(scratch, 0.5)
    assert int(scratch.num_batches_tracked) == 0
    assert any("not interpolated" in note and "num_batches_tracked" in note for note in line.notes)


def test_the_mixing_weight_rounded_to_bfloat16():
    generator = torch.Generator().manual_seed(0)
    a, b = ({"w": torch.randn(10_000, generator=generator).bfloat16()} for _ in range(2))
    line, scratch = make_line(weights_of(a, "a"), weights_of(b, "b"), ["w"]), nn.Module()
    scratch.register_buffer("w", torch.zeros(10_000, dtype=torch.bfloat16))
    for alpha in (0.0123456789, 0.3141592654, 0.7182818285):
        line.load(scratch, alpha)
        mixed = {
            weight: ((1 - weight) * a["w"].double() + weight * b["w"].double()).bfloat16()
            for weight in (alpha, float(torch.tensor(alpha).bfloat16()))
        }
        right, rounded = (float((scratch.w != other).double().mean()) for other in mixed.values())
        assert right < 0.0005 < 0.01 < rounded  # float32 rounds a little, too


SCRIPT = """
import json, sys, torch
from modeconn import error_barrier
torch.manual_seed(0)
x, y = torch.randn(50, 3), torch.randint(2, (50,))
result = error_barrier(torch.nn.Linear(3, 2), torch.nn.Linear(3, 2), (x, y), alphas=5)
heavy = {"pandas", "transformers", "wandb", "matplotlib", "sklearn", "scipy", "torchvision"} & set(sys.modules)
print(json.dumps([result.loss.tolist(), result.interval(), result.cross_fitted(), sorted(heavy)]))
"""


@pytest.mark.processes
def test_seeds_that_differ_from_process_to_process_and_heavy_packages_at_import():
    """Python salts the hash of a string anew in every process."""
    home = str(Path(modeconn.__file__).parent.parent)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": salt, "PYTHONPATH": home},
            stdout=subprocess.PIPE,
        )
        for salt in ("1", "2")
    ]
    one, two = (json.loads(process.communicate()[0]) for process in processes)
    assert one == two
    assert one[3] == []


def test_strings_hashed_by_python_itself():
    def hashes(file: Path) -> bool:
        called = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        return any(isinstance(function, ast.Name) and function.id == "hash" for function in called)

    files = sorted(Path(modeconn.__file__).parent.rglob("*.py"))
    assert len(files) > 100
    assert [file for file in files if hashes(file)] == []
