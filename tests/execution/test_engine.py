"""Any executor computes a study; what somebody lends is left as it was."""

import ast
import os
import pickle
import signal
import time
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import modeconn
from jobs_for_tests import Add, Count, KillWorker, notes, read_sum, workers
from modeconn.analysis.instability.instability import instability
from modeconn.analysis.instability.options import StudyOptions
from modeconn.analysis.instability.plan import jobs_of, plan_pairs, plan_study
from modeconn.errors import ModeconnError, OptionError
from modeconn.execution import Store, choose_engine, process_pool, run_jobs
from modeconn.execution.engine import EngineLost, Lent, capacity
from modeconn.execution.names import job_name
from modeconn.execution.pool import WorkerPool, default_workers, gpus_of_workers
from modeconn.tasks import get_task
from modeconn.tickets.lottery import lottery
from modeconn.tickets.options import LotteryOptions
from modeconn.tickets.plan import plan_lottery, plan_replicate
from modeconn.training.runner import engine_for
from modeconn.training.task_training import prepare

STUDY = {"iterations": 8, "rewind_iters": "0,4", "replicates": 1, "alphas": 3, "device": "cpu"}
TICKETS = {"iterations": 8, "rewind_iter": 2, "levels": 1, "replicates": 1, "alphas": 3, "device": "cpu"}
TICKETS |= {"conditions": ["imp"], "splits": ["test"], "calibration": 100}


class Inline(Executor):
    """Somebody's executor, that knows nothing of modeconn."""

    def __init__(self) -> None:
        self.submitted = 0
        self.is_shut_down = False

    def submit(self, function, /, *args, **kwargs):
        self.submitted += 1
        future: Future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.is_shut_down = True


# Studies


@pytest.mark.slow
def test_an_executor_computes_a_study_and_is_not_shut_down(tmp_path, data_dir):
    plain = instability(**STUDY, workers=0, store=tmp_path / "plain", data_dir=data_dir)
    executor = Inline()
    lent = instability(**STUDY, executor=executor, store=tmp_path / "lent", data_dir=data_dir)
    assert (lent.rows, lent.paths) == (plain.rows, plain.paths)
    assert executor.submitted == len(list((tmp_path / "lent" / "runs").iterdir()))
    assert not executor.is_shut_down


@pytest.mark.slow
def test_a_function_that_makes_an_executor_computes_tickets_and_its_executor_is_shut_down(tmp_path, data_dir):
    plain = lottery(**TICKETS, workers=0, store=tmp_path / "plain", data_dir=data_dir)
    made: list[Inline] = []

    def make() -> Inline:
        made.append(Inline())
        return made[-1]

    given = lottery(**TICKETS, executor=make, store=tmp_path / "given", data_dir=data_dir)
    assert list(map(repr, given.rows)) == list(map(repr, plain.rows))  # NaN is not equal to itself
    assert made
    assert all(executor.is_shut_down and executor.submitted for executor in made)


@pytest.mark.slow
def test_threads_compute_what_one_process_does(tmp_path, data_dir):
    """Jobs change PyTorch's settings of the whole process."""
    plain = instability(**STUDY, workers=0, store=tmp_path / "plain", data_dir=data_dir)
    with ThreadPoolExecutor(3) as threads:
        threaded = instability(**STUDY, executor=threads, store=tmp_path / "threads", data_dir=data_dir)
    assert (threaded.rows, threaded.paths) == (plain.rows, plain.paths)


def test_in_one_process_one_job_computes_at_a_time(store):
    """Jobs of several studies, too."""
    inside = []

    class Alone(Add):
        def run(self, store: Store) -> None:
            inside.append(self.number)
            time.sleep(0.01)  # in which others would come in
            assert inside.pop() == self.number
            assert not inside
            super().run(store)

    with ThreadPoolExecutor(4) as threads:
        engine = choose_engine(threads)
        studies = [[Alone(10 * study + number) for number in range(10)] for study in range(2)]
        drive = lambda jobs: run_jobs(jobs, store, engine.make, engine.slots)  # noqa: E731
        with ThreadPoolExecutor(2) as drivers:
            assert list(drivers.map(drive, studies)) == [{}, {}]


def test_jobs_say_what_to_compute_and_carry_no_tensors(data_dir):
    """A ResNet's weights would be a megabyte, and CIFAR-10 far more."""
    prepared = prepare(get_task("digits-conv"), data_dir=data_dir, device="cpu")
    jobs = jobs_of(plan_pairs(plan_study(prepared, StudyOptions(rewind_iters=range(0, 400, 10)))))
    options = LotteryOptions(levels=12, rewind_iter=20)
    jobs += [job for found in plan_replicate(plan_lottery(prepared, options, 20), 0) for job in found.jobs]
    sizes = [len(pickle.dumps(job)) for job in jobs]
    assert len(sizes) > 300
    assert max(sizes) < 20_000
    there = [replace(pickle.loads(pickle.dumps(job))) for job in jobs]  # without the names that jobs keep
    assert [job_name(job) for job in there] == [job_name(job) for job in jobs]


