"""What comes before the first job of a study of 10,000, and a store that holds as many artifacts."""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.commands import start_up
from benchmarks.driver_cost import COPIES, REWIND_ITERS, plan
from modeconn import instability
from modeconn.execution import Store
from modeconn.execution.graph import Graph
from modeconn.execution.records import Recorder
from modeconn.progress import Progress
from modeconn.tasks import get_task
from modeconn.training.task_training import prepare

_FILE = b"x" * 1000


class _Planned(Exception):
    """The first job is about to run."""


class _Stopping(Executor):
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run nothing."""
        raise _Planned


def planning(index: int, replicates: int) -> Callable[[], dict[str, Any]]:
    """A study of the digits from its call to its first job: data, trial, plan, what the store has, the graph."""

    def measure() -> dict[str, Any]:
        seen: list[Progress] = []
        with tempfile.TemporaryDirectory() as store:
            try:
                instability(
                    rewind_iters=REWIND_ITERS,
                    copies=COPIES,
                    replicates=replicates,
                    executor=_Stopping,
                    store=store,
                    report=seen.append,
                )
            except _Planned:
                return {"work": 1, "jobs": seen[-1].jobs}
        raise RuntimeError("the study had no job")

    return measure


def filled_store(index: int, replicates: int, folder: str) -> Callable[[], dict[str, Any]]:
    """Make the store of such a study, with a small file in place of what its jobs compute, and its record."""
    prepared = prepare(get_task("digits-conv"), device="cpu")

    def make() -> dict[str, Any]:
        jobs, store = plan(prepared, replicates), Store(Path(folder) / "store")
        Recorder(store, "instability", "digits-conv", {}, "", None).add(jobs)
        facts = {"label": "", "prefix": "", "iteration": 0, "diverged_at": None}
        every = Graph(jobs, store).jobs.values()
        with mock.patch.object(os, "fsync"):  # nobody needs it after a crash, and disks take a while
            for job in every:
                store.write(job, {"file": _FILE}, facts | {"label": job.label}, done=True)
        return {"work": len(every)}

    return make


def listing(index: int, repeats: int, folder: str) -> Callable[[], dict[str, Any]]:
    """`modeconn runs` on that store, from its start to its end."""
    return start_up(index, repeats, ["-m", "modeconn", "runs", "--store", str(Path(folder) / "store")])
