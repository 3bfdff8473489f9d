"""Heartbeats: how far a job is, which its worker leaves in the store and the driver reads there."""

import time
from collections.abc import Sequence

from modeconn.execution.job import Job
from modeconn.execution.names import job_name
from modeconn.execution.store import Store

WRITE_EVERY = 1.0  # seconds
READ_EVERY = 0.5  # seconds
READ_AT_ONCE = 50  # jobs; every heartbeat is a file, perhaps across a network


class Heartbeat:
    """Writes the fraction of a job done so far to the store, at most once per second.

    A job that is over before leaves none.

    Args:
        store: the job's.
        job: that is being computed.
    """

    def __init__(self, store: Store, job: Job) -> None:
        self._store = store
        self._job = job
        self._last = time.monotonic()

    def __call__(self, fraction: float) -> None:
        """Write a heartbeat, unless the last was written, or the job began, less than a second ago.

        Args:
            fraction: of the job done so far, from 0 to 1.

        Raises:
            StoreError: the store cannot be written.
        """
        if time.monotonic() - self._last >= WRITE_EVERY:
            self._store.write_heartbeat(self._job, fraction)
            self._last = time.monotonic()


class HeartbeatReader:
    """The work that running jobs have done so far, as far as their heartbeats tell.

    Jobs are looked at in turn, some at a time, so that a look costs the same however many are running.

    Args:
        store: the jobs'.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._work: dict[str, float] = {}
        self._last = time.monotonic()
        self._turn = 0  # of the running jobs, the first that is looked at next

    @property
    def work(self) -> float:
        """Of all running jobs together, in their unit of cost."""
        return sum(self._work.values())

    def read(self, running: Sequence[Job]) -> None:
        """Read the heartbeats of the jobs whose turn it is, unless the last look was less than half a second ago."""
        if time.monotonic() - self._last < READ_EVERY:
            return
        self._last = time.monotonic()
        first = self._turn if self._turn < len(running) else 0
        self._turn = first + READ_AT_ONCE
        for job in running[first : self._turn]:
            self._work[job_name(job)] = self._store.read_heartbeat(job) * job.cost

    def forget(self, name: str) -> None:
        """Count no work of a job that runs no longer."""
        self._work.pop(name, None)
