"""The curve of a path: measure its points, and make a `Barrier` of them."""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.analysis.connectivity.comparison import SPLIT, Comparison
from modeconn.analysis.connectivity.factors import FactorLine
from modeconn.analysis.connectivity.samples import Ends, Samples
from modeconn.analysis.paths.adaptive import count_highest_alphas, screen
from modeconn.analysis.paths.alphas import Alphas
from modeconn.analysis.paths.linear import Line
from modeconn.errors import DataError, OptionError, unknown
from modeconn.evaluation.disagreement import compare_outcomes
from modeconn.evaluation.measure import MetricSums
from modeconn.evaluation.meters import Meter
from modeconn.evaluation.metric_names import says_higher_is_better
from modeconn.progress import Progress, Report


def measure_path(
    comparison: Comparison,
    line: Line,
    alphas: Alphas,
    higher_is_better: bool | Collection[str],
    point_done: Callable[[], None],
) -> "MeasuredPath":
    """Measure a path of which nothing is known yet: the ends first, which show the metrics.

    Args:
        comparison: what is measured, and how; its first two names are those of the ends.
        line: the path.
        alphas: the points.
        higher_is_better: as `modeconn.error_barrier` takes it.
        point_done: called after every point; see `report_points`.

    Raises:
        OptionError: metrics that cannot be meant by `higher_is_better`.
        DataError: the caller's own `evaluate` gives other metrics, or another number of examples, at a point.
    """
    if alphas.adaptive and comparison.evaluator.meter.whole is not None:
        raise OptionError(
            'alphas="adaptive" looks at a part of the examples, on which a metric of all of them cannot be measured; '
            "give alphas= a count or a list"
        )
    path = MeasuredPath(comparison, line).measure_at((0.0, 1.0), point_done)
    better, comparison = resolve_higher_is_better(higher_is_better, comparison, path.points[0.0])
    return replace(path, comparison=comparison, higher_is_better=better).measure(alphas, point_done)


