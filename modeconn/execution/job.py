"""What a job is: a description with inputs, a name that says what it is, and a way to run it."""

import hashlib
import json
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from modeconn.execution.store import Store

_KEPT = "_job_name"
SCHEMA = 1  # of the specs and of the store; raised when a name would come to mean something else


class Job(Protocol):
    """A frozen, picklable description of one artifact.

    `spec` holds all that decides the artifact's bytes and nothing else: not where it is computed, nor on how many
    workers. `run` must be idempotent, because every engine may run a job twice.
    """

    @property
    def kind(self) -> str:
        """The first part of the name, for people: `state`, `path`, ..."""

    @property
    def label(self) -> str:
        """A few words for progress and error messages."""

    @property
    def inputs(self) -> tuple["Job", ...]:
        """The jobs whose artifacts this one reads."""

    @property
    def cost(self) -> float:
        """Expected work, in any unit that all jobs of a study share."""

    def spec(self) -> dict[str, Any]:
        """What the artifact is, as JSON."""

    def run(self, store: "Store") -> None:
        """Compute the artifact and leave it in the store."""


def job_name(job: Job) -> str:
    """`kind-` and the first 16 hexadecimal digits of the sha256 over the canonical JSON of the spec."""
    # A driver asks for the name of a job once for each job that needs it; it stays with the job, which is frozen.
    kept: dict[str, str] = getattr(job, "__dict__", {})
    if _KEPT not in kept:
        kept[_KEPT] = f"{job.kind}-{spec_hash(job.spec())[:16]}"
    return kept[_KEPT]


def spec_hash(spec: dict[str, Any]) -> str:
    """sha256 over the canonical JSON of a spec with its schema version.

    >>> spec_hash({"a": 1, "b": 2}) == spec_hash({"b": 2, "a": 1})
    True
    """
    text = json.dumps({"schema": SCHEMA, **spec}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
