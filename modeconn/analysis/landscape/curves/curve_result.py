"""Result of `Curve.barrier`: the errors along a curve, beside those on the segment between its ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict

import numpy as np

from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.analysis.connectivity.samples import measured
from modeconn.result import JsonResult, Row, count, note_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WORDS = {"bezier": "Bezier curve", "polychain": "polygonal chain"}


class _Fields(TypedDict):
    """Errors along a curve in JSON."""

    curve: dict[str, Any]
    segment: dict[str, Any]
    kind: Literal["bezier", "polychain"]
    bends: int
    length: float
    chord: float
    training: dict[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class CurveResult(JsonResult):
    """How errors and losses rise along a curve, and on the segment between its ends.

    Attributes:
        curve: the path along the curve; its alphas are t.
        segment: the straight path, with the same ends.
        kind: `"bezier"` or `"polychain"`.
        bends: control points between the ends.
        length: of the curve, in the L2 norm of the parameters.
        chord: the distance of the ends.
        training: how the curve was trained; JSON.
    """

    _FORMAT = "modeconn curve barrier 1"
    _NAME = "a measured curve"
    _SCHEMA = _Fields

    curve: Barrier
    segment: Barrier
    kind: str
    bends: int
    length: float
    chord: float
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def barrier(self) -> float:
        """The barrier along the curve: its largest value minus the mean of the ends'."""
        return self.curve.barrier

    @property
    def t_at_max(self) -> float:
        """Where the curve is worst."""
        return self.curve.alpha_at_max

    @property
    def length_ratio(self) -> float:
        """The length of the curve over that of the segment."""
        return self.length / self.chord

    def rows(self) -> list[Row]:
        """A row for each point of both paths, with each metric; of an adaptive measurement, those that were counted."""
        both = (("curve", self.curve), ("segment", self.segment))
        return [{"path": path, "t": row.pop("alpha"), **row} for path, barrier in both for row in barrier.rows()]

    def to_json(self, path: str | Path | None = None, *, examples: bool = True) -> str:
        """The result as JSON text, also written to a file if a path is given.

        Args:
            path: where to write.
            examples: keep the outcomes of all examples, which other intervals need.

        Raises:
            StoreError: the file cannot be written.
        """
        return JsonResult.to_json(self if examples else self.without_examples(), path)

    def without_examples(self) -> "CurveResult":
        """The same, without the outcomes of single examples."""
        return replace(self, curve=self.curve.without_examples(), segment=self.segment.without_examples())

    def plot(self, ax: "Axes | None" = None, metric: str | None = None) -> "Axes":
        """Draw the curve and the segment over t, where the curve is worst marked.

        Args:
            ax: where to draw one metric; if None, a new figure with a panel for each of the first two.
            metric: which one; if None, the one that `barrier` is of, and in a new figure another one beside it.

        Raises:
            OptionError: no such metric.
        """
        from modeconn.style import drawing, panels

        if ax is not None or metric is not None:
            with drawing(ax) as ax:
                return self._draw(ax, metric or self.curve.metric)
        shown = [self.curve.metric, *(name for name in self.curve.metrics if name != self.curve.metric)][:2]
        with panels(1, len(shown), 4.2 * len(shown), 3.2) as (_, axes):
            for place, name in zip(axes[0], shown, strict=True):
                self._draw(place, name)
            first: Axes = axes[0, 0]
            return first

    def __repr__(self) -> str:
        return f"CurveResult({self._title()}: barrier {self.barrier:.4g}, of the segment {self.segment.barrier:.4g})"

    def __str__(self) -> str:
        a, b = self.curve.names
        points = f"{len(self.curve.alphas)} points of it"
        lines = [f"{self._title()}, {points}{measured(self.curve.settings)}", ""]
        lines.append(f"length {self.length:.4g}, {self.length_ratio:.4g} x the segment's {self.chord:.4g}")
        lines.append(f"{'':20}{a:>12.11}{b:>12.11}{'worst':>10}{'at t':>8}{'barrier':>10}{'segment':>10}")
        for name in self.curve.metrics:
            unit = 100 if name == "error" else 1
            along, straight = self.curve.heights(name), self.segment.heights(name)
            numbers = [*self.curve.end_values(name), self.curve.worst(name)]
            cells = [f"{unit * number:.4g}" for number in numbers]
            cells += [f"{along.alpha_at_max:.3g}", f"{unit * along.barrier:.4g}", f"{unit * straight.barrier:.4g}"]
            label = f"{name} %" if unit == 100 else name
            widths = (12, 12, 10, 8, 10, 10)
            lines.append(f"{label:20}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
        notes = dict.fromkeys((*self.curve.notes, *self.segment.notes))
        return "\n".join(line.rstrip() for line in [*lines, *note_lines(notes)])

    def _title(self) -> str:
        a, b = self.curve.names
        return f"{described(self.kind, self.bends)} from {a} to {b}"

    def _draw(self, ax: "Axes", metric: str) -> "Axes":
        from modeconn.style import BATCHNORM, COLORS, short

        scale, unit = (100, " (%)") if metric == "error" else (1, "")
        values, straight = scale * self.curve.values(metric), scale * self.segment.values(metric)
        dots: dict[str, Any] = {"marker": "o", "markersize": 2.5}
        ax.plot(self.segment.alphas, straight, color="grey", label="segment", **dots)
        ax.plot(self.curve.alphas, values, color=COLORS["test"], label=described(self.kind, self.bends), **dots)
        heights, over = self.curve.heights(metric), self.segment.heights(metric)
        top = float(values[np.flatnonzero(self.curve.alphas == heights.alpha_at_max)[0]])
        if np.isfinite(top):
            ax.plot([heights.alpha_at_max], [top], "o", color=COLORS["train"], markersize=7, markerfacecolor="none")
        points = " points" if metric == "error" else ""
        ax.set_title(f"barrier {scale * heights.barrier:.3g}{points}, of the segment {scale * over.barrier:.3g}")
        a, b = map(short, self.curve.names)
        ax.set(xlabel=f"t (0: {a}, 1: {b})", ylabel=f"{metric}{unit}")
        if metric not in self.curve.higher_is_better:
            ax.set_ylim(bottom=min(0.0, float(np.nanmin(np.concatenate([values, straight])))))
        ax.legend(loc="best", title=BATCHNORM[self.curve.batchnorm] or None, title_fontsize=7, fontsize=7)
        return ax

    def _fields(self) -> dict[str, Any]:
        return {
            "curve": self.curve.content(),
            "segment": self.segment.content(),
            "kind": self.kind,
            "bends": self.bends,
            "length": self.length,
            "chord": self.chord,
            "training": dict(self.training),
        }

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        along, straight = (Barrier.from_content(content[name]) for name in ("curve", "segment"))
        numbers = {name: content[name] for name in ("kind", "bends", "length", "chord", "training")}
        return cls(curve=along, segment=straight, **numbers)


def described(kind: str, bends: int) -> str:
    """A kind of curve in words.

    >>> described("bezier", 1)
    'Bezier curve with 1 bend'
    """
    return f"{_WORDS[kind]} with {count(bends, 'bend')}"