@dataclass(frozen=True, eq=False)
class MeasuredPath:
    """A path, and those of its points that were measured so far. Its methods leave it as it is and give a new one.

    Attributes:
        comparison: what is measured, and how; its first two names are those of the ends.
        line: the path.
        points: alpha to what was measured there.
        higher_is_better: the metrics that fall where the path is bad.
        chose: metric to which units chose adaptive alphas, bool [units]; empty where the alphas were given.
    """

    comparison: Comparison
    line: Line
    points: Mapping[float, MetricSums] = field(default_factory=dict)
    higher_is_better: frozenset[str] = frozenset()
    chose: Mapping[str, np.ndarray] = field(default_factory=dict)

    def measure_at(self, alphas: Collection[float], point_done: Callable[[], None]) -> "MeasuredPath":
        """Measure those of the points that were not measured yet; `point_done` is called after each.

        Raises:
            DataError: the caller's own `evaluate` gives other metrics, or another number of examples, than elsewhere.
        """
        points = dict(self.points)
        for alpha in alphas:
            if alpha not in points:
                points[alpha] = self._measure(alpha, points)
                point_done()
        return replace(self, points=points)

    def measure(self, alphas: Alphas, point_done: Callable[[], None]) -> "MeasuredPath":
        """Measure all of these alphas or, if they are adaptive, those where the main metric may be worst.

        Raises:
            DataError: as `measure_at`.
        """
        path = replace(self, comparison=self.comparison.noting(**alphas.settings))
        if alphas.adaptive:
            return path._measure_adaptive(alphas.tolerance, point_done)
        return path.measure_at(alphas.points, point_done)

    def barrier(self) -> Barrier:
        """The result, of a path whose ends were measured."""
        alphas, comparison = sorted(self.points), self.comparison
        meter = comparison.evaluator.meter
        per = "batch" if meter.whole is None else "data"
        samples = _samples([self.points[alpha] for alpha in alphas], self.chose, per)
        if meter.perplexity:
            samples["perplexity"] = replace(samples["loss"], exponential=True)
        notes = [*_notes_on_ends(self.line), *comparison.notes, *self.line.notes]
        if meter.name == "own":
            notes += self._notes_on_own_metrics(samples)
        elif self.line.moving and all((sample.sums == sample.sums[0]).all() for sample in samples.values()):
            notes.append(
                "every point gives the same numbers to the last bit though the weights differ: perhaps the network "
                "does not compute with the weights that are put into it"
            )
        for name, sample in samples.items():
            bad = [f"{alpha:g}" for alpha, value in zip(alphas, sample.values, strict=True) if not math.isfinite(value)]
            if bad:
                notes.append(f"{name} is not finite at alpha {', '.join(bad)}")
        return Barrier(
            alphas=np.array(alphas),
            samples=samples,
            metric=main_metric(self.points[0.0]),
            higher_is_better=self.higher_is_better,
            ends=_compare_ends(self.line, self.points[0.0], self.points[1.0]),
            names=(comparison.names[0], comparison.names[1]),
            batchnorm=comparison.evaluator.batchnorm,
            notes=tuple(dict.fromkeys(notes)),
            settings=comparison.settings | count_examples(self.points[0.0], meter),
        )

    def _notes_on_own_metrics(self, samples: Mapping[str, Samples]) -> Iterator[str]:
        """What looks like a mistake in the caller's `evaluate`."""
        for name, sample in samples.items():
            if self.line.moving and len(sample.sums) > 2 and (sample.values == sample.values[0]).all():
                yield (
                    f"{name} is the same at every alpha though the weights are not: if evaluate= looks at something "
                    "else than the network that it is given, this says nothing"
                )
            if name in self.points[0.0].whole and sample.sums.shape[1] > 1 and (sample.counts == 1).all():
                yield (
                    f"{name} is a mean over batches, with a count of 1 for each whatever its size; if it is a mean "
                    "over a batch's examples, let evaluate= give their sum and their number; if it is none, such as F1 "
                    "or AUROC, give an object with update, compute and reset"
                )

    def _measure_adaptive(self, tolerance: float, point_done: Callable[[], None]) -> "MeasuredPath":
        """Measure the highest alphas, by the main metric; the ends are measured already."""
        points, end, evaluator = dict(self.points), self.points[0.0], self.comparison.evaluator
        metric = main_metric(end)
        sign = -1 if metric in self.higher_is_better else 1
        # What chooses the alphas is left out of intervals: a flat curve is highest where these examples err most.
        screening = screen(evaluator, SPLIT, None if metric in end.whole else len(end.sums[metric]))
        chose = {} if screening is None else {name: screening.chooses(end, name) for name in end.sums}
        choosing = chose.get(metric, np.ones(len(end.sums[metric]), dtype=bool))

        def value(measured: MetricSums) -> float:
            return sign * measured.mean_of(metric, choosing)

        def count(alpha: float) -> float:
            points[alpha] = self._measure(alpha, points)
            point_done()
            return value(points[alpha])

        values = {alpha: value(measured) for alpha, measured in points.items()}
        part = float(choosing.mean())
        notes = count_highest_alphas(
            screening, self.line, SPLIT, metric, values, count, part=part, sign=sign, tolerance=tolerance
        )
        if part < 1:
            notes = (
                *notes,
                f"adaptive alphas are chosen by {100 * part:.3g} % of the examples; the interval and the cross-fitted "
                "barrier are of the others",
            )
        return replace(self, points=points, comparison=self.comparison.noting(*notes), chose=chose)

    def _measure(self, alpha: float, points: Mapping[float, MetricSums]) -> MetricSums:
        """One point, seen to be measured like the others."""
        measured = self.comparison.measure_at(self.line, alpha)
        check_alike(measured, next(iter(points.values()), measured))
        return measured


def main_metric(measured: MetricSums) -> str:
    """The metric that is meant by "the barrier": the error, or else the first."""
    return "error" if "error" in measured.sums else next(iter(measured.sums))


