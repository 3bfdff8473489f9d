"""What each event does to the driver: a job that ends in one way or another, a worker or an engine that is lost.

Executors keep what they are given until a test says how it ended, so nothing is computed and nothing waits.
"""

from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future

import pytest

from jobs_for_tests import Add, write_sum
from modeconn.errors import CorruptArtifact, ModeconnError
from modeconn.execution.driver import Driver
from modeconn.execution.engine import EngineLost
from modeconn.execution.graph import Graph
from modeconn.execution.names import job_name

LOST, GONE = BrokenExecutor("a worker died"), EngineLost("the scheduler is gone")


class Held(Executor):
    """Has jobs, by their numbers, until they are ended; refuses more if it is told to."""

    def __init__(self) -> None:
        self.has: dict[int, Future] = {}
        self.refusal: Exception | None = None
        self.ended_by: list[str] = []

    def submit(self, function, job, root) -> Future:
        if self.refusal:
            raise self.refusal
        self.has[job.number] = Future()
        return self.has[job.number]

    def end(self, number: int, error: Exception | None = None) -> Future:
        future = self.has.pop(number)
        future.set_exception(error) if error else future.set_result(None)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.ended_by.append("waiting" if wait else "leaving")


class Study:
    """A driver of some jobs, the executors it made, and what it reported."""

    def __init__(self, store, *jobs: Add, slots: int = 2) -> None:
        self.made: list[Held] = []
        self.reports: list = []
        self.jobs = jobs
        self.driver = Driver(Graph(jobs, store), store, self._make, slots, self.reports.append)

    def _make(self) -> Held:
        self.made.append(Held())
        return self.made[-1]

    @property
    def executor(self) -> Held:
        """The one that was made last."""
        return self.made[-1]

    @property
    def running(self) -> set[int]:
        """Numbers of the jobs that the executor has, which are those that the driver says are running."""
        names = self.driver.running.values()
        assert {self.driver.graph.jobs[name].number for name in names} == self.executor.has.keys()
        return set(self.executor.has)

    @property
    def failed(self) -> dict[int, str]:
        """What failed jobs raised, by number."""
        numbers = {job_name(job): job.number for job in self.jobs}
        return {numbers[name]: str(error) for name, error in self.driver.failures.items()}

    def submit(self) -> set[int]:
        """Have ready jobs submitted; what runs then."""
        self.driver.submit_ready()
        return self.running

    def settle(self, number: int, error: Exception | None = None) -> None:
        """End a job, and have the driver account for it."""
        self.driver.settle(self.executor.end(number, error))

    def lose(self, error: BrokenExecutor = LOST) -> None:
        """Break the executor with all that it has, as a pool does; then submit to the next."""
        for number in list(self.executor.has):
            self.settle(number, error)
        self.driver.replace_executor()
        self.submit()


def damage(job: Add) -> CorruptArtifact:
    return CorruptArtifact(job_name(job), "it is torn")


# Jobs that end


def test_ready_jobs_fill_the_slots_the_longest_chain_first(store):
    first = Add(1)
    study = Study(store, first, Add(2, (first,), cost=9.0), Add(3, cost=5.0), Add(4, cost=6.0))
    assert study.submit() == {1, 4}
    assert study.submit() == {1, 4}  # no slot is free
    study.settle(4)
    assert study.submit() == {1, 3}
    study.settle(1)
    study.settle(3)
    assert study.submit() == {2}  # which waited for 1
    study.settle(2)
    assert (study.submit(), study.driver.graph.jobs, study.failed) == (set(), {}, {})


def test_a_failure_takes_what_needs_it_and_nothing_else(store):
    bad, apart = Add(1, cost=9.0), Add(2)
    study = Study(store, bad, apart, Add(3, (bad, apart)), Add(4, (apart,)))
    study.submit()
    study.settle(1, ModeconnError("no luck"))
    assert study.failed == {1: "no luck", 3: "no luck"}
    study.settle(2)
    assert study.submit() == {4}


def test_a_damaged_input_is_computed_again_before_the_job_that_found_it(store):
    source = Add(1)
    write_sum(store, source, 1)
    study = Study(store, Add(2, (source,)), Add(3))
    assert study.submit() == {2, 3}
    store.set_aside(damage(source))
    study.settle(2, damage(source))
    study.settle(3)
    assert study.submit() == {1}
    study.settle(1)
    assert study.submit() == {2}
    assert study.failed == {}


