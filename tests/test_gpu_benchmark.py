"""The script for a GPU, without one: its order, its time, what it keeps, and its measurements on a CPU."""

import json
import math
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks import gpu
from modeconn.data import load_data
from modeconn.training import trainer

CPU = torch.device("cpu")


@pytest.fixture
def pretended(monkeypatch):
    """A GPU that is only said to be there, with every measurement replaced; what was asked for, in its order."""
    asked = []

    def answer(name, value):
        def answered(*arguments):
            asked.append((name, *arguments))
            return value(*arguments) if callable(value) else value

        monkeypatch.setattr(gpu, name, answered)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "none")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 0)
    answer("images_per_second", lambda task, members, *_: 100.0 * members)
    answer("path_seconds", 2.0)
    answer("run_command", lambda command, end: (0, "3 passed", 30.0 if command[-1] != "3" else 20.0))
    return asked


def rows_of(tmp_path, *arguments: str) -> list[gpu.Row]:
    gpu.main(["--data-dir", "d", "--json", str(tmp_path / "gpu.json"), "--members", "1", "3", *arguments])
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["machine"]["gpu"] == "none"
    return written["rows"]


def test_it_needs_a_gpu(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="PyTorch sees none here; nothing was measured"):
        gpu.main(["--data-dir", "nowhere", "--json", str(tmp_path / "gpu.json")])
    assert not list(tmp_path.iterdir())


def test_options(capsys) -> None:
    options = gpu.parse(["--members", "1", "8"])
    assert (options.members, options.precisions) == ([1, 8], ["bfloat16", "tf32", "float32"])
    assert (options.data_dir, options.seconds) == (None, 540)
    with pytest.raises(SystemExit):
        gpu.parse(["--iterations", "100"])
    assert "at least 150" in capsys.readouterr().err


@pytest.mark.processes
def test_what_was_measured_is_written_the_most_valuable_first(pretended, tmp_path, capsys) -> None:
    rows = rows_of(tmp_path, "--precisions", "bfloat16", "tf32")
    order = list(dict.fromkeys((row["stage"], row.get("precision")) for row in rows if "took" not in row))
    first, second = ([(stage, name) for stage in ("images/s", "path", "curve")] for name in ("bfloat16", "tf32"))
    apart = [("without CUDA graphs", "bfloat16"), ("workers", None), ("study", None)]
    assert order == [("tests", None), *first, *apart, *second]
    assert rows[0] == {"stage": "tests", "returned": 0, "says": ["3 passed"]}
    assert [row["images/s"] for row in rows if "members" in row] == [100, 300, 100, 300] * 2
    seconds = [row["extrapolated seconds"] for row in rows if "extrapolated seconds" in row]
    assert seconds == [gpu.curve_seconds(300.0, 2.0)] * 2
    assert [row["workers"] for row in rows if row["stage"] == "workers" and "took" not in row] == [1, 3, 1, 3]
    (study,) = (row for row in rows if row["stage"] == "study" and "took" not in row)
    assert study["workers"] == 3  # which were faster
    assert "--iterations 3000" in study["options"]
    commands = [command for name, command, _ in (call[:3] for call in pretended if call[0] == "run_command")]
    assert commands[0][1:] == ["-m", "pytest", "-q", *gpu.TESTS]
    assert all({"cuda:0", "bfloat16", "d"} <= set(command) for command in commands[1:])
    assert len({command[command.index("--store") + 1] for command in commands[1:]}) == 5  # each begins anew
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows


@pytest.mark.processes
def test_without_graphs_no_step_is_recorded(pretended, monkeypatch, tmp_path) -> None:
    recording = []
    real = trainer.record_steps
    monkeypatch.setattr(gpu, "images_per_second", lambda *_: recording.append(trainer.record_steps is real) or 1.0)
    rows_of(tmp_path, "--precisions", "tf32")
    assert recording == [True] * 4 + [False] * 2
    assert trainer.record_steps is real


@pytest.mark.processes
def test_a_stage_that_fails_costs_itself_alone(pretended, monkeypatch, tmp_path) -> None:
    """What it gave before stays; what needs its numbers says that they are not there."""

    def fails_for_lenet(task, *_):
        if task == "mnist-lenet":
            raise RuntimeError("out of memory")
        return 50.0

    def fails(*_):
        raise OSError("no driver")

    monkeypatch.setattr(gpu, "images_per_second", fails_for_lenet)
    monkeypatch.setattr(gpu, "path_seconds", fails)
    rows = rows_of(tmp_path, "--precisions", "tf32")
    assert [row["images/s"] for row in rows if "members" in row] == [50, 50]
    failed = {row["stage"]: row["failed"] for row in rows if "failed" in row}
    assert failed["images/s"] == failed["without CUDA graphs"] == "RuntimeError: out of memory"
    assert failed["path"] == "OSError: no driver"
    assert set(failed) == {"images/s", "without CUDA graphs", "path", "curve"}
    assert [row["stage"] for row in rows if "took" in row][-2:] == ["workers", "study"]


