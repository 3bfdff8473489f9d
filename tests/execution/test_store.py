"""What the store promises: what counts as done is whole, and nothing else does."""

import builtins
import dataclasses
import errno
import functools
import json
import logging
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_for_tests import Add, Count
from modeconn import files as files_module
from modeconn.errors import CorruptArtifact, StoreError
from modeconn.execution import Artifact, Store
from modeconn.execution import store as store_module
from modeconn.execution.artifact import sealed
from modeconn.execution.names import SCHEMA, job_name, spec_hash
from modeconn.tasks import Task
from modeconn.training.jobs import TrainJob
from modeconn.training.noise import Noise
from modeconn.training.task_training import TaskTraining

JOB = Add(1)
FILES = {"weights.bin": bytes(range(256)) * 4, "metrics.jsonl": b'{"loss": 0.5}\n', "empty": b""}
NO_JSON = [b"", b"{", b"[]", b"{}", b"null", b"7", b"\xff\xfe\0"]  # or not what is expected
FACTS = {"iteration": 150, "diverged_at": None, "prefix": ""}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def folder(store):
    """The folder of a finished artifact."""
    store.write(JOB, FILES, FACTS, done=True)
    return store.folder(JOB)


# What is written comes back


@pytest.mark.parametrize("done", [False, True])
def test_what_is_written_is_read(store, done):
    store.write(JOB, FILES, FACTS, done=done)
    artifact = (store.done if done else store.partial)(JOB)
    assert {name: artifact.read(name) for name in artifact.hashes} == FILES
    assert artifact.facts == FACTS
    assert artifact.name == job_name(JOB)
    assert Store(store.root).latest(JOB) == artifact


def test_an_artifact_may_have_no_files(store):
    store.write(JOB, {}, {"diverged": True}, done=True)
    store.done(JOB).verify()
    assert store.done(JOB).facts == {"diverged": True}


def test_json_is_read_as_json(store):
    store.write(JOB, {"a.json": b'{"x": [1, 2]}'}, {}, done=True)
    assert store.require(JOB).json("a.json") == {"x": [1, 2]}


def test_what_was_never_written_is_not_there(store):
    assert (store.done(JOB), store.partial(JOB), store.latest(JOB)) == (None, None, None)
    assert store.names() == []
    with pytest.raises(CorruptArtifact, match=job_name(JOB)):
        store.require(JOB)


def test_a_file_that_was_not_written_cannot_be_read(store, folder):
    (folder / "stranger").write_bytes(b"from elsewhere")
    with pytest.raises(CorruptArtifact, match="stranger"):
        store.done(JOB).read("stranger")


def test_a_store_is_found_again_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("store")
    store.write(JOB, FILES, FACTS, done=True)
    monkeypatch.chdir("/")
    store.done(JOB).verify()


def test_damage_crosses_processes_with_its_name():
    error = pickle.loads(pickle.dumps(CorruptArtifact("state-1", "it is torn")))
    assert (error.name, error.reason) == ("state-1", "it is torn")
    assert "state-1" in str(error)


# What is damaged is found, set aside, and said aloud


def look(store: Store) -> Artifact | None:
    """The finished artifact, every byte checked as a study does; None if there is none that is sound."""
    artifact = store.done(JOB)
    if artifact:
        try:
            artifact.verify()
        except CorruptArtifact as error:
            store.set_aside(error)
            return None
    return artifact


