"""`spectral_density(network, data)`: the density of all eigenvalues of a loss's Hessian, by Lanczos quadrature."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, Self, TypedDict, Unpack

import numpy as np
import torch

from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import OptionKeywords
from modeconn.analysis.landscape.curvature.lanczos import quadrature
from modeconn.analysis.landscape.curvature.opening import counting, open_curvature
from modeconn.errors import OptionError
from modeconn.evaluation.losses import Loss
from modeconn.options import whole_number
from modeconn.progress import Report, silent, with_progress
from modeconn.result import JsonResult, Number, array_of, count, note_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 0.01  # of the Gaussians, of the range of eigenvalues
_POINTS = 1001
_SHOWN = 0.5  # of an eigenvalue: below that density, pictures are empty


@with_progress
def spectral_density(
    network: Source,
    data: Any = None,
    *,
    probes: int = 5,
    steps: int = 80,
    kind: str = "hessian",
    loss: Loss | None = None,
    examples: int | None = None,
    seed: int = 0,
    double: bool = False,
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> "SpectralDensity":
    """Estimate how the eigenvalues of the Hessian of a network's mean training loss are spread.

    Stochastic Lanczos quadrature (Ghorbani et al. 2019, algorithm 1): from each of several random vectors v of length
    1, m steps give nodes and weights with which v^T f(H) v is exact for polynomials f of a degree below 2 m; its mean
    over v is that of f over the eigenvalues.

    Args:
        network, data, kind, loss, examples, double: as of `modeconn.sharpness`.
        probes: how many random vectors.
        steps: m, of each.
        seed: of these vectors.
        report: called after every product of the Hessian with a vector.
        progress: show how far it is.
        **how: options of `modeconn.error_barrier`, as of `modeconn.sharpness`.

    Raises:
        ModeconnError: as `modeconn.sharpness`.

    >>> from torch import nn
    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> found = spectral_density(nn.Linear(2, 1, bias=False), (x, torch.tensor([[0.3], [0.5]])), probes=2)
    >>> found.nodes.round(4).tolist(), round(found.moment(1), 4)  # the eigenvalues, and their mean
    ([[1.0, 4.0], [1.0, 4.0]], 2.5)
    """
    probes = whole_number(probes, 1, "there must be at least one random vector")
    steps = whole_number(steps, 2, "there must be at least 2 steps")
    seed = whole_number(seed, 0, "the seed must be a whole number, not negative")
    with open_curvature([network], data, how, kind=kind, loss=loss, examples=examples, double=double) as opened:
        curvature = opened.curvature_at(opened.comparison.networks[0])
        curvature.check()
        n, each = curvature.dimension, counting(report, probes * min(steps, curvature.dimension))

        def product(vector: torch.Tensor) -> torch.Tensor:
            found = curvature.product(vector)
            each()
            return found

        generator = torch.Generator().manual_seed(seed)
        nodes, weights = [], []
        for _ in range(probes):
            # Signs, whose length is the same whatever they are.
            start = (2 * torch.randint(2, (n,), generator=generator) - 1).to(curvature.like)
            of_probe = quadrature(product, start / start.norm(), steps)
            nodes.append(of_probe[0])
            weights.append(of_probe[1])
        settings = opened.comparison.settings | {"steps": steps, "seed": seed, "double": double}
        return SpectralDensity(
            nodes=_padded(nodes),
            weights=_padded(weights),
            parameters=n,
            measured_as=curvature.about,
            kind=kind,
            notes=(*opened.notes, *curvature.notes),
            settings=settings | {"measured_as": curvature.about, "measured": kind},
        )


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of different lengths as one array, with zeros at their beginnings."""
    longest = max(map(len, rows))
    return np.array([np.pad(row, (longest - len(row), 0)) for row in rows])


