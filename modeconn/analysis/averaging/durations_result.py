"""Result of `sweep_durations`: the average of a run's last checkpoints, over how much of the run is averaged."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Self, TypedDict

import numpy as np

from modeconn.analysis.connectivity.samples import measured
from modeconn.result import JsonResult, Number, from_jsonable, note_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class _Point(TypedDict):
    """A duration in JSON."""

    last: str
    checkpoints: int
    first: str
    first_step: int | None
    value: dict[str, Number]
    standard_error: dict[str, Number]


class _Fields(TypedDict):
    """A sweep over durations in JSON."""

    points: list[_Point]
    best: int
    newest: dict[str, Number]
    test: dict[str, Number]
    test_newest: dict[str, Number]
    test_standard_error: dict[str, Number]
    metric: str
    higher_is_better: list[str]
    weights: str
    decay: Number
    every: int
    batchnorm: Literal["none", "interpolate", "recalibrate"]
    notes: list[str]
    settings: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class Duration:
    """The average of the last checkpoints of a run.

    Attributes:
        last: how much of the run is averaged, as it was asked for.
        checkpoints: how many they are.
        first: the name of the oldest of them.
        first_step: its step, if that is known.
        value: metric to value on the held-out data.
        standard_error: of the difference to the last checkpoint as it is, over the examples, for each metric.
    """

    last: str
    checkpoints: int
    first: str
    first_step: int | None
    value: Mapping[str, float]
    standard_error: Mapping[str, float]


@dataclass(frozen=True, eq=False, repr=False)
class Durations(JsonResult):
    """Averages of one run over how much of it is averaged.

    Attributes:
        points: the durations, the shortest first.
        best: the place of the best among them, by the metric on the held-out data; of equal ones the shortest.
        newest: metric to value of the last checkpoint as it is.
        test, test_newest: those of the best duration and of the last checkpoint on the test data, which chose nothing;
            empty without such data.
        test_standard_error: of their difference over the examples, for each metric.
        metric: the one that chooses.
        higher_is_better: metrics for which that is so.
        weights: of the checkpoints in an average: `"uniform"`, `"linear"`, `"exponential"` or `"1-sqrt"`.
        decay: of exponential weights; NaN of others.
        every: of the checkpoints, the last and each so many before it are averaged.
        batchnorm: what was done to running statistics: `"none"` (there are none), `"recalibrate"` or `"interpolate"`.
        notes: everything that was decided.
        settings: data, precision, device, versions; JSON.
    """

    _FORMAT = "modeconn durations 1"
    _NAME = "a sweep over durations"
    _SCHEMA = _Fields

    points: tuple[Duration, ...]
    best: int
    newest: Mapping[str, float]
    test: Mapping[str, float] = field(default_factory=dict)
    test_newest: Mapping[str, float] = field(default_factory=dict)
    test_standard_error: Mapping[str, float] = field(default_factory=dict)
    metric: str = "error"
    higher_is_better: frozenset[str] = frozenset()
    weights: str = "uniform"
    decay: float = float("nan")
    every: int = 1
    batchnorm: str = "none"
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each duration: which checkpoints, each metric, and whether it is the best."""
        return [
            {
                "last": point.last,
                "checkpoints": point.checkpoints,
                "first": point.first,
                "first_step": "" if point.first_step is None else point.first_step,
                **point.value,
                "best": place == self.best,
            }
            for place, point in enumerate(self.points)
        ]

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        label: str | None = None,
        color: str | None = None,
        annotate: bool | None = None,
        **line: Any,
    ) -> "Axes":
        """Draw the metric over the number of checkpoints in the average, the last checkpoint as it is as a line.

        Args:
            ax: where to draw; a new figure if None.
            label: what it is called in the legend, beside other results.
            color: of all that is drawn; on axes where something is already the next of their own colours, if None.
            annotate: whether the last checkpoint and the best duration are marked; on empty axes alone if None.
            line: further options of the curve, for `matplotlib.lines.Line2D`.
        """
        from modeconn.style import BATCHNORM, COLORS, draw_legend, drawing, look_of, unused

        scale, unit = (100, "error (%)") if self.metric == "error" else (1, self.metric)
        x = np.array([point.checkpoints for point in self.points])
        y = scale * np.array([point.value[self.metric] for point in self.points])
        with drawing(ax, 4.4, 3.4) as ax:
            look = look_of(ax, label, color, annotate, **line)
            alone = scale * self.newest[self.metric]
            if look.annotate:
                ax.axhline(alone, color="black", linewidth=1, linestyle="--", label=f"last checkpoint: {alone:.3g}")
            words = f"average, {self.weights} weights"
            curve = look.options(marker="o", markersize=4, color=look.color or COLORS["test"])
            ax.plot(x, y, **curve, label=unused(ax, look.name(words, words)))
            if look.annotate:
                chosen = self.points[self.best]
                ax.plot(x[self.best], y[self.best], "o", color=COLORS["train"], label=f"best: last {chosen.last}")
            if self.test and look.annotate:
                test = scale * self.test[self.metric]
                ax.plot(x[self.best], test, "s", color=COLORS["train"], markerfacecolor="white", label="on test data")
            ticks = {point.checkpoints: f"{point.last}\n({point.checkpoints})" for point in self.points}
            if look.shared:  # whose own labels, if these are others, stay
                others = zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
                ticks |= {round(place): text.get_text() for place, text in others if "(" in text.get_text()}
            ax.set_xticks(list(ticks), list(ticks.values()), fontsize="small")
            ax.set(xlabel="part of the run (checkpoints) in the average", ylabel=unit)
            draw_legend(ax, BATCHNORM[self.batchnorm])
            return ax

    def __str__(self) -> str:
        best = self.points[self.best]
        decay = "" if np.isnan(self.decay) else f", decay {self.decay:g}"
        of = self.settings.get("checkpoints", "")
        title = f"averages of the last of {of} checkpoints, weights {self.weights}{decay}{measured(self.settings)}"
        width = max(4, *(len(point.last) for point in self.points))
        lines = [title, "", f"{'last':>{width}}  checkpoints  {self.metric}"]
        for place, point in enumerate(self.points):
            mark = "  best" if place == self.best else ""
            lines.append(f"{point.last:>{width}}  {point.checkpoints:>11}  {self._shown(point.value)}{mark}")
        lines += ["", f"The last checkpoint as it is: {self._shown(self.newest)}."]
        change = self._change(best.value, self.newest, best.standard_error)
        lines.append(f"The best, of the last {best.last}, differs from it by {change}. It was chosen on these data.")
        if self.test:
            change = self._change(self.test, self.test_newest, self.test_standard_error)
            shown = self._shown(self.test), self._shown(self.test_newest)
            lines.append(f"On the test data, which chose nothing: {shown[0]}, and the last {shown[1]} ({change}).")
        else:
            lines.append("Its value there is too low for an estimate: further data (test=) would give one.")
        return "\n".join([*lines, *note_lines(self.notes)])

    def _shown(self, value: Mapping[str, float]) -> str:
        return f"{100 * value['error']:.4g} %" if self.metric == "error" else f"{value[self.metric]:.4g}"

    def _change(self, value: Mapping[str, float], other: Mapping[str, float], error: Mapping[str, float]) -> str:
        scale, unit = (100, " points") if self.metric == "error" else (1, "")
        spread = scale * error.get(self.metric, float("nan"))
        return f"{scale * (value[self.metric] - other[self.metric]):+.2g} +- {spread:.2g}{unit}"

    def _fields(self) -> dict[str, Any]:
        plain = ("best", "newest", "test", "test_newest", "test_standard_error", "metric", "weights", "decay", "every")
        return {
            "points": [asdict(point) for point in self.points],
            **{name: getattr(self, name) for name in (*plain, "batchnorm")},
            "higher_is_better": sorted(self.higher_is_better),
            "notes": list(self.notes),
            "settings": dict(self.settings),
        }

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        points = tuple(
            Duration(**point | {name: from_jsonable(point[name]) for name in ("value", "standard_error")})
            for point in content["points"]
        )
        if not 0 <= content["best"] < len(points) or any(content["metric"] not in one.value for one in points):
            raise ValueError("its best is none of its durations, or has no such metric")
        numbers = {
            name: from_jsonable(content[name])
            for name in ("newest", "test", "test_newest", "test_standard_error", "decay")
        }
        return cls(
            points=points,
            **numbers,
            **{name: content[name] for name in ("best", "metric", "weights", "every", "batchnorm")},
            higher_is_better=frozenset(content["higher_is_better"]),
            notes=tuple(content["notes"]),
            settings=content.get("settings", {}),
        )
