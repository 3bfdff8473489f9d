"""Progress of a long computation, as it is reported to whoever waits for it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """The state of a long computation: what is done of it, and what there is to do.

    Attributes:
        done, failed, jobs: jobs (of a measurement: points on its paths), and how many there are.
        work, total: what is done and what there is to do, in the jobs' units of cost.
        running: the jobs that are being computed now.
    """

    done: int
    failed: int
    jobs: int
    work: float
    total: float
    running: tuple[object, ...]


Report = Callable[[Progress], None]
