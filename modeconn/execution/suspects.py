"""Which job is to blame when a worker is lost."""

from collections import Counter
from collections.abc import Iterable

ATTEMPTS = 3  # a job whose worker is lost, or whose inputs are damaged, is tried this often


class Suspects:
    """The names of jobs that were running when a worker was lost, until each is cleared.

    One lost worker breaks a whole pool, and nothing tells which of the jobs in it was the reason. So each of them is
    run again alone: the next worker that is lost then is lost by a job that is known.
    """

    def __init__(self) -> None:
        self._names: dict[str, None] = {}  # in the order in which they are to run
        self._losses: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    @property
    def first(self) -> str:
        """The one that is to run next."""
        return next(iter(self._names))

    def add(self, names: Iterable[str]) -> None:
        """Suspect jobs, behind those that are suspected already."""
        for name in names:
            self._names.setdefault(name)

    def clear(self, name: str) -> None:
        """Suspect a job no longer: it ended, well or not, and its worker lived on."""
        self._names.pop(name, None)

    def blame(self, name: str) -> bool:
        """Count a lost worker against the job that had it alone; whether that was once too often."""
        self._losses[name] += 1
        return self._losses[name] >= ATTEMPTS
