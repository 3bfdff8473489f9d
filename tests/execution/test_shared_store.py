"""A store that several use at once, on a disk that is full, or in a folder that is not like a local disk's."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import jobs_for_tests
from jobs_for_tests import Add, Count, notes, read_sum
from modeconn import files as files_module
from modeconn.errors import StoreError
from modeconn.execution import Store, process_pool, run_jobs
from modeconn.execution.maintenance import find_damage
from modeconn.execution.names import job_name
from modeconn.progress import Progress


def graph(log: str, width: int = 6, seconds: float = 0.0) -> list[Add]:
    """Two layers of jobs and a last one; 2 * width + 1 in all."""
    first = [Add(number, log=log, seconds=seconds) for number in range(width)]
    second = [Add(100 + n, (first[n], first[n - 1]), log, seconds=seconds) for n in range(width)]
    return [Add(1000, tuple(second), log, seconds=seconds)]


def alone(store: Store, targets, **options) -> dict[str, Exception]:
    return run_jobs(targets, store, lambda: process_pool(0), 1, **options)


# What the driver asks of the store


class Instant(Executor):
    """Jobs that end when they are submitted, without having run."""

    def submit(self, function, /, *args, **kwargs) -> Future:
        future: Future = Future()
        future.set_result(None)
        return future


@contextlib.contextmanager
def counted(monkeypatch) -> Iterator[Counter]:
    """How often the store is asked, its folders are listed, and files are looked for."""
    calls: Counter = Counter()

    def count(owner, name: str, key: str) -> None:
        real = getattr(owner, name)

        def counting(*arguments, **options):
            calls[key] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, counting)

    with monkeypatch.context() as monkeypatch:
        for name in ("done", "read_heartbeat", "names", "describe", "partial"):
            count(Store, name, name)
        for name in ("listdir", "scandir"):
            count(os, name, "list")
        for name in ("iterdir", "glob", "rglob"):
            count(Path, name, "list")
        count(os, "open", "file")
        yield calls


def per_job(store: Store, jobs: int, slots: int, engine, monkeypatch) -> Counter:
    targets = [Add(number) for number in range(jobs)]
    with counted(monkeypatch) as calls:
        assert run_jobs(targets, store, engine, slots) == {}
    return calls


@pytest.mark.parametrize("jobs", [10, 100, 1000])
def test_the_driver_looks_for_each_artifact_once_and_lists_nothing(store, monkeypatch, jobs):
    calls = per_job(store, jobs, 2, Instant, monkeypatch)
    assert calls["done"] == calls["file"] == jobs
    assert calls["list"] == calls["names"] == calls["describe"] == 0


@pytest.mark.parametrize("slots", [2, 100])
def test_a_job_that_ends_has_the_driver_ask_nothing_of_those_that_run(store, monkeypatch, slots):
    """Only time does: twice a second some of them are asked how far they are, however many there are."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    jobs = 500
    calls = per_job(store, jobs, slots, lambda: StuckThen(slots, jobs), monkeypatch)
    assert calls["read_heartbeat"] == 0
    assert calls["done"] == jobs


class StuckThen(Executor):
    """As many jobs as there are slots wait; each that is submitted ends the oldest, and the last ends all."""

    def __init__(self, slots: int, jobs: int) -> None:
        self.slots, self.left, self.waiting = slots, jobs, []

    def submit(self, function, /, *args, **kwargs) -> Future:
        future: Future = Future()
        self.waiting.append(future)
        self.left -= 1
        while len(self.waiting) >= self.slots or (self.waiting and not self.left):
            self.waiting.pop(0).set_result(None)
        return future


