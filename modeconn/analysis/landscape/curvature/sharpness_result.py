"""Result of `sharpness`: the eigenvalues of a loss's Hessian, their eigenvectors, and its trace."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, Self, TypedDict

import numpy as np
from torch import Tensor

from modeconn.errors import OptionError
from modeconn.files import writing
from modeconn.result import JsonResult, Number, array_of, count, from_jsonable, note_lines
from modeconn.weights.writing import write_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {"hessian": "Hessian", "gauss-newton": "Gauss-Newton matrix"}
_ORDER = {"largest": "the largest", "smallest": "the smallest", "magnitude": "the largest in magnitude"}


class _Fields(TypedDict):
    """A sharpness in JSON."""

    eigenvalues: list[Number]
    residuals: list[Number]
    converged: int
    trace: Number
    trace_error: Number
    trace_samples: int
    loss: Number
    gradient_norm: Number
    parameters: int
    examples: int
    measured_as: str
    kind: str
    which: str
    products: int
    notes: list[str]
    settings: NotRequired[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Sharpness(JsonResult):
    """Eigenvalues of the Hessian of a network's mean training loss.

    Attributes:
        eigenvalues: in the order of `which`, float64 [k].
        residuals: |H v - lambda v| of each with its eigenvector v: an eigenvalue of H is no farther away than that.
        converged: how many residuals are within the tolerance.
        trace: of the matrix, estimated; NaN if it was not asked for.
        trace_error: its standard error.
        trace_samples: from how many random vectors.
        loss: the mean loss there.
        gradient_norm: the L2 norm of its gradient.
        parameters: how many there are.
        examples: how many of the data were used.
        measured_as: which loss on what, in words.
        kind: `"hessian"` or `"gauss-newton"`.
        which: eigenvalues were asked for: `"largest"`, `"smallest"` or the largest in `"magnitude"`.
        products: of the matrix with vectors, each a pass over the data.
        notes: everything that was decided.
        settings: options, device, versions; JSON.
        directions: the eigenvectors as state dicts of the parameters, of L2 norm 1; not in files of `to_json`.
    """

    _FORMAT = "modeconn sharpness 1"
    _NAME = "a sharpness"
    _SCHEMA = _Fields

    eigenvalues: np.ndarray
    residuals: np.ndarray
    converged: int
    trace: float
    trace_error: float
    trace_samples: int
    loss: float
    gradient_norm: float
    parameters: int
    examples: int
    measured_as: str
    kind: str = "hessian"
    which: str = "largest"
    products: int = 0
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    directions: tuple[Mapping[str, Tensor], ...] = field(default=(), repr=False)

    @property
    def largest(self) -> float:
        """The largest eigenvalue that was found: the sharpness, in the words of the field."""
        return float(self.eigenvalues.max())

    def rows(self) -> list[dict[str, Any]]:
        """A row for each eigenvalue: its rank, value and residual."""
        return [
            {"rank": rank, "eigenvalue": float(value), "residual": float(residual)}
            for rank, (value, residual) in enumerate(zip(self.eigenvalues, self.residuals, strict=True), 1)
        ]

    def save_directions(self, folder: str | Path) -> list[Path]:
        """Write each eigenvector as `eigenvector-1.safetensors` and so on; the files' paths.

        Raises:
            OptionError: this was read from a file, which holds no eigenvectors.
            StoreError: they cannot be written.
        """
        if not self.directions:
            raise OptionError(
                "a sharpness that was read from a file has no eigenvectors; save them where it is measured"
            )
        written = []
        with writing(Path(folder)):
            Path(folder).mkdir(parents=True, exist_ok=True)
        for row, direction in zip(self.rows(), self.directions, strict=True):
            path = Path(folder) / f"eigenvector-{row['rank']}.safetensors"
            write_weights(direction, path, {"eigenvalue": repr(row["eigenvalue"])})
            written.append(path)
        return written

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the eigenvalues over their rank, with residuals as bars.

        Args:
            ax: where to draw; a new figure if None.
        """
        from matplotlib.ticker import MaxNLocator

        from modeconn.style import COLORS, drawing

        with drawing(ax) as ax:
            ranks = np.arange(1, len(self.eigenvalues) + 1)
            ax.errorbar(ranks, self.eigenvalues, self.residuals, fmt="o", color=COLORS["test"], markersize=4, capsize=3)
            ax.axhline(0, color="black", linewidth=0.6)
            ax.set(xlabel="rank", ylabel=f"eigenvalue of the {NAMES[self.kind]}")
            ax.set_title(self.measured_as)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            return ax

    def __str__(self) -> str:
        title = f"{NAMES[self.kind]} of {self.measured_as}, {self.parameters:,} parameters"
        lines = [title, f"loss {self.loss:.4g}, L2 norm of its gradient {self.gradient_norm:.3g}", ""]
        lines.append(f"{'rank':>4}  {'eigenvalue':>12}  residual")
        lines += [f"{row['rank']:>4}  {row['eigenvalue']:>12.6g}  {row['residual']:.2g}" for row in self.rows()]
        lines += ["", f"Eigenvalues are {_ORDER[self.which]}; each is true to within its residual, |H v - lambda v|."]
        if (left := len(self.eigenvalues) - self.converged) > 0:
            lines.append(f"{count(left, 'residual')} above the tolerance: raise products=, or the tolerance.")
        if self.trace_samples:
            error = "" if np.isnan(self.trace_error) else f" +- {self.trace_error:.2g}"
            lines.append(f"Trace {self.trace:.5g}{error} ({count(self.trace_samples, 'random vector')}).")
        lines.append(f"{count(self.products, 'product')} with vectors, each a pass over the data.")
        return "\n".join([*lines, *note_lines(self.notes)])

    def _fields(self) -> dict[str, Any]:
        plain = [name for name in _Fields.__annotations__ if name not in ("notes", "settings")]
        return {name: getattr(self, name) for name in plain} | {
            "notes": list(self.notes),
            "settings": dict(self.settings),
        }

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        numbers = {name: from_jsonable(content[name]) for name in ("trace", "trace_error", "loss", "gradient_norm")}
        plain = ("converged", "trace_samples", "parameters", "examples", "measured_as", "kind", "which", "products")
        if content["kind"] not in NAMES or content["which"] not in _ORDER:
            raise ValueError("its kind or order of eigenvalues is not known")
        return cls(
            eigenvalues=array_of(content["eigenvalues"], len(content["eigenvalues"])),
            residuals=array_of(content["residuals"], len(content["eigenvalues"])),
            **numbers,
            **{name: content[name] for name in plain},
            notes=tuple(content["notes"]),
            settings=content.get("settings", {}),
        )
