"""How far a job is can be read while it runs, and saying so costs a file per second at most."""

import json

from jobs_for_tests import Add
from modeconn.execution.heartbeat import Heartbeat

JOB = Add(1)


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_heartbeat_is_written_once_per_second(store):
    clock, seen = Clock(), []
    beat = Heartbeat(store, JOB, clock)
    for tenth in range(31):
        clock.now = 1000.0 + tenth / 10
        beat(tenth / 100)
        seen.append(store.read_heartbeat(JOB))
    assert seen == [0.0] * 10 + [0.1] * 10 + [0.2] * 10 + [0.3]


def test_a_job_that_is_over_at_once_writes_none(store):
    beat = Heartbeat(store, JOB)
    for tenth in range(11):
        beat(tenth / 10)
    assert not store.folder(JOB).exists()


def test_a_second_counts_from_when_the_last_one_was_written(store, monkeypatch):
    """A slow file system is not asked more often than it answers."""
    clock, written = Clock(), []
    beat = Heartbeat(store, JOB, clock)

    def slow(job, fraction: float) -> None:
        written.append(fraction)
        clock.now += 5.0

    monkeypatch.setattr(store, "write_heartbeat", slow)
    clock.now += 1.0
    beat(0.1)
    beat(0.2)
    clock.now += 1.0
    beat(0.3)
    assert written == [0.1, 0.3]


def test_a_heartbeat_leaves_what_was_saved(store):
    clock = Clock()
    store.write(JOB, {"1.txt": b"saved"}, {}, done=False)
    beat = Heartbeat(store, JOB, clock)
    clock.now += 1.0
    beat(0.5)
    assert store.partial(JOB).read("1.txt") == b"saved"
    assert json.loads((store.folder(JOB) / "running.json").read_bytes())["fraction"] == 0.5