def assert_set_aside(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    assert store.done(JOB) is None
    assert store.partial(JOB) is None
    assert not store.folder(JOB).exists()
    assert [entry.name.startswith(job_name(JOB)) for entry in (store.root / "aside").iterdir()] == [True]
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert job_name(JOB) in said
    assert str(store.root / "aside") in said


@pytest.mark.parametrize("file", ["weights.bin", "metrics.jsonl"])
@pytest.mark.parametrize("where", [0.0, 0.4, 1.0])
def test_a_flipped_byte_is_found(store, folder, caplog, file, where):
    flip(folder / file, round(where * (len(FILES[file]) - 1)))
    with pytest.raises(CorruptArtifact, match=file):
        store.done(JOB).read(file)
    assert look(store) is None
    assert_set_aside(store, caplog)


@pytest.mark.parametrize("change", ["truncated", "longer", "emptied", "a folder"])
def test_a_file_of_another_length_is_found(store, folder, caplog, change):
    path = folder / "weights.bin"
    content = path.read_bytes()
    path.unlink()
    if change == "a folder":
        path.mkdir()
    else:
        path.write_bytes({"truncated": content[:-1], "longer": content + b"\0", "emptied": b""}[change])
    assert look(store) is None
    assert_set_aside(store, caplog)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_found(store, folder, caplog, file):
    (folder / file).unlink()
    assert store.done(JOB) is None
    assert_set_aside(store, caplog)


@pytest.mark.parametrize("content", [*NO_JSON, b'{"files": {}}', b'{"facts": {}}'])
@pytest.mark.parametrize("listing", ["done.json", pytest.param("partial.json", marks=pytest.mark.slow)])
def test_a_damaged_listing_is_found(store, caplog, listing, content):
    store.write(JOB, FILES, FACTS, done=listing == "done.json")
    (store.folder(JOB) / listing).write_bytes(content)
    assert (store.done if listing == "done.json" else store.partial)(JOB) is None
    assert_set_aside(store, caplog)


def test_a_truncated_listing_is_found_or_harmless(store, folder):
    whole, listing = store.done(JOB), (folder / "done.json").read_bytes()
    for length in range(len(listing)):
        (folder / "done.json").write_bytes(listing[:length])
        assert finished_quietly(store) in (None, whole), length


def test_a_flipped_bit_in_the_listing_is_found_or_harmless(store, folder):
    whole, listing = store.done(JOB), (folder / "done.json").read_bytes()
    for place in range(len(listing)):
        (folder / "done.json").write_bytes(listing)
        flip(folder / "done.json", place, 1)
        assert finished_quietly(store) in (None, whole), listing[max(0, place - 20) : place + 5]


def test_a_flipped_bit_in_a_spec_is_not_believed(store, folder):
    """The spec has a hash as well: the artifact's name."""
    name, content = job_name(JOB), (folder / "spec.json").read_bytes()
    spec = store.describe(name)["spec"]
    for place in range(len(content)):
        (folder / "spec.json").write_bytes(content)
        flip(folder / "spec.json", place, 1)
        assert store.describe(name)["spec"] in ({}, spec), content[max(0, place - 20) : place + 5]


def test_a_damaged_partial_result_is_set_aside(store, caplog):
    store.write(JOB, FILES, FACTS, done=False)
    flip(store.folder(JOB) / "weights.bin", 3)
    assert store.partial(JOB) is None
    assert_set_aside(store, caplog)


def test_what_was_set_aside_is_written_anew(store, folder):
    flip(folder / "weights.bin", 3)
    look(store)
    store.write(JOB, FILES, FACTS, done=True)
    store.done(JOB).verify()


@pytest.mark.slow
def test_damage_may_come_again_at_once(store):
    """A bad disk does not wait a second."""
    for _ in range(5):
        store.write(JOB, FILES, FACTS, done=True)
        (store.folder(JOB) / "weights.bin").unlink()
        assert store.done(JOB) is None
    assert len(list((store.root / "aside").iterdir())) == 5


def test_two_may_find_the_same_damage(store, folder):
    error = CorruptArtifact(job_name(JOB), "seen by both")
    store.set_aside(error)
    Store(store.root).set_aside(error)
    assert store.done(JOB) is None


def test_an_unfinished_artifact_is_not_damage(store, folder, caplog):
    (folder / "done.json").unlink()
    assert store.done(JOB) is None
    assert folder.exists()
    assert not caplog.records


def test_looking_quietly_moves_nothing(store, folder):
    (folder / "weights.bin").unlink()
    assert store.latest(JOB) is None
    assert store.describe(job_name(JOB))["status"] == "damaged"
    assert folder.exists()


# What cannot be read here or now is not damaged


def refuse(monkeypatch: pytest.MonkeyPatch, refused: Path, number: int, times: int = 1000) -> None:
    """Have the system refuse a file or folder, so many times; root, who may run tests, may read everything."""
    real, left = {name: getattr(os, name) for name in ("open", "scandir", "stat")}, [times]

    def check(path) -> None:
        if left[0] and isinstance(path, str | Path) and (Path(path) == refused or refused in Path(path).parents):
            left[0] -= 1
            raise OSError(number, os.strerror(number), str(path))

    for name, call in real.items():
        monkeypatch.setattr(os, name, lambda path, *a, _call=call, **o: (check(path), _call(path, *a, **o))[1])


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("what", ["weights.bin", "done.json", ""])
def test_what_cannot_be_read_stops_with_the_reason_and_stays(store, folder, monkeypatch, caplog, what, number):
    monkeypatch.setattr("modeconn.execution.store._PATIENCE", (0.0,))
    with monkeypatch.context() as patch:
        refuse(patch, folder / what, number)
        with pytest.raises(StoreError, match=f"cannot read .*: {os.strerror(number)}; nothing there was changed"):
            look(store)
    assert not caplog.records
    assert look(store).facts == FACTS


def test_a_network_file_system_is_asked_again(store, folder, monkeypatch):
    with monkeypatch.context() as patch:
        refuse(patch, folder / "done.json", errno.ESTALE, times=2)
        assert store.done(JOB).facts == FACTS


def test_folders_that_cannot_be_read_are_not_empty(store, folder, monkeypatch):
    with monkeypatch.context() as patch:
        refuse(patch, store.runs, errno.EACCES)
        with pytest.raises(StoreError, match=f"cannot read {store.runs}: Permission denied"):
            store.names()
        assert store.describe(job_name(JOB))["status"] == "unreadable"
    with monkeypatch.context() as patch:
        refuse(patch, store.root / "store.json", errno.EACCES)
        with pytest.raises(StoreError, match=r"cannot read .*store\.json: Permission denied"):
            Store(store.root, create=False)


# Partial results


def test_a_newer_partial_result_replaces_the_older_and_leaves_nothing_of_it(store):
    store.write(JOB, {"50.weights": b"old", "50.metrics": b""}, {"iteration": 50}, done=False)
    store.write(JOB, {"100.weights": b"new"}, {"iteration": 100}, done=False)
    assert store.partial(JOB).read("100.weights") == b"new"
    assert content_of(store) == {"spec.json", "partial.json", "100.weights"}


def test_a_finished_result_replaces_the_partial_one(store):
    store.write(JOB, {"50.weights": b"old"}, {}, done=False)
    store.write_heartbeat(JOB, 0.5)
    store.write(JOB, {"weights": b"new"}, {}, done=True)
    assert store.partial(JOB) is None
    assert store.latest(JOB) == store.done(JOB)
    assert content_of(store) == {"spec.json", "done.json", "weights"}


def test_a_partial_result_never_replaces_a_finished_one(store, folder):
    store.write(JOB, {"50.weights": b"late"}, {}, done=False)
    assert store.partial(JOB) is None
    store.done(JOB).verify()
    assert content_of(store) == {"spec.json", "done.json", *FILES}


def test_a_partial_result_is_never_done(store):
    store.write(JOB, FILES, FACTS, done=False)
    assert store.done(JOB) is None
    with pytest.raises(CorruptArtifact):
        store.require(JOB)


def test_saying_how_far_a_job_is_leaves_its_results(store):
    store.write(JOB, FILES, FACTS, done=False)
    store.write_heartbeat(JOB, 0.25)
    assert store.read_heartbeat(JOB) == 0.25
    store.partial(JOB).verify()
    store.write(JOB, {"2.weights": b""}, {}, done=False)
    assert store.read_heartbeat(JOB) == 0.25


@pytest.mark.parametrize("word", [*NO_JSON, b'{"fraction": null}', b'{"fraction": "x"}', b'{"fraction": {}}'])
def test_a_damaged_word_of_how_far_a_job_is_stops_nothing(store, word):
    store.write_heartbeat(JOB, 0.5)
    (store.folder(JOB) / "running.json").write_bytes(word)
    assert store.read_heartbeat(JOB) == 0.0


# Interruptions


class Killed(BaseException):
    """The process is gone."""


def kill_at(monkeypatch, n: int) -> None:
    """From the n-th step that changes the disk on, nothing more happens, not even the tidying up."""
    left = n

    def until_killed(step, *arguments, **options):
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return step(*arguments, **options)

    for owner, name in [(os, "replace"), (os, "fsync"), (os, "rename"), (Path, "unlink"), (Path, "mkdir")]:
        step = getattr(owner, name)
        # A plain function, as methods are bound and partial objects are not.
        monkeypatch.setattr(owner, name, lambda *a, _step=step, **o: until_killed(_step, *a, **o))
    monkeypatch.setattr(files_module, "open", functools.partial(InHalves, until_killed), raising=False)


class InHalves:
    """A file that is written half by half, the second by `then`."""

    def __init__(self, then, *arguments):
        self.then = then
        self.file = builtins.open(*arguments)  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        half = len(content) // 2
        self.file.write(content[:half])
        return self.then(self.file.write, content[half:])

    def __getattr__(self, name):
        return getattr(self.file, name)


VERSIONS = ({"50.weights": b"fifty"}, {"100.weights": b"hundred", "100.metrics": b"row"}, {"weights": b"all"})


def write_versions(store: Store, finished: list[int]) -> None:
    for index, files in enumerate(VERSIONS):
        store.write(JOB, files, {"version": index}, done=index == len(VERSIONS) - 1)
        finished.append(index)


def test_killed_at_any_moment_the_store_holds_what_was_last_written(tmp_path, monkeypatch, caplog):
    for n in range(1000):
        store, finished = Store(tmp_path / str(n)), []
        with monkeypatch.context() as patch:
            kill_at(patch, n)
            try:
                write_versions(store, finished)
            except Killed:
                pass
            else:
                break
        store = Store(store.root)
        last = len(VERSIONS) - 1
        artifact = store.done(JOB) or store.partial(JOB)
        held = artifact.facts["version"] if artifact else -1
        assert held in (len(finished) - 1, len(finished)), n
        assert (store.done(JOB) is not None) == (held == last), n
        if artifact:
            assert {name: artifact.read(name) for name in artifact.hashes} == VERSIONS[held], n
        assert not caplog.records, n  # an interruption is no damage
        write_versions(store, [])
        assert {name: store.done(JOB).read(name) for name in store.done(JOB).hashes} == VERSIONS[-1], n
    assert n > 3 * len(VERSIONS)  # each version has at least a file and a listing, flushed and renamed


def test_killed_while_it_is_opened_a_store_opens_again(tmp_path, monkeypatch):
    for n in range(1000):
        with monkeypatch.context() as patch:
            kill_at(patch, n)
            try:
                Store(tmp_path / str(n))
            except Killed:
                pass
            else:
                break
        store = Store(tmp_path / str(n))
        store.write(JOB, FILES, FACTS, done=True)
        store.done(JOB).verify()
    assert n > 2


@pytest.mark.slow
def test_killed_while_damage_is_set_aside_it_is_still_found(tmp_path, monkeypatch):
    for n in range(1000):
        store = Store(tmp_path / str(n))
        store.write(JOB, FILES, FACTS, done=True)
        (store.folder(JOB) / "weights.bin").unlink()
        with monkeypatch.context() as patch:
            kill_at(patch, n)
            try:
                store.done(JOB)
            except Killed:
                pass
            else:
                break
        assert Store(store.root).done(JOB) is None
    assert n > 0


@pytest.mark.parametrize("step", ["write", "fsync", "replace", "mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_leaves_a_sound_store(tmp_path, monkeypatch, step, number):
    other, said = Add(2), []
    for n in range(1000):
        store = Store(tmp_path / str(n))
        store.write(other, FILES, FACTS, done=True)
        with monkeypatch.context() as patch:
            fill_disk(patch, step, number, n)
            try:
                store.write(JOB, {"50.weights": b"fifty"}, {"version": 0}, done=False)
                store.write(JOB, FILES, FACTS, done=True)
            except StoreError as error:
                said.append((store.folder(JOB), str(error)))
            else:
                break
        assert [file for file in store.root.rglob("*") if ".tmp-" in file.name] == []
        store.done(other).verify()
        assert store.done(JOB) is None
        partial = store.partial(JOB)
        assert partial is None or partial.read("50.weights") == b"fifty"
        store.write(JOB, FILES, FACTS, done=True)
        store.done(JOB).verify()
    assert len(said) == n > 0
    for folder, text in said:
        assert all(word in text for word in ("space", "free", str(folder)))


def fill_disk(patch, step: str, number: int, n: int) -> None:
    """The n-th step of that name, and all later ones, find no space."""
    left = n

    def full(real, *arguments, **options):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    if step == "write":
        # A full disk takes part of what is written.
        patch.setattr(files_module, "open", functools.partial(InHalves, full), raising=False)
    elif step == "mkdir":
        mkdir = Path.mkdir
        patch.setattr(Path, "mkdir", lambda *a, **o: full(mkdir, *a, **o))
    else:
        patch.setattr(os, step, functools.partial(full, getattr(os, step)))


def test_in_a_store_that_was_removed_nothing_is_written(store):
    shutil.rmtree(store.root)
    with pytest.raises(StoreError, match="cannot write"):
        store.write(Add(1), {"sum.json": b"1"}, {}, done=True)
    with pytest.raises(StoreError, match="cannot write"):
        store.write_heartbeat(Add(1), 0.5)
    with pytest.raises(StoreError, match="cannot write"), store.lock(Add(1)):
        pass
    assert not store.root.exists()


def test_a_full_disk_under_a_running_job_is_a_store_error(store, monkeypatch):
    fill_disk(monkeypatch, "replace", errno.ENOSPC, 0)
    with pytest.raises(StoreError, match="free"):
        store.write_heartbeat(JOB, 0.5)
    assert [file for file in store.root.rglob("*") if ".tmp-" in file.name] == []


# Opening


@pytest.mark.parametrize("below", ["", "store", "a/b/store"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, below):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="choose another") as caught:
        Store(tmp_path / "file" / below)
    assert str(tmp_path / "file" / below) in str(caught.value)
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_store_that_became_read_only_is_named(store, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StoreError, match="choose another") as caught:
        Store(store.root)
    assert str(store.root) in str(caught.value)


def test_a_newer_schema_is_refused_and_left_alone(store, folder):
    (store.root / "store.json").write_text(json.dumps({"schema": SCHEMA + 1}))
    before = tree(store.root)
    with pytest.raises(StoreError, match=f"schema {SCHEMA + 1}.*[Uu]pgrade"):
        Store(store.root)
    assert tree(store.root) == before


@pytest.mark.parametrize("content", [*NO_JSON, b'{"schema": null}', b'{"schema": "one"}'])
def test_a_damaged_schema_is_said_with_its_cure(store, folder, content):
    marker = store.root / "store.json"
    sound = marker.read_bytes()
    marker.write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.json") as caught:
        Store(store.root)
    assert json.dumps(json.loads(sound)) in str(caught.value)
    marker.write_text(json.dumps({"schema": SCHEMA}))
    Store(store.root).done(JOB).verify()


def test_a_store_can_be_opened_to_be_read_alone(store, folder, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("nothing is to be written"))
    opened = Store(store.root, create=False)
    opened.done(JOB).verify()
    assert opened.names() == [job_name(JOB)]


def test_a_store_to_be_read_must_be_there(tmp_path):
    with pytest.raises(StoreError, match="store="):
        Store(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_opening_a_store_again_changes_nothing(store, folder):
    before = tree(store.root)
    Store(store.root)
    assert tree(store.root) == before


def test_many_may_open_a_store_at_once(tmp_path):
    """Threads have one process id, and so may processes on two machines that share a disk."""
    with ThreadPoolExecutor(8) as threads:
        opened = list(threads.map(lambda _: Store(tmp_path / "store"), range(200)))
    assert tree(opened[0].root).keys() == {"runs", "locks", "store.json"}


# Looking around


def test_describe_says_what_each_artifact_is(store):
    started, partial, done, damaged = Add(1), Add(2, (Add(3),)), Add(4), Count(5)
    store.write_heartbeat(started, 0.1)
    store.write(partial, FILES, FACTS, done=False)
    store.write(done, FILES, FACTS, done=True)
    store.write(damaged, FILES, FACTS, done=True)
    (store.folder(damaged) / "done.json").write_bytes(b"torn")
    said = {name: store.describe(name) for name in store.names()}
    statuses = {job_name(started): "started", job_name(partial): "partial", job_name(done): "done"}
    assert {name: run["status"] for name, run in said.items()} == statuses | {job_name(damaged): "damaged"}
    for job in (partial, done, damaged):
        run = said[job_name(job)]
        assert job.spec().items() <= run["spec"].items()
        assert run["facts"] == ({} if job is damaged else FACTS)
        assert run["bytes"] == sum(path.stat().st_size for path in store.folder(job).iterdir())
    assert said[job_name(started)]["spec"] == {}


def test_describing_a_finished_artifact_opens_its_folder_and_two_files(store, folder, monkeypatch):
    real = {name: getattr(os, name) for name in ("open", "scandir", "stat")}
    asked = []

    def counted(name, path, *arguments, **options):
        asked.append((name, Path(path).name))
        return real[name](path, *arguments, **options)

    for name in real:
        monkeypatch.setattr(os, name, functools.partial(counted, name))
    assert store.describe(folder.name)["status"] == "done"
    assert sorted(asked) == [("open", "done.json"), ("open", "spec.json"), ("scandir", folder.name)]


def test_a_file_that_came_after_the_look_at_the_folder_is_looked_for(store, folder, monkeypatch):
    monkeypatch.setattr(store_module, "sizes_in", lambda _: {})
    assert store.describe(folder.name)["status"] == "done"


@pytest.mark.parametrize("name", ["../other", "a/b", "..", ".", "", "a\0"])
def test_a_listing_names_nothing_outside_of_its_folder(store, folder, name):
    listing = folder / "done.json"
    listing.write_bytes(sealed({"files": {name: ""}, "facts": {}}))
    assert store.describe(folder.name)["status"] == "damaged"


def test_names_are_sorted_and_name_folders_alone(store):
    jobs = [Add(number) for number in range(5)]
    for job in jobs:
        store.write(job, {}, {}, done=True)
    (store.runs / ".DS_Store").write_bytes(b"")
    assert store.names() == sorted(map(job_name, jobs))


@pytest.mark.slow
def test_a_store_can_be_looked_at_while_it_is_written(store, monkeypatch):
    """As `modeconn runs` does beside a study. What has just been replaced is not damaged."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # the disk may be slow, and is not asked here

    def write() -> None:
        for job in map(Add, range(100)):
            for n in range(3):
                store.write(job, {f"{n}.weights": b"w" * 100, f"{n}.metrics": b""}, {}, done=False)
                store.write_heartbeat(job, n / 3)
            store.write(job, FILES, FACTS, done=True)

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        statuses = set()
        while not writing.done():
            # The last one is at work; the others have been seen.
            statuses |= {store.describe(name)["status"] for name in newest(store)}
        writing.result()
    assert statuses <= {"started", "partial", "done"}


# Names


floats = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | st.integers() | floats | st.text()
keys = st.text(max_size=5).filter(lambda key: key != "schema")
values = st.recursive(leaves, lambda one: st.lists(one, max_size=3) | st.dictionaries(keys, one, max_size=3))
specs = st.dictionaries(keys, values, min_size=1, max_size=5)


@pytest.mark.slow
@given(specs, st.integers())
def test_a_hash_does_not_depend_on_the_order_of_keys(spec, seed):
    assert spec_hash(shuffled(spec, Random(seed))) == spec_hash(spec)


@given(specs, values, st.data())
def test_a_hash_depends_on_every_field(spec, value, data):
    path, old = data.draw(st.sampled_from(list(fields_of(spec))))
    changed = json.loads(json.dumps(spec))
    holder = functools.reduce(lambda inner, key: inner[key], path[:-1], changed)
    holder[path[-1]] = value
    same = json.dumps(value, sort_keys=True) == json.dumps(old, sort_keys=True)
    assert (spec_hash(changed) == spec_hash(spec)) == same


@given(specs, st.data())
def test_a_hash_depends_on_there_being_a_field(spec, data):
    left_out = data.draw(st.sampled_from(sorted(spec)))
    without = {key: value for key, value in spec.items() if key != left_out}
    assert spec_hash(without) != spec_hash(spec)


@given(specs)
def test_a_hash_survives_being_written(spec):
    assert spec_hash(json.loads(json.dumps(spec))) == spec_hash(spec)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_json_cannot_say_has_no_hash(number):
    with pytest.raises(ValueError):
        spec_hash({"rate": number})


SETTING = TaskTraining(
    task=Task(norm="batch", optimizer="sgd", momentum=0.9, warmup=2),
    fingerprint="digits",
    classes=10,
    source=None,
    precision="float32",
    device="cpu",
    data_dir=None,
    checkpoint_every=60.0,
)
TRAINING = TrainJob(SETTING, 0, Noise.of(1), 100)
OTHER_TASK = {
    "normalize": "none",
    "model": "lenet-16",
    "width": 2.0,
    "norm": "layer",
    "dropout": 0.5,
    "init": "glorot",
    "optimizer": "adamw",
    "learning_rate": 0.2,
    "momentum": 0.8,
    "nesterov": True,
    "weight_decay": 0.1,
    "schedule": "linear",
    "milestones": (5,),
    "gamma": 0.2,
    "final_learning_rate": 0.01,
    "warmup": 3,
    "batch_size": 64,
    "iterations": 2000,
    "augmentation": "flip",
    "image_size": 32,
    "evaluate_every": 10,
    "validation": 5,
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Task)])
def test_a_state_is_named_by_every_field_of_its_task(field):
    changed = dataclasses.replace(SETTING.task, **{field: OTHER_TASK.get(field, "else")})
    named = job_name(dataclasses.replace(TRAINING, training=dataclasses.replace(SETTING, task=changed)))
    # The data are in the name by their fingerprint; what a task is called is for people.
    assert (named == job_name(TRAINING)) == (field in ("name", "source", "data"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("fingerprint", "mnist"), ("source", "a1"), ("precision", "bfloat16"), ("device", "cuda:1")],
)
def test_a_state_is_named_by_what_changes_its_bits(field, value):
    changed = dataclasses.replace(SETTING, **{field: value})
    assert job_name(dataclasses.replace(TRAINING, training=changed)) != job_name(TRAINING)


@pytest.mark.parametrize(("field", "value"), [("init_seed", 1), ("noise", Noise.of(2)), ("iteration", 99)])
def test_a_state_is_named_by_its_trajectory(field, value):
    assert job_name(dataclasses.replace(TRAINING, **{field: value})) != job_name(TRAINING)


def test_a_state_is_not_named_by_how_or_where_it_is_computed():
    elsewhere = dataclasses.replace(SETTING, data_dir="/elsewhere", checkpoint_every=0.0)
    start = dataclasses.replace(TRAINING, iteration=50)
    same = dataclasses.replace(TRAINING, training=elsewhere, start=start, label="for people")
    assert job_name(same) == job_name(TRAINING)
    devices = [dataclasses.replace(SETTING, device=device) for device in ("cuda:0", "cuda:1")]
    assert len({job_name(dataclasses.replace(TRAINING, training=setting)) for setting in devices}) == 1


def test_equal_tasks_have_one_name():
    whole, real = (dataclasses.replace(SETTING.task, learning_rate=rate, width=rate) for rate in (1, 1.0))
    assert whole == real
    settings = [dataclasses.replace(SETTING, task=task) for task in (whole, real)]
    assert len({job_name(dataclasses.replace(TRAINING, training=setting)) for setting in settings}) == 1


# Helpers


def flip(path: Path, place: int, bits: int = 0xFF) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bits
    path.write_bytes(content)


def finished_quietly(store: Store) -> Artifact | None:
    """What would be used of the finished artifact; nothing is moved."""
    artifact = store.latest(JOB)
    try:
        if artifact:
            artifact.verify()
    except CorruptArtifact:
        return None
    return artifact


def content_of(store: Store) -> set[str]:
    return {path.name for path in store.folder(JOB).iterdir()}


def newest(store: Store) -> list[str]:
    """The artifact that was begun last."""
    return sorted(store.names(), key=lambda name: (store.runs / name).stat().st_mtime)[-1:]


def tree(root: Path) -> dict[str, bytes]:
    paths = sorted(root.rglob("*"))
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"" for path in paths}


def shuffled(value, random):
    if isinstance(value, list):
        return [shuffled(item, random) for item in value]
    if not isinstance(value, dict):
        return value
    items = [(key, shuffled(item, random)) for key, item in value.items()]
    random.shuffle(items)
    return dict(items)


def fields_of(value, path=()):
    """Every place in a spec where something is, with what is there."""
    if path:
        yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from fields_of(item, (*path, key))
