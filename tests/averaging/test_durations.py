"""A sweep over the duration of an average, against averages that are measured one by one."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modeconn import Run, average, load_result, recalibrate, train
from modeconn.analysis.averaging.durations import sweep_durations
from modeconn.analysis.averaging.durations_result import Durations
from modeconn.errors import DataError, ModeconnError, OptionError

X = torch.randn(300, 4, generator=torch.Generator().manual_seed(5))
Y = (X[:, 0] > 0).long()
HELD_OUT, TEST, TRAIN = (X[:100], Y[:100]), (X[100:200], Y[100:200]), [X[200:]]


def make(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten checkpoints of a run that walks about."""
    network = make().train()
    for step in range(1, 11):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
            network(X[200:])
        save_file(network.state_dict(), tmp_path / f"step-{step}.safetensors")
    return tmp_path


def direct(network: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    return float((copy.deepcopy(network).eval()(data[0]).argmax(1) != data[1]).double().mean())


@pytest.mark.parametrize("batchnorm", ["recalibrate", "interpolate"])
@pytest.mark.parametrize("weights", ["uniform", "linear", "exponential"])
def test_every_duration_is_the_average_of_its_checkpoints(folder: Path, batchnorm: str, weights: str) -> None:
    decay = 0.8 if weights == "exponential" else None
    how: dict[str, Any] = {"model": make, "calibration": TRAIN, "batchnorm": batchnorm}
    result = sweep_durations(folder, HELD_OUT, ["10%", "30%", 5, "100%"], weights, decay=decay, test=TEST, **how)
    assert [(point.last, point.checkpoints) for point in result.points] == [
        *(("10%", 1), ("30%", 3), ("5", 5), ("100%", 10))
    ]
    assert [point.first_step for point in result.points] == [10, 8, 6, 1]
    errors, on_test = [], []
    for last in ("10%", "30%", 5, "100%"):
        network = make()
        network.load_state_dict(average(folder, weights, last=last, decay=decay))
        network = recalibrate(network, TRAIN).network if batchnorm == "recalibrate" else network
        errors.append(direct(network, HELD_OUT))
        on_test.append(direct(network, TEST))
    assert [point.value["error"] for point in result.points] == pytest.approx(errors)
    assert result.best == int(np.argmin(errors))
    newest = make()
    newest.load_state_dict(average(folder, last=1))
    assert result.newest["error"] == pytest.approx(direct(newest, HELD_OUT))
    assert result.test["error"] == pytest.approx(on_test[result.best])
    assert result.test_newest["error"] == pytest.approx(direct(newest, TEST))
    assert result.batchnorm == batchnorm


def test_notes_are_of_averages_and_name_what_checkpoints_share_once() -> None:
    run = [{"model": make(seed).state_dict()} for seed in range(4)]
    for batchnorm, said in (("recalibrate", "for every average"), ("interpolate", "averaged like weights")):
        how: dict[str, Any] = {"model": make, "calibration": TRAIN, "batchnorm": batchnorm}
        notes = sweep_durations(run, HELD_OUT, [1, 4], **how).notes
        assert [note for note in notes if "'model'" in note] == [
            "4 checkpoints: its state dict is the one under 'model'"
        ]
        assert [note for note in notes if said in note]
        assert not [note for note in notes if "alpha" in note or "barrier" in note]


def test_the_standard_error_is_that_of_paired_examples(folder: Path) -> None:
    result = sweep_durations(folder, HELD_OUT, ["50%"], model=make, batchnorm="interpolate")
    newest, mean = make(), make()
    newest.load_state_dict(average(folder, last=1))
    mean.load_state_dict(average(folder, last="50%"))
    wrong = [(network.eval()(HELD_OUT[0]).argmax(1) != HELD_OUT[1]).double() for network in (newest, mean)]
    expected = float((wrong[1] - wrong[0]).std(correction=0)) / len(HELD_OUT[1]) ** 0.5
    assert result.points[0].standard_error["error"] == pytest.approx(expected)


def test_a_result_is_read_as_it_was_written_and_drawn(folder: Path, tmp_path: Path) -> None:
    result = sweep_durations(folder, HELD_OUT, ["10%", "50%"], test=TEST, model=make, calibration=TRAIN)
    result.to_json(tmp_path / "durations.json")
    again = load_result(tmp_path)
    assert isinstance(again, Durations)
    assert str(again) == str(result)
    assert again.to_json() == result.to_json()
    assert again.rows() == result.rows()
    assert [row["best"] for row in result.rows()].count(True) == 1
    ax = result.plot()
    assert ax.get_ylabel() == "error (%)"
    assert {round(float(y), 6) for y in ax.lines[1].get_ydata()} == {
        round(100 * point.value["error"], 6) for point in result.points
    }
    text = str(result)
    assert "On the test data, which chose nothing" in text
    assert "It was chosen on these data" in text
    without = str(sweep_durations(folder, HELD_OUT, ["50%"], model=make, calibration=TRAIN))
    assert "too low for an estimate: further data (test=) would give one" in without


def test_durations_with_the_same_checkpoints_are_one(folder: Path) -> None:
    result = sweep_durations(folder, HELD_OUT, ["1%", "10%", "11%", 2], model=make, calibration=TRAIN)
    assert [point.last for point in result.points] == ["1%", "11%"]


def test_where_higher_is_better_the_best_is_the_highest(folder: Path) -> None:
    def accuracy(network: nn.Module, batch: Any) -> dict[str, Any]:
        right = network(batch[0]).argmax(1) == batch[1]
        return {"accuracy": (right.double(), torch.ones(len(right)))}

    how: dict[str, Any] = {"model": make, "calibration": [(X[200:], Y[200:])]}
    lasts = ["10%", "30%", "50%", "100%"]
    high = sweep_durations(folder, HELD_OUT, lasts, evaluate=accuracy, **how)
    low = sweep_durations(folder, HELD_OUT, lasts, **how)
    assert [point.value["accuracy"] for point in high.points] == pytest.approx(
        [1 - point.value["error"] for point in low.points]
    )
    assert high.best == low.best


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"lasts": []}, OptionError, "the durations of a sweep are a list"),
        ({"lasts": "10%"}, OptionError, "the durations of a sweep are a list"),
        ({"lasts": ["0%"]}, OptionError, "last is a count, or a percentage"),
        ({"lasts": [11]}, OptionError, "more than there are"),
        ({"weights": [0.5, 0.5]}, OptionError, "the weights of a sweep are named"),
        ({"weights": "exponential"}, OptionError, "need decay="),
        ({"batchnorm": "repair"}, OptionError, "defined between two networks"),
        ({"calibration": None}, OptionError, "needs calibration= data"),
        ({"data": [X]}, OptionError, "cannot tell what to measure"),
        ({"test": HELD_OUT}, OptionError, "the data= that choose the duration"),
        ({"data": iter([])}, DataError, "the data are empty"),
        ({"model": None}, OptionError, "give model="),
    ],
)
def test_what_cannot_be_swept_is_refused(
    options: dict[str, Any], error: type[ModeconnError], says: str, folder: Path
) -> None:
    given = {"data": HELD_OUT, "model": make, "calibration": TRAIN} | options
    with pytest.raises(error, match=says):
        sweep_durations(folder, **given)


def test_a_file_that_is_no_sweep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "durations.json").write_text('{"format": "modeconn durations 1"}')
    with pytest.raises(DataError, match="not a sweep over durations"):
        load_result(tmp_path)


def test_a_stored_run_needs_nothing_but_itself(tmp_path: Path, data_dir: Path) -> None:
    how: dict[str, Any] = {"iterations": 8, "workers": 0, "data_dir": data_dir, "device": "cpu"}
    run: Run = train("digits-conv", save_at="2,4,6", store=tmp_path, **how)
    result = sweep_durations(run, "test", ["25%", "100%"], data_dir=data_dir)
    assert [point.checkpoints for point in result.points] == [1, 4]
    found = average(run, calibration="train", data="test", data_dir=data_dir)
    assert result.points[1].value == pytest.approx(found.value)
    again = sweep_durations(run.folders[8], "test", ["25%", "100%"], data_dir=data_dir)
    assert [point.value for point in again.points] == [point.value for point in result.points]
