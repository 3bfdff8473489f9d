"""`modeconn plane`."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modeconn import Run, directions, plane, train, trajectory_plane
from modeconn.analysis.landscape.planes.plane_result import Plane
from modeconn.cli.main import main


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


FILES = [f"net-{seed}.safetensors" for seed in range(5)]
GIVEN = ["--model", "test_plane:make_net", "--data", "test.npz"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Networks in files, data in .npz files, and this module to import from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for seed, file in enumerate(FILES):
        network = make_net()
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.5 * torch.randn(parameter.shape))
        save_file(network.state_dict(), file)
    for seed, name in enumerate(("train", "test")):
        inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
        np.savez(f"{name}.npz", inputs=inputs.numpy(), targets=(inputs[:, 0] > 0).long().numpy())
    return tmp_path


def data(name: str = "test") -> Any:
    found = np.load(f"{name}.npz")
    return found["inputs"], found["targets"]


def test_a_plane_is_what_python_gives_with_its_files(folder, capsys):
    also = ["--also", FILES[3], "--points", "4x3", "--refine", "2", "--margin", "0.1", "--surface"]
    assert main(["plane", *FILES[:3], *GIVEN, *also, "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"plane through {', '.join(FILES[:3])}, 4 x 3 points and 2 more: error and cross-entropy")
    found = Plane.from_json(Path("out/plane.json"))
    here = plane(*FILES[:3], data(), model=make_net, points=(4, 3), refine=2, margin=0.1, also=[FILES[3]])
    assert found.values["loss"].tolist() == here.values["loss"].tolist()
    assert [place.name for place in found.places] == FILES[:4]
    assert len(list(csv.DictReader(Path("out/plane.csv").read_text().splitlines()))) == 4 * 3 + 2 + 4
    for picture in ("plane", "plane-loss", "plane-error-surface", "plane-loss-surface"):
        assert Path(f"out/{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_measures_nothing_again(folder, capsys, monkeypatch):
    command = ["plane", *FILES[:3], *GIVEN, "--points", "3", "--batchnorm", "recalibrate", "--calibration", "train.npz"]
    assert main(command) == 0
    first = capsys.readouterr().out
    (results,) = Path("modeconn-results").iterdir()
    before = (results / "plane.json").read_bytes()

    def measured(*_: Any) -> None:
        pytest.fail("something was measured again")

    monkeypatch.setattr("modeconn.analysis.landscape.planes.surface.Surface.measure", measured)
    assert main(command) == 0
    assert capsys.readouterr().out == first
    assert (results / "plane.json").read_bytes() == before


def test_directions_around_one_network(folder, capsys):
    assert main(["plane", FILES[0], *GIVEN, "--directions", "1", "--points", "5", "--out", "line"]) == 0
    assert "normalised by filter" in capsys.readouterr().out
    found = Plane.from_json(Path("line/plane.json"))
    assert (
        found.values["loss"].tolist() == directions(FILES[0], data(), model=make_net, points=5).values["loss"].tolist()
    )
    two = ["--directions", "2", "--normalization", "layer", "--extent", "0.5", "--seed", "3", "--points", "3"]
    assert main(["plane", FILES[0], *GIVEN, *two, "--out", "plane"]) == 0
    found = Plane.from_json(Path("plane/plane.json"))
    assert found.settings["normalization"] == "layer"
    assert found.x.max() == 0.5


def test_the_plane_of_a_training_given_by_its_states(folder, capsys):
    assert main(["plane", *FILES, *GIVEN, "--pca", "--around", "mean", "--points", "3", "--out", "pca"]) == 0
    assert "% of the variance" in capsys.readouterr().out
    here = trajectory_plane(FILES, data(), model=make_net, points=3, around="mean")
    assert Plane.from_json(Path("pca/plane.json")).values["loss"].tolist() == here.values["loss"].tolist()


@pytest.mark.slow
def test_a_stored_run_knows_its_states_and_its_data(tmp_path, data_dir, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    how: dict[str, Any] = {"iterations": 8, "workers": 0, "data_dir": data_dir, "device": "cpu"}
    run: Run = train("digits-conv", save_at="0,2,4,6", store=tmp_path / "store", **how)
    folders = [str(run.folders[at]) for at in (0, 4, 8)]
    where = ["--data-dir", str(data_dir), "--points", "2"]
    assert main(["plane", folders[-1], "--pca", *where, "--out", "pca"]) == 0
    assert len(Plane.from_json(Path("pca/plane.json")).paths()["trajectory"]) == 5
    assert main(["plane", *folders, "--also", folders[-1], *where, "--out", "through"]) == 0
    assert "5 states: " in capsys.readouterr().out


@pytest.mark.processes
def test_workers_open_the_command_anew(folder, capsys):
    command = ["plane", *FILES[:3], *GIVEN, "--points", "3"]
    assert main([*command, "--out", "alone"]) == 0
    assert main([*command, "--workers", "1", "--out", "workers"]) == 0
    assert Path("alone/plane.json").read_text() == Path("workers/plane.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (FILES[:2], "a plane goes through three networks; got 2"),
        ([*FILES[:2], "--directions", "1"], "--directions are around one network; got 2"),
        ([FILES[0], "--directions", "3"], "one or two directions; got 3"),
        ([FILES[0], "--directions", "1", "--pca"], "give one of the two"),
        ([FILES[0], "--directions", "1", "--also", FILES[1]], "not on random directions"),
        ([FILES[0], "--directions", "1", "--normalization", "filters"], "did you mean 'filter'"),
        ([*FILES[:2], "--pca"], "at least 3 states"),
        ([*FILES[:3], "--points", "0"], "points must be a whole number of at least 2"),
        ([*FILES[:3], "--normalization", "layer"], "--normalization is for --directions: give that, or leave it out"),
        ([*FILES[:3], "--seed", "0"], "--seed is for --directions"),
        ([*FILES, "--pca", "--extent", "2"], "--extent is for --directions"),
        ([*FILES[:3], "--around", "mean"], "--around is for --pca: give that, or leave it out"),
        ([FILES[0], "--directions", "1", "--margin", "0.1"], "--margin is around several networks"),
        ([FILES[0], "--directions", "1", "--surface"], "--surface is for planes"),
        ([*FILES, "--pca", "--around", "first"], "unknown place of the plane 'first'"),
        ([*FILES[:3], "--margin", "-1"], "margin must be a number of at least 0"),
        ([*FILES[:3], "--batchnorm", "repair"], "not on a plane"),
        ([FILES[0], FILES[1], FILES[0]], "have equal weights"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(arguments, said, folder, capsys):
    assert main(["plane", *arguments, *GIVEN]) in (1, 2)
    assert said in capsys.readouterr().err
    assert not list(Path().glob("modeconn-results/*/plane.json"))


def test_the_folder_holds_the_options_as_json(folder):
    assert main(["plane", *FILES[:3], *GIVEN, "--points", "2", "--out", "out"]) == 0
    content = json.loads(Path("out/plane.json").read_text())
    assert content["settings"]["margin"] == 0.2
    assert content["batchnorm"] == "interpolate"