def test_rows_are_kept_as_soon_as_they_are_there(monkeypatch) -> None:
    """So an abort in the middle of a stage loses nothing that came before it."""
    kept = []

    def rows(end):
        yield {"value": 1}
        assert kept == [{"stage": "a", "value": 1}]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpu.run_stages([gpu.Stage("a", 0, rows)], math.inf, kept.append)
    assert kept == [{"stage": "a", "value": 1}]


def test_a_stage_is_begun_only_with_the_time_that_it_takes(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def takes(seconds):
        def rows(end):
            assert end == 130
            now[0] += seconds
            yield {}

        return rows

    kept = []
    stages = [("a", 10, 15), ("long", 16, 1), ("b", 15, 14), ("c", 0, 9), ("late", 1, 1)]
    gpu.run_stages([gpu.Stage(name, least, takes(seconds)) for name, least, seconds in stages], 130, kept.append)
    assert [row["took"] for row in kept if "took" in row] == [15, 14, 9]
    assert {row["stage"]: row["left out"] for row in kept if "left out" in row} == {
        "long": "15 s left",
        "late": "0 s left",
    }


@pytest.mark.processes
def test_a_command_is_ended_with_all_that_it_started() -> None:
    child = "import time; time.sleep(600)"  # with the output that is waited for
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    returned, output, seconds = gpu.run_command([sys.executable, "-c", parent], time.perf_counter() + 3)
    assert (returned, output) == (None, "")
    assert 3 <= seconds < 300
    assert gpu.run_command([sys.executable, "-c", "print('said'); exit(3)"], time.perf_counter() + 600)[:2] == (
        3,
        "said\n",
    )


def test_a_study_that_was_ended_says_how_far_it_came(monkeypatch, tmp_path) -> None:
    def run(command, end):
        for name in "ab":
            (tmp_path / "store" / name).mkdir(parents=True)
            (tmp_path / "store" / name / "done.json").touch()
        return None, "one\ntwo\nthree\nfour\n", 9.0

    monkeypatch.setattr(gpu, "run_command", run)
    row = gpu.study(["--iterations", "9"], "tf32", "d", CPU, tmp_path, 9.0)
    expected = {"options": "--iterations 9", "returned": None, "seconds": 9.0, "artifacts": 2}
    assert row == expected | {"says": ["two", "three", "four"]}


@pytest.mark.slow
def test_noise_has_the_shapes_of_the_data_sets(tmp_path) -> None:
    folder = gpu.noise_images(tmp_path / "data")
    for name, shape, examples in (("cifar10", (3, 32, 32), 50_000), ("mnist", (1, 28, 28), 60_000)):
        with np.load(f"{folder}/{name}.npz") as arrays:
            assert len(arrays["train_images"]) == len(arrays["train_labels"]) == examples
        data = load_data(name, folder)
        assert (data.shape, data.classes, len(data.test)) == (shape, 10, 10_000)


def test_the_papers_curve_is_extrapolated_from_images_and_paths() -> None:
    assert len(gpu.CURVE_K) == 12
    trunks, copies = 3 * 32_000, sum(3 * 3 * (63_000 - k) for k in gpu.CURVE_K)
    assert gpu.curve_seconds(128.0, 0.0) == trunks + copies
    assert gpu.curve_seconds(math.inf, 2.0) == 2.0 * 12 * 3 * 3


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 2])
def test_what_it_measures_can_be_computed_anywhere(members, data_dir) -> None:
    assert gpu.images_per_second("digits-conv", members, "float32", 150, str(data_dir), CPU) > 0
    assert gpu.path_seconds("digits-conv", "float32", str(data_dir), CPU, alphas=3) > 0


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 2])
def test_a_training_ends_when_time_is_up_but_not_before_it_has_a_speed(members, data_dir, monkeypatch) -> None:
    marks = []
    monkeypatch.setattr(gpu, "rate", lambda found, work: marks.extend(found) or 1.0)
    gpu.images_per_second("digits-conv", members, "float32", 400, str(data_dir), CPU, end=time.perf_counter())
    assert len(marks) == 3
