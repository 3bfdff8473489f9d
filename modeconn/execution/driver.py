"""Runs jobs on any executor: what is in the store is not computed again, what fails stops only what needs it."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from pathlib import Path
from queue import Empty, SimpleQueue

from modeconn.errors import CorruptArtifact, ModeconnError, StoreError
from modeconn.execution.engine import EngineLost, capacity
from modeconn.execution.graph import Graph
from modeconn.execution.job import Job
from modeconn.execution.names import job_name
from modeconn.execution.store import Store
from modeconn.progress import Progress

log = logging.getLogger("modeconn")
ATTEMPTS = 3  # a job whose worker is lost, or whose inputs are damaged, is tried this often
_LOST = "lost its worker {} (killed, out of memory, or a script that lacks `if __name__ == '__main__':`)"
_CANCELLED = (
    "was cancelled {} by its executor (its worker was killed, or over a limit; the executor's logs may say why)"
)
_ANOTHER = "what is done is in the store. A function that executor= is given must make another executor each time"
_TICK = 0.5  # seconds between two reports
_LOOKS = 50  # jobs that are asked how far they are at a time; every look is a file, perhaps across a network
_ALONE = threading.RLock()  # jobs change settings of their process, such as PyTorch's, so one runs there at a time


def run_jobs(
    targets: Iterable[Job],
    store: Store,
    make_executor: Callable[[], Executor],
    slots: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Exception]:
    """Compute the targets' artifacts and whatever they need that is not in the store.

    Args:
        targets: jobs whose artifacts are wanted.
        store: where artifacts are.
        make_executor: gives an executor; called again when its workers are lost.
        slots: how many jobs to submit at a time; None for as many as the executor works on, which may change.
        report: called at the start, every half second, and whenever a job ends.

    Returns:
        What the jobs that failed raised, by name; a job that needs a failed one has its error.

    Raises:
        KeyboardInterrupt: workers are stopped; what they saved remains, and the same call goes on from there.
    """
    graph = Graph(targets, store)
    if not graph.jobs:
        return {}
    failures: dict[str, Exception] = {}
    attempts: dict[str, int] = {}
    losses: dict[str, int] = {}  # of workers, by the job that ran alone
    suspects: list[str] = []  # jobs that were there when a worker was lost; each runs alone until it is cleared
    running: dict[Future[None], str] = {}
    ended: SimpleQueue[Future[None]] = SimpleQueue()  # each event costs the same however many jobs are running
    begun: dict[str, float] = {}  # work done of jobs that are running, as far as they have left word
    looked, turn = time.monotonic(), 0
    executor = make_executor()

    def fill() -> BrokenExecutor | None:
        """Submit ready jobs to the free slots; if the executor turns out to be broken, how."""
        free = capacity(executor) if slots is None else slots
        while len(running) < free and not (suspects and running):
            name = suspects[0] if suspects else graph.take()
            if name is None:
                break
            attempts[name] = attempts.get(name, 0) + 1
            try:
                future = executor.submit(_run, graph.jobs[name], store.root)
            except EngineLost as error:
                put_back([name])
                return error
            except BrokenExecutor as error:
                lose([name], alone=not running)
                return error
            except RuntimeError as error:  # it was shut down
                raise ModeconnError(f"the executor takes no more jobs ({error}); {_ANOTHER}") from error
            running[future] = name
            future.add_done_callback(ended.put)
        return None

    def put_back(names: Iterable[str]) -> None:
        """Jobs start again that are not to blame for having been stopped."""
        for name in names:
            if name not in suspects:
                graph.put_back(name)

    def lose(names: list[str], alone: bool) -> None:
        """Jobs whose worker was lost start again, alone; one that lost it alone too often is given up."""
        suspects.extend(name for name in names if name not in suspects)
        for name in names if alone else ():
            blame(name, _LOST)

    def blame(name: str, what: str) -> None:
        losses[name] = losses.get(name, 0) + 1
        if losses[name] >= ATTEMPTS:
            give_up(name, ModeconnError(f"{graph.jobs[name].label or name} {what.format(f'{ATTEMPTS} times')}"))

    def give_up(name: str, error: Exception) -> None:
        clear(name)
        failures.update(dict.fromkeys(graph.fail(name), error))

    def clear(name: str) -> None:
        if name in suspects:
            suspects.remove(name)

    def settle(name: str, future: "Future[None]") -> BrokenExecutor | None:
        """Account for a job that ended; or, if that is because its executor broke, how."""
        try:
            future.result()
            clear(name)
            graph.finish(name)
        except BrokenExecutor as error:
            return error
        except CancelledError:  # by the executor, which works on: a cluster took its worker away, say
            blame(name, _CANCELLED)
            put_back([name] if name in graph.jobs else [])
        except CorruptArtifact as error:
            clear(name)
            if attempts[name] >= ATTEMPTS or not graph.redo_input(name, error, store):
                give_up(name, error)
        except Exception as error:
            give_up(name, error)
        return None

    def look() -> None:
        """Ask some of the running jobs how far they are, in turn."""
        nonlocal looked, turn
        looked, names = time.monotonic(), list(running.values())
        turn = turn if turn < len(names) else 0
        for name in names[turn : turn + _LOOKS]:
            begun[name] = store.read_heartbeat(graph.jobs[name]) * graph.jobs[name].cost
        turn += _LOOKS

    def tell() -> None:
        left = graph.left - sum(begun.values())
        done = graph.count - len(graph.jobs) - len(failures)
        active = tuple(map(graph.jobs.__getitem__, running.values()))
        report(Progress(done, len(failures), graph.count, graph.total - left, graph.total, active))

    try:
        tell()
        while graph.jobs:
            causes = [fill()]
            # Where nothing could be submitted, no worker is there yet: that is waited for as well.
            for future in _take(ended, timeout=_TICK if causes == [None] else 0.0):
                if future in running:  # else it was of an executor that is given up
                    causes.append(settle(running[future], future))
                    if causes[-1] is None:
                        begun.pop(running.pop(future), None)
            if causes != [None] * len(causes):
                gone = next((cause for cause in causes if isinstance(cause, EngineLost)), None)
                log.warning("%s; what was running is started again", gone or "a worker was lost")
                # One lost worker breaks a whole pool, so everything that was in it starts again in a new one.
                stopped = list(running.values())
                if gone:
                    put_back(stopped)
                else:
                    lose(stopped, alone=len(stopped) == 1)
                running.clear()
                begun.clear()
                _stop(executor)
                lost, executor = executor, make_executor()
                if executor is lost:
                    raise ModeconnError(f"the executor that is broken was given once more; {_ANOTHER}")
            if time.monotonic() - looked >= _TICK:
                look()
            tell()
    except BaseException:
        _stop(executor)
        raise
    executor.shutdown()
    return failures


def _run(job: Job, root: Path) -> None:
    try:
        store = Store(root, create=False)
    except StoreError as error:
        raise StoreError(
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


def _take(queue: "SimpleQueue[Future[None]]", timeout: float) -> list["Future[None]"]:
    """What is in a queue; if nothing, what comes first within a time."""
    found = []
    with contextlib.suppress(Empty):
        found.append(queue.get(timeout=timeout))
        while True:
            found.append(queue.get_nowait())
    return found


def _stop(executor: Executor) -> None:
    """End an executor without waiting for what it is doing."""
    kill = getattr(executor, "kill", None)
    if kill:
        kill()
    else:
        executor.shutdown(wait=False, cancel_futures=True)
