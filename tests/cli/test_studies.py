"""The commands of studies: what they compute, print and write, and with which options they are called."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modeconn import load_data
from modeconn.analysis.instability.options import StudyOptions
from modeconn.cli.main import main
from modeconn.tasks import PRESETS, get_task
from modeconn.tickets.options import LotteryOptions
from modeconn.tickets.sweep_options import SweepOptions

pytestmark = pytest.mark.slow  # whole trainings and commands

SMALL = ["--replicates", "1", "--alphas", "3", "--iterations", "40", "--workers", "0", "--rewind-iters", "0,20"]


class _CalledError(BaseException):
    """Raised where a study would begin; the command reports what is an Exception."""


@pytest.fixture
def here(tmp_path, monkeypatch, data_dir) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODECONN_DATA", str(data_dir))
    return tmp_path


@pytest.fixture(scope="module")
def study(tmp_path_factory, finished_study, data_dir) -> tuple[Path, str]:
    """A small study, finished in its store before, and what was printed."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(finished_study.store, folder / "store")
    places = ["--store", str(folder / "store"), "--data-dir", str(data_dir), "--out", str(folder / "results")]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["instability", *SMALL, *places]) == 0
    return folder, printed.getvalue()


@pytest.fixture
def call(monkeypatch):
    """Run a command line up to the public function that it calls; that function's name, arguments and options."""

    def run(line: str) -> tuple[str, tuple, dict]:
        calls = []

        def stop_at(name: str):
            def stop(*arguments, **options):
                calls.append((name, arguments, options))
                raise _CalledError

            return stop

        for name in ("instability", "lottery", "sweep", "train"):
            monkeypatch.setattr(f"modeconn.{name}", stop_at(name))
        monkeypatch.setattr("modeconn.execution.pool.start_server", lambda: calls.append("workers"))
        with pytest.raises(_CalledError):
            main(line.split())
        started = calls[0] == "workers"
        return (*calls[-1], started)

    return run


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("instability", "instability-digits-conv"),
        ("instability --seed 3", "instability-digits-conv-c9ff77"),
        ("instability --seed 0 --alphas 31 --threshold 2", "instability-digits-conv"),  # as by default
        ("instability --task.norm none", "instability-digits-conv-5d6129"),
        ("instability mnist-lenet --threshold 3 --alphas 5 --search", "instability-mnist-lenet-e71757"),
        ("lottery", "lottery-digits-conv"),
        ("lottery --levels 2", "lottery-digits-conv-e084ae"),
        ("lottery --rates output=0.5 --barriers none", "lottery-digits-conv-03d307"),
        ("lottery mnist-lenet --iterations 100 --no-fix", "lottery-mnist-lenet-5110cc"),
        ("sweep --levels 1,3,5,7 --ks 0,1%,3%,10%,30%", "sweep-digits-conv"),  # as by default
    ],
)
def test_results_go_to_a_folder_with_the_name_of_what_was_asked(call, line, folder):
    """With the same name as ever, or a study that is run again would leave a second folder."""
    assert call(line)[2]["out"] == Path("modeconn-results") / folder


@pytest.mark.parametrize(
    ("command", "kind"), [("instability", StudyOptions), ("lottery", LotteryOptions), ("sweep", SweepOptions)]
)
def test_a_study_gets_what_was_asked_and_the_defaults_otherwise(call, command, kind):
    fields = kind.__dataclass_fields__
    options = call(command)[2]
    assert kind(**{name: value for name, value in options.items() if name in fields}) == kind()
    machine = "--workers 3 --device cpu --precision bfloat16 --store s --data-dir d --checkpoint-every 5 --out o"
    name, (task,), options, _ = call(f"{command} mnist-lenet --copies 4 --threshold 3 {machine}")
    assert (name, task) == (command, get_task("mnist-lenet"))
    expected = {"copies": 4, "threshold": 0.03, "workers": 3, "device": "cpu", "precision": "bfloat16"}
    expected |= {"store": Path("s"), "data_dir": Path("d"), "checkpoint_every": 5.0, "out": Path("o"), "log": None}
    assert {name: options[name] for name in expected} == expected
    assert options["command"].startswith(f"modeconn {command} mnist-lenet --copies 4")
    assert "executor" not in options


def test_a_study_is_computed_anew_only_if_asked(call):
    assert [call(f"instability{text}")[2]["fresh"] for text in ("", " --fresh")] == [False, True]


def test_the_store_may_be_named_in_the_environment(call, monkeypatch):
    monkeypatch.setenv("MODECONN_STORE", "elsewhere")
    assert call("train")[2]["store"] == Path("elsewhere")
    assert call("train --store here")[2]["store"] == Path("here")


def test_a_task_is_shortened_before_its_hyperparameters_are_set(call):
    _, (task,), _, _ = call("instability cifar10-resnet20 --iterations 6300 --task.milestones 10,20 --task.nesterov")
    assert (task.iterations, task.milestones, task.nesterov) == (6300, (10, 20), True)


def test_a_training_is_evaluated_ten_times_unless_asked_otherwise(call):
    name, (task,), options, _ = call("train --iterations 200 --save-at 0,50% --seed 3")
    assert (name, task.evaluate_every, options["save_at"], options["seed"]) == ("train", 20, ("0", "50%"), 3)
    assert call("train --task.evaluate-every 7")[1][0].evaluate_every == 7


