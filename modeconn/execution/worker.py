"""Computes one job where an executor sent it."""

import socket
import threading
from pathlib import Path

from modeconn.errors import ModeconnError, StoreError
from modeconn.execution.job import Job
from modeconn.execution.names import job_name
from modeconn.execution.store import Store

_ALONE = threading.RLock()  # jobs change settings of their process, such as PyTorch's, so one runs there at a time


class UnfitWorker(StoreError):
    """A worker cannot take part: its folders, its versions or its code are not those of the study. Others may."""


def run_job(job: Job, root: Path) -> None:
    """Compute the artifact of a job, unless it is in the store.

    Args:
        job: whose inputs are in the store.
        root: the store's folder, as this machine sees it.

    Raises:
        UnfitWorker: the store is not there.
        ModeconnError: whatever else the job raised, and which job that was.
    """
    try:
        store = Store(root, create=False)
    except StoreError as error:
        raise UnfitWorker(
            f"the worker on {socket.gethostname()} lacks the store, which all must share: {error}"
        ) from error
    with store.lock(job), _ALONE:  # another study may be at it; then its artifact is there when the lock is ours
        if store.done(job) is None:
            try:
                job.run(store)
            except ModeconnError:
                raise
            except (Exception, SystemExit) as error:
                # Not every exception survives the way between processes; this one does, and says whose it is.
                raise ModeconnError(f"{job.label or job_name(job)}: {type(error).__name__}: {error}") from error
