"""Heartbeats of a job: how far it is, left in the store for whoever waits for it."""

import time
from collections.abc import Callable

from modeconn.execution.names import Named
from modeconn.execution.store import Store

INTERVAL = 1.0  # seconds


class Heartbeat:
    """Writes the fraction of a job done so far to the store, at most once per second.

    A job of less than a second writes none: every heartbeat is a file, perhaps across a network.

    Args:
        store: the job's.
        job: that is being computed.
        clock: gives the time in seconds.
    """

    def __init__(self, store: Store, job: Named, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._job = job
        self._clock = clock
        self._last = clock()

    def __call__(self, fraction: float) -> None:
        """Write a heartbeat, if the last was written, or the job began, a second ago.

        Args:
            fraction: of the job done so far, from 0 to 1.

        Raises:
            StoreError: the store cannot be written.
        """
        if self._clock() - self._last >= INTERVAL:
            self._store.write_heartbeat(self._job, fraction)
            self._last = self._clock()