# Whose executor it is


@pytest.mark.parametrize("given", [3, "dask", object()])
def test_what_is_no_executor_is_refused(tmp_path, data_dir, given):
    with pytest.raises(OptionError, match=r"concurrent\.futures\.Executor or a function that makes one; got"):
        instability(**STUDY, executor=given, store=tmp_path, data_dir=data_dir)


def test_a_function_that_makes_something_else_is_refused(tmp_path, data_dir):
    with pytest.raises(OptionError, match="it made list"):
        instability(**STUDY, executor=list, store=tmp_path, data_dir=data_dir)


def test_this_process_and_an_executor_do_not_go_together():
    with pytest.raises(OptionError, match="does not go with an executor"):
        choose_engine(Inline(), workers=0)


@pytest.mark.parametrize("workers", [-1, 1.5, "two"])
def test_a_number_of_workers_is_one(workers):
    with pytest.raises(OptionError, match="workers must be a whole number"):
        choose_engine(workers=workers)


@pytest.mark.processes
def test_a_lent_pool_that_breaks_stops_the_study_and_says_what_would_not(store, tmp_path):
    killer = KillWorker(1, str(tmp_path / "killer"))
    pool = process_pool(2)
    engine = choose_engine(pool)
    with pytest.raises(ModeconnError, match=r"takes no more jobs .* Give executor= a function that makes"):
        run_jobs([killer, Count(3)], store, engine.make, engine.slots)
    pool.shutdown()
    made = choose_engine(lambda: process_pool(2))
    assert run_jobs([killer, Count(3)], store, made.make, made.slots) == {}


def test_a_function_that_gives_what_was_shut_down_is_told_what_to_do(store):
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    engine = choose_engine(lambda: threads)
    with pytest.raises(ModeconnError, match=r"takes no more jobs .* must make another executor each time"):
        run_jobs([Add(1)], store, engine.make, engine.slots)


def test_a_function_that_gives_what_is_broken_is_told_what_to_do(store, log):
    broken = Failing(BrokenExecutor("broken"))
    engine = choose_engine(lambda: broken)
    with pytest.raises(ModeconnError, match=r"given once more; .* must make another executor each time"):
        run_jobs([Add(1, log=log)], store, engine.make, engine.slots)
    assert notes(log) == []


@pytest.mark.slow
def test_what_a_lent_executor_has_not_begun_is_taken_back_when_a_study_is_interrupted(store, log):
    first, second = Count(50, log, seconds=0.05), Add(1, log=log)
    with ThreadPoolExecutor(1) as threads:

        def interrupt(progress) -> None:
            if "50:2" in notes(log):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_jobs([first, second], store, choose_engine(threads).make, 2, interrupt)
        assert threads.submit(len, "it still works").result() == 14
    assert "1" not in notes(log)
    assert read_sum(store, first) == 50  # what had begun was finished


# How many at a time


def test_an_executor_is_given_as_many_jobs_as_it_works_on(tmp_path):
    with ThreadPoolExecutor(3) as threads, WorkerPool(2) as processes:
        assert capacity(threads) == capacity(Lent(threads)) == 3
        assert capacity(processes) == 2
    assert capacity(Inline()) > 1_000_000


@pytest.mark.parametrize(("workers", "most"), [(None, 4), (3, 3)])
def test_no_more_jobs_are_out_than_that(store, workers, most):
    executor, seen = Waiting(limit=4), []
    engine = choose_engine(executor, workers)
    jobs = [Add(number) for number in range(10)]

    def report(progress) -> None:
        seen.append(len(progress.running))
        executor.work()

    assert run_jobs(jobs, store, engine.make, engine.slots, report) == {}
    assert max(seen) == most