@pytest.mark.parametrize(
    ("line", "early"),
    [
        ("train", True),
        ("lottery", True),
        ("lottery --workers 2", True),
        ("instability --workers 0", False),
        ("lottery --dask tcp://a:1 --device cpu", False),
        ("instability --dask-scheduler-file f --device cpu", False),
    ],
)
def test_workers_start_while_this_process_still_imports_where_there_will_be_some(call, line, early):
    assert call(line)[3] == early


def test_metrics_go_to_the_tracker_that_is_named(call, monkeypatch):
    asked = []
    monkeypatch.setattr("modeconn.training.trackers.tracker", lambda *given: asked.append(given) or "a tracker")
    assert call("train --track tensorboard")[2]["log"] == "a tracker"
    assert call("lottery --track wandb --out o")[2]["log"] == "a tracker"
    assert call("lottery --track tensorboard --out o")[2]["log"] == "a tracker"
    projects = [("tensorboard", "modeconn-results/train-digits-conv/tensorboard")]
    projects += [("wandb", "modeconn"), ("tensorboard", "o/tensorboard")]
    assert [given[:2] for given in asked] == projects


@pytest.mark.slow
@pytest.mark.processes
def test_the_digits_study_end_to_end(here):
    """The default study with one replicate and its first and last k: unstable at 0, stable later."""
    command = [sys.executable, "-m", "modeconn", "instability", "--replicates", "1", "--rewind-iters", "0,30%"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    files = next(line for line in done.stdout.splitlines() if line.startswith("Files: "))
    folder = here / files.split()[1]
    answer = "On test data with interpolated running statistics the network is stable (below 2 percentage points) from "
    answer += "iteration 120"
    assert answer in done.stdout
    rows = pd.read_csv(folder / "instability.csv").set_index(["split", "batchnorm", "rewind_iter"])["barrier"]
    for split in ("test", "train"):
        assert rows[split, "interpolate", 0] > 0.1
        assert rows[split, "interpolate", 120] < 0.02
        assert rows[split, "recalibrate", 0] < rows[split, "interpolate", 0]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stable_from"]["test"]["interpolate"] == 120
    assert summary["command"] == "modeconn instability --replicates 1 --rewind-iters 0,30%"


def test_a_study_prints_its_table_sentences_and_note(study):
    for part in ("interpolate", "recalibrate", "mean", "std", "stable", "The two choices differ in BatchNorm alone"):
        assert part in study[1]


@pytest.mark.slow
def test_hyperparameters_are_options_and_have_the_last_word(here, capsys):
    changes = [
        "--task.learning-rate",
        "0.05",
        "--task.milestones",
        "10,30",
        "--no-task.nesterov",
        "--task.norm",
        "none",
    ]
    assert main(["instability", *SMALL, *changes, "--rewind-iters", "0", "--splits", "test", "--out", "o"]) == 0
    options = json.loads((here / "o" / "summary.json").read_text())["options"]
    assert (options["learning_rate"], options["milestones"], options["norm"]) == (0.05, [10, 30], "none")
    printed = capsys.readouterr().out
    assert "BatchNorm" not in printed  # there is none, so nothing is said of it
    assert "test data" in printed
    assert "train data" not in printed


@pytest.mark.slow
def test_the_note_of_the_data_is_shown(here, data_dir, capsys):
    load_data("digits", data_dir)
    arrays = dict(np.load(data_dir / "digits.npz"))
    np.savez(here / "mine.npz", **{**arrays, "note": np.array("MINE: scanned twice")})
    assert main(["instability", *SMALL, "--rewind-iters", "0", "--task.data", "mine.npz", "--out", "o"]) == 0
    assert "Data: MINE: scanned twice" in capsys.readouterr().out
    assert json.loads((here / "o" / "summary.json").read_text())["data_note"] == "MINE: scanned twice"


@pytest.mark.processes
def test_train_prints_metrics_and_where_states_are(here, capsys):
    assert main(["train", "--iterations", "40", "--save-at", "0,50%"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[:2] for line in printed.splitlines()[1:9:2]] == [[str(t), "train"] for t in (4, 8, 12, 16)]
    folders = [Path(line.split(": ")[1]) for line in printed.splitlines() if line.startswith("State at")]
    assert len(folders) == 3
    assert all((folder / "weights.safetensors").exists() for folder in folders)


def test_runs_lists_what_the_store_holds(study, here, capsys):
    assert main(["runs", "--store", str(study[0] / "store")]) == 0
    studies, runs = capsys.readouterr().out.split("\n\n")
    assert studies.splitlines()[1].split()[1:5] == ["done", "20", "of", "20"]
    lines = runs.splitlines()[1:]
    assert {line.split()[1] for line in lines} == {"done"}
    assert {line.split("-")[0] for line in lines} == {"state", "cohort", "evaluation", "path"}
    for label in ("replicate 0 copy 2 from 20", "2 copies from 20"):
        assert any(line.endswith(label) for line in lines)
    assert main(["runs", "--store", "nowhere"]) == 1
    assert not (here / "nowhere").exists()


@pytest.mark.slow
def test_plot_draws_the_same_pictures_again(study, capsys):
    results = study[0] / "results"
    before = {path.name: path.read_bytes() for path in results.glob("*.p*")}
    for name in before:
        (results / name).unlink()
    assert main(["plot", str(results)]) == 0
    assert {path.name: path.read_bytes() for path in results.glob("*.p*")} == before
    assert {Path(line).name for line in capsys.readouterr().out.splitlines()} >= set(before)
    assert len(before) == 4


def test_tasks_are_listed_with_their_source(capsys):
    assert main(["tasks"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in PRESETS)
    assert printed.count("Frankle") == len(PRESETS) - 1