def test_however_many_jobs_run_a_look_asks_few_and_each_in_turn(store, monkeypatch):
    clock, asked, jobs = [0.0], [], [Add(number) for number in range(200)]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(Store, "read_heartbeat", lambda self, job: asked.append(job_name(job)) or 0.5)
    stuck, seen = StuckThen(10_000, 10_000), []

    def report(progress: Progress) -> None:
        seen.append((progress.work, len(asked)))
        clock[0] += 1.0
        if len(seen) > 1 and stuck.waiting:  # one job ends, so that the driver does not wait
            stuck.waiting.pop().set_result(None)

    assert run_jobs(jobs, store, lambda: stuck, 200, report) == {}
    looks = [after - before for (_, before), (_, after) in itertools.pairwise(seen)]
    assert max(looks) == 50
    assert set(asked[:150]) == set(map(job_name, jobs[:150]))
    assert seen[4][0] > 60  # the half of each that was asked, and not only of the last 50


# Two drivers at once


DRIVER = """
import sys
from modeconn.execution import Store, process_pool, run_jobs
from test_shared_store import graph

if __name__ == "__main__":
    folder, log, workers = sys.argv[1:]
    sys.stdin.readline()
    failures = run_jobs(graph(log, seconds=0.05), Store(folder), lambda: process_pool(int(workers)), int(workers) or 1)
    sys.exit(len(failures))
"""


def start_driver(script: Path, store: Store, log: str, workers: int) -> subprocess.Popen:
    script.write_text(DRIVER)
    paths = [str(Path(__file__).parent), str(Path(jobs_for_tests.__file__).parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, str(script), str(store.root), log, str(workers)],
        stdin=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        text=True,
    )


@pytest.mark.processes
@pytest.mark.parametrize("workers", [0, 2])
def test_two_drivers_on_one_store_compute_every_job_once(tmp_path, store, log, workers):
    drivers = [start_driver(tmp_path / f"{number}.py", store, log, workers) for number in range(2)]
    try:
        for driver in drivers:  # both have started Python; they begin together
            driver.stdin.write("go\n")
            driver.stdin.flush()
        assert [driver.wait(timeout=300) for driver in drivers] == [0, 0]
    finally:
        for driver in drivers:
            driver.kill()
            driver.communicate()
    assert set(Counter(notes(log)).values()) == {1}
    assert len(notes(log)) == 13
    assert_sound(store)


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of a quarter of a megabyte; a real one, which only root can make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=10000", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class Large(Add):
    """Leaves a file as large as a small network besides."""

    def run(self, store: Store) -> None:
        jobs_for_tests.note(self.log, self.number)
        total = self.number + sum(read_sum(store, job) for job in self.inputs)
        files = {"sum.json": json.dumps(total).encode(), "weights": bytes(30_000)}
        store.write(self, files, {"number": total}, done=True)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.processes)])
def test_a_disk_that_is_full_stops_the_study_and_the_same_call_goes_on(small_disk, log, workers):
    ballast = small_disk / "ballast"
    store = Store(small_disk / "store")
    ballast.write_bytes(bytes(150_000))
    chain = [Large(0, log=log)]
    for number in range(1, 5):
        chain.append(Large(number, (chain[-1],), log))
    failures = run_jobs(chain[-1:], store, lambda: process_pool(workers), workers or 1)
    assert failures
    assert all(isinstance(error, StoreError) for error in failures.values())
    assert "no space left" in str(failures[job_name(chain[-1])])
    done = [job for job in chain if store.done(job)]
    assert 0 < len(done) < len(chain)
    assert_sound(store)
    ballast.unlink()
    assert run_jobs(chain[-1:], store, lambda: process_pool(workers), workers or 1) == {}
    assert read_sum(store, chain[-1]) == sum(range(5))
    assert_sound(store)
    first = [str(job.number) for job in done]
    assert [line for line in notes(log) if line in first] == first  # what was done was not done again


