"""Names of artifacts: a hash over what they are."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Protocol

SCHEMA = 1  # of the specs and of the store; raised when a name would come to mean something else
_KEPT = "_job_name"
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


class Named(Protocol):
    """A description of one artifact, which gives it its name in the store."""

    @property
    def kind(self) -> str:
        """The first part of the name, for people: `state`, `path`, ..."""

    def spec(self) -> dict[str, Any]:
        """All that decides the artifact's bytes and nothing else, as JSON: not where it is computed."""


@dataclass(frozen=True)
class Reference:
    """A job for whoever needs its artifact alone, and neither how it is computed nor from what.

    Attributes:
        name: of the artifact.
    """

    name: str


def job_name(named: Named | Reference) -> str:
    """`kind-` and the first 16 hexadecimal digits of the sha256 over the canonical JSON of the spec."""
    if isinstance(named, Reference):
        return named.name
    # A driver asks for the name of a job once for each job that needs it; it stays with the job, which is frozen.
    kept: dict[str, str] = getattr(named, "__dict__", {})
    if _KEPT not in kept:
        kept[_KEPT] = f"{named.kind}-{spec_hash(named.spec())[:16]}"
    return kept[_KEPT]


def spec_hash(spec: dict[str, Any]) -> str:
    """sha256 over the canonical JSON of a spec with its schema version.

    >>> spec_hash({"a": 1, "b": 2}) == spec_hash({"b": 2, "a": 1})
    True
    """
    text = _CANONICAL.encode({"schema": SCHEMA, **spec})
    return hashlib.sha256(text.encode()).hexdigest()
