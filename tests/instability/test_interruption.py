"""Results never depend on how they were reached: real studies are killed, stopped, spread over workers."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from jobs_for_tests import group_of, is_alive, wait_until
from modeconn.analysis.instability.instability import instability
from modeconn.data import load_data
from modeconn.execution import Store
from modeconn.tasks import get_task
from modeconn.tickets.lottery import lottery
from modeconn.training.fork import train
from modeconn.training.stored import Run

TRAINING = {"iterations": 300, "save_at": "0,60", "seed": 3}
STUDY = {"iterations": 120, "rewind_iters": "0,40", "replicates": 1, "alphas": 3, "seed": 3}
TICKETS = {
    **{"iterations": 80, "rewind_iter": 10, "levels": 2, "fraction": 0.5, "replicates": 1, "alphas": 3, "seed": 3},
    "conditions": "imp,random",
}
TASK = get_task("digits-conv", evaluate_every=60)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    load_data("digits", folder)
    return folder


@pytest.fixture(scope="module", params=["yes", "no"])
def study(request):
    """A study whose copies train together, or one by one."""
    return STUDY | {"together": request.param}


@pytest.fixture(scope="module")
def whole_study(tmp_path_factory, study, data_dir):
    """The files of a study that nothing disturbed, in this process alone."""
    return study_files(study, tmp_path_factory.mktemp("whole"), data_dir, workers=0)


@pytest.mark.processes
@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(tmp_path, study, data_dir, whole_study, workers):
    assert study_files(study, tmp_path, data_dir, workers) == whole_study


@pytest.mark.processes
def test_a_study_that_was_stopped_gives_the_same_files(tmp_path, study, data_dir, whole_study):
    stops = {
        "yes": [(signal.SIGKILL, "cohort-*/partial.json"), (signal.SIGINT, "cohort-*/partial.json")],
        "no": [(signal.SIGKILL, "*"), (signal.SIGINT, "state-*/partial.json")],
    }[study["together"]]
    store, out = tmp_path / "store", tmp_path / "out"
    command = ["instability", "digits-conv", *options(study), "--workers", "2", "--out", str(out)]
    in_the_middle = go_on_through(stops, command, store, data_dir)
    assert in_the_middle >= 1
    assert files_of(store, out) == whole_study


@pytest.mark.processes
@pytest.mark.parametrize("together", ["yes", "no"])
def test_a_lottery_study_that_was_stopped_gives_the_same_files(tmp_path, data_dir, together):
    kind = "cohort" if together == "yes" else "state"
    stops = [(signal.SIGKILL, "mask-*/done.json"), (signal.SIGKILL, f"{kind}-*/partial.json")]
    whole, store, out = tmp_path / "whole", tmp_path / "store", tmp_path / "out"
    asked = TICKETS | {"together": together}
    given = asked | {"conditions": TICKETS["conditions"].split(",")}
    lottery(TASK, **given, workers=0, store=whole, data_dir=data_dir, out=tmp_path / "undisturbed")
    command = ["lottery", "digits-conv", *options(asked), "--workers", "2", "--out", str(out)]
    go_on_through(stops, command, store, data_dir)
    assert tickets_of(store, out) == tickets_of(whole, tmp_path / "undisturbed")


@pytest.mark.processes
def test_a_training_that_was_stopped_gives_the_same_states(tmp_path, data_dir):
    stops = [(signal.SIGKILL, "*/partial.json"), (signal.SIGINT, "*/partial.json")]
    whole, store = tmp_path / "whole", tmp_path / "store"
    train(TASK, **TRAINING, workers=0, store=whole, data_dir=data_dir)
    in_the_middle = go_on_through(stops, ["train", "digits-conv", *options(TRAINING)], store, data_dir)
    assert in_the_middle >= 1
    states = states_of(store)
    assert len({name for name in states if name.endswith("weights.safetensors")}) == 3
    assert states == states_of(whole)


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_ctrl_c_while_everything_starts_is_quiet(tmp_path, data_dir):
    """Importing PyTorch takes seconds, in which people see their typing error."""
    command, log = ["instability", "digits-conv", *options(STUDY)], tmp_path / "log"
    with running(command, tmp_path / "store", data_dir, log) as process:
        wait_until(lambda: len(group_of(process.pid)) > 2 or process.poll() is not None)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        # Python ends by the signal itself where it was running generated code; a shell shows 130 for both.
        assert process.wait(timeout=120) in (130, -signal.SIGINT)
    assert "the same command goes on" in log.read_text()
    assert "Traceback" not in log.read_text()


class Diverging(nn.Module):
    """Its loss is NaN from an iteration on, while its weights are finite."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.first = first
        self.register_buffer("seen", torch.zeros(()))  # saved with the weights

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += self.training
        return self.layer(images.flatten(1)) + torch.where(self.seen > self.first, torch.nan, 0.0)


def diverging_at_20() -> nn.Module:
    return Diverging(20)


def diverging_at_100() -> nn.Module:
    return Diverging(100)


def diverge(at: int, store: Path, data_dir: Path, **options) -> Run:
    task = get_task("digits-conv", model=f"{__name__}:diverging_at_{at}", norm="none", init="own")
    options |= {"iterations": 200, "workers": 0, "checkpoint_every": 0}
    return train(task, store=store, data_dir=data_dir, **options)


