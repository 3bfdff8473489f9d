"""Curves along a linear path: measure its points, and make a `Barrier` of them."""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.analysis.connectivity.comparison import Comparison
from modeconn.analysis.connectivity.samples import Ends, Samples
from modeconn.analysis.paths.adaptive import count_highest_alphas
from modeconn.analysis.paths.linear import Line
from modeconn.errors import DataError, OptionError, unknown
from modeconn.evaluation.measure import Measured
from modeconn.progress import Progress, Report


def make_barrier(
    line: Line, found: dict[float, Measured], comparison: Comparison, better: frozenset[str], settings: dict[str, Any]
) -> Barrier:
    """The result of a walk: `found` holds the outcomes at every alpha, 0 and 1 among them."""
    alphas = sorted(found)
    points = [found[alpha] for alpha in alphas]
    samples = {name: _samples(name, points) for name in points[0].sums}
    if comparison.evaluator.meter.perplexity:
        samples["perplexity"] = replace(samples["loss"], exponential=True)
    notes = [*_notes_on_ends(line), *comparison.notes, *line.notes]
    for name, sample in samples.items():
        bad = [f"{alpha:g}" for alpha, value in zip(alphas, sample.values, strict=True) if not math.isfinite(value)]
        if bad:
            notes.append(f"{name} is not finite at alpha {', '.join(bad)}")
    return Barrier(
        alphas=np.array(alphas),
        samples=samples,
        metric=first_metric(found[0.0]),
        higher_is_better=better,
        ends=_compare(line, found[0.0], found[1.0]),
        names=(comparison.names[0], comparison.names[1]),
        batchnorm=comparison.evaluator.batchnorm,
        notes=tuple(dict.fromkeys(notes)),
        settings=settings | {"examples": len(next(iter(samples.values())).sums[0])},
    )


def first_metric(measured: Measured) -> str:
    """The metric that is meant by "the barrier": the error, or else the first."""
    return "error" if "error" in measured.sums else next(iter(measured.sums))


def check_higher(
    higher_is_better: bool | Collection[str], comparison: Comparison, measured: Measured
) -> frozenset[str]:
    """The metrics that fall where a path is bad.

    Raises:
        OptionError: a name that is not a metric, or metrics that are not the caller's own.
    """
    if not isinstance(higher_is_better, Collection | bool):
        raise OptionError(f"higher_is_better is True or names of metrics; got {higher_is_better!r}")
    if higher_is_better is True:
        names = frozenset(measured.sums)
    else:
        names = frozenset([higher_is_better] if isinstance(higher_is_better, str) else higher_is_better or ())
    for name in names - measured.sums.keys():
        raise unknown("metric", str(name), measured.sums)
    if names and comparison.evaluator.meter.name != "own":
        raise OptionError("errors and losses are better when lower; higher_is_better is for metrics of your evaluate=")
    return names


def counted(report: Report, total: int) -> Callable[..., None]:
    """A report for several walks that count as one: each call is one point more, whatever is said of it."""
    done = itertools.count(1)

    def step(_: Progress | None = None) -> None:
        points = next(done)
        report(Progress(points, 0, max(total, points), points, max(total, points), ()))

    return step


def walk(
    comparison: Comparison,
    line: Line,
    points: Collection[float],
    found: dict[float, Measured],
    report: Report,
    total: int,
) -> None:
    """Measure a line at the points that were not measured yet, and add the outcomes to `found`, in place.

    Raises:
        DataError: the caller's own `evaluate` gives other metrics, or another number of examples, than at other points.
    """
    for alpha in points:
        if alpha not in found:
            measured = comparison.evaluator.measure_at(line, alpha)[""]
            for other in found.values():
                check_same(measured, other)
                break
            found[alpha] = measured
            report(Progress(len(found), 0, total, len(found), total, ()))


def check_same(measured: Measured, first: Measured) -> None:
    """See that two points were measured alike.

    Raises:
        DataError: they have other metrics, or another number of examples.
    """
    if measured.sums.keys() != first.sums.keys() or any(
        measured.sums[name].shape != first.sums[name].shape for name in first.sums
    ):
        raise DataError("evaluate gave other metrics, or another number of examples, at one alpha than at another")


def count_highest(
    comparison: Comparison,
    line: Line,
    found: dict[float, Measured],
    better: frozenset[str],
    tolerance: float,
    step: Callable[[float], None],
) -> tuple[str, ...]:
    """Measure the adaptive alphas: add to `found`, by `step`, those where the first metric may be highest. Notes."""
    end = found[0.0]
    metric = first_metric(end)
    sign = -1 if metric in better else 1

    def count(alpha: float) -> float:
        step(alpha)
        return sign * found[alpha].mean(metric)

    values = {alpha: sign * measured.mean(metric) for alpha, measured in found.items()}
    units = None if metric in end.whole else len(end.sums[metric])
    return count_highest_alphas(
        comparison.evaluator, line, "", metric, values, count, units=units, sign=sign, tolerance=tolerance
    )


def _samples(name: str, points: Sequence[Measured]) -> Samples:
    sums = np.stack([point.sums[name] for point in points])
    counts = [point.counts[name] for point in points]
    if all(np.array_equal(count, counts[0]) for count in counts):
        shared = np.broadcast_to(counts[0], sums.shape)
    else:
        shared = np.stack(counts)
    return Samples(sums, shared, "batch" if name in points[0].whole else "example")


def _compare(line: Line, a: Measured, b: Measured) -> Ends:
    disagreement = over_error = over_possible = loss_l2 = math.nan
    if a.predictions is not None and b.predictions is not None:
        disagreement = float((a.predictions != b.predictions).mean())
        errors = a.mean("error") + b.mean("error")
        over_error = disagreement / (errors / 2) if errors else math.nan
        over_possible = disagreement / min(1.0, errors) if errors else math.nan
    if "loss" in a.sums and "loss" not in a.whole:
        losses = [_per_example(end, "loss") for end in (a, b)]
        loss_l2 = float(np.linalg.norm(losses[0] - losses[1]))
    distance = line.distance
    return Ends(distance.l2, distance.cosine, distance.angular, disagreement, over_error, over_possible, loss_l2)


def _per_example(measured: Measured, name: str) -> np.ndarray:
    """Means of each example; 0 for one that does not count."""
    sums, counts = measured.sums[name].astype(np.float64), measured.counts[name].astype(np.float64)
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)


def _notes_on_ends(line: Line) -> list[str]:
    if not line.moving and not line.notes:
        return ["all weights and buffers are equal: the path is one point, and its barrier is 0 by construction"]
    if line.distance.l2 == 0:
        return ["all parameters are equal; only buffers differ"]
    return []
