"""An operator of a graph, while its rule is applied."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modeconn.analysis.alignment.atoms import Atoms

Rule = Callable[..., Any]


class NoRule(Exception):  # it is no error: the operator is treated like one that has no rule
    """What an operator was called with is nothing that its rule knows."""


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


def standing(name: str, node: Any) -> str:
    """An operator, and the module that it stands in.

    Args:
        name: of the operator, in words.
        node: of the exported graph.
    """
    inside = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    return f"{name} in {inside[-1]}" if inside else name
