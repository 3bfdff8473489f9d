"""Where jobs run: in this process, in a pool of processes, or on anybody's `concurrent.futures.Executor`."""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

from modeconn.errors import ModeconnError, OptionError
from modeconn.execution.pool import EngineLost as EngineLost
from modeconn.execution.pool import default_workers, process_pool

_WORKERS = 64  # processes that any machine may be asked for
MakeExecutor = Callable[[], Executor]


@dataclass(frozen=True)
class Engine:
    """A way to run jobs, as `run_jobs` needs to know it.

    Attributes:
        make: gives an executor, and another one when its workers are lost.
        slots: how many jobs to submit at a time; None for as many as the executor says it works on.
    """

    make: MakeExecutor
    slots: int | None


def choose_engine(
    executor: Executor | MakeExecutor | None = None, workers: int | None = None, gpus: Sequence[str] = ()
) -> Engine:
    """Choose where jobs run, as `executor=` and `workers=` ask for.

    Args:
        executor: somebody's executor, which is not shut down; or a function that makes one, which is called again when
            it breaks; or None for processes on this machine.
        workers: how many of these, by default one for each GPU or core, with 0 for this process alone; with an
            executor, how many jobs it is given at a time.
        gpus: of this machine, by name, that workers are pinned to.

    Raises:
        OptionError: neither an executor nor a function; or no such number of workers.
    """
    if workers is not None and (not isinstance(workers, Integral) or workers < 0):
        raise OptionError(f"workers must be a whole number, not negative; got {workers!r}")
    if executor is None:
        count = (len(gpus) or default_workers()) if workers is None else int(workers)
        most = max(_WORKERS, 4 * default_workers())
        if count > most:
            raise OptionError(
                f"{count:,} workers are as many processes with PyTorch in each, of about 0.3 GB; this machine has "
                f"{default_workers()} cores, so ask for {most} at most"
            )
        return Engine(partial(process_pool, count, tuple(gpus)), count or 1)
    if workers == 0:
        raise OptionError("workers=0 computes in this process, so it does not go with an executor; leave one out")
    slots = None if workers is None else int(workers)
    if isinstance(executor, Executor):
        return Engine(partial(Lent, executor), slots)
    if not callable(executor):
        kind = type(executor).__name__
        raise OptionError(f"executor must be a concurrent.futures.Executor or a function that makes one; got {kind}")
    return Engine(partial(_made, executor), slots)


def capacity(executor: Executor) -> int:
    """The number of jobs that an executor works on at once; if it does not say, more than there are.

    An executor of modeconn's says so itself, in `capacity()`; the pools of the standard library, and those modelled
    on them, have `_max_workers`.
    """
    if isinstance(executor, Lent):
        return capacity(executor.lender)
    if hasattr(executor, "capacity"):
        return int(executor.capacity())
    return int(getattr(executor, "_max_workers", None) or sys.maxsize)


def stop(executor: Executor) -> None:
    """End an executor without waiting for what it is doing, which is stopped as well if it has `kill()`."""
    kill = getattr(executor, "kill", None)
    if kill:
        kill()
    else:
        executor.shutdown(wait=False, cancel_futures=True)


class Lent(Executor):
    """Somebody else's executor: what was submitted here can be cancelled, but it is not ours to shut down."""

    def __init__(self, lender: Executor) -> None:
        self.lender = lender
        self._futures: set[Future[Any]] = set()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Submit to the lender.

        Raises:
            ModeconnError: the executor is broken or was shut down; only its owner can make another one.
        """
        try:
            future = self.lender.submit(function, *args, **kwargs)
        except RuntimeError as error:  # BrokenExecutor is one, too
            raise ModeconnError(
                f"the executor takes no more jobs ({error}); what is done is in the store. Give executor= a function "
                "that makes an executor, so that another one can be made when its workers are lost"
            ) from error
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel what was submitted here and has not begun, if asked."""
        for future in list(self._futures) if cancel_futures else ():
            future.cancel()


def _made(make: MakeExecutor) -> Executor:
    executor = make()
    if not isinstance(executor, Executor):
        kind = type(executor).__name__
        raise OptionError(f"executor= must make a concurrent.futures.Executor; it made {kind}")
    return executor
