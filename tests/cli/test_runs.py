"""What a store says of itself: its studies, who is at work, what is damaged, what can go."""

import fcntl
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import jobs_for_tests
from jobs_for_tests import Add, Count, wait_until, write_sum
from modeconn import train
from modeconn.analysis.instability.instability import instability
from modeconn.cli.main import main
from modeconn.errors import StoreError
from modeconn.execution import Store, process_pool, run_jobs
from modeconn.execution import artifact as artifact_module
from modeconn.execution.maintenance import find_damage, find_garbage, is_busy, remove
from modeconn.execution.names import job_name
from modeconn.execution.records import Recorder, read_records
from modeconn.files import size_of
from modeconn.tickets.lottery import lottery

pytestmark = pytest.mark.slow  # whole trainings and commands

SMALL = {"iterations": 12, "workers": 0, "device": "cpu"}
QUICK = {"replicates": 1, "alphas": 3, "splits": ["test"], "calibration": 100}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def say(store, capsys):
    """Calls `modeconn runs` on the store; its status, and what it printed."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["runs", *arguments, "--store", str(store.root)])
        return status, *capsys.readouterr()

    return call


def study(store: Store, name: str, *targets, compute: bool = True) -> str:
    """A recorded study of jobs; its name."""
    recorder = Recorder(store, "sums", name, {"name": name}, f"modeconn sums {name}", None)
    recorder.add(targets)
    if compute:
        assert run_jobs(targets, store, lambda: process_pool(0), 1) == {}
    return next(record.name for record in read_records(store) if record.task == name)


def family() -> tuple[Add, Add, Add]:
    top = Add(1)
    middle = Add(2, (top,))
    return top, middle, Add(3, (middle,))


# Records


def test_a_record_names_every_job_that_a_study_needs(store):
    top, middle, bottom = family()
    study(store, "one", bottom)
    (record,) = read_records(store)
    assert record.targets == (job_name(bottom),)
    assert record.jobs == {job_name(bottom): [job_name(middle)], job_name(middle): [job_name(top)], job_name(top): []}
    assert record.command == "modeconn sums one"


def test_a_record_that_cannot_be_read_is_said(store, say, caplog):
    study(store, "one", Add(1))
    name = study(store, "other", Add(2))
    path = store.root / "studies" / f"{name}.json"
    path.write_bytes(path.read_bytes()[:-5])
    caplog.clear()
    status, out, _ = say()
    assert (status, name in out) == (0, False)
    assert f"the record of a study, {path}, cannot be read" in caplog.text
    study(store, "other", Add(2))  # its command writes it anew
    caplog.clear()
    assert name in say()[1]
    assert not caplog.text


def test_a_study_has_one_record_however_often_it_is_run_and_grows(store):
    for target in (Add(1), Add(2), Add(1)):
        study(store, "one", target)
    study(store, "other", Add(1))
    assert {record.task: len(record.jobs) for record in read_records(store)} == {"one": 2, "other": 1}
    assert [record.task for record in read_records(store)] == ["one", "other"]


@pytest.mark.parametrize(
    "run",
    [
        lambda **how: train("digits-conv", save_at=(0, 3), **how),
        lambda **how: instability("digits-conv", [0, 6], **QUICK, **how),
        lambda **how: instability("digits-conv", [0, 3, 6], search=True, **QUICK | {"replicates": 2}, **how),
        pytest.param(
            lambda **how: lottery("digits-conv", levels=2, rewind_iter=3, conditions=["imp"], **QUICK, **how),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda **how: lottery(
                "digits-conv", levels=1, rewind_iters=[0, 3], threshold=0.9, conditions=["imp"], **QUICK, **how
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["train", "instability", "search", "lottery", "lottery auto"],
)
@pytest.mark.slow
def test_every_study_records_what_it_computes_before_it_does(store, data_dir, run):
    seen = []

    def look(progress) -> None:
        if progress.about:  # what it is going to do
            return
        known = {name for record in read_records(store) for name in record.jobs}
        seen.append(set(store.names()) <= known and bool(known))

    run(**SMALL, store=store.root, data_dir=data_dir, report=look)
    assert seen
    assert all(seen)
    (record,) = read_records(store)
    assert set(record.jobs) == set(store.names())
    assert record.task == "digits-conv"
    assert find_garbage(store).artifacts == {}


def test_a_flipped_bit_in_a_record_is_found_wherever_it_is(store, say, monkeypatch):
    """Or clean would remove what the study needs."""
    name = study(store, "one", Add(1))
    path = store.root / "studies" / f"{name}.json"
    content = path.read_bytes()
    (before,) = read_records(store)
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert read_records(store, strict=True) == [before], place
        except StoreError:
            continue
    where = content.index(job_name(Add(1)).encode())
    path.write_bytes(content[:where] + b"b" + content[where + 1 :])
    for action in (["verify"], ["clean", "--yes"]):
        status, _, err = say(*action)
        assert (status, "it does not have the hash it was written with" in err) == (1, True)
    assert store.done(Add(1))


def test_records_of_older_versions_have_no_hash(store):
    study(store, "one", Add(1))
    (path,) = (store.root / "studies").glob("*.json")
    content = json.loads(path.read_bytes())
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert [record.task for record in read_records(store, strict=True)] == ["one"]


@pytest.mark.parametrize("action", [[], ["show", "sum"], ["verify"], ["clean", "--yes"]])
def test_a_store_that_cannot_be_read_is_not_an_empty_one(store, say, monkeypatch, action):
    study(store, "one", Add(1))
    scandir = os.scandir

    def refuse(path):
        if path == store.runs:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    status, out, err = say(*action)
    assert (status, out) == (1, "")
    assert f"cannot read {store.runs}: Permission denied; nothing there was changed" in err


def test_what_cannot_be_read_is_not_called_damaged(store, say, monkeypatch):
    study(store, "one", Add(1), Add(2))
    real = artifact_module.open_file

    def refuse(path):
        if store.folder(Add(1)) in Path(path).parents:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(artifact_module, "open_file", refuse)
    status, out, err = say("verify")
    assert status == 1
    assert f"{job_name(Add(1))}  it cannot be read here or now, which says nothing of it" in out
    assert "1 of 2 artifacts cannot be read" in err


# Listing


def test_studies_and_runs_are_listed_with_state_and_size(store, say):
    top, _, bottom = family()
    study(store, "whole", bottom)
    study(store, "begun", top, Add(7), compute=False)
    status, out, _ = say()
    assert status == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    names = {record.task: record.name for record in read_records(store)}
    assert rows[names["whole"]][:4] == ["done", "3", "of", "3"]
    assert rows[names["begun"]][:4] == ["unfinished", "1", "of", "2"]
    size = size_of(store.folder(top))
    assert rows[job_name(top)] == ["done", f"{size}", "B"]
    whole = sum(size_of(store.folder(job)) for job in family())
    assert rows[names["whole"]][4:6] == [f"{whole}", "B"]


WORKER = """
import sys
from jobs_for_tests import Count
from modeconn.execution import Store
store, job = Store(sys.argv[1]), Count(5)
with store.lock(job):
    store.write(job, {"1.txt": b"counted"}, {"step": 1}, done=False)
    store.write_heartbeat(job, 0.45)
    print("at work", flush=True)
    sys.stdin.read()