class _Fields(TypedDict):
    """A spectral density in JSON."""

    nodes: list[list[Number]]
    weights: list[list[Number]]
    parameters: int
    measured_as: str
    kind: str
    notes: list[str]
    settings: NotRequired[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class SpectralDensity(JsonResult):
    """How the eigenvalues of a Hessian are spread: an estimate from several random vectors.

    Attributes:
        nodes: of each random vector's quadrature, float64 [probes, steps].
        weights: likewise; the sum of each row is 1.
        parameters: how many eigenvalues there are.
        measured_as: which loss on what, in words.
        kind: `"hessian"` or `"gauss-newton"`.
        notes: everything that was decided.
        settings: options, device, versions; JSON.
    """

    _FORMAT = "modeconn spectral density 1"
    _NAME = "a spectral density"
    _SCHEMA = _Fields

    nodes: np.ndarray
    weights: np.ndarray
    parameters: int
    measured_as: str
    kind: str = "hessian"
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def moment(self, power: int) -> float:
        """The mean of the eigenvalues' powers: of 1 that of the eigenvalues, the trace over their number."""
        return float((self.weights * self.nodes**power).sum(1).mean())

    @property
    def width(self) -> float:
        """The standard deviation of the Gaussians that stand for nodes: 1 % of the range of the nodes."""
        low, high = self.range
        return max(_WIDTH * (high - low), 1e-12)

    def grid(self) -> np.ndarray:
        """Values that cover all nodes, float64 [points]."""
        (low, high), margin = self.range, 5 * self.width
        return np.linspace(low - margin, high + margin, _POINTS)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest node."""
        seen = self.nodes[self.weights > 0]
        return float(seen.min()), float(seen.max())

    def density(self, values: np.ndarray, width: float | None = None) -> np.ndarray:
        """The density at values, float64 [values]; its integral is 1.

        Args:
            values: where.
            width: standard deviation of the Gaussians that stand for nodes.

        Raises:
            OptionError: the width is not positive.
        """
        width = self.width if width is None else width
        if not width > 0:
            raise OptionError(f"the width of the Gaussians must be positive; got {width!r}")
        distances = (np.asarray(values, dtype=np.float64)[:, None, None] - self.nodes) / width
        heights = np.exp(-(distances**2) / 2) / (width * np.sqrt(2 * np.pi))
        return np.asarray((heights * self.weights).sum(2).mean(1))

    def rows(self) -> list[dict[str, Any]]:
        """A row for each point of the grid: the value and the density there."""
        grid = self.grid()
        densities = self.density(grid)
        return [{"value": float(x), "density": float(y)} for x, y in zip(grid, densities, strict=True)]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the density, on a logarithmic scale down to half an eigenvalue within the width of a Gaussian.

        Args:
            ax: where to draw; a new figure if None.
        """
        from modeconn.style import COLORS, drawing

        grid = self.grid()
        with drawing(ax, 4.4, 3) as ax:
            density = self.density(grid)
            lowest = _SHOWN / (self.parameters * self.width * np.sqrt(2 * np.pi))
            ax.fill_between(grid, np.maximum(density, lowest), lowest, color=COLORS["test"], alpha=0.3, linewidth=0)
            ax.plot(grid, np.maximum(density, lowest), color=COLORS["test"], linewidth=1)
            ax.set_yscale("log")
            name = {"hessian": "Hessian", "gauss-newton": "Gauss-Newton matrix"}[self.kind]
            ax.set(xlabel=f"eigenvalue of the {name}", ylabel="density", ylim=(lowest, None), title=self.measured_as)
            return ax

    def __str__(self) -> str:
        probes, steps = self.nodes.shape
        lines = [
            f"density of {self.parameters:,} eigenvalues, {self.measured_as}",
            "",
            f"between {self.range[0]:.5g} and {self.range[1]:.5g}, "
            f"their mean {self.moment(1):.4g} and mean square {self.moment(2):.4g}",
            f"{100 * self.negative:.3g} % are negative (below -{self.width:.2g}), and {100 * self.near_zero:.3g} % "
            f"within {self.width:.2g} of zero",
            f"From {count(probes, 'random vector')}, {count(steps, 'product')} each.",
        ]
        return "\n".join([*lines, *note_lines(self.notes)])

    @property
    def near_zero(self) -> float:
        """The fraction of eigenvalues that are within the width of a Gaussian of zero."""
        return float((self.weights * (np.abs(self.nodes) <= self.width)).sum(1).mean())

    @property
    def negative(self) -> float:
        """The fraction of eigenvalues that are below zero by more than the width of a Gaussian."""
        return float((self.weights * (self.nodes < -self.width)).sum(1).mean())

    def _fields(self) -> dict[str, Any]:
        plain = ("nodes", "weights", "parameters", "measured_as", "kind")
        return {name: getattr(self, name) for name in plain} | {
            "notes": list(self.notes),
            "settings": dict(self.settings),
        }

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        shape = len(content["nodes"]), len(content["nodes"][0])
        if content["kind"] not in ("hessian", "gauss-newton"):
            raise ValueError(f"its kind is {content['kind']!r}")
        return cls(
            nodes=array_of(content["nodes"], *shape),
            weights=array_of(content["weights"], *shape),
            **{name: content[name] for name in ("parameters", "measured_as", "kind")},
            notes=tuple(content["notes"]),
            settings=content.get("settings", {}),
        )
