"""What the driver promises: every job once, whatever happens to its workers and its artifacts."""

import dataclasses
import itertools
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jobs_for_tests
from jobs_for_tests import Add, Count, Fail, KillWorker, is_alive, notes, read_sum, wait_until, workers
from modeconn.errors import CorruptArtifact, ModeconnError
from modeconn.execution import Job, Store, process_pool, run_jobs
from modeconn.execution.names import job_name
from modeconn.progress import Progress
from modeconn.tasks import Task
from modeconn.training.fork import trunk
from modeconn.training.task_training import TaskTraining

SLOTS = 2
ENGINES: dict[str, Callable[[], Executor]] = {
    "in this process": lambda: process_pool(0),
    "two workers": lambda: process_pool(SLOTS),
    "two threads": lambda: ThreadPoolExecutor(SLOTS),
}
pool = ENGINES["two workers"]
engines = [
    pytest.param(engine, id=name, marks=pytest.mark.processes if name == "two workers" else ())
    for name, engine in ENGINES.items()
]
every_engine = pytest.mark.parametrize("engine", engines)


def drive(targets, store, engine, report=lambda progress: None, slots=SLOTS) -> dict[str, Exception]:
    """Run jobs, and hold every report to what reports must be."""

    def check(progress: Progress) -> None:
        reports.append(progress)
        assert min(progress.done, progress.failed) >= 0
        assert progress.done + progress.failed + len(progress.running) <= progress.jobs
        assert -1e-9 <= progress.work <= progress.total + 1e-9
        assert len(progress.running) <= slots
        report(progress)

    reports: list[Progress] = []
    failures = run_jobs(targets, store, engine, slots, check)
    if reports:
        last = reports[-1]
        assert (last.done + last.failed, last.failed, last.running) == (last.jobs, len(failures), ())
        assert last.work == pytest.approx(last.total)
    return failures


def diamond(log: str, **options) -> tuple[Add, Add, Add, Add]:
    top = Add(1, log=log, **options)
    left, right = Add(10, (top,), log, **options), Add(100, (top,), log, **options)
    return top, left, right, Add(1000, (left, right), log, **options)


# Each job once


@every_engine
def test_a_diamond_is_computed_once(store, log, engine):
    *_, bottom = diamond(log)
    assert drive([bottom], store, engine) == {}
    assert read_sum(store, bottom) == 1000 + (10 + 1) + (100 + 1)
    assert sorted(map(int, notes(log))) == [1, 10, 100, 1000]


@every_engine
def test_a_second_call_computes_nothing(store, log, engine):
    targets = diamond(log)
    drive(targets, store, engine)
    before = notes(log)

    def no_executor() -> Executor:
        raise AssertionError("there is nothing to compute")

    assert run_jobs(targets, store, no_executor, SLOTS) == {}
    assert notes(log) == before


@every_engine
def test_what_others_computed_is_shared(store, log, engine):
    _top, left, right, bottom = diamond(log)
    drive([left], store, engine)
    drive([right, bottom, bottom], store, engine)
    assert sorted(map(int, notes(log))) == [1, 10, 100, 1000]


def test_equal_jobs_are_one_job(store, log):
    twice = [Add(1, log=log, cost=2.0), Add(1, log=log, cost=2.0)]
    assert drive([Add(5, (*twice,), log), *twice], store, ENGINES["in this process"]) == {}
    assert notes(log) == ["1", "5"]


def test_nothing_is_nothing(store):
    assert run_jobs([], store, pool, SLOTS) == {}


@every_engine
def test_many_jobs(store, log, engine):
    layers = [[Add(number, log=log) for number in range(10)]]
    for layer in range(1, 5):
        below = layers[-1]
        layers.append([Add(10 * layer + n, (below[n], below[n - 1]), log) for n in range(10)])
    assert drive(layers[-1], store, engine) == {}
    assert sorted(map(int, notes(log))) == list(range(50))


