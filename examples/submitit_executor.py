"""submitit as an executor: every job of a study becomes a job of Slurm.

    import modeconn, submitit
    from submitit_executor import SubmititExecutor

    slurm = submitit.AutoExecutor(folder="slurm-logs")
    slurm.update_parameters(slurm_partition="main", timeout_min=240, gpus_per_node=1, cpus_per_task=1)
    modeconn.instability("cifar10-resnet20", executor=SubmititExecutor(slurm), workers=20)

With `workers=`, so many jobs are in Slurm's queue at a time. Slurm needs accounting (`sacct`), without which submitit
does not learn that a job was killed.
"""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from typing import Any

import submitit


class SubmititExecutor(Executor):
    """Standard futures of submitit's jobs."""

    def __init__(self, executor: "submitit.Executor") -> None:
        self._executor = executor
        self._jobs: dict[Future[Any], submitit.Job[Any]] = {}

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """A job of Slurm's that calls the function."""
        future: Future[Any] = Future()
        job = self._jobs[future] = self._executor.submit(function, *args, **kwargs)
        threading.Thread(target=_wait, args=(job, future), daemon=True).start()
        future.add_done_callback(self._jobs.pop)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel jobs that are not done, if asked; what they saved is gone on from."""
        for job in list(self._jobs.values()) if cancel_futures else ():
            job.cancel()


def _wait(job: "submitit.Job[Any]", future: "Future[Any]") -> None:
    try:
        future.set_result(job.result())
    except submitit.core.utils.FailedJobError as error:  # a kind of the next one
        future.set_exception(error)
    except submitit.core.utils.UncompletedJobError:
        future.set_exception(CancelledError())  # killed, cancelled or timed out: modeconn submits it again
    except Exception as error:
        future.set_exception(error)
