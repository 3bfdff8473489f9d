"""Result of `spanning_tree`: the tree, and the bounds that it gives for all pairs."""

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypedDict

import numpy as np

from modeconn.errors import unknown
from modeconn.result import JsonResult, Number, Row, array_of, from_jsonable

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Edge:
    """A path of the tree.

    Attributes:
        a, b: the names of the two networks.
        value: the highest on the path; NaN if it is not finite, or not measured.
    """

    a: str
    b: str
    value: float


class _Edge(TypedDict):
    """An edge in JSON."""

    a: str
    b: str
    value: Number


class _Fields(TypedDict):
    """A spanning tree in JSON."""

    names: list[str]
    values: list[list[Number]]
    edges: list[_Edge]
    metric: str


@dataclass(frozen=True, eq=False)
class SpanningTree(JsonResult):
    """A minimum spanning tree of networks, by the highest value on the paths between them.

    Attributes:
        names: what the networks are called.
        values: the highest on the measured path between each two, float64 [n, n]; NaN where there is none.
        edges: the n - 1 paths of the tree, the lowest first.
        metric: what the values are of.
        curves, measured: of a tree of fitted curves, the curves and their measurements by pair of names; they are not
            in JSON.
    """

    _FORMAT = "modeconn spanning tree 1"
    _NAME = "a spanning tree"
    _SCHEMA = _Fields

    names: tuple[str, ...]
    values: np.ndarray
    edges: tuple[Edge, ...]
    metric: str = "value"
    curves: Mapping[tuple[str, str], Any] = field(default_factory=dict, repr=False)
    measured: Mapping[tuple[str, str], Any] = field(default_factory=dict, repr=False)

    def bound(self, a: str, b: str) -> float:
        """The highest value on the tree's path between two networks: no lowest path between them is higher.

        Raises:
            OptionError: no such network.
        """
        for name in (a, b):
            if name not in self.names:
                raise unknown("network", name, self.names)
        return float(self.bounds[self.names.index(a), self.names.index(b)])

    @functools.cached_property
    def bounds(self) -> np.ndarray:
        """The bound of every pair, float64 [n, n], NaN on the diagonal; inf where a path's values are not finite."""
        # From the lowest edge on, each joins two groups: it is the highest between any two networks of these.
        found = np.full((len(self.names), len(self.names)), np.nan)
        groups = {name: {name} for name in self.names}
        for edge in sorted(self.edges, key=lambda edge: _or_inf(edge.value)):
            left, right = groups[edge.a], groups[edge.b]
            for a, b in itertools.product(left, right):
                i, j = self.names.index(a), self.names.index(b)
                found[i, j] = found[j, i] = _or_inf(edge.value)
            joined = left | right
            groups |= dict.fromkeys(joined, joined)
        return found

    def rows(self) -> list[Row]:
        """A row for each pair: the value of the measured path, the bound, and whether it is an edge of the tree."""
        edges = {frozenset((edge.a, edge.b)) for edge in self.edges}
        return [
            {
                "a": self.names[i],
                "b": self.names[j],
                "value": float(self.values[i, j]),
                "bound": float(self.bounds[i, j]),
                "edge": frozenset((self.names[i], self.names[j])) in edges,
            }
            for i, j in itertools.combinations(range(len(self.names)), 2)
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the bounds of all pairs as a matrix, with the edges of the tree framed.

        Args:
            ax: where to draw; a new figure if None.
        """
        from modeconn.style import drawing

        scale, unit = (100, " (%)") if self.metric == "error" else (1, "")
        size = 2.5 + 0.4 * len(self.names)
        with drawing(ax, size, size) as ax:
            drawn = np.where(np.isfinite(self.bounds), scale * self.bounds, np.nan)
            image = ax.imshow(drawn, cmap="viridis")
            ax.figure.colorbar(image, ax=ax, label=f"highest {self.metric}{unit} at most", shrink=0.8)
            ax.grid(False)
            ax.set_xticks(range(len(self.names)), self.names, rotation=90, fontsize=7)
            ax.set_yticks(range(len(self.names)), self.names, fontsize=7)
            for edge in self.edges:
                i, j = self.names.index(edge.a), self.names.index(edge.b)
                for x, y in ((i, j), (j, i)):
                    ax.add_patch(_frame(x, y))
            ax.set_title(f"{len(self.edges)} paths connect {len(self.names)} networks")
            return ax

    def __str__(self) -> str:
        unit = 100 if self.metric == "error" else 1
        label = f"{self.metric} %" if unit == 100 else self.metric
        lines = [f"spanning tree of {len(self.names)} networks, by the highest {label} on {len(self.edges)} paths", ""]
        width = max(map(len, self.names))
        for edge in self.edges:
            lines.append(f"{edge.a:{width}}  {edge.b:{width}}  {unit * edge.value:.4g}")
        finite = self.bounds[~np.isnan(self.bounds)]
        return "\n".join([*lines, "", f"Between any two networks it is at most {unit * float(finite.max()):.4g}."])

    def _fields(self) -> dict[str, Any]:
        edges = [asdict(edge) for edge in self.edges]
        return {"names": self.names, "values": self.values, "edges": edges, "metric": self.metric}

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        names = tuple(content["names"])
        edges = tuple(Edge(edge["a"], edge["b"], float(from_jsonable(edge["value"]))) for edge in content["edges"])
        if len(edges) != len(names) - 1 or not {name for edge in edges for name in (edge.a, edge.b)} <= set(names):
            raise ValueError("its edges are not those of a tree of its networks")
        values = np.array([array_of(row, len(names)) for row in content["values"]])
        return cls(names, values, edges, content["metric"])


def _or_inf(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _frame(x: int, y: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=1.5)