@pytest.mark.slow
def test_a_long_chain(store, monkeypatch):
    """A trunk that is saved at every iteration."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # the disk may be slow, and is not asked here

    class Link:
        """A job whose name is quick to compute, however long its chain."""

        kind, label, cost = "link", "link", 1.0

        def __init__(self, number: int, inputs: tuple[Job, ...]) -> None:
            self.number, self.inputs = number, inputs

        def spec(self) -> dict:
            return {"number": self.number}

        def run(self, store: Store) -> None:
            jobs_for_tests.write_sum(store, self, self.number)

    link = Link(0, ())
    for number in range(1, 1000):
        link = Link(number, (link,))
    assert run_jobs([link], store, ENGINES["in this process"], 1) == {}
    assert read_sum(store, link) == 999


def test_a_long_trunk_can_be_sent_to_a_worker():
    setting = TaskTraining(Task(), "digits", 10, None, "float32", "cpu", None, 60.0)
    *_, job = trunk(setting, range(1000), seed=0, replicate=0)
    sent = pickle.loads(pickle.dumps(job))
    assert job_name(sent) == job_name(job)
    assert list(map(job_name, sent.inputs)) == list(map(job_name, job.inputs))


some_jobs = st.tuples(st.sets(st.integers(0, 7), max_size=3), st.integers(0, 5))  # inputs and cost


@settings(max_examples=20, deadline=None)
@given(st.lists(some_jobs, min_size=1, max_size=8))
def test_any_graph_runs_each_job_once_and_after_its_inputs(graph):
    with tempfile.TemporaryDirectory() as folder:
        log = f"{folder}/log"
        jobs: list[Add] = []
        for number, (inputs, cost) in enumerate(graph):
            jobs.append(Add(number, tuple(jobs[i] for i in sorted(inputs) if i < number), log, float(cost)))
        store = Store(f"{folder}/store")
        assert drive(jobs, store, ENGINES["in this process"]) == {}
        order = list(map(int, notes(log)))
        assert sorted(order) == list(range(len(jobs)))
        for job in jobs:
            assert all(order.index(source.number) < order.index(job.number) for source in job.inputs)


@pytest.mark.parametrize("engine", engines[:2])
def test_two_studies_at_once_compute_what_they_share_once(store, log, engine):
    target = Add(5, (Add(1, log=log, seconds=0.5), Add(2, log=log, seconds=0.5)), log)
    with ThreadPoolExecutor(2) as studies:
        calls = [studies.submit(run_jobs, [target], Store(store.root), engine, SLOTS) for _ in range(2)]
        assert [call.result() for call in calls] == [{}, {}]
    assert sorted(notes(log)) == ["1", "2", "5"]
    assert read_sum(store, target) == 8


# Order


def test_the_longest_chain_is_first(store, log):
    """One worker; costs say how long each would take, so the order is known."""
    first = Add(1, log=log, cost=1.0)
    second = Add(2, (first,), log, 1.0)
    chain = Add(3, (second,), log, 1.0)
    lonely, heavy = Add(4, log=log, cost=2.5), Add(5, log=log, cost=5.0)
    drive([chain, lonely, heavy], store, ENGINES["in this process"], slots=1)
    assert notes(log) == ["5", "1", "4", "2", "3"]


def test_a_shared_input_counts_with_its_longest_chain(store, log):
    shared = Add(1, log=log, cost=1.0)
    targets = [Add(2, log=log, cost=4.0), Add(3, (shared,), log, 0.5), Add(4, (shared,), log, 9.0)]
    drive(targets, store, ENGINES["in this process"], slots=1)
    assert notes(log) == ["1", "4", "2", "3"]


def test_equal_chains_go_in_the_order_they_were_asked_for(store, log):
    drive([Add(number, log=log) for number in (3, 1, 2)], store, ENGINES["in this process"], slots=1)
    assert notes(log) == ["3", "1", "2"]


# Failures


@every_engine
@pytest.mark.parametrize("how", ["plainly", "oddly"])
def test_a_failure_stops_only_what_needs_it(store, log, engine, how):
    good = Add(1, log=log)
    bad = Fail(2, (good,), how)
    needs, needs_too = Add(3, (bad, good), log), Add(4, (bad,), log)
    needs_both = Add(5, (needs, needs_too), log)
    apart = Add(6, (good,), log)
    failures = drive([needs_both, apart], store, engine)
    assert failures.keys() == {job_name(job) for job in (bad, needs, needs_too, needs_both)}
    assert all("no luck with 2" in str(error) for error in failures.values())
    assert sorted(notes(log)) == ["1", "6"]
    assert read_sum(store, apart) == 7


@pytest.mark.processes
def test_a_job_that_exits_has_failed(store):
    """Somebody's network may call sys.exit; that ends its job, not the study."""
    bad, good = Fail(1, how="by leaving"), Add(2)
    assert drive([bad, good], store, pool).keys() == {job_name(bad)}
    assert read_sum(store, good) == 2


