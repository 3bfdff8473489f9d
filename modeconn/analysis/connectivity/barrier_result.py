"""Result of `error_barrier`: the curve, both barriers, their uncertainty, and how far apart the ends are."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from modeconn.analysis.connectivity.predictions_result import Predictions
from modeconn.analysis.connectivity.samples import NO_ENDS, BarrierFields, Ends, Samples, measured
from modeconn.analysis.paths.alphas import CANDIDATES
from modeconn.analysis.paths.barrier import BarrierHeights, barrier_heights
from modeconn.analysis.paths.confidence import bootstrap_interval, cross_fitted
from modeconn.analysis.paths.sequential import ThresholdDecision
from modeconn.errors import ModeconnError, OptionError, unknown
from modeconn.result import JsonResult, Row, array_of, brief, from_jsonable, note_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, repr=False)
class Barrier(JsonResult):
    """A path between two networks and how high it rises.

    Errors are fractions in [0, 1], losses are means in nats (squared errors for regression). `barrier`, `chord_barrier`
    and `alpha_at_max` are those of `metric`; `heights(name)` gives those of any other.

    Attributes:
        alphas: float64 [n], ascending; 0 is `a`, 1 is `b`.
        samples: metric to the outcomes behind its curve.
        metric: the one that is meant by `barrier`: the error, or else the first.
        higher_is_better: the metrics for which a barrier is a dip.
        ends: distance and disagreement of the ends.
        names: what `a` and `b` are called.
        batchnorm: what was done to normalization on the path: `"none"` (there is none), `"interpolate"`,
            `"recalibrate"` or `"repair"`.
        notes: everything that was decided.
        settings: data, meter, precision, device, versions; JSON.
        decided: where it was only asked whether the barrier is above a threshold, the answer. All values are then
            estimates from the examples that were drawn, and other ones at each alpha; so is `barrier`.
        unaligned: where `b` was aligned to `a`, the path to `b` as it was; None where it was not.
        predictions: calibration, distance to the ends and their ensemble, where these were asked for.

    >>> samples = Samples(np.array([[0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 0]], dtype=bool), np.ones((3, 4)))
    >>> result = Barrier(np.array([0, 0.5, 1]), {"error": samples}, "error")
    >>> result.error.tolist(), result.barrier, result.chord_barrier, result.alpha_at_max
    ([0.5, 0.75, 0.25], 0.375, 0.375, 0.5)
    """

    _FORMAT = "modeconn barrier 1"
    _NAME = "a barrier"
    _SCHEMA = BarrierFields

    alphas: np.ndarray
    samples: Mapping[str, Samples]
    metric: str
    higher_is_better: frozenset[str] = frozenset()
    ends: Ends = NO_ENDS
    names: tuple[str, str] = ("a", "b")
    batchnorm: str = "none"
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    decided: ThresholdDecision | None = None
    unaligned: "Barrier | None" = None
    predictions: Predictions | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics."""
        return tuple(self.samples)

    def values(self, metric: str | None = None) -> np.ndarray:
        """A metric at every alpha, float64 [n].

        Raises:
            OptionError: no such metric.
        """
        return self.samples[self._known(metric)].values

    def heights(self, metric: str | None = None) -> BarrierHeights:
        """Both barriers of a metric and where it is worst, on [0, 1]. Of a metric where higher is better, the dip.

        Raises:
            OptionError: no such metric.
        """
        name = self._known(metric)
        inside = self._inside
        return barrier_heights(self.alphas[inside], self._sign(name) * self.values(name)[inside])

    @property
    def barrier(self) -> float:
        """Largest value on the path minus the mean of the ends (Frankle et al. 2020)."""
        return self.heights().barrier

    @property
    def chord_barrier(self) -> float:
        """Largest excess over the straight line between the ends (Entezari et al. 2022)."""
        return self.heights().chord_barrier

    @property
    def alpha_at_max(self) -> float:
        """Where the path is worst."""
        return self.heights().alpha_at_max

    @property
    def distance(self) -> float:
        """L2 norm of the difference of the ends' parameters, `ends.l2`; buffers do not count.

        >>> samples = Samples(np.zeros((2, 4)), np.ones((2, 4)))
        >>> Barrier(np.array([0, 1]), {"loss": samples}, "loss", ends=replace(NO_ENDS, l2=2.5)).distance
        2.5
        """
        return self.ends.l2

    @property
    def error(self) -> np.ndarray:
        """The error at every alpha, float64 [n]."""
        return self.values("error")

    @property
    def loss(self) -> np.ndarray:
        """The mean loss at every alpha, float64 [n]."""
        return self.values("loss")

    def worst(self, metric: str | None = None) -> float:
        """A metric where the path is worst."""
        values = self.values(metric)[self._inside]
        return float(values.min() if self._known(metric) in self.higher_is_better else values.max())

    def end_values(self, metric: str | None = None) -> tuple[float, float]:
        """A metric at `a` and at `b`."""
        values = self.values(metric)
        return float(values[self.alphas == 0][0]), float(values[self.alphas == 1][0])

    def interval(
        self,
        level: float = 0.95,
        metric: str | None = None,
        definition: str = "barrier",
        *,
        draws: int = 2000,
        seed: int = 0,
    ) -> tuple[float, float]:
        """A confidence interval for the barrier that infinitely many examples would show.

        Paired bootstrap over the examples: see `modeconn.analysis.paths.confidence.bootstrap_interval`. It says
        nothing about other runs of training. Of adaptive alphas, it is over the examples that did not choose them, and
        need not contain `barrier`, which is of all.

        Args:
            level: of confidence.
            metric: the one that `barrier` is of, if None.
            definition: `"barrier"` or `"chord_barrier"`.
            draws: how many times the examples are drawn anew.
            seed: of the draws.

        Raises:
            OptionError: a level outside (0, 1), an unknown metric or definition, a single example, a result that was
                read from a file without examples, or adaptive alphas that were chosen by all examples.
        """
        return bootstrap_interval(
            *self._outcomes(metric), **self._how(metric, definition, seed), level=level, draws=draws
        )

    def cross_fitted(
        self, metric: str | None = None, definition: str = "barrier", *, splits: int = 10, seed: int = 0
    ) -> float:
        """The barrier without the upward bias of a maximum over noisy values.

        Alpha is chosen on one half of the examples, the excess measured on the other, both ways, averaged over
        `splits` divisions. It can be negative. Of adaptive alphas, only examples that did not choose them are used.

        Raises:
            OptionError: as `interval`.
        """
        return cross_fitted(*self._outcomes(metric), **self._how(metric, definition, seed), splits=splits)

    def plot(
        self,
        ax: "Axes | None" = None,
        metric: str | None = None,
        *,
        label: str | None = None,
        color: str | None = None,
        annotate: bool | None = None,
        **line: Any,
    ) -> "Axes":
        """Draw a metric along the path, with both barriers where they are measured.

        The dashed line joins the ends (the chord), the dotted one is their mean; the arrow is the barrier. After
        alignment, the path without it is drawn too.

        Args:
            ax: where to draw; a new figure if None.
            metric: which one; the one that `barrier` is of, if None.
            label: what it is called in the legend, beside other results.
            color: of all its lines; on axes where something is drawn already the next of their own colours, if None.
            annotate: whether a title, lines and an arrow show the barriers; on empty axes alone if None.
            line: further options of the curve, for `matplotlib.lines.Line2D`.

        Raises:
            OptionError: no such metric.
        """
        from modeconn.style import BATCHNORM, COLORS, draw_legend, drawing, look_of, reach_zero, short, unused

        metric = metric or self.metric
        values, heights = self.values(metric), self.heights(metric)
        scale, unit = (100, "%") if metric == "error" else (1, "")
        end_a, end_b = (scale * value for value in self.end_values(metric))
        mean = (end_a + end_b) / 2
        a, b = map(short, self.names)
        with drawing(ax) as ax:
            look = look_of(ax, label, color, annotate, **line)
            dots = look.options(marker="o", markersize=2.5)
            tints = (COLORS["test"], "grey", COLORS["train"]) if look.color is None else (look.color,) * 3
            among = f"{metric}, {a} to {b}"

            def draw(x: np.ndarray, y: np.ndarray, own: str, part: str, color: str, linestyle: str) -> None:
                named = {"color": color, "label": unused(ax, look.name(own, among, part))}
                ax.plot(x, y, **{"linestyle": "-" if look.color is None else linestyle} | dots | named)

            part = "aligned" if self.unaligned else ""
            draw(self.alphas, scale * values, ", ".join(filter(None, (metric, part))), part, tints[0], "-")
            if self.unaligned:
                before = scale * self.unaligned.values(metric)
                draw(self.unaligned.alphas, before, f"{metric}, unaligned", "unaligned", tints[1], "--")
            if self.predictions and metric in ("error", "loss"):
                ensemble = scale * self.predictions.columns()[f"ensemble_{metric}"]
                draw(self.alphas, ensemble, "ensemble of the ends", "ensemble of the ends", tints[2], "-.")
            if look.annotate:
                ax.plot([0, 1], [end_a, end_b], color="black", linewidth=0.8, linestyle="--", label="between the ends")
                ax.axhline(mean, color="black", linewidth=0.8, linestyle=":", label="mean of the ends")
                top = scale * float(values[np.flatnonzero(self.alphas == heights.alpha_at_max)[0]])
                if np.isfinite(top) and heights.barrier > 0:
                    arrow = {"arrowstyle": "<->", "color": COLORS["train"], "shrinkA": 0, "shrinkB": 0}
                    ax.annotate("", (heights.alpha_at_max, top), (heights.alpha_at_max, mean), arrowprops=arrow)
                ax.set_title(self._heights_in_words(metric))
            axis = f"alpha (0: {a}, 1: {b})"
            same = not look.shared or ax.get_xlabel() in ("", axis)
            ax.set(xlabel=axis if same else "alpha", ylabel=f"{metric} ({unit})" if unit else metric)
            left, right = ax.get_xlim() if look.shared else (0.0, 1.0)
            ax.set_xlim(min(left, float(self.alphas[0])), max(right, float(self.alphas[-1])))
            if metric not in self.higher_is_better:
                reach_zero(ax)
            draw_legend(ax, BATCHNORM[self.batchnorm])
            return ax

    def plot_predictions(self, ax: "Axes | None" = None) -> "Axes":
        """Draw losses along the path, with a temperature and of the ensemble too, and divergences from the ends.

        Raises:
            OptionError: the result has no predictions.
        """
        from modeconn.style import drawing

        if self.predictions is None:
            raise OptionError("this result has no predictions; measure with predictions=True")
        with drawing(ax) as ax:
            return self.predictions.draw(ax, self.alphas, self.loss, self.names)

    def rows(self) -> list[Row]:
        """One row per alpha, with each metric; after alignment, `path` says which it is of, and both have theirs."""
        columns = {"alpha": self.alphas} | {name: self.values(name) for name in self.metrics}
        columns |= self.predictions.columns() if self.predictions else {}
        rows: list[Row] = [
            {name: float(values[i]) for name, values in columns.items()} for i in range(len(self.alphas))
        ]
        if self.unaligned is None:
            return rows
        before = [{"path": "unaligned"} | row for row in self.unaligned.rows()]
        return before + [{"path": "aligned"} | row for row in rows]

    def to_json(self, path: str | Path | None = None, *, examples: bool = True) -> str:
        """The result as JSON text, also written to a file if a path is given.

        Args:
            path: where to write.
            examples: keep the outcomes of all examples, compressed, which other intervals need. Without, only the sums
                are kept.

        Raises:
            StoreError: the file cannot be written.
        """
        return JsonResult.to_json(self if examples else self.without_examples(), path)

    def without_examples(self) -> "Barrier":
        """The same curves, without the outcomes of single examples."""
        summed = {name: samples.summed() for name, samples in self.samples.items()}
        return replace(self, samples=summed, unaligned=self.unaligned and self.unaligned.without_examples())

    def __repr__(self) -> str:
        a, b = (brief(name, 40) for name in self.names)
        if self.decided:
            return f"Barrier({self.metric} from {a} to {b}: {self.decided})"
        before = f", unaligned {self.unaligned.barrier:.4g}" if self.unaligned else ""
        height = f"{self.barrier:.4g}, over the chord {self.chord_barrier:.4g}{before}"
        return f"Barrier({self.metric} from {a} to {b}: {height})"

    def __str__(self) -> str:
        a, b = self.names
        end = f"{b}, aligned" if self.unaligned else b
        lines = [f"path from {a} to {end}, {len(self.alphas)} alphas{measured(self.settings)}", ""]
        if self.decided:
            before = [f"Before alignment: {self.unaligned.decided}."] if self.unaligned else []
            lines += [*before, f"{self.decided}.", ""]
        width = max(len(name) for name in self.metrics) + 2
        lines.append(f"{'':{width}}{a:>16.14}{b:>16.14}{'worst':>10}{'at alpha':>10}{'barrier':>10}{'chord':>10}")
        for name in self.metrics:
            unit = 100 if name == "error" else 1
            heights, worst = self.heights(name), self.worst(name)
            numbers = [*self.end_values(name), worst, heights.alpha_at_max, heights.barrier, heights.chord_barrier]
            cells = [f"{number if i == 3 else unit * number:.4g}" for i, number in enumerate(numbers)]
            label = f"{name} %" if unit == 100 else name
            lines.append(f"{label:{width}}{cells[0]:>16}{cells[1]:>16}" + "".join(f"{cell:>10}" for cell in cells[2:]))
        lines += [*_legend(self), "", *_alignment(self), *_uncertainty(self), *self.ends.lines()]
        lines += self.predictions.lines(self.alphas, self.error, self.loss) if self.predictions else []
        lines += note_lines(self.notes)
        return "\n".join(line.rstrip() for line in lines)

    def _fields(self) -> dict[str, Any]:
        return {
            "alphas": self.alphas,
            "metric": self.metric,
            "higher_is_better": sorted(self.higher_is_better),
            # Values and heights are for readers; they come from the samples.
            "values": {name: self.values(name) for name in self.metrics},
            "heights": {name: asdict(self.heights(name)) for name in self.metrics},
            "ends": asdict(self.ends),
            "names": self.names,
            "batchnorm": self.batchnorm,
            "notes": self.notes,
            "settings": self.settings,
            "samples": {name: samples.packed() for name, samples in self.samples.items()},
            **({"decided": asdict(self.decided)} if self.decided else {}),
            **({"unaligned": self.unaligned.content()} if self.unaligned else {}),
            **({"predictions": self.predictions.columns()} if self.predictions else {}),
        }

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        alphas = array_of(content["alphas"], len(content["alphas"]))
        if not (np.diff(alphas) > 0).all() or not np.isfinite(alphas).all() or not {0.0, 1.0} <= set(alphas.tolist()):
            raise ValueError("its alphas are not ascending numbers with 0 and 1 among them")
        samples = {name: Samples.unpacked(packed) for name, packed in content["samples"].items()}
        if content["metric"] not in samples or any(len(one.sums) != len(alphas) for one in samples.values()):
            raise ValueError("there are not outcomes of its metric, and of each metric at every alpha")
        a, b = content["names"]
        return cls(
            alphas=alphas,
            samples=samples,
            metric=content["metric"],
            higher_is_better=frozenset(content["higher_is_better"]),
            ends=Ends(**from_jsonable(content["ends"])),
            names=(a, b),
            batchnorm=content["batchnorm"],
            notes=tuple(content["notes"]),
            settings=content["settings"],
            decided=ThresholdDecision.of(content["decided"]) if "decided" in content else None,
            unaligned=cls.from_content(content["unaligned"]) if "unaligned" in content else None,
            predictions=Predictions.of_columns(content.get("predictions"), len(alphas)),
        )

    def _heights_in_words(self, metric: str) -> str:
        """Both barriers, as the title of a figure has them."""
        scale, points = (100, " points") if metric == "error" else (1, "")
        heights, word = self.heights(metric), "estimated barrier" if self.decided else "barrier"
        title = f"{word} {scale * heights.barrier:.3g}{points}, over the chord {scale * heights.chord_barrier:.3g}"
        if self.unaligned:
            title += f"\nbefore alignment {scale * self.unaligned.heights(metric).barrier:.3g}{points}"
        return title

    @property
    def _inside(self) -> np.ndarray:
        return (self.alphas >= 0) & (self.alphas <= 1)

    def _known(self, metric: str | None) -> str:
        name = self.metric if metric is None else metric
        if name not in self.metrics:
            raise unknown("metric", name, self.metrics)
        return name

    def _sign(self, metric: str) -> int:
        return -1 if metric in self.higher_is_better else 1

    def _outcomes(self, metric: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        samples = self.samples[self._known(metric)]
        if self.decided:
            raise OptionError("intervals need the full count; measure without decide=")
        if samples.per == "data":
            raise OptionError(
                f"{self._known(metric)} is of all examples together and no mean over them: it has neither an interval "
                "nor a cross-fitted barrier"
            )
        if samples.per == "all":
            raise OptionError("this result was saved without its examples (examples=False), which intervals need")
        inside = self._inside
        sums, counts = samples.sums[inside], samples.counts[inside]
        if samples.chose is not None:
            sums, counts = sums[:, ~samples.chose], counts[:, ~samples.chose]
        elif self.settings.get("alphas") == "adaptive" and len(self.alphas) < CANDIDATES:  # of version 0.1.0
            sums = sums[:, :0]
        if not sums.size:
            raise OptionError(
                f"its adaptive alphas were chosen by all examples that {self._known(metric)} was measured on, so that "
                "an interval of the same ones would be too narrow; measure with alphas=31"
            )
        return self.alphas[inside], sums, counts

    def _how(self, metric: str | None, definition: str, seed: int) -> dict[str, Any]:
        name = self._known(metric)
        return {
            "definition": definition,
            "higher_is_better": name in self.higher_is_better,
            "transform": self.samples[name].transform,
            "seed": seed,
        }


def _legend(barrier: Barrier) -> Iterator[str]:
    """What the columns of the table are."""
    units = "Barriers of the error are in percentage points. " if "error" in barrier.metrics else ""
    yield f"{units}barrier: worst value minus the mean of the endpoints; chord: the largest excess over"
    yield "the straight line between them."


def _alignment(barrier: Barrier) -> Iterator[str]:
    """What alignment did to the barrier, in a sentence, and how it was found."""
    if barrier.unaligned is None:
        return
    unit, word = (100, " percentage points") if barrier.metric == "error" else (1, f" of {barrier.metric}")
    before, after = (f"{unit * one.barrier:.4g}" for one in (barrier.unaligned, barrier))
    estimated = "an estimated " if barrier.decided else ""
    yield f"The barrier is {estimated}{before}{word} before alignment, and {after} after."
    yield from (f"{line}." for line in barrier.settings.get("alignment", {}).get("found", ()))
    yield ""


def _uncertainty(barrier: Barrier) -> Iterator[str]:
    unit, word = (100, " (percentage points)") if barrier.metric == "error" else (1, f" ({barrier.metric})")
    if barrier.samples[barrier.metric].per == "data":
        yield f"No interval: {barrier.metric} is of all examples together and no mean over them."
    with contextlib.suppress(ModeconnError):  # one example, or a file without examples
        low, high = barrier.interval(0.95)
        yield f"Barrier{word}: 95 % interval {unit * low:.3g} to {unit * high:.3g} over examples,"
        yield f"cross-fitted {unit * barrier.cross_fitted():.3g} (a largest value is biased upwards)."
