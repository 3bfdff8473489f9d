"""What every study of trainings does: workers, room on the disk, computing, and what its summary begins with."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

from modeconn.errors import ModeconnError, StoreError
from modeconn.execution import Engine, Job, MakeExecutor, Store, choose_engine, run_jobs, visible_gpus
from modeconn.execution.names import job_name
from modeconn.progress import Progress
from modeconn.training.jobs import RewindJob, TrainJob
from modeconn.training.task_training import Prepared
from modeconn.training.trackers import Follower
from modeconn.versions import versions


def compute(
    jobs: Sequence[Job],
    store: Store,
    engine: Engine,
    follower: Follower,
    report: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Compute the jobs and whatever they need that is not in the store; the follower is told of every training.

    Raises:
        ModeconnError: jobs that failed, when the rest is done.
    """
    failures = run_jobs(jobs, store, engine.make, engine.slots, follower.before(report))
    if failures:
        name, first = next(iter(failures.items()))
        others = f"; with it failed {len(failures) - 1} others" if len(failures) > 1 else ""
        raise ModeconnError(f"job {name} failed: {first}{others}; what could be done is done") from first
    follower.follow(source for job in jobs for source in job.inputs)


def engine_for(device: str, executor: Executor | MakeExecutor | None, workers: int | None) -> Engine:
    """Where the jobs of a study run; see `modeconn.execution.engine.choose_engine`.

    On `"cuda"` there is one worker for each GPU, pinned to it. `"cuda:N"` is one GPU for all, by default for one.

    Raises:
        OptionError: as there.
    """
    import torch

    place = torch.device(device)
    if executor is None and place.type == "cuda":
        if place.index is None:
            gpus = visible_gpus(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
            return choose_engine(workers=workers, gpus=gpus)
        workers = 1 if workers is None else workers
    return choose_engine(executor, workers)


def check_room(store: Store, states: Iterable[TrainJob | RewindJob], state_bytes: int) -> None:
    """Refuse a study whose states, those that are not there yet, would not fit on the disk.

    Raises:
        StoreError: how much it needs, and how much there is.
    """
    new = {name: state for name, state in {job_name(state): state for state in states}.items() if not store.done(state)}
    # Adam keeps two numbers for every weight; a state before the end holds them beside the weights.
    sizes = [2 if state.iteration == state.training.iterations else 3 for state in new.values()]
    # What trained together is kept by the cohort, too.
    again = [1 for state in new.values() if isinstance(state, TrainJob) and state.cohort]
    needed = state_bytes * sum([*sizes, *again])
    free = shutil.disk_usage(store.root).free
    if needed > free:
        raise StoreError(
            f"the study needs up to {needed / 1e9:.1f} GB in {store.root}, where {free / 1e9:.1f} GB are free; "
            "free some, or choose another --store"
        )


def summarize(prepared: Prepared, command: str) -> dict[str, Any]:
    """What any study's `summary.json` says of its task, the machine and the command."""
    import torch

    training = prepared.training
    return {
        **prepared.about,
        "iterations": training.iterations,
        "precision": training.precision,
        "device": torch.device(training.device).type,
        "command": command,
        "versions": versions(),
    }