def test_damage_that_was_none_costs_the_job_another_try(store):
    """The input is sound when the driver looks: the job's machine saw late what another wrote."""
    source = Add(1)
    write_sum(store, source, 1)
    study = Study(store, Add(2, (source,)))
    for _ in range(2):
        assert study.submit() == {2}
        study.settle(2, damage(source))
    assert study.submit() == {2}
    study.settle(2, damage(source))  # the third time
    assert study.failed.keys() == {2}


def test_damage_to_what_is_no_input_fails_the_job(store):
    study = Study(store, Add(2))
    study.submit()
    study.settle(2, damage(Add(1)))
    assert study.failed.keys() == {2}


def test_a_cancelled_job_starts_again_beside_others_and_is_given_up_the_third_time(store):
    study = Study(store, Add(1, cost=9.0), Add(2))
    for _ in range(3):
        assert study.failed == {}
        assert study.submit() == {1, 2}
        study.settle(1, CancelledError())
    assert study.failed.keys() == {1}
    assert study.failed[1].startswith("sum 1 was cancelled 3 times by its executor")
    assert study.submit() == {2}
    assert len(study.made) == 1


# Lost workers


def test_who_was_there_when_a_worker_was_lost_runs_alone_until_it_ends(store):
    study = Study(store, Add(1, cost=9.0), Add(2, cost=8.0), Add(3), Add(4))
    assert study.submit() == {1, 2}
    study.lose()
    assert (study.running, len(study.made), study.made[0].ended_by) == ({1}, 2, ["leaving"])
    assert study.submit() == {1}  # a slot is free, but not for others
    study.settle(1)
    assert study.submit() == {2}
    study.settle(2, ModeconnError("no luck"))  # which costs no worker
    assert study.submit() == {3, 4}
    assert study.failed == {2: "no luck"}


def test_a_suspect_whose_input_is_damaged_waits_for_it_like_any_job(store):
    source = Add(1)
    write_sum(store, source, 1)
    study = Study(store, Add(2, (source,), cost=9.0), Add(3))
    study.submit()
    study.lose()
    assert study.running == {2}
    store.set_aside(damage(source))
    study.settle(2, damage(source))
    for number in (3, 1, 2):  # the other suspect first, which is alone
        assert study.submit() == {number}
        study.settle(number)
    assert study.failed == {}


@pytest.mark.parametrize("beside", [True, False])
def test_a_job_that_loses_its_worker_alone_three_times_is_given_up(store, beside):
    study = Study(store, Add(1, cost=9.0), *([Add(2)] if beside else []), Add(3, (Add(1, cost=9.0),)))
    study.submit()
    if beside:
        study.lose()  # that tells nothing
    for _ in range(3):
        assert (study.running, study.failed) == ({1}, {})
        study.lose()
    assert study.failed.keys() == {1, 3}
    assert "sum 1 lost its worker 3 times" in study.failed[3]
    assert study.running == ({2} if beside else set())


def test_who_ended_before_the_executor_broke_is_no_suspect(store):
    study = Study(store, Add(1), Add(2), Add(3), Add(4), slots=3)
    study.submit()
    study.settle(2)
    study.lose()
    for number in (1, 3, 4):
        assert study.submit() == {number}
        study.settle(number)
    assert not study.driver.graph.jobs


def test_a_worker_lost_while_nothing_ran_is_the_next_jobs(store):
    """The executor is found broken when a job is submitted."""
    study = Study(store, Add(1))
    for _ in range(3):
        assert study.failed == {}
        study.executor.refusal = LOST
        assert study.submit() == set()
        study.driver.replace_executor()
    assert study.failed.keys() == {1}


def test_a_worker_lost_between_two_jobs_is_not_that_of_the_one_that_found_out(store):
    study = Study(store, Add(1, cost=9.0), Add(2, cost=8.0), Add(3))
    study.submit()
    study.settle(2)
    study.executor.refusal = LOST
    assert study.submit() == {1}
    study.driver.replace_executor()  # 1 was alone, and has lost a worker
    assert study.submit() == {3}
    study.settle(3)
    study.submit()
    for _ in range(2):
        assert (study.running, study.failed) == ({1}, {})
        study.lose()
    assert study.failed.keys() == {1}


def test_what_an_executor_says_after_it_was_replaced_changes_nothing(store):
    study = Study(store, Add(1, cost=9.0), Add(2))
    study.submit()
    before = study.made[0]
    study.settle(1, LOST)
    study.driver.replace_executor()
    assert study.submit() == {1}
    study.driver.settle(before.end(2))
    assert study.running == {1}
    study.settle(1)
    assert study.submit() == {2}