def test_wherever_the_disk_gets_full_a_study_stops_and_the_same_call_goes_on(tmp_path, monkeypatch):
    """At every write of the study in turn: record, locks, artifacts."""
    for n in range(1000):
        store, log = Store(tmp_path / str(n)), str(tmp_path / f"log-{n}")
        targets = [Add(3, (Count(2, log), Add(1, log=log)), log)]
        with monkeypatch.context() as patch:
            full = fill_disk(patch, n)
            try:
                failures = alone(store, targets)
            except StoreError as error:  # of the driver itself
                failures = {"": error}
        if not full:
            break
        assert failures, n
        assert all("no space left" in str(error) for error in failures.values()), n
        assert list(store.root.rglob("*.tmp-*")) == [], n
        assert_sound(store)
        finished = {job.number for job in (Add(1), *targets) if store.done(job)}
        before = Counter(notes(log))
        assert alone(store, targets) == {}, n
        assert read_sum(store, targets[0]) == 6, n
        assert all(Counter(notes(log))[str(number)] == before[str(number)] for number in finished), n
        assert_sound(store)
    assert n > 10


def fill_disk(patch, n: int) -> list[int]:
    """From the n-th file on that is written, the disk takes half of it and no more; the list is empty until then."""
    left, full = [n], []

    class File:
        def __init__(self, *arguments) -> None:
            self.file = open(*arguments)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            left[0] -= 1
            if left[0] < 0:
                full.append(n)
                self.file.write(content[: len(content) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.file.write(content)

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    patch.setattr(files_module, "open", File, raising=False)
    return full


# A folder that is not like a local disk's


def no_locks(*arguments) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def no_links(*arguments, **options) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture
def bare_folder(monkeypatch):
    """No locks, no links of either kind; in threads, as what is patched here does not reach other processes."""
    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(fcntl, "lockf", no_locks)
    for name in ("link", "symlink"):
        monkeypatch.setattr(os, name, no_links)


def test_without_links_and_locks_a_study_ends_the_same(bare_folder, store, log):
    assert run_jobs(graph(log), store, lambda: ThreadPoolExecutor(2), 2) == {}
    assert Counter(notes(log)).keys() == {str(n) for n in (*range(6), *range(100, 106), 1000)}
    assert set(Counter(notes(log)).values()) == {1}
    assert_sound(store)


def test_without_locks_two_drivers_may_do_a_job_twice_and_harm_nothing(bare_folder, store, log):
    """They write the same bytes, each file in one step."""
    with ThreadPoolExecutor(2) as drivers:
        calls = [drivers.submit(alone, Store(store.root), graph(log, seconds=0.02)) for _ in range(2)]
        assert [call.result() for call in calls] == [{}, {}]
    assert set(Counter(notes(log)).values()) <= {1, 2}
    (target,) = graph(log)
    assert read_sum(store, target) == 1000 + sum(range(100, 106)) + 2 * sum(range(6))
    assert_sound(store)


class Lagging:
    """What was written in a store is seen only after it was looked for a few times, as across a network."""

    def __init__(self, patch, times: int) -> None:
        self.left: dict[str, int] = {}
        replace, read, is_file = os.replace, Path.read_bytes, Path.is_file

        def replaced(source, target) -> None:
            replace(source, target)
            if Path(target).parent.parent.name == "runs":
                self.left.setdefault(str(target), times)

        def late_read(path: Path) -> bytes:
            if self.hides(path):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            return read(path)

        patch.setattr(os, "replace", replaced)
        patch.setattr(Path, "read_bytes", late_read)
        patch.setattr(Path, "is_file", lambda path: not self.hides(path) and is_file(path))

    def hides(self, path: Path) -> bool:
        self.left[str(path)] = self.left.get(str(path), 0) - 1
        return self.left[str(path)] >= 0


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_seen_late_is_waited_for(store, log, monkeypatch, times):
    with monkeypatch.context() as patch:
        Lagging(patch, times)
        failures = alone(store, graph(log))
    assert failures == {}
    assert set(Counter(notes(log)).values()) == {1}
    assert not (store.root / "aside").exists()
    assert_sound(store)
    (target,) = graph(log)
    assert read_sum(store, target) == 1000 + sum(range(100, 106)) + 2 * sum(range(6))


# Helpers


def assert_sound(store: Store) -> None:
    """Every artifact has the hashes it was written with, and nothing was found damaged on the way."""
    assert {name: find_damage(store, name) for name in store.names()} == dict.fromkeys(store.names())
