"""What every study of trainings does: workers, room on the disk, computing, and what its summary begins with."""

import platform
import shutil
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

from modeconn.errors import ModeconnError, OptionError, StoreError
from modeconn.execution import Job, Progress, Store, default_workers, job_name, process_pool, run_jobs
from modeconn.training.jobs import RewindJob, TrainJob
from modeconn.training.setting import Prepared
from modeconn.training.trackers import Follower


def compute(
    jobs: Sequence[Job],
    store: Store,
    workers: int,
    follower: Follower,
    report: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Compute the jobs and whatever they need that is not in the store; the follower is told of every training.

    Raises:
        ModeconnError: jobs that failed, when the rest is done.
    """
    failures = run_jobs(jobs, store, lambda: process_pool(workers), workers or 1, follower.before(report))
    if failures:
        name, first = next(iter(failures.items()))
        others = f"; with it failed {len(failures) - 1} others" if len(failures) > 1 else ""
        raise ModeconnError(f"job {name} failed: {first}{others}; what could be done is done") from first
    follower.follow(source for job in jobs for source in job.inputs)


def count_workers(workers: int | None, device: str) -> int:
    """How many processes; one for each core, or one on a GPU, if None.

    Raises:
        OptionError: not a whole number, or negative.
    """
    if workers is None:
        return 1 if device.startswith("cuda") else default_workers()
    if not isinstance(workers, Integral) or workers < 0:
        raise OptionError(f"workers must be a whole number, not negative; got {workers!r}")
    return int(workers)


def check_room(store: Store, states: Iterable[TrainJob | RewindJob], state_bytes: int) -> None:
    """Refuse a study whose states, those that are not there yet, would not fit on the disk.

    Raises:
        StoreError: how much it needs, and how much there is.
    """
    new = {name: state for name, state in {job_name(state): state for state in states}.items() if not store.done(state)}
    # Adam keeps two numbers for every weight; a state before the end holds them beside the weights.
    needed = sum(state_bytes * (2 if state.iteration == state.training.iterations else 3) for state in new.values())
    free = shutil.disk_usage(store.root).free
    if needed > free:
        raise StoreError(
            f"the study needs up to {needed / 1e9:.1f} GB in {store.root}, where {free / 1e9:.1f} GB are free; "
            "free some, or choose another --store"
        )


def summarize(prepared: Prepared, command: str) -> dict[str, Any]:
    """What any study's `summary.json` says of its task, the machine and the command."""
    import numpy
    import torch

    from modeconn import __version__

    training = prepared.training
    return {
        **prepared.about,
        "iterations": training.iterations,
        "precision": training.precision,
        "device": torch.device(training.device).type,
        "command": command,
        "versions": {
            "modeconn": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
    }