# Lost engines


@pytest.mark.parametrize("at_submit", [True, False])
def test_a_lost_engine_is_no_jobs_fault(store, at_submit):
    study = Study(store, Add(1), Add(2), Add(3, (Add(1),)))
    for _ in range(5):
        if at_submit:
            study.executor.refusal = GONE
            assert study.submit() == set()
            study.driver.replace_executor()
        else:
            assert study.submit() == {1, 2}
            study.lose(GONE)
    assert study.submit() == {1, 2}
    assert not study.driver.suspects
    assert study.failed == {}


def test_a_suspect_stays_one_when_the_engine_is_lost_and_runs_once(store):
    study = Study(store, Add(1, cost=9.0), Add(2, cost=8.0), Add(3))
    study.submit()
    study.lose()
    for _ in range(5):
        assert study.running == {1}
        study.lose(GONE)
    for number in (1, 2, 3):
        assert study.submit() == {number}
        study.settle(number)
    assert study.driver.graph.take() is None
    assert study.failed == {}


@pytest.mark.parametrize("errors", [(LOST, GONE), (GONE, LOST)])
def test_where_engine_and_worker_are_lost_at_once_no_job_is_suspected(store, caplog, errors):
    study = Study(store, Add(1), Add(2))
    study.submit()
    for number, error in enumerate(errors, start=1):
        study.settle(number, error)
    study.driver.replace_executor()
    assert not study.driver.suspects
    assert study.submit() == {1, 2}
    assert caplog.messages == ["the scheduler is gone; what was running is started again"]


def test_an_executor_that_broke_is_not_taken_again(store):
    executor = Held()
    driver = Driver(Graph([Add(1)], store), store, lambda: executor, 1, lambda progress: None)
    driver.submit_ready()
    driver.settle(executor.end(1, LOST))
    with pytest.raises(ModeconnError, match="given once more"):
        driver.replace_executor()


def test_an_executor_that_was_shut_down_is_said(store):
    study = Study(store, Add(1))
    study.executor.refusal = RuntimeError("cannot schedule new futures after shutdown")
    with pytest.raises(ModeconnError, match=r"takes no more jobs \(cannot schedule .* another executor each time"):
        study.driver.submit_ready()


# Steps


def test_a_step_accounts_for_all_that_ended_and_reports_once(store):
    study = Study(store, Add(1), Add(2), Add(3), slots=3)
    study.submit()
    for number in (2, 1):
        study.executor.end(number)
    study.driver.step()
    (report,) = study.reports
    assert (report.done, report.failed, report.jobs, report.work, report.total) == (2, 0, 3, 2.0, 3.0)
    assert report.running == (Add(3),)


def test_a_step_replaces_an_executor_that_broke_in_it(store):
    study = Study(store, Add(1), Add(2))
    study.submit()
    study.executor.end(1, LOST)
    study.driver.step()
    assert len(study.made) == 2
    assert study.reports[-1].running == ()


def test_a_report_counts_what_running_jobs_have_done(store, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    study = Study(store, Add(1, cost=8.0), Add(2, cost=2.0))
    study.submit()
    store.write_heartbeat(Add(1), 0.75)
    for seconds, work in [(0.0, 0.0), (1.0, 6.0)]:
        clock[0] += seconds
        study.driver.report()
        assert study.reports[-1].work == work
    study.settle(1, LOST)
    study.driver.replace_executor()
    study.driver.report()
    assert study.reports[-1].work == 0.0  # until it runs again


def test_when_all_is_done_the_executor_is_waited_for(store):
    class Instant(Held):
        def submit(self, *call) -> Future:
            super().submit(*call)
            return self.end(call[1].number)

    executor, reports = Instant(), []
    driver = Driver(Graph([Add(1), Add(2, (Add(1),))], store), store, lambda: executor, 1, reports.append)
    assert driver.run() == {}
    assert executor.ended_by == ["waiting"]
    assert [report.done for report in reports] == [0, 1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_when_it_is_interrupted_nobody_waits_for_the_executor(store, error):
    executor = Held()

    def report(progress) -> None:
        raise error

    with pytest.raises(error):
        Driver(Graph([Add(1)], store), store, lambda: executor, 1, report).run()
    assert executor.ended_by == ["leaving"]