def resolve_higher_is_better(
    given: bool | Collection[str], comparison: Comparison, measured: MetricSums
) -> tuple[frozenset[str], Comparison]:
    """The metrics that fall where a path is bad, and the comparison with a note on those whose names say so.

    Args:
        given: True for all, or their names; beside these, metrics called accuracy, F1, AUC and the like are taken for
            such, unless False is given.
        comparison: what is measured.
        measured: at one point.

    Raises:
        OptionError: a name that is not a metric, or metrics that are not the caller's own.
    """
    if not isinstance(given, Collection | bool):
        raise OptionError(f"higher_is_better is True or names of metrics; got {given!r}")
    names = frozenset(measured.sums if given is True else [given] if isinstance(given, str) else given or ())
    for name in names - measured.sums.keys():
        raise unknown("metric", str(name), measured.sums)
    meter = comparison.evaluator.meter
    if names and meter.name not in ("own", "metric"):
        raise OptionError("errors and losses are better when lower; higher_is_better is for metrics of your evaluate=")
    if given is False:
        return names, comparison
    if meter.whole is not None:
        says = meter.whole.higher_is_better
        declared = [name for name in measured.sums if says.get(name) and name not in names]
        names = names.union(declared)
        if declared:
            comparison = comparison.noting(
                f"higher {', '.join(declared)} is better, as the metric says, so that a barrier is a dip"
            )
        measured = replace(measured, sums={name: value for name, value in measured.sums.items() if name not in says})
    by_name = [name for name in measured.sums if name not in names and says_higher_is_better(name)]
    if by_name:
        shown = ", ".join(by_name)
        comparison = comparison.noting(
            f"higher {shown} is taken to be better, as the name says, so that a barrier is a dip; if lower is better, "
            "say higher_is_better=False"
        )
    return names.union(by_name), comparison


def count_examples(measured: MetricSums, meter: Meter) -> dict[str, int]:
    """How many examples something was measured on, as a setting; unknown of a metric of whole data."""
    return {"examples": len(next(iter(measured.sums.values())))} if meter.whole is None else {}


def check_alike(measured: MetricSums, other: MetricSums) -> None:
    """See that two points were measured alike.

    Raises:
        DataError: they have other metrics, or another number of examples.
    """
    if measured.sums.keys() != other.sums.keys() or any(
        measured.sums[name].shape != other.sums[name].shape for name in other.sums
    ):
        raise DataError("evaluate gave other metrics, or another number of examples, at one alpha than at another")


def report_points(report: Report, total: int) -> Callable[[], None]:
    """A function to call after every measured point, which reports how many of `total` that makes."""
    done = itertools.count(1)

    def point_done() -> None:
        points = next(done)
        report(Progress.counted(points, max(total, points), "points"))

    return point_done


def _samples(points: Sequence[MetricSums], chose: Mapping[str, np.ndarray], whole: str) -> dict[str, Samples]:
    """Each metric's sums and counts at all points; `whole` is what is measured of no single example."""
    samples = {}
    for name in points[0].sums:
        sums, counts = np.stack([point.sums[name] for point in points]), [point.counts[name] for point in points]
        if all(np.array_equal(count, counts[0]) for count in counts):
            shared = np.broadcast_to(counts[0], sums.shape)
        else:
            shared = np.stack(counts)
        per = whole if name in points[0].whole else "example"
        samples[name] = Samples(sums, shared, per, chose=chose.get(name))
    return samples


def _compare_ends(line: Line, a: MetricSums, b: MetricSums) -> Ends:
    """How the ends differ in weights, in labels (Fort et al. 2019) and in losses (Frankle et al. 2020, appendix G)."""
    found = compare_outcomes(a, b)
    over_error = over_possible = math.nan
    if not math.isnan(found.disagreement):
        errors = a.mean("error") + b.mean("error")
        over_error = found.disagreement / (errors / 2) if errors else math.nan
        over_possible = found.disagreement / found.possible if found.possible else math.nan
    distance = line.distance
    return Ends(
        distance.l2, distance.cosine, distance.angular, found.disagreement, over_error, over_possible, found.loss_l2
    )


def _notes_on_ends(line: Line) -> list[str]:
    if not line.moving and not line.notes:
        return ["all weights and buffers are equal: the path is one point, and its barrier is 0 by construction"]
    if isinstance(line, FactorLine) and line.distance.l2 == 0 and line.updates:
        return ["all merged weights are equal; the factors that they are merged from differ"]
    if line.distance.l2 == 0:
        return ["all parameters are equal; only buffers differ"]
    return []
