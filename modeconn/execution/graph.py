"""A graph of jobs that are still to be done; no operation looks at more of it than it changes."""

import heapq
from collections.abc import Iterable

from modeconn.errors import CorruptArtifact
from modeconn.execution.job import Job
from modeconn.execution.names import job_name
from modeconn.execution.store import Store


class Graph:
    """The jobs that are still to be done, by name: what each waits for, and which are ready.

    Of the ready ones, that on the critical path comes first: with the most work from its start to the end of a target.

    Args:
        targets: jobs whose artifacts are wanted.
        store: whose artifacts need not be computed; they are checked.
    """

    def __init__(self, targets: Iterable[Job], store: Store) -> None:
        self.jobs: dict[str, Job] = {}  # inputs come before what needs them
        self.left = 0.0  # cost of the jobs that are not done
        self.total = 0.0  # cost of all that were ever here
        self.count = 0  # how many these are
        self._waiting: dict[str, set[str]] = {}  # name: inputs that are not done
        self._dependents: dict[str, list[str]] = {}
        self._chain: dict[str, float] = {}  # cost of the longest path from the start of a job to a target
        self._ready: list[tuple[float, int, str]] = []
        self._sound: set[str] = set()
        self._order = 0
        self.add(targets, store)

    def add(self, targets: Iterable[Job], store: Store) -> None:
        """Add jobs and whatever they need, except for what is in the store and sound."""
        new: list[str] = []
        for target in targets:
            self._insert(target, store, new)
        for name in reversed(new):
            below = max((self._chain[other] for other in self._dependents[name]), default=0.0)
            self._chain[name] = self.jobs[name].cost + below
        for name in new:
            if not self._waiting[name]:
                self.put_back(name)

    def take(self) -> str | None:
        """Take the ready job with the longest path of work ahead, itself included; None if none is ready."""
        return heapq.heappop(self._ready)[2] if self._ready else None

    def put_back(self, name: str) -> None:
        """Make a job that was taken ready again."""
        self._order += 1  # ties go by the order of planning
        heapq.heappush(self._ready, (-self._chain[name], self._order, name))

    def finish(self, name: str) -> None:
        """Take out a job that is done; those that waited for nothing else become ready."""
        self._remove(name)
        self._sound.add(name)
        for other in self._dependents.pop(name):
            if other in self.jobs:
                self._waiting[other].discard(name)
                if not self._waiting[other]:
                    self.put_back(other)

    def fail(self, name: str) -> list[str]:
        """Take out a job that failed, with every job that needs it; their names."""
        out, waiting = [], [name]
        while waiting:
            failed = waiting.pop()
            if failed in self.jobs:
                self._remove(failed)
                out.append(failed)
                waiting += self._dependents.pop(failed)
        return out

    def redo_input(self, name: str, error: CorruptArtifact, store: Store) -> bool:
        """Put a damaged input of a job back into the graph, and have the job wait for it; False if it is no input."""
        damaged = [source for source in self.jobs[name].inputs if job_name(source) == error.name]
        if not damaged:
            return False
        if error.name not in self.jobs:  # else it is being computed again already
            self._sound.discard(error.name)
            self.add(damaged, store)  # which looks for itself: the job's machine may see late what others wrote
        if error.name in self.jobs:
            self._waiting[name].add(error.name)
            self._dependents[error.name].append(name)
        else:
            self.put_back(name)  # it is sound by now
        return True

    def _insert(self, target: Job, store: Store, new: list[str]) -> None:
        """Register a job and its inputs, inputs first; without recursion, as chains of jobs can be long."""
        stack: list[tuple[Job, list[str] | None]] = [(target, None)]  # names of the inputs, once these are in
        while stack:
            job, sources = stack.pop()
            name = job_name(job)
            if name in self._sound or name in self.jobs:
                continue
            if sources is not None:
                self._register(name, job, sources)
                new.append(name)
            elif self._is_sound(job, store):
                self._sound.add(name)
            else:
                inputs = job.inputs
                stack.append((job, [job_name(source) for source in inputs]))
                stack.extend((source, None) for source in reversed(inputs))

    def _register(self, name: str, job: Job, sources: list[str]) -> None:
        cost = job.cost
        self.jobs[name] = job
        self.count += 1
        self.total += cost
        self.left += cost
        self._waiting[name] = {source for source in sources if source not in self._sound}
        self._dependents[name] = []
        for source in self._waiting[name]:
            self._dependents[source].append(name)

    @staticmethod
    def _is_sound(job: Job, store: Store) -> bool:
        artifact = store.done(job)
        try:
            if artifact:
                artifact.verify()
        except CorruptArtifact as error:
            store.set_aside(error)
            return False
        return artifact is not None

    def _remove(self, name: str) -> None:
        self.left -= self.jobs.pop(name).cost
        del self._waiting[name]
