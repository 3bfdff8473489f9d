"""How far a job is can be read while it runs, and neither writing nor reading it costs more than it should."""

import json

import pytest

from jobs_for_tests import Add
from modeconn.execution import Heartbeat
from modeconn.execution.heartbeat import READ_AT_ONCE, HeartbeatReader
from modeconn.execution.names import job_name

JOB = Add(1)


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand: its first entry, in seconds."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


# Writing


def test_a_heartbeat_is_written_once_per_second(store, clock):
    seen, beat = [], Heartbeat(store, JOB)
    for quarter in range(13):
        clock[0] = 1000.0 + quarter / 4
        beat(quarter / 100)
        seen.append(store.read_heartbeat(JOB))
    assert seen == [0.0] * 4 + [0.04] * 4 + [0.08] * 4 + [0.12]


def test_a_job_that_is_over_at_once_writes_none(store, clock):
    beat = Heartbeat(store, JOB)
    for tenth in range(11):
        beat(tenth / 10)
    assert not store.folder(JOB).exists()


def test_a_second_counts_from_when_the_last_one_was_written(store, clock, monkeypatch):
    """A slow file system is not given more than it takes."""
    written, beat = [], Heartbeat(store, JOB)

    def slow(job, fraction: float) -> None:
        written.append(fraction)
        clock[0] += 5.0

    monkeypatch.setattr(store, "write_heartbeat", slow)
    for fraction in (0.1, 0.2, 0.3):
        clock[0] += 0.5
        beat(fraction)
    clock[0] += 0.5
    beat(0.4)
    assert written == [0.2, 0.4]


def test_a_heartbeat_leaves_what_was_saved(store, clock):
    store.write(JOB, {"1.txt": b"saved"}, {}, done=False)
    beat = Heartbeat(store, JOB)
    clock[0] += 1.0
    beat(0.5)
    assert store.partial(JOB).read("1.txt") == b"saved"
    assert json.loads((store.folder(JOB) / "running.json").read_bytes())["fraction"] == 0.5


# Reading


def test_the_work_of_running_jobs_is_in_their_unit_of_cost(store, clock):
    jobs = [Add(1, cost=10.0), Add(2, cost=4.0), Add(3, cost=100.0)]
    store.write_heartbeat(jobs[0], 0.5)
    store.write_heartbeat(jobs[1], 0.25)
    reader = HeartbeatReader(store)
    clock[0] += 0.5
    reader.read(jobs)
    assert reader.work == 5.0 + 1.0
    reader.forget(job_name(jobs[0]))
    reader.forget(job_name(Add(4)))  # which was never seen
    assert reader.work == 1.0


def test_heartbeats_are_read_twice_a_second_and_no_more(store, clock):
    reader, seen = HeartbeatReader(store), []
    for quarter in range(1, 6):
        clock[0] += 0.25
        store.write_heartbeat(JOB, quarter / 10)
        reader.read([JOB])
        seen.append(reader.work)
    assert seen == [0.0, 0.2, 0.2, 0.4, 0.4]


def test_of_many_jobs_some_are_asked_at_a_time_and_all_in_turn(store, clock, monkeypatch):
    jobs, asked = [Add(number) for number in range(READ_AT_ONCE * 2 + 20)], []
    monkeypatch.setattr(store, "read_heartbeat", lambda job: asked.append(job.number) or 1.0)
    reader = HeartbeatReader(store)
    for _ in range(4):
        asked.clear()
        clock[0] += 0.5
        reader.read(jobs)
        assert len(asked) <= READ_AT_ONCE
    assert asked == list(range(READ_AT_ONCE))  # the first again, after three looks at all
    assert reader.work == len(jobs)


def test_where_fewer_jobs_run_than_before_the_turn_begins_anew(store, clock, monkeypatch):
    jobs, asked = [Add(number) for number in range(READ_AT_ONCE + 1)], []
    monkeypatch.setattr(store, "read_heartbeat", lambda job: asked.append(job.number) or 1.0)
    reader = HeartbeatReader(store)
    for running in (jobs, jobs[:2], []):
        asked.clear()
        clock[0] += 0.5
        reader.read(running)
        assert asked == [job.number for job in running][:READ_AT_ONCE]
