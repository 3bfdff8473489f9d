"""Optional experiment trackers: metrics go to one callable, `log(metrics, step)`.

A tracker is a copy; the store stays the truth. So it is fed from the store, by the process that drives the jobs, and
a study that was interrupted or finished before is told as well.
"""

import atexit
import math
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from modeconn.errors import CorruptArtifact, ModeconnError, unknown
from modeconn.execution import Store
from modeconn.execution.names import job_name
from modeconn.progress import Progress, Report
from modeconn.training.jobs import TrainJob, read_metrics

Log = Callable[[Mapping[str, float], int], None]

_LOOK_EVERY = 0.5  # seconds; however often jobs end
TRACKERS = ("tensorboard", "wandb", "trackio")


def tracker(name: str, project: str, config: Mapping[str, Any]) -> Log:
    """The `log` of a tracking library, which is imported now.

    Args:
        name: `"tensorboard"`, `"wandb"` or `"trackio"`.
        project: the project there; for TensorBoard, the folder of its files.
        config: noted there.

    Raises:
        OptionError: unknown tracker.
        ModeconnError: the library is not installed.
    """
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    try:
        library = import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise ModeconnError(f"{name} is not installed; pip install 'modeconn[{name}]'") from error
    if name == "tensorboard":
        writer = library.SummaryWriter(project)
        atexit.register(writer.close)  # what it has not written yet would be lost

        def log(metrics: Mapping[str, float], step: int) -> None:
            for key, value in metrics.items():
                writer.add_scalar(key, value, step)

        return log
    run = library.init(project=project, config=dict(config))
    # Runs of a study report side by side, so iterations are a metric; these libraries want their own step to grow.
    return lambda metrics, step: run.log({**metrics, "iteration": step})


class Follower:
    """Tells a tracker what the jobs of a study record, as it appears in the store; each row once."""

    def __init__(self, log: Log | None, store: Store) -> None:
        self._log = log
        self._store = store
        self._told: dict[str, int] = {}

    def before(self, report: Report) -> Report:
        """A report for `run_jobs` that looks at the jobs that are running, and then calls the given one."""

        looked = -math.inf

        def tell(progress: Progress) -> None:
            nonlocal looked
            if time.monotonic() - looked >= _LOOK_EVERY:
                looked = time.monotonic()
                self.follow(progress.running)
            report(progress)

        return tell

    def follow(self, jobs: Iterable[object]) -> None:
        """Look at these jobs, running or finished."""
        if self._log is None:
            return
        for job in jobs:
            if isinstance(job, TrainJob):
                self._tell(job, self._log)

    def _tell(self, job: TrainJob, log: Log) -> None:
        name = job_name(job)
        try:
            rows = read_metrics(self._store, job)
        except CorruptArtifact:  # replaced just now, or damaged: whoever needs it will say so
            return
        for row in rows[self._told.get(name, 0) :]:
            metrics = {f"{job.label or name}/{row['split']}/{key}": row[key] for key in ("loss", "error")}
            log(metrics, row["iteration"])
        self._told[name] = max(len(rows), self._told.get(name, 0))
