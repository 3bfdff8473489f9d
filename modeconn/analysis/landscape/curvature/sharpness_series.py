"""Result of sharpness at several networks in an order: along a path, on a curve, over a training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, Self, TypedDict

import numpy as np

from modeconn.analysis.landscape.curvature.sharpness_result import NAMES, Sharpness
from modeconn.result import JsonResult, Number, array_of, note_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class _Fields(TypedDict):
    """A series in JSON."""

    places: list[float]
    eigenvalues: list[list[Number]]
    residuals: list[list[Number]]
    trace: list[Number]
    trace_error: list[Number]
    loss: list[Number]
    over: str
    measured_as: str
    kind: str
    which: str
    products: int
    notes: list[str]
    settings: NotRequired[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class SharpnessSeries(JsonResult):
    """Eigenvalues of the Hessian of the training loss at several networks in an order.

    Attributes:
        places: where the networks are: alphas, iterations, steps.
        eigenvalues, residuals: float64 [networks, k]; see `sharpness_result.Sharpness`.
        trace, trace_error: float64 [networks]; NaN if they were not asked for.
        loss: the mean loss of each, float64 [networks].
        over: what the places count: `"alpha"`, `"iteration"`, `"step"` or `"checkpoint"`.
        measured_as: which loss on what, in words.
        kind, which: of the eigenvalues.
        products: of the Hessian with vectors, over all networks.
        notes: everything that was decided.
        settings: options, device, versions; JSON.
        points: the whole result at each, with the eigenvectors; not in files.
    """

    _FORMAT = "modeconn sharpness series 1"
    _NAME = "a series of sharpness"
    _SCHEMA = _Fields

    places: tuple[float, ...]
    eigenvalues: np.ndarray
    residuals: np.ndarray
    trace: np.ndarray
    trace_error: np.ndarray
    loss: np.ndarray
    over: str
    measured_as: str
    kind: str = "hessian"
    which: str = "largest"
    products: int = 0
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    points: tuple[Sharpness, ...] = field(default=(), repr=False)

    @property
    def largest(self) -> np.ndarray:
        """The largest eigenvalue that was found at each, float64 [networks]: the sharpness."""
        return np.asarray(self.eigenvalues.max(1))

    def rows(self) -> list[dict[str, Any]]:
        """A row for each network and eigenvalue."""
        return [
            {
                self.over: place,
                "rank": rank + 1,
                "eigenvalue": float(self.eigenvalues[at, rank]),
                "residual": float(self.residuals[at, rank]),
                "trace": float(self.trace[at]),
                "trace_error": float(self.trace_error[at]),
                "loss": float(self.loss[at]),
            }
            for at, place in enumerate(self.places)
            for rank in range(self.eigenvalues.shape[1])
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the eigenvalues over the places, the largest in the foreground.

        Args:
            ax: where to draw; a new figure if None.
        """
        from modeconn.style import COLORS, drawing

        with drawing(ax) as ax:
            for rank in reversed(range(self.eigenvalues.shape[1])):
                color, size = (COLORS["test"], 4) if rank == 0 else ("grey", 2)
                ax.plot(self.places, self.eigenvalues[:, rank], "o-", color=color, markersize=size, linewidth=1)
            ax.set(xlabel=self.over, ylabel=f"eigenvalue of the {NAMES[self.kind]}", title=self.measured_as)
            low, high = (float(bound(self.eigenvalues, initial=0)) for bound in (np.nanmin, np.nanmax))
            margin = 0.05 * (high - low) or 1.0
            ax.set_ylim(low - margin if low < 0 else 0, high + margin)
            return ax

    def __str__(self) -> str:
        title = f"eigenvalues of the {NAMES[self.kind]} of {self.measured_as}"
        width = max(len(self.over), *(len(f"{place:g}") for place in self.places))
        traced = not np.isnan(self.trace).all()
        head = f"{self.over:>{width}}  {'eigenvalue':>12}  residual  {'loss':>9}" + ("  trace" if traced else "")
        lines = [title, "", head]
        for at, place in enumerate(self.places):
            trace = f"  {self.trace[at]:.5g} +- {self.trace_error[at]:.2g}" if traced else ""
            value, residual = self.eigenvalues[at, 0], self.residuals[at, 0]
            lines.append(f"{place:>{width}g}  {value:>12.6g}  {residual:>8.2g}  {self.loss[at]:>9.4g}{trace}")
        lines += ["", f"{self.products} products with vectors, each a pass over the data."]
        return "\n".join([*lines, *note_lines(self.notes)])

    def _fields(self) -> dict[str, Any]:
        plain = [name for name in _Fields.__annotations__ if name not in ("places", "notes", "settings")]
        return {name: getattr(self, name) for name in plain} | {
            "places": list(self.places),
            "notes": list(self.notes),
            "settings": dict(self.settings),
        }

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        n, k = len(content["places"]), len(content["eigenvalues"][0])
        if content["kind"] not in NAMES:
            raise ValueError(f"its kind is {content['kind']!r}")
        return cls(
            places=tuple(map(float, content["places"])),
            eigenvalues=array_of(content["eigenvalues"], n, k),
            residuals=array_of(content["residuals"], n, k),
            trace=array_of(content["trace"], n),
            trace_error=array_of(content["trace_error"], n),
            loss=array_of(content["loss"], n),
            **{name: content[name] for name in ("over", "measured_as", "kind", "which", "products")},
            notes=tuple(content["notes"]),
            settings=content.get("settings", {}),
        )
