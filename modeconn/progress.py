"""Progress of long work, and whom it is reported to."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far long work is.

    Attributes:
        done, failed, jobs: jobs (of a measurement: points on its paths), and how many there are.
        work, total: what is done and what there is to do, in the jobs' units of cost.
        running: the jobs that are being computed.
    """

    done: int
    failed: int
    jobs: int
    work: float
    total: float
    running: tuple[object, ...]


Report = Callable[[Progress], None]
