"""`modeconn curve`."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modeconn import error_barrier, fit_curve, get_task, load_curve, neb, train
from modeconn.analysis.landscape.curves.curve_result import CurveResult
from modeconn.cli.main import main


def make_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def smoothed(network: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(network(batch[0]), batch[1], label_smoothing=0.1)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two networks and data in files, and this module to import from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        save_file(make_net().state_dict(), f"{name}.safetensors")
    for seed, name in enumerate(("train", "test")):
        inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
        np.savez(f"{name}.npz", inputs=inputs.numpy(), targets=(inputs[:, 0] > 0).long().numpy())
    return tmp_path


NETWORKS = ["a.safetensors", "b.safetensors", "--model", "test_curve:make_net"]
DATA = ["--data", "train.npz", "--test", "test.npz", "--alphas", "5", "--out", "out"]


def data(name: str) -> tuple[Tensor, Tensor]:
    with np.load(f"{name}.npz") as file:
        return torch.tensor(file["inputs"]), torch.tensor(file["targets"])


def test_it_writes_what_the_functions_give(folder, capsys) -> None:
    options = ["--bends", "2", "--kind", "polychain", "--epochs", "2", "--loss", "test_curve:smoothed"]
    assert main(["curve", *NETWORKS, *DATA, *options]) == 0
    out = capsys.readouterr().out
    assert out.startswith("polygonal chain with 2 bends from a.safetensors to b.safetensors, 5 points of it")
    assert out.rstrip().endswith("Weights: out/curve.safetensors")
    expected = fit_curve(
        "a.safetensors", "b.safetensors", data("train"), model=make_net, kind="polychain", bends=2, epochs=2,
        loss=smoothed,
    )  # fmt: skip
    written = load_curve("out/curve.safetensors")
    for found, own in zip(written.points, expected.points, strict=True):
        assert all(torch.equal(found[name], own[name]) for name in own)
    result = CurveResult.from_json(Path("out/curve.json"))
    measured = expected.barrier(data("test"), alphas=5, evaluate="auto", calibration_batches=20)
    np.testing.assert_array_equal(result.curve.loss, measured.curve.loss)
    assert result.curve.batchnorm == "recalibrate"
    with Path("out/curve.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["curve"] * 5 + ["segment"] * 5
    assert Path("out/curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_goes_on_from_its_checkpoint(folder, capsys) -> None:
    assert main(["curve", *NETWORKS, *DATA, "--steps", "5"]) == 0
    first, kept = capsys.readouterr().out, Path("out/training.pt").stat().st_mtime_ns
    assert main(["curve", *NETWORKS, *DATA, "--steps", "5"]) == 0
    assert capsys.readouterr().out == first
    assert Path("out/training.pt").stat().st_mtime_ns == kept
    assert main(["curve", *NETWORKS, *DATA, "--steps", "6"]) == 2
    assert "is of another training: its steps is 5, and here it is 6" in capsys.readouterr().err


def test_an_elastic_band(folder, capsys) -> None:
    assert main(["curve", *NETWORKS, *DATA, "--neb", "--pivots", "2", "--cycles", "3:0.1,2:0.01"]) == 0
    assert "polygonal chain with" in capsys.readouterr().out
    how: dict[str, Any] = {"pivots": 2, "cycles": [(3, 0.1), (2, 0.01)], "model": make_net}
    expected = neb("a.safetensors", "b.safetensors", data("train"), **how)
    found = load_curve("out/curve.safetensors")
    assert torch.equal(found.points[1]["0.weight"], expected.points[1]["0.weight"])


def test_stored_runs_know_their_own_data(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    task = get_task("digits-conv", width=0.1).shortened(4)
    runs = [train(task, seed=seed, store="store", workers=0) for seed in (0, 1)]
    folders = [str(run.folders[4]) for run in runs]
    assert main(["curve", *folders, "--steps", "2", "--alphas", "3", "--out", "out"]) == 0
    result = CurveResult.from_json(Path("out/curve.json"))
    expected = fit_curve(*runs, steps=2).barrier(alphas=3, calibration_batches=20)
    np.testing.assert_array_equal(result.curve.loss, expected.curve.loss)
    straight = error_barrier(*runs, alphas=3, batchnorm="recalibrate", calibration_batches=20)
    np.testing.assert_array_equal(result.segment.loss, straight.loss)
    assert json.loads(Path("out/curve.json").read_text())["training"]["steps"] == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["a.safetensors", *DATA], "a curve is between two networks; got 1"),
        ([*NETWORKS, "--data", "train.npz"], "give --test"),
        ([*NETWORKS, "--test", "test.npz"], "give --data"),
        ([*NETWORKS, *DATA, "--neb", "--bends", "2"], "--bends is of a fitted curve; leave out --neb"),
        ([*NETWORKS, *DATA, "--pivots", "2"], "--pivots is of an elastic band; give --neb"),
        ([*NETWORKS, *DATA, "--steps", "2", "--epochs", "2"], "--steps are in place of --epochs"),
        ([*NETWORKS, *DATA[:-1], "train.npz", "--steps", "1"], "cannot write train.npz: "),
        ([*NETWORKS, *DATA, "--checkpoint", "train.npz/file", "--steps", "1"], "cannot write train.npz: "),
        ([*NETWORKS, *DATA, "--kind", "spline"], "unknown kind of curve 'spline'"),
        ([*NETWORKS, *DATA, "--batchnorm", "repair", "--steps", "1"], "--batchnorm of a curve is recalibrate or"),
    ],
)
def test_options_that_cannot_be_used(options: list[str], says: str, folder, capsys) -> None:
    assert main(["curve", *options]) != 0
    assert says in capsys.readouterr().err
