"""Runs jobs on any executor: what is in the store is not computed again, what fails stops only what needs it."""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from queue import Empty, SimpleQueue

from modeconn.errors import CorruptArtifact, ModeconnError
from modeconn.execution.engine import EngineLost, MakeExecutor, capacity, stop
from modeconn.execution.graph import Graph
from modeconn.execution.heartbeat import HeartbeatReader
from modeconn.execution.job import Job
from modeconn.execution.store import Store
from modeconn.execution.suspects import ATTEMPTS, Suspects
from modeconn.execution.worker import run_job
from modeconn.progress import Progress, Report, silent

log = logging.getLogger("modeconn")
_TICK = 0.5  # seconds between two reports
_LOST = f"lost its worker {ATTEMPTS} times (killed, out of memory, or a script that lacks `if __name__ == '__main__':`)"
_CANCELLED = (
    f"was cancelled {ATTEMPTS} times by its executor (its worker was killed, or over a limit; the executor's logs may "
    "say why)"
)
_ANOTHER = "what is done is in the store. A function that executor= is given must make another executor each time"


def run_jobs(
    targets: Iterable[Job],
    store: Store,
    make_executor: MakeExecutor,
    slots: int | None = None,
    report: Report = silent,
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
    return Driver(graph, store, make_executor, slots, report).run() if graph.jobs else {}


class Driver:
    """One call of `run_jobs`: where every job of a graph is, and what happens to it next.

    A job that is not done waits in the graph, for its inputs or for a slot; or is running; or is a suspect, which
    waits to run alone. An event costs the same however many jobs are running; only reports list them.

    Args:
        graph: of the jobs that are not in the store.
        store, make_executor, slots, report: as `run_jobs` has them.

    Attributes:
        graph: of the jobs that are not done and have not failed.
        failures: what the jobs that failed raised, by name.
        suspects: jobs that may be the reason why a worker was lost.
        running: the names of the jobs that the executor has, by their futures.
        executor: the one in use.
        broken: why it can no longer be used; None while it can.
    """

    def __init__(
        self, graph: Graph, store: Store, make_executor: MakeExecutor, slots: int | None, report: Report
    ) -> None:
        self.graph = graph
        self.failures: dict[str, Exception] = {}
        self.suspects = Suspects()
        self.running: dict[Future[None], str] = {}
        self.executor = make_executor()
        self.broken: BrokenExecutor | None = None
        self._store = store
        self._make_executor = make_executor
        self._slots = slots
        self._report = report
        self._attempts: Counter[str] = Counter()
        self._heartbeats = HeartbeatReader(store)
        self._ended: SimpleQueue[Future[None]] = SimpleQueue()  # futures put themselves here, from any thread

    def run(self) -> dict[str, Exception]:
        """Compute until nothing is left that can be; see `run_jobs`."""
        try:
            self.report()
            while self.graph.jobs:
                self.step()
        except BaseException:  # Ctrl-C, or an error of a report or of the store: nobody waits for the workers
            stop(self.executor)
            raise
        self.executor.shutdown()
        return self.failures

    def step(self) -> None:
        """Submit ready jobs, wait up to half a second for one to end, account for all that did, report."""
        self.submit_ready()
        # Where nothing could be submitted, no worker is there yet: that is waited for as well.
        for future in _take(self._ended, timeout=0.0 if self.broken else _TICK):
            self.settle(future)
        if self.broken:
            self.replace_executor()
        self.report()

    def submit_ready(self) -> None:
        """Submit ready jobs while there are free slots."""
        slots = capacity(self.executor) if self._slots is None else self._slots
        while len(self.running) < slots and not self.broken and (name := self._next()) is not None:
            self._submit(name)

    def settle(self, future: "Future[None]") -> None:
        """Account for a job that ended, however it did."""
        if future not in self.running:  # it was with an executor that has been replaced since
            return
        name = self.running[future]
        try:
            future.result()
        except BrokenExecutor as error:  # the job stays among the running ones, which all start again together
            self._break(error)
            return
        except CancelledError:  # by an executor that works on: a cluster took the job's worker away, say
            self._blame(name, _CANCELLED)
            self._put_back(name)
        except CorruptArtifact as error:  # an input was damaged since it was checked
            self._mend_input(name, error)
        except Exception as error:
            self._give_up(name, error)
        else:
            self.suspects.clear(name)
            self.graph.finish(name)
        self._forget(future)

    def replace_executor(self) -> None:
        """Take another executor for the one that broke; what was running there starts again.

        Raises:
            ModeconnError: it is the same one.
        """
        gone = isinstance(self.broken, EngineLost)
        log.warning("%s; what was running is started again", self.broken if gone else "a worker was lost")
        stopped = list(self.running.values())
        for future in list(self.running):
            self._forget(future)
        if gone:  # which is no job's fault
            self._put_back(*stopped)
        else:  # one lost worker breaks a whole pool, and nothing tells which job it had
            self._suspect(stopped, alone=len(stopped) == 1)
        stop(self.executor)
        before, self.executor, self.broken = self.executor, self._make_executor(), None
        if self.executor is before:
            raise ModeconnError(f"the executor that is broken was given once more; {_ANOTHER}")

    def report(self) -> None:
        """Say how far the work is, with what the heartbeats of running jobs tell."""
        graph, running = self.graph, tuple(map(self.graph.jobs.__getitem__, self.running.values()))
        self._heartbeats.read(running)
        done = graph.count - len(graph.jobs) - len(self.failures)
        left = graph.left - self._heartbeats.work
        self._report(Progress(done, len(self.failures), graph.count, graph.total - left, graph.total, running))

    # Submitting

    def _next(self) -> str | None:
        """The job to submit now, if any: a suspect, for which all others have to end first, or a ready one."""
        if self.suspects:
            return None if self.running else self.suspects.first
        return self.graph.take()

    def _submit(self, name: str) -> None:
        self._attempts[name] += 1
        try:
            future = self.executor.submit(run_job, self.graph.jobs[name], self._store.root)
        except EngineLost as error:
            self._break(error)
            self._put_back(name)
        except BrokenExecutor as error:
            self._break(error)
            self._suspect([name], alone=not self.running)  # else the worker may have been that of another
        except RuntimeError as error:  # it was shut down
            raise ModeconnError(f"the executor takes no more jobs ({error}); {_ANOTHER}") from error
        else:
            self.running[future] = name
            future.add_done_callback(self._ended.put)

    # Accounting

    def _break(self, error: BrokenExecutor) -> None:
        """Note why the executor can no longer be used: if the whole engine is lost, that is why."""
        if not isinstance(self.broken, EngineLost):
            self.broken = error

    def _put_back(self, *names: str) -> None:
        """Have jobs start again that are not to blame for having been stopped."""
        for name in names:
            # A suspect stays one, and a job that has just been given up is in the graph no longer.
            if name not in self.suspects and name in self.graph.jobs:
                self.graph.put_back(name)

    def _suspect(self, names: list[str], alone: bool) -> None:
        """Have jobs that lost their worker start again, each alone; one that had it alone is to blame."""
        self.suspects.add(names)
        if alone:
            self._blame(names[0], _LOST)

    def _blame(self, name: str, how: str) -> None:
        """Count a lost worker against a job; one that loses too many is given up."""
        if self.suspects.blame(name):
            self._give_up(name, ModeconnError(f"{self.graph.jobs[name].label or name} {how}"))

    def _mend_input(self, name: str, error: CorruptArtifact) -> None:
        """Have the damaged input of a job computed again first, if it is an input and this may help."""
        self.suspects.clear(name)
        if self._attempts[name] >= ATTEMPTS or not self.graph.redo_input(name, error, self._store):
            self._give_up(name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        """Fail a job with everything that needs it."""
        self.suspects.clear(name)
        self.failures.update(dict.fromkeys(self.graph.fail(name), error))

    def _forget(self, future: "Future[None]") -> None:
        self._heartbeats.forget(self.running.pop(future))


def _take(queue: "SimpleQueue[Future[None]]", timeout: float) -> list["Future[None]"]:
    """All that is in a queue; if it is empty, wait for the first to come in."""
    found = []
    with contextlib.suppress(Empty):
        found.append(queue.get(timeout=timeout))
        while True:
            found.append(queue.get_nowait())
    return found