@every_engine
def test_several_failures_each_have_their_error(store, engine):
    failures = drive([Fail(1), Fail(2), Add(3, (Fail(1),)), Add(4, (Fail(2),))], store, engine)
    said = {name: str(error) for name, error in failures.items()}
    for number in (1, 2):
        bad = Fail(number)
        assert said[job_name(bad)] == said[job_name(Add(number + 2, (bad,)))]
        assert said[job_name(bad)].endswith(f"RuntimeError: no luck with {number}")


@every_engine
def test_a_second_call_tries_only_what_failed(store, log, engine):
    good, needs = Add(1, log=log), Add(3, (Fail(2),), log)
    drive([good, needs], store, engine)
    assert drive([good, needs], store, engine).keys() == {job_name(needs), job_name(Fail(2))}
    assert notes(log) == ["1"]


# Damage


@pytest.mark.parametrize("damage", ["flipped", "shorter", "listing", "missing"])
@every_engine
def test_a_damaged_artifact_is_computed_again(store, log, engine, damage, caplog):
    jobs = diamond(log)
    drive(jobs, store, engine)
    whole = contents(store, jobs)
    harm(store, jobs[1], damage)
    assert drive(jobs, store, engine) == {}
    assert contents(store, jobs) == whole
    assert sorted(map(int, notes(log))) == [1, 10, 10, 100, 1000]
    assert any(job_name(jobs[1]) in record.getMessage() for record in caplog.records)
    assert [path.name.startswith(job_name(jobs[1])) for path in (store.root / "aside").iterdir()] == [True]


@every_engine
def test_what_nobody_needs_is_not_mended(store, log, engine):
    """The damaged artifact served its purpose: the target is there."""
    *inputs, bottom = diamond(log)
    drive([bottom], store, engine)
    harm(store, inputs[0], "flipped")
    assert drive([bottom], store, engine) == {}
    assert len(notes(log)) == 4


@pytest.mark.parametrize("damage", ["flipped", "listing", "missing", "gone"])
@every_engine
def test_damage_that_a_job_finds_in_its_input_is_mended(store, log, engine, damage):
    """The input was sound when the work was planned."""
    top, left, right, bottom = jobs = diamond(log)
    drive([left, right], store, engine)
    whole = contents(store, (top, left, right))

    def late() -> Executor:
        harm(store, left, damage)
        return engine()

    assert run_jobs([bottom], store, late, SLOTS) == {}
    assert contents(store, (top, left, right)) == whole
    assert read_sum(store, bottom) == 1112
    assert notes(log).count("10") == 2
    assert [notes(log).count(str(job.number)) for job in jobs if job not in (left, bottom)] == [1, 1]


@every_engine
def test_damage_is_mended_down_to_its_root(store, log, engine):
    """The damaged input's own input is damaged as well."""
    top, left, right, bottom = diamond(log)
    drive([left, right], store, engine)

    def late() -> Executor:
        harm(store, top, "flipped")
        harm(store, left, "gone")
        return engine()

    assert run_jobs([bottom], store, late, SLOTS) == {}
    assert read_sum(store, bottom) == 1112


