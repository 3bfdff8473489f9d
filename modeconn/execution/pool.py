"""Local executors: a pool of worker processes, and this process itself."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.queues import SimpleQueue
from typing import Any

from modeconn.execution.memory import keep_freed_memory

# What a worker needs is imported once, in a server process that workers are forked from.
_PRELOAD = ["modeconn.analysis.instability.jobs", "modeconn.training.cohort.jobs"]


class WorkerPool(ProcessPoolExecutor):
    """A pool of worker processes, which end with this process however it ends.

    Args:
        workers: how many.
        gpus: their names, as `visible_gpus` gives them; each worker sees one. Without, it sees what we see.
    """

    def __init__(self, workers: int, gpus: Sequence[str] = ()) -> None:
        start_server()
        context = multiprocessing.get_context("forkserver")
        ids = context.SimpleQueue()
        for gpu in gpus_of_workers(workers, gpus):
            ids.put(gpu)
        super().__init__(workers, mp_context=context, initializer=_start_worker, initargs=(ids if gpus else None,))

    def kill(self) -> None:
        """End the workers at once, in the middle of whatever they do."""
        processes = list((self._processes or {}).values())
        self.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()


class InProcess(Executor):
    """Runs every job in this process when it is submitted: for notebooks, debuggers and tests."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Call the function now."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def process_pool(workers: int, gpus: Sequence[str] = ()) -> Executor:
    """A pool of that many processes, each with one of the GPUs; with 0 workers, this process."""
    return WorkerPool(workers, gpus) if workers else InProcess()


def visible_gpus(count: int, visible: str | None) -> tuple[str, ...]:
    """Names of the GPUs that this process sees; a process that is to see one alone has it in `CUDA_VISIBLE_DEVICES`.

    Args:
        count: how many this process sees.
        visible: this process's own `CUDA_VISIBLE_DEVICES`, in which they may have been chosen and numbered anew.

    >>> visible_gpus(2, None), visible_gpus(2, "3,1"), visible_gpus(1, "GPU-8f2a,GPU-77c0")
    (('0', '1'), ('3', '1'), ('GPU-8f2a',))
    """
    named = [name.strip() for name in (visible or "").split(",") if name.strip()]
    return tuple(named or map(str, range(count)))[:count]


def gpus_of_workers(workers: int, gpus: Sequence[str]) -> list[str]:
    """Assign a GPU to each worker, in turn; if there are fewer GPUs than workers, they are shared evenly.

    >>> gpus_of_workers(5, ["0", "1"])
    ['0', '1', '0', '1', '0']
    """
    return [gpus[worker % len(gpus)] for worker in range(workers)] if gpus else []


def start_server() -> None:
    """Start the server that workers are forked from, if it does not run; its imports go on beside the caller's."""
    forkserver.set_forkserver_preload(_PRELOAD)
    resource_tracker.ensure_running()  # first, because it would unblock the signal
    # The server is in our process group and imports torch before it ignores Ctrl-C; so it is born with it blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def default_workers() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(gpus: "SimpleQueue[str] | None") -> None:
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()  # CUDA reads it at its first use, which is in a job
    # Ctrl-C reaches the whole foreground group; the driver alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