"""


@contextmanager
def at_work(store: Store) -> Iterator[subprocess.Popen]:
    """Another process that is computing `Count(5)`."""
    paths = [str(Path(jobs_for_tests.__file__).parent), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        text=True,
    )
    try:
        assert process.stdout.readline() == "at work\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.processes
def test_what_another_process_is_working_on_is_running_and_stays(store, say):
    name, needed = job_name(Count(5)), Add(1)
    study(store, "one", needed)
    with at_work(store) as process:
        (store.folder(Count(5)) / "2.txt.tmp-1-1").write_bytes(b"half of it")
        assert f"{name:<28}running 45 %" in say()[1]
        assert f"process {process.pid} on " in say("show", name)[1]
        assert find_garbage(store).busy == (name,)
        status, out, _ = say("clean", "--yes")
        assert status == 0
        assert f"kept, as a process is working on it: {name}" in out
        assert (store.folder(Count(5)) / "2.txt.tmp-1-1").exists()
        study(store, "two", Count(5), compute=False)
        assert "running" in next(line for line in say()[1].splitlines() if line.startswith("sums-two"))
    assert f"{name:<28}partial" in say()[1]  # the lock goes with its process


def test_what_has_just_begun_is_running_though_it_left_nothing_yet(store, say):
    """An evaluation leaves its first word when it is done."""
    done, begun = Add(1), Add(2, (Add(1),))
    study(store, "one", done)
    name = study(store, "one", begun, compute=False)
    with store.lock(begun):
        _, out, _ = say()
        rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
        assert rows[name][:4] == ["running", "1", "of", "2"]
        assert f"{job_name(begun):<28}running" in out
        lines = say("show", name)[1].splitlines()
        assert lines[0] == f"{name}  running"
        assert f"  {job_name(begun)}  running" in lines
    _, out, _ = say()
    assert "running" not in out
    assert job_name(begun) not in out


def test_runs_are_listed_by_what_they_are_and_not_by_their_hash(store, say):
    @dataclass(frozen=True)
    class Labelled(Add):
        def run(self, store: Store) -> None:
            store.write(self, {}, {"label": f"copy {self.number} of a family"}, done=True)

    study(store, "one", *map(Labelled, range(12)))
    labels = [line.partition("copy ")[2] for line in say()[1].splitlines() if "copy " in line]
    assert labels == [f"{number} of a family" for number in range(12)]


def test_a_store_without_runs_says_so(store, say):
    assert say()[1] == "No run has begun here.\n"
    store.runs.rmdir()
    for action in ((), ("verify",), ("clean", "--yes")):
        assert say(*action)[0] == 0


def test_looking_at_who_works_hinders_nobody(store):
    """Two may look at once, and neither is taken for a worker."""
    study(store, "one", Add(1))
    with open(store.root / "locks" / job_name(Add(1)), "rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not is_busy(store, job_name(Add(1)))
    assert not is_busy(store, job_name(Add(2)))
    assert not (store.root / "locks" / job_name(Add(2))).exists()


# One run, one study


def test_a_run_is_shown_with_all_that_is_known_of_it(store, say, data_dir):
    run = train("digits-conv", save_at=(6,), store=store.root, data_dir=data_dir, **SMALL)
    first, last = (folder.name for folder in run.folders.values())
    status, out, _ = say("show", last)
    assert status == 0
    (record,) = read_records(store)
    parts = out.split("\n\n")
    assert parts[0].splitlines()[0] == f"{last}  done"
    spec = store.describe(last)["spec"]
    for key in ("learning_rate", "batch_size", "model"):
        assert f"    {key}: {spec['task'][key]}" in parts[1].splitlines()
    assert "  seconds: " in parts[2]
    assert {line.split()[0] for line in parts[3].splitlines()[1:]} == {
        file.name for file in (store.runs / last).iterdir()
    }
    assert parts[4].splitlines() == ["made from", f"  {first}"]  # no spec says so: the record does
    assert parts[5].splitlines() == ["needed by", f"  {record.name}"]
    assert say("show", first)[1].split("\n\n")[-1].splitlines() == ["needed by", f"  {record.name}", f"  {last}"]


def test_the_last_metrics_are_shown(store, say, data_dir):
    run = train("digits-conv", save_at=(6,), store=store.root, data_dir=data_dir, **SMALL)
    assert run.metrics == []
    from modeconn.tasks import get_task

    run = train(get_task("digits-conv", evaluate_every=4), store=store.root, data_dir=data_dir, **SMALL)
    last = {row["split"]: row for row in run.metrics}
    out = say("show", run.folders[12].name)[1]
    for split, row in last.items():
        assert f"  {split} at iteration 12: loss {row['loss']:.4f}, error {100 * row['error']:.2f} %" in out


def test_a_study_is_shown_with_what_is_left(store, say):
    name = study(store, "one", Add(1))
    study(store, "one", Add(2), compute=False)
    for given in (name, name[:8]):
        _, out, _ = say("show", given)
        assert out.splitlines()[0] == f"{name}  unfinished"
        assert "  done: 1 of 2 jobs" in out
        assert f"  {job_name(Add(2))}  not begun" in out


@pytest.mark.parametrize(("given", "said"), [("sum-", "2 names begin with"), ("sux", "sux"), ("", "begin with")])
def test_a_name_that_is_not_one_is_refused(store, say, given, said):
    study(store, "one", Add(1), Add(2))
    status, out, error = say("show", given)
    assert (status, out) == (2 if given == "sux" else 1, "")
    assert said in error


def test_the_store_can_be_named_before_or_after_what_is_to_be_done(store, capsys):
    study(store, "one", Add(1))
    for command in (["--store", str(store.root), "verify"], ["verify", "--store", str(store.root)]):
        assert main(["runs", *command]) == 0
    assert "1 artifacts" in capsys.readouterr().out


# Verifying


def test_a_sound_store_is_said_to_be_sound(store, say):
    study(store, "one", *family())
    store.write(Count(2), {"1.txt": b"counted"}, {"step": 1}, done=False)
    store.write_heartbeat(Count(3), 0.0)
    assert say("verify")[0] == 0


@pytest.mark.parametrize("file", ["sum.json", "done.json", "spec.json"])
@pytest.mark.parametrize("how", ["flipped", "shorter", "gone"])
def test_damage_is_found_named_and_left_where_it_is(store, say, file, how):
    study(store, "one", *family())
    path = store.folder(Add(1)) / file
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-2] if how == "shorter" else bytes([content[0] ^ 1]) + content[1:])
    status, out, error = say("verify")
    if (file, how) == ("done.json", "gone"):
        assert status == 0  # that is an artifact that was never finished
        return
    assert status == 1
    assert [line.split()[0] for line in out.splitlines()] == [job_name(Add(1))]
    assert "1 of 3 artifacts are damaged" in error
    assert path.parent.exists()


def test_a_damaged_partial_result_is_found(store, say):
    store.write(Count(2), {"1.txt": b"counted"}, {"step": 1}, done=False)
    (store.folder(Count(2)) / "1.txt").write_bytes(b"recounted")
    assert say("verify")[0] == 1


def test_what_is_replaced_while_it_is_checked_is_not_damaged(store, monkeypatch):
    """The file of the older version goes between the listing and the reading."""
    job, read = Count(2), artifact_module.Artifact.verify
    store.write(job, {"1.txt": b"counted"}, {"step": 1}, done=False)

    def late(artifact) -> None:
        if artifact.facts == {"step": 1}:
            store.write(job, {"2.txt": b"counted"}, {"step": 2}, done=False)
        read(artifact)

    monkeypatch.setattr(artifact_module.Artifact, "verify", late)
    assert find_damage(store, job_name(job)) is None


# Cleaning


@pytest.fixture
def littered(store):
    """A store with something of every kind."""
    study(store, "one", *family())
    study(store, "half", Count(9), compute=False)
    store.write(Count(9), {"1.txt": b"counted"}, {"step": 1}, done=False)
    write_sum(store, Add(50), 50)
    store.write(Count(7), {"1.txt": b"counted"}, {"step": 1}, done=False)
    (store.folder(Add(1)) / "sum.json.tmp-77-1").write_bytes(b"half")
    (store.root / "studies" / "x.json.tmp-0123456789abcdef").write_bytes(b"half")
    (store.root / ".writable-77-1").write_bytes(b"")
    (store.root / "aside" / "sum-0123456789abcdef-then").mkdir(parents=True)
    (store.root / "aside" / "sum-0123456789abcdef-then" / "sum.json").write_bytes(b"torn")
    with (store.root / "studies" / "y.json.tmp-77-1").open("wb") as written:
        fcntl.flock(written, fcntl.LOCK_EX)  # as somebody does who is writing it
        yield store


def paths(store: Store) -> set[str]:
    return {str(path.relative_to(store.root)) for path in store.root.rglob("*")}


def test_cleaning_removes_what_nobody_needs_and_nothing_else(littered, say):
    before, size = paths(littered), size_of(littered.root)
    status, out, _ = say("clean", "--yes")
    assert status == 0
    gone = {path for path in before - paths(littered) if not path.startswith("locks/")}
    strangers = {f"runs/{job_name(job)}" for job in (Add(50), Count(7))}
    single = {f"runs/{job_name(Add(1))}/sum.json.tmp-77-1", ".writable-77-1", "studies/x.json.tmp-0123456789abcdef"}
    assert {path for path in gone if "/".join(path.split("/")[:2]) not in strangers} == single | {
        "aside/sum-0123456789abcdef-then",
        "aside/sum-0123456789abcdef-then/sum.json",
    }
    assert strangers <= gone
    for name in (job_name(Add(50)), job_name(Count(7)), "sum.json.tmp-77-1", "aside/sum-0123456789abcdef-then"):
        assert name in out  # it was said before
    assert f"{size - size_of(littered.root)} B removed" in out
    assert littered.partial(Count(9)).facts == {"step": 1}
    assert say("verify")[0] == 0
    assert "nothing to remove" in say("clean", "--yes")[1]


def test_nothing_is_removed_without_asking(littered, say, monkeypatch):
    before = paths(littered)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # no terminal: a script
    status, _, error = say("clean")
    assert status == 1
    assert "--yes" in error
    assert paths(littered) == before


@pytest.mark.parametrize(("answer", "removes"), [("y", True), ("", False), ("n", False), ("what?", False)])
def test_the_answer_counts(littered, say, monkeypatch, answer, removes):
    before = paths(littered)
    terminal = io.StringIO(answer + "\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    assert say("clean")[0] == 0
    assert (paths(littered) != before) == removes


def test_a_store_without_records_keeps_its_artifacts(store, say):
    write_sum(store, Add(1), 1)
    status, out, _ = say("clean", "--yes")
    assert status == 0
    assert "all artifacts are kept" in out
    assert store.done(Add(1))


def test_a_record_that_cannot_be_read_stops_the_cleaning(littered, say):
    """Nobody knows what its study needs."""
    (littered.root / "studies" / "torn.json").write_bytes(b'{"jobs":')
    before = paths(littered)
    status, _, error = say("clean", "--yes")
    assert status == 1
    assert "torn.json" in error
    assert paths(littered) == before
    assert say()[0] == 0


def test_what_has_come_to_be_needed_meanwhile_stays(littered):
    """People take their time to answer."""
    garbage = find_garbage(littered)
    assert set(garbage.artifacts) == {job_name(Add(50)), job_name(Count(7))}
    study(littered, "new", Add(50))
    with littered.lock(Count(7)):
        remove(littered, garbage)
        assert littered.partial(Count(7))
    assert littered.done(Add(50))
    remove(littered, garbage)
    assert not littered.folder(Count(7)).exists()


def test_killed_while_it_removes_nothing_looks_damaged(littered, monkeypatch, say):
    monkeypatch.setattr("shutil.rmtree", lambda *arguments, **options: None)
    remove(littered, find_garbage(littered))
    assert say("verify")[0] == 0
    assert littered.done(Add(50)) is None
    monkeypatch.undo()
    say("clean", "--yes")
    assert list((littered.root / "aside").iterdir()) == []


def test_a_lock_that_was_cleaned_away_keeps_nobody_out_of_step(store, monkeypatch):
    """Who waited for it must not enter beside who came after it was gone."""
    lock, flock = store.root / "locks" / job_name(Add(1)), fcntl.flock
    calls, inside = [], []

    def counted(file, how: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            calls.append(how)
        flock(file, how)

    def enter() -> None:
        with store.lock(Add(1)):
            inside.append(lock.stat().st_ino)

    monkeypatch.setattr(fcntl, "flock", counted)
    waiting = threading.Thread(target=enter)
    with open(lock, "ab") as cleaner:
        flock(cleaner, fcntl.LOCK_EX)
        waiting.start()
        wait_until(lambda: calls)
        lock.unlink()
        with store.lock(Add(1)):  # another comes, and finds no file
            cleaner.close()
            wait_until(lambda: len(calls) > 1)  # the one who waited now waits for this one
            assert not inside
            mine = lock.stat().st_ino
    waiting.join(timeout=60)
    assert inside == [mine]


# Where files cannot be locked


@pytest.mark.processes
def test_without_locks_a_recent_word_tells_who_is_at_work(littered, monkeypatch, say):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    for job in (Count(7), Add(50)):
        with littered.lock(job):  # which leaves its file at least
            pass
    littered.write_heartbeat(Count(7), 0.5)
    assert is_busy(littered, job_name(Count(7)))
    assert find_garbage(littered).busy == tuple(sorted(map(job_name, (Add(50), Count(7)))))  # both are young
    for file in (littered.folder(Add(50)), *littered.folder(Add(50)).iterdir()):
        os.utime(file, (0, 0))
    say("clean", "--yes")
    assert littered.done(Add(50)) is None
    assert littered.partial(Count(7))


def test_without_locks_an_old_word_tells_nothing(store, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    store.write_heartbeat(Count(7), 0.5)
    path = store.folder(Count(7)) / "running.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"time": time.time() - 3600}))
    assert not is_busy(store, job_name(Count(7)))


def no_locks(*arguments) -> None:
    raise OSError(95, "Operation not supported")


def test_a_study_whose_record_cannot_be_written_does_not_begin(store, monkeypatch):
    monkeypatch.setattr(os, "replace", no_locks)
    with pytest.raises(StoreError, match="studies"):
        study(store, "one", Add(1))
    assert store.names() == []