@every_engine
def test_a_damaged_input_that_cannot_be_mended_fails_what_needs_it(store, engine):
    mended = Fail(1)
    jobs_for_tests.write_sum(store, mended, 1)
    needs, apart = Add(2, (mended,)), Add(3)

    def late() -> Executor:
        harm(store, mended, "flipped")
        return engine()

    failures = run_jobs([needs, apart], store, late, SLOTS)
    assert failures.keys() == {job_name(mended), job_name(needs)}
    assert read_sum(store, apart) == 3


def test_an_input_that_is_damaged_again_and_again_fails_in_the_end(store, log):
    @dataclasses.dataclass(frozen=True)
    class Cursed(Add):
        def run(self, store: Store) -> None:
            super().run(store)
            harm(store, self, "flipped")

    needs = Add(2, (Cursed(1, log=log),), log)
    failures = run_jobs([needs, Add(3, log=log)], store, ENGINES["in this process"], SLOTS)
    assert failures.keys() == {job_name(needs)}
    assert 1 < notes(log).count("1") < 10
    assert "3" in notes(log)


@pytest.mark.processes
def test_what_is_being_mended_is_left_alone(store, log):
    """Two jobs need the damaged input; the second looks while it is being computed again."""
    mended = Count(2, log)
    drive([mended], store, ENGINES["in this process"])
    mended = dataclasses.replace(mended, seconds=0.5)
    # The second is ready when the mending has begun.
    finder, second = Add(1, (mended,), log, cost=9.0), Add(2, (mended, Add(3, log=log, seconds=0.7)), log)

    def late() -> Executor:
        harm(store, mended, "flipped")
        return pool()

    assert run_jobs([finder, second], store, late, SLOTS) == {}
    assert (read_sum(store, finder), read_sum(store, second)) == (1 + 2, 2 + 3 + 2)
    assert len(list((store.root / "aside").iterdir())) == 1


def test_damage_to_somebody_elses_artifact_is_a_failure(store):
    """Only inputs can be mended; for anything else the driver would not know how."""

    class Stranger(Fail):
        def run(self, store: Store) -> None:
            raise CorruptArtifact("state-0123456789abcdef", "it is torn")

    failures = drive([Stranger(1), Add(2)], store, ENGINES["in this process"])
    assert [type(error) for error in failures.values()] == [CorruptArtifact]


# Lost workers


@pytest.mark.processes
def test_a_killed_worker_is_replaced(store, tmp_path, log):
    killer = KillWorker(1, f"{tmp_path}/killer")
    targets = [Add(2, (killer,), log), *(Add(number, log=log, seconds=0.1) for number in range(3, 7))]
    assert drive(targets, store, pool) == {}
    assert read_sum(store, targets[0]) == 3
    assert len(workers(killer.log)) == 2


@pytest.mark.processes
def test_a_job_that_always_kills_its_worker_fails_and_the_rest_is_done(store, tmp_path, log):
    killer = KillWorker(1, f"{tmp_path}/killer", times=1000)
    needs = Add(2, (killer,), log)
    rest = [Add(number, log=log) for number in range(3, 8)]
    failures = drive([needs, *rest], store, pool)
    assert failures.keys() == {job_name(killer), job_name(needs)}
    assert all(isinstance(error, ModeconnError) and killer.label in str(error) for error in failures.values())
    assert 1 < len(notes(killer.log)) < 10
    assert [read_sum(store, job) for job in rest] == [3, 4, 5, 6, 7]


@pytest.mark.processes
@pytest.mark.parametrize("cost", [0.5, 2.0])
def test_who_works_beside_a_killer_is_not_to_blame(store, tmp_path, log, cost):
    """A lost worker breaks the whole pool, so a long job is lost as often as the killer beside it."""
    killer = KillWorker(1, f"{tmp_path}/killer", times=1000)
    beside = Count(50, log, seconds=0.02, cost=cost)
    assert drive([killer, beside], store, pool).keys() == {job_name(killer)}
    assert read_sum(store, beside) == 50