@pytest.mark.parametrize("save_at", [(7,), (7, 30), (20,), (100,)])
@pytest.mark.parametrize("at", [20, 100])
def test_where_a_diverging_training_was_saved_leaves_no_trace(tmp_path, data_dir, at, save_at):
    """Its last good state has one name, so it is one state."""
    plain = diverge(at, tmp_path / "plain", data_dir)
    saved = diverge(at, tmp_path / "saved", data_dir, save_at=save_at)
    assert plain.diverged_at == saved.diverged_at == at
    (name,) = [folder.name for folder in (tmp_path / "plain" / "runs").iterdir()]
    assert state_files(tmp_path / "saved" / "runs" / name) == state_files(tmp_path / "plain" / "runs" / name)


@pytest.mark.parametrize("save", [1, 2])
def test_where_a_diverging_training_was_interrupted_leaves_no_trace(tmp_path, data_dir, monkeypatch, save):
    """Also when it was just before the loss was lost."""
    plain = diverge(100, tmp_path / "plain", data_dir)
    saves = []

    def interrupted(store, job, *arguments, write=Store.write, **options):
        write(store, job, *arguments, **options)
        saves.append(options)
        if len(saves) == save:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            diverge(100, tmp_path / "again", data_dir)
    again = diverge(100, tmp_path / "again", data_dir)
    assert again.diverged_at == plain.diverged_at
    assert states_of(tmp_path / "again") == states_of(tmp_path / "plain")


# Helpers


def go_on_through(stops, command: list[str], store: Path, data_dir: Path) -> int:
    """Stop a command several times, let it finish, and say how often that hit a training in its middle.

    Each stop is a signal to all its processes, a random while after something new is in the store.
    """
    pick = random.Random(str(command))
    log = store.with_name("log")
    in_the_middle = 0
    for number, pattern in stops:
        before = snapshot(store, pattern)
        with running(command, store, data_dir, log) as process:
            new = lambda: snapshot(store, pattern).items() - before.items()  # noqa: B023, E731
            wait_until(lambda: new() or process.poll() is not None)  # noqa: B023
            if process.poll() is not None:
                assert process.returncode == 0, log.read_text()
                break
            # What was saved is gone on from: the first thing that is new is further than the last was.
            for name, content in before.items():
                assert progress_in(snapshot(store, pattern).get(name)) >= progress_in(content)
            time.sleep(pick.uniform(0, 0.1))  # a fast machine trains for not much longer
            os.killpg(process.pid, number)
            status = process.wait(timeout=120)
        if number == signal.SIGINT and status != 0:
            assert status == 130, log.read_text()
            assert "the same command goes on" in log.read_text()
            assert "Traceback" not in log.read_text()
        in_the_middle += bool(snapshot(store, "*/partial.json"))
    with running(command, store, data_dir, log) as process:
        assert process.wait(timeout=600) == 0, log.read_text()
    return in_the_middle


@contextlib.contextmanager
def running(command: list[str], store: Path, data_dir: Path, log: Path) -> Iterator[subprocess.Popen]:
    """A command in a process group of its own, of which nothing is left in the end."""
    files = ["--store", str(store), "--data-dir", str(data_dir), "--checkpoint-every", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "modeconn", *command, *files],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell that runs the tests in the background has them ignore Ctrl-C, and whatever they start too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        yield process
    finally:
        members = group_of(process.pid)
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        wait_until(lambda: not any(map(is_alive, members)))


def snapshot(store: Path, pattern: str) -> dict[str, bytes]:
    """What there is of a pattern in the store; a file's content may be replaced while it is read."""
    found = {}
    for path in (store / "runs").glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            found[str(path)] = path.read_bytes() if path.is_file() else b""
    return found


def progress_in(listing: bytes | None) -> float:
    """How far the training is whose listing this is; one that is no longer there is finished."""
    if not listing:
        return float("inf")
    facts = json.loads(listing)["facts"]
    return min(one["iteration"] for one in facts.get("members", {"": facts}).values())


def options(given: dict) -> list[str]:
    flags = [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), str(value))]
    return [*flags, "--task.evaluate-every", str(TASK.evaluate_every)]


def study_files(study: dict, folder: Path, data_dir: Path, workers: int) -> dict[str, bytes]:
    result = instability(TASK, **study, workers=workers, store=folder / "store", data_dir=data_dir)
    result.save(folder / "out")
    return files_of(folder / "store", folder / "out")


def files_of(store: Path, out: Path) -> dict[str, bytes]:
    """The tables of a study, and the states it trained."""
    return {name: (out / name).read_bytes() for name in ("instability.csv", "paths.csv")} | states_of(store)


def tickets_of(store: Path, out: Path) -> dict[str, bytes]:
    """The tables and masks of a lottery-ticket study, and the states it trained."""
    files = [out / "lottery.csv", out / "layers.csv", *sorted((out / "masks").iterdir())]
    assert len(files) == 6
    return {file.name: file.read_bytes() for file in files} | states_of(store)


def states_of(store: Path) -> dict[str, bytes]:
    """Weights and metrics of every state, finished all."""
    folders = list((store / "runs").glob("state-*"))
    assert all((folder / "done.json").exists() for folder in folders)
    assert not list((store / "aside").glob("*"))  # an interruption damages nothing
    files = [(folder.name, *item) for folder in folders for item in state_files(folder).items()]
    return {f"{folder}/{name}": content for folder, name, content in files}


def state_files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".jsonl")]
    return {path.name: path.read_bytes() for path in paths}
