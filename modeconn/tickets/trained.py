"""The network that was trained from a ticket, found in the store by its name, without the study's network or data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from modeconn.execution import Artifact, Store
from modeconn.execution.names import job_name
from modeconn.result import Row
from modeconn.tasks import NOISE_SOURCES
from modeconn.training.fork import fork, trunk

# In specs, beside the training: a ticket's source is a state, that of a training the code of its network.
_OF_TICKETS = ("kind", "mask", "source", "carry_optimizer", "iteration")
_OF_STATES = ("kind", "mask", "origin", "init_seed", "noise", "iteration")


@dataclass(frozen=True)
class _Stored:
    """A job as the store has it: a name, and no more."""

    content: dict[str, Any]
    iteration: int = 0
    mask: "_Stored | None" = None

    @property
    def kind(self) -> str:
        kind: str = self.content["kind"]
        return kind

    def spec(self) -> dict[str, Any]:
        return self.content


@dataclass(frozen=True)
class _Named:
    """A training as the names of its states have it."""

    content: dict[str, Any]
    iterations: int

    noise_per_call = False
    noise_sources = NOISE_SOURCES

    def spec(self) -> dict[str, Any]:
        return self.content


def read_trained(store: Store, row: Row, summary: Mapping[str, Any]) -> Artifact | None:
    """The first network that was trained from a ticket, of which the row's errors are; None if it is not in the store.

    Args:
        store: that the study computed in.
        row: of the ticket, in `lottery.csv`.
        summary: of the study.
    """
    if row["ticket"] in (stated := summary.get("trained", {})):
        return store.finished(stated[row["ticket"]])
    ticket, mask = (store.describe(row[name])["spec"] for name in ("ticket", "mask"))
    if not ticket or not mask:
        return None
    source = ticket
    while "init_seed" not in source:  # a state that was made of another
        source = store.describe(source["source"])["spec"]
    named = {k: v for k, v in source.items() if k not in _OF_STATES}
    named |= {k: v for k, v in ticket.items() if k not in _OF_TICKETS}
    training: Any = _Named(named, summary["iterations"])
    origin: Any = _Stored(ticket, ticket["iteration"], _Stored(mask))
    (begin,) = trunk(training, [origin.iteration], summary["seed"], row["replicate"])
    start = replace(begin, init_seed=source["init_seed"], origin=origin)
    (copy,) = fork(start, 1, summary["seed"], row["replicate"], level=row["level"])
    return store.finished(job_name(copy))