@pytest.mark.processes
def test_several_killers_fail_and_the_rest_is_done(store, tmp_path, log):
    killers = [KillWorker(number, f"{tmp_path}/killer-{number}", times=1000) for number in range(3)]
    rest = [Add(number, log=log, seconds=0.1) for number in range(3, 9)]
    assert drive([*killers, *rest], store, pool).keys() == set(map(job_name, killers))
    assert [read_sum(store, job) for job in rest] == [3, 4, 5, 6, 7, 8]


@pytest.mark.processes
def test_a_worker_killed_between_two_jobs_is_replaced(store, log):
    """The pool is found broken when the next job is submitted."""
    long, short, after = Count(40, log, seconds=0.05, cost=9.0), Add(1, log=log, cost=5.0), Add(2, log=log)
    killed = []

    def kill_the_long_ones_worker(progress: Progress) -> None:
        if progress.done == 1 and not killed:
            wait_until(lambda: "40:1" in notes(log))
            killed.append(worker_of(log, "40:0"))
            os.kill(killed[0], signal.SIGKILL)
            wait_until(lambda: not is_alive(killed[0]))
            wait_until(lambda: not any(map(is_alive, workers(log))))  # the whole pool is broken by now

    assert drive([long, short, after], store, pool, kill_the_long_ones_worker) == {}
    assert killed
    assert (read_sum(store, long), read_sum(store, short), read_sum(store, after)) == (40, 1, 2)


@pytest.mark.processes
def test_a_lost_job_goes_on_from_what_it_saved(store, log):
    job, killed = Count(100, log, seconds=0.02), []

    def kill_once(progress: Progress) -> None:
        if not killed and "100:10" in notes(log):
            killed.extend(workers(log))
            os.kill(killed[0], signal.SIGKILL)

    assert drive([job], store, pool, kill_once) == {}
    assert killed
    # Only the step that the kill interrupted may have been done twice.
    assert len(notes(log)) - len(set(notes(log))) <= 1


# Interruptions


@pytest.mark.processes
def test_ctrl_c_stops_the_workers_at_once_and_a_second_call_goes_on(store, log):
    jobs = [Count(100, log, seconds=0.1), Count(101, log, seconds=0.1)]
    below = Add(1, (*jobs,), log)

    def interrupt(progress: Progress) -> None:
        if {"100:5", "101:5"} <= set(notes(log)):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([below], store, pool, SLOTS, interrupt)
    wait_until(lambda: not any(map(is_alive, workers(log))))
    assert "100:90" not in notes(log)  # they were stopped, not waited for
    assert drive([dataclasses.replace(below, inputs=(Count(100, log), Count(101, log)))], store, pool) == {}
    assert read_sum(store, below) == 202
    assert len(notes(log)) - len(set(notes(log))) <= len(jobs)


def test_ctrl_c_in_this_process_goes_on_as_well(store, log):
    class Interrupted(Count):
        def run(self, store: Store) -> None:
            store.write(self, {"1.txt": b"counted"}, {"step": 1}, done=False)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([Add(1, log=log), Interrupted(3)], store, ENGINES["in this process"], SLOTS)
    assert drive([Add(1, log=log), Count(3, log)], store, ENGINES["in this process"]) == {}
    assert notes(log) == ["1", "3:1", "3:2"]


@every_engine
def test_an_error_in_a_report_is_raised(store, engine):
    def broken(progress: Progress) -> None:
        raise ZeroDivisionError("a report of somebody's own")

    with pytest.raises(ZeroDivisionError):
        run_jobs([Add(1)], store, engine, SLOTS, broken)