class Waiting(Inline):
    """Does what it is given when it is told to; says how much it can take, which may be nothing."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.given: list = []

    def capacity(self) -> int:
        return self.limit

    def submit(self, function, /, *args, **kwargs):
        future: Future = Future()
        self.given.append((future, function, args))
        return future

    def work(self) -> None:
        given, self.given = self.given, []
        for future, function, args in given:
            function(*args)
            future.set_result(None)


def test_workers_that_come_later_are_waited_for(store):
    executor = Waiting(limit=0)
    reports = []

    def report(progress) -> None:
        reports.append(len(progress.running))
        executor.limit = 2 if len(reports) > 2 else 0
        executor.work()

    assert run_jobs([Add(1), Add(2)], store, choose_engine(executor).make, report=report) == {}
    assert reports[:3] == [0, 0, 0]
    assert 2 in reports


# Lost engines


class Failing(Inline):
    """The first jobs end in a given way, without having run."""

    def __init__(self, *errors: Exception, at_submit: bool = False) -> None:
        super().__init__()
        self.errors = list(errors)
        self.at_submit = at_submit

    def submit(self, function, /, *args, **kwargs):
        if not self.errors:
            return super().submit(function, *args, **kwargs)
        self.submitted += 1
        if self.at_submit:
            raise self.errors.pop(0)
        future: Future = Future()
        future.set_exception(self.errors.pop(0))
        return future


@pytest.mark.parametrize("at_submit", [False, True])
def test_an_engine_that_is_lost_again_and_again_blames_no_job(store, at_submit):
    made = [Failing(EngineLost("gone"), at_submit=at_submit) for _ in range(10)]
    left = [*made, Inline()]
    assert run_jobs([Add(1), Add(2)], store, lambda: left.pop(0), 1) == {}
    assert all(executor.is_shut_down for executor in made)


@pytest.mark.parametrize("at_submit", [False, True])
def test_a_job_whose_worker_is_lost_again_and_again_is_given_up(store, at_submit):
    broken = lambda: Failing(BrokenExecutor("broken"), at_submit=at_submit)  # noqa: E731
    left = [*(broken() for _ in range(3)), Inline()]
    failures = run_jobs([Add(1), Add(2)], store, lambda: left.pop(0), 1)
    assert failures.keys() == {job_name(Add(1))}
    assert "lost its worker 3 times" in str(failures[job_name(Add(1))])


def test_a_cancelled_job_is_submitted_again_to_the_same_executor(store):
    executor = Failing(CancelledError(), CancelledError())
    assert run_jobs([Add(1), Add(2)], store, lambda: executor, 1) == {}
    assert executor.submitted == 4
    always = Failing(*(CancelledError() for _ in range(3)))
    failures = run_jobs([Add(3, cost=9.0), Add(4)], store, lambda: always, 1)
    assert failures.keys() == {job_name(Add(3))}
    assert "sum 3 was cancelled 3 times by its executor" in str(failures[job_name(Add(3))])
    assert read_sum(store, Add(4)) == 4


# GPUs


class Sees(Add):
    """Leaves word of the GPUs that its worker sees."""

    def run(self, store: Store) -> None:
        super().run(store)
        store.write(self, {}, {"sees": os.environ.get("CUDA_VISIBLE_DEVICES")}, done=True)
        if self.seconds:
            os.kill(os.getpid(), signal.SIGSTOP)  # so that the other worker does the other job


@pytest.mark.processes
def test_each_worker_sees_a_gpu_of_its_own(store, monkeypatch, log):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    jobs = [Sees(number, log=log, seconds=1.0) for number in range(2)]

    def go_on(progress) -> None:
        if all(store.done(job) for job in jobs):
            for worker in workers(log):
                os.kill(worker, signal.SIGCONT)

    assert run_jobs(jobs, store, lambda: process_pool(2, ["3", "GPU-8f2a"]), 2, go_on) == {}
    assert {store.require(job).facts["sees"] for job in jobs} == {"3", "GPU-8f2a"}
    other = Sees(3)
    assert run_jobs([other], store, lambda: process_pool(1), 1) == {}
    assert store.require(other).facts["sees"] is None


def test_a_machine_with_gpus_has_a_worker_for_each(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,2,0")
    assert engine_for("cuda", None, None).slots == 3
    assert engine_for("cuda", None, None).make.args == (3, ("4", "2", "0"))
    assert engine_for("cuda", None, 5).make.args == (5, ("4", "2", "0"))
    assert engine_for("cuda:1", None, None).make.args == (1, ())
    assert engine_for("cuda:1", None, 2).make.args == (2, ())
    assert engine_for("cpu", None, None).make.args == (default_workers(), ())
    assert engine_for("cuda", Inline, None).slots is None


def test_more_gpus_than_workers_leave_some_idle():
    assert gpus_of_workers(1, ["0", "1"]) == ["0"]
    assert gpus_of_workers(3, []) == []


# Dask


def test_only_one_file_knows_dask():
    knowing = set()
    for file in Path(modeconn.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] in ("dask", "distributed") for name in named):
                knowing.add(file.name)
    assert knowing == {"dask_engine.py"}
