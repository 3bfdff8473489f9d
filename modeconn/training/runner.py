"""The runner of a study of trainings: where its jobs run, where artifacts are kept, and who is told."""

import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modeconn.errors import ModeconnError, StoreError
from modeconn.execution import Engine, Job, MakeExecutor, Store, choose_engine, run_jobs, visible_gpus
from modeconn.execution.maintenance import forget
from modeconn.execution.names import job_name
from modeconn.execution.records import Recorder
from modeconn.files import writing
from modeconn.progress import Progress, Report, silent
from modeconn.training.jobs import Origin, TrainJob
from modeconn.training.task_training import Prepared
from modeconn.training.trackers import Follower, Log
from modeconn.versions import machine, versions


@dataclass(frozen=True, eq=False)
class Runner:
    """Computes the jobs of one study.

    Attributes:
        store: where artifacts are kept.
        engine: where jobs run.
        follower: tells a tracker what trainings record.
        recorder: keeps the study's record in the store.
        report: called about twice a second with how far the study is.
    """

    store: Store
    engine: Engine
    follower: Follower
    recorder: Recorder
    report: Report = silent

    def announce(self, jobs: Iterable[Job], pruned: bool = False) -> None:
        """Report how many jobs a study has to compute, how many results of others are there, and where.

        Args:
            jobs: whose artifacts are wanted.
            pruned: not all of them may be needed.
        """
        found: dict[str, bool] = {}
        waiting = list(jobs)
        while waiting:
            job = waiting.pop()
            if (name := job_name(job)) not in found:
                found[name] = self.store.done(job) is not None
                waiting += [] if found[name] else job.inputs
        stored, slots = sum(found.values()), self.engine.slots
        workers = "an executor" if slots is None else "1 worker" if slots == 1 else f"{slots} workers"
        jobs_left = f"{'up to ' if pruned else ''}{len(found) - stored} of {len(found)} jobs to compute on {workers}"
        about = f"{jobs_left}; {stored} in the store {self.store.root}"
        self.report(Progress(0, 0, len(found) - stored, 0.0, 0.0, (), about))

    def compute(self, jobs: Sequence[Job]) -> None:
        """Record the jobs, then compute them and whatever they need that is not in the store.

        Raises:
            ModeconnError: jobs that failed, when the rest is done.
        """
        failures = self.attempt(jobs)
        if failures:
            name, first = next(iter(failures.items()))
            failed = len({id(error) for error in failures.values()})
            skipped = len(failures) - failed
            others = f", {skipped} depending on {'it' if failed == 1 else 'them'} skipped" if skipped else ""
            jobs_failed = f"{failed} {'job' if failed == 1 else 'jobs'} failed{others}"
            raise ModeconnError(f"job {name} failed: {first}; {jobs_failed}; finished work is kept") from first

    def forget(self, jobs: Sequence[Job]) -> None:
        """Remove the artifacts of these jobs and of all that they need from the store: they are computed anew."""
        self.recorder.add(jobs)
        forget(self.store, self.recorder.names)

    def attempt(self, jobs: Sequence[Job]) -> dict[str, Exception]:
        """Do what `compute` does, but return what the jobs that failed raised, by name."""
        self.recorder.add(jobs)
        failures = run_jobs(jobs, self.store, self.engine.make, self.engine.slots, self.follower.before(self.report))
        if not failures:
            self.follower.follow(found for job in jobs for found in (job, *job.inputs))
        return failures

    def check_room(self, states: Iterable[TrainJob | Origin], state_bytes: int) -> None:
        """Refuse a study whose states, those that are not there yet, would not fit on the disk.

        Args:
            states: all of the study.
            state_bytes: the size of one without its optimizer's part.

        Raises:
            StoreError: how much it needs, and how much there is.
        """
        by_name = {job_name(state): state for state in states}
        new = [state for state in by_name.values() if not self.store.done(state)]
        # Adam keeps two numbers for every weight; a state before the end holds them beside the weights.
        sizes = [2 if state.iteration == state.training.iterations else 3 for state in new]
        # What trained together is kept by the cohort, too.
        again = [1 for state in new if isinstance(state, TrainJob) and state.cohort]
        needed = state_bytes * sum([*sizes, *again])
        free = shutil.disk_usage(self.store.root).free
        if needed > free:
            raise StoreError(
                f"the study needs up to {needed / 1e9:.1f} GB in {self.store.root}, where {free / 1e9:.1f} GB are "
                "free; free some, or choose another store="
            )


def open_runner(
    kind: str,
    prepared: Prepared,
    asked: dict[str, Any],
    *,
    store: str | Path,
    executor: Executor | MakeExecutor | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    command: str = "",
    log: Log | None = None,
    report: Report = silent,
) -> Runner:
    """The runner of a study, once what it needs is there: the engine, the folder of its results, and the store.

    Args:
        kind: of study: `"train"`, `"instability"`, `"lottery"`.
        prepared: the training that was tried.
        asked: the study's options, as JSON as far as it goes; with the training they decide the record's name.
        store, executor, workers, out, command, log, report: as in `modeconn.instability`.

    Raises:
        OptionError: the executor or the number of workers.
        StoreError: a folder that cannot be written.
    """
    engine = engine_for(prepared.training.device, executor, workers)
    if out is not None:
        with writing(Path(out)):
            Path(out).mkdir(parents=True, exist_ok=True)
    opened = Store(store)
    training = prepared.training
    named_by = {"training": training.spec(), "measured": training.measured_spec(), "options": asked}
    recorder = Recorder(opened, kind, prepared.about["task"], named_by, command, out)
    return Runner(opened, engine, Follower(log, opened), recorder, report)


def engine_for(device: str, executor: Executor | MakeExecutor | None, workers: int | None) -> Engine:
    """The engine of a study's jobs; see `modeconn.execution.engine.choose_engine`.

    On `"cuda"` there is one worker for each GPU, pinned to it. `"cuda:N"` is one GPU for all, by default for one.

    Raises:
        OptionError: as there.
    """
    place = torch.device(device)
    if executor is None and place.type == "cuda":
        if place.index is None:
            gpus = visible_gpus(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
            return choose_engine(workers=workers, gpus=gpus)
        workers = 1 if workers is None else workers
    return choose_engine(executor, workers)


def summarize(prepared: Prepared, command: str) -> dict[str, Any]:
    """The beginning of any study's `summary.json`: its task, the machine and the command."""
    training = prepared.training
    return {
        **prepared.about,
        "iterations": training.iterations,
        "precision": training.precision,
        "device": torch.device(training.device).type,
        "command": command,
        "versions": versions(),
        "machine": machine(),
    }