DRIVER = """
import sys
from jobs_for_tests import Count
from modeconn.execution import Store, process_pool, run_jobs

if __name__ == "__main__":
    store, log = sys.argv[1:]
    jobs = [Count(100_000 + number, log, seconds=0.01) for number in range(3)]
    run_jobs(jobs, Store(store), lambda: process_pool(2), 2)
"""


@pytest.mark.processes
def test_workers_end_with_a_driver_that_is_killed(tmp_path, log):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    paths = [str(Path(jobs_for_tests.__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    driver = subprocess.Popen([sys.executable, str(script), str(tmp_path / "store"), log], env=environment)
    try:
        wait_until(lambda: {"100000:2", "100001:2"} <= set(notes(log)) or driver.poll() is not None)
        assert driver.poll() is None
        assert len(workers(log)) == 2
    finally:
        driver.kill()
        driver.wait()
    try:
        wait_until(lambda: not any(map(is_alive, workers(log))), seconds=60)
    finally:
        for process in filter(is_alive, workers(log)):
            os.kill(process, signal.SIGKILL)
    written = len(notes(log))
    store = Store(tmp_path / "store")
    for number in (100_000, 100_001):
        assert store.done(Count(number)) is None
        assert store.partial(Count(number)).facts["step"] > 0
    assert len(notes(log)) == written


# Progress


@every_engine
def test_progress_counts_every_job_in_the_end(store, log, engine):
    reports: list[Progress] = []
    drive(diamond(log, cost=2.0), store, engine, reports.append)
    assert (reports[-1].jobs, reports[-1].done, reports[-1].total, reports[-1].work) == (4, 4, 8.0, 8.0)
    done = [progress.done for progress in reports]
    assert done == sorted(done)


@pytest.mark.processes
def test_progress_moves_while_a_job_runs(store, log):
    reports: list[Progress] = []
    drive([Count(100, log, seconds=0.03, cost=10.0)], store, pool, reports.append)
    inside = [progress for progress in reports if progress.running and 0 < progress.work < 10.0]
    assert inside
    assert [job.label for job in inside[0].running] == ["count to 100"]


@every_engine
def test_progress_stays_in_its_bounds_when_damage_is_found_late(store, log, engine):
    """The work to mend it was not planned."""
    *_, left, right, bottom = diamond(log)
    drive([left, right], store, engine)

    def late() -> Executor:
        harm(store, left, "flipped")
        return engine()

    assert drive([bottom], store, late) == {}


def test_progress_stays_in_its_bounds_when_mending_fails(store):
    mended = Fail(1)
    jobs_for_tests.write_sum(store, mended, 1)

    def late() -> Executor:
        harm(store, mended, "flipped")
        return process_pool(0)

    assert len(drive([Add(2, (mended,))], store, late)) == 2


def test_progress_leaves_out_what_is_there(store, log):
    *inputs, bottom = diamond(log)
    drive(inputs, store, ENGINES["in this process"])
    reports: list[Progress] = []
    drive([bottom, *inputs], store, ENGINES["in this process"], reports.append)
    assert {progress.jobs for progress in reports} == {1}


# Helpers


def contents(store: Store, jobs) -> list[int]:
    return [read_sum(store, job) for job in jobs]


def harm(store: Store, job: Job, how: str) -> None:
    """Damage a finished artifact in one of the ways that disks and people do."""
    folder = store.folder(job)
    content = (folder / "sum.json").read_bytes()
    if how == "flipped":
        (folder / "sum.json").write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif how == "shorter":
        (folder / "sum.json").write_bytes(content[:-1])
    elif how == "listing":
        (folder / "done.json").write_bytes((folder / "done.json").read_bytes()[:-20])
    elif how == "missing":
        (folder / "sum.json").unlink()
    else:
        for number in itertools.count():
            elsewhere = store.root / f"gone-{number}"
            if not elsewhere.exists():
                folder.rename(elsewhere)
                return


def worker_of(log: str, line: str) -> int:
    entries = map(str.split, Path(log).read_text().splitlines())
    return next(int(process) for text, process in entries if text == line)
