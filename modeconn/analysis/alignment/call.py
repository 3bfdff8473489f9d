"""An operator of a graph, while its rule is applied."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modeconn.analysis.alignment.atoms import Atoms

Rule = Callable[..., Any]
SPACE = "it is an axis in space"


@dataclass(frozen=True)
class Call:
    """An operator of a graph, while its rule is applied.

    Attributes:
        atoms: of the whole network.
        why: what is said of axes that it pins: the operator, and the module that it is in.
        shapes: of its results.
    """

    atoms: Atoms
    why: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its only result."""
        return self.shapes[0]
