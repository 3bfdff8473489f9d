"""`modeconn average`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from modeconn import Run, average, load_result, train
from modeconn.cli.main import main


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def stream() -> Any:
    """Calibration data that can be gone through once."""
    return iter([torch.randn(50, 4, generator=torch.Generator().manual_seed(2))])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Five checkpoints in a folder, data in .npz files, and this module to import from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    Path("run").mkdir()
    network = make_net()
    for step in range(8, 13):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
        save_file(network.state_dict(), f"run/step-{step}.safetensors")
    for seed, name in enumerate(("train", "test", "further")):
        inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
        np.savez(f"{name}.npz", inputs=inputs.numpy(), targets=(inputs[:, 0] > 0).long().numpy())
    return tmp_path


MODEL = ["--model", "test_average:make_net"]


def metadata(file: str) -> dict[str, Any]:
    with safe_open(file, framework="pt") as opened:
        return dict(json.loads(opened.metadata()["modeconn"]))


def test_the_last_checkpoints_of_a_folder_are_averaged_and_named(folder, capsys):
    assert main(["average", "run", "--last", "30%", "--weights", "linear", "--out", "mean.safetensors"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("average of 4 of 5 networks, weights linear\n")  # the steps over 0.7 * 12
    assert out.endswith("Weights: mean.safetensors\n")
    expected = average("run", "linear", last="30%")
    written = load_file("mean.safetensors")
    assert all(torch.equal(tensor, written[name]) for name, tensor in expected.items())
    assert [row["step"] for row in metadata("mean.safetensors")["members"]] == [9, 10, 11, 12]


def test_networks_one_by_one_have_weights_of_their_own(folder, capsys):
    files = [f"run/step-{step}.safetensors" for step in (8, 9)]
    assert main(["average", *files, "--weights", "0.25,0.75"]) == 0
    assert "step-9.safetensors  0.75" in capsys.readouterr().out
    expected = average(files, [0.25, 0.75])
    assert torch.equal(load_file("average.safetensors")["0.weight"], expected["0.weight"])


def test_integers_that_differ_are_a_note_and_no_warning(folder, capsys, recwarn):
    for count, name in enumerate(("a", "b")):
        save_file(make_net().state_dict() | {"1.num_batches_tracked": torch.tensor(count)}, f"{name}.safetensors")
    assert main(["average", "a.safetensors", "b.safetensors"]) == 0
    assert capsys.readouterr().out.count("1.num_batches_tracked") == 1
    assert not recwarn.list


def test_statistics_are_measured_anew_where_there_are_calibration_data(folder, capsys):
    command = ["average", "run", "--calibration", "train.npz", "--data", "test.npz", *MODEL]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "running statistics of 1 of 1 layer measured anew, over 60 examples in 1 batch" in out
    assert "points)" in out
    inputs = torch.from_numpy(np.load("train.npz")["inputs"])
    found = load_file("average.safetensors")
    hidden = inputs @ found["0.weight"].T + found["0.bias"]
    torch.testing.assert_close(found["1.running_var"], hidden.var(0, correction=0), rtol=1e-5, atol=1e-6)
    assert metadata("average.safetensors")["recalibrated"]["layers"] == ["1"]
    assert main([*command, "--batchnorm", "interpolate"]) == 0
    assert "On the data: error" in capsys.readouterr().out
    assert torch.equal(load_file("average.safetensors")["1.running_var"], torch.ones(6))


@pytest.mark.slow
def test_a_sweep_measures_durations_and_writes_the_best(folder, capsys):
    command = ["average", "run", "--sweep", "10%,3,100%", "--calibration", "test_average:stream", *MODEL]
    assert main([*command, "--data", "test.npz", "--test", "further.npz", "--out", "best.safetensors"]) == 0
    out = capsys.readouterr().out
    result = load_result("best-durations")
    assert str(result) in out
    assert "On the test data, which chose nothing" in out
    best = result.points[result.best]
    assert len(metadata("best.safetensors")["members"]) == best.checkpoints
    assert metadata("best.safetensors")["value"] == pytest.approx(best.value)
    assert {path.name for path in Path("best-durations").iterdir()} == {
        f"durations.{ending}" for ending in ("json", "csv", "png", "pdf")
    }


@pytest.mark.slow
def test_a_stored_run_is_measured_on_its_own_data(tmp_path, data_dir, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    how: dict[str, Any] = {"iterations": 8, "workers": 0, "data_dir": data_dir, "device": "cpu"}
    run: Run = train("digits-conv", save_at="4,6", store=tmp_path / "store", **how)
    assert main(["average", str(run.folders[8]), "--last", "50%", "--data-dir", str(data_dir)]) == 0
    out = capsys.readouterr().out
    assert "average of 2 of 3 networks" in out
    assert "iteration 8  0.5" in out
    assert "measured anew" in out


@pytest.mark.slow
def test_a_stored_run_is_swept_on_its_own_data_and_drawn_again(tmp_path, data_dir, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    how: dict[str, Any] = {"iterations": 8, "workers": 0, "data_dir": data_dir, "device": "cpu"}
    run: Run = train("digits-conv", save_at="4,6", store=tmp_path / "store", **how)
    assert main(["average", str(run.folders[8]), "--sweep", "50%,100%", "--data-dir", str(data_dir)]) == 0
    assert "best" in capsys.readouterr().out
    before = Path("average-durations/durations.png").read_bytes()
    assert main(["plot", "average-durations"]) == 0
    assert "average-durations/durations.pdf" in capsys.readouterr().out
    assert Path("average-durations/durations.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run/step-8.safetensors"], "give at least two networks, or the folder of one run's checkpoints"),
        (["run", "--last", "some"], "last is a count, or a percentage"),
        (["run", "--weights", "exponential"], "need --decay"),
        (["run", "--batchnorm", "repair"], "--batchnorm of an average is recalibrate or interpolate"),
        (["run", "--calibration", "train.npz"], "give --model a module"),
        (["run", "--sweep", "10%"], "give held-out data by --data"),
        (["run", "--sweep", "10%", "--data", "x.npz", "--test", "x.npz"], "that choose the duration"),
        (["run", "--sweep", "10%", "--last", "2"], "give one of the two"),
        (["run", "--test", "further.npz"], "--test is measured at the best duration of a --sweep"),
        (["."], "there are no checkpoints in ."),
    ],
)
def test_what_cannot_be_averaged_is_said(arguments, says, folder, capsys):
    assert main(["average", *arguments]) in (1, 2)
    assert says in capsys.readouterr().err
    assert not Path("average.safetensors").exists()
