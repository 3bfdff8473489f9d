"""Jobs: named descriptions of artifacts, with inputs, a cost, and a way to compute them."""

from typing import Protocol

from modeconn.execution.names import Named
from modeconn.execution.store import Store


class Job(Named, Protocol):
    """A frozen, picklable description of one artifact, and how to compute it.

    `run` must be idempotent, because every engine may run a job twice.
    """

    @property
    def label(self) -> str:
        """A few words for progress and error messages."""

    @property
    def inputs(self) -> tuple["Job", ...]:
        """The jobs whose artifacts this one reads."""

    @property
    def cost(self) -> float:
        """Expected work, in any unit that all jobs of a study share."""

    def run(self, store: Store) -> None:
        """Compute the artifact and leave it in the store."""
