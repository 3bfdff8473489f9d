"""`error_barrier(a, b, data)`: how high the straight path between two networks rises, for anyone's networks."""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from modeconn.analysis.connectivity.barrier_result import Barrier, Ends, Samples
from modeconn.analysis.connectivity.comparison import Scene, open_scene
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.paths.adaptive import climb
from modeconn.analysis.paths.alphas import check_tolerance, grid
from modeconn.analysis.paths.linear import Line, make_line
from modeconn.analysis.paths.threshold import check_decide, draw
from modeconn.errors import DataError, OptionError, unknown
from modeconn.evaluation.batches import BATCH
from modeconn.evaluation.measure import Measured
from modeconn.execution import Progress

Report = Callable[[Progress], None]


def error_barrier(
    a: Source,
    b: Source,
    data: Any = None,
    *,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    evaluate: str | Callable[..., Any] = "auto",
    higher_is_better: bool | Collection[str] = (),
    alphas: int | str | Sequence[float] = 31,
    tolerance: float = 0.001,
    extrapolate: bool = False,
    decide: float | None = None,
    error_probability: float = 0.001,
    batchnorm: str = "interpolate",
    calibration: Any = None,
    calibration_batches: int | None = None,
    device: str | torch.device = "auto",
    precision: str = "float32",
    batch_size: int = BATCH,
    data_dir: str | Path | None = None,
    names: Sequence[str] | None = None,
    report: Report = lambda progress: None,
) -> Barrier:
    """Walk the straight line from `a` to `b` and measure how high it rises.

    Two definitions, both in the result: the largest error on the path minus the mean of the ends' (Frankle et al. 2020,
    section 2), and its largest excess over the straight line between the ends' (Entezari et al. 2022, definition 3.1).
    The ends are `a` and `b` themselves, evaluated once. Nothing of the caller's changes: weights, modes, gradients,
    buffers, random generators. The networks are read by their effective weights where they are pruned
    (`torch.nn.utils.prune`) or parametrized, and tensors are interpolated in at least float32.

    Args:
        a, b: networks: modules; state dicts; files (`.safetensors`, `.pt`, `.pth`, `.ckpt`) or Hugging Face folders,
            which are read tensor by tensor and never unpickled; or stored runs of `modeconn.train`, or their folders.
        data: what errors are measured on: a `DataLoader`, a `Dataset`, a tuple of tensors `(inputs, targets)`, or any
            iterable of batches (tuples, mappings). None, `"test"` or `"train"` for stored runs, which know their own.
        model: the architecture, if neither `a` nor `b` is a module: a module, or a function that makes one.
        evaluate: `"classification"` (error, cross-entropy in nats), `"regression"` (squared error), `"tokens"` or
            `"next-token"` (error and cross-entropy per token, perplexity; positions labelled -100 do not count),
            `"auto"` for what the output suggests, or a function of `(network, batch)` that gives
            `{name: (sum, count)}`: numbers, or vectors with one entry per example.
        higher_is_better: which of your own metrics fall where the path is bad: True for all, or their names.
        alphas: how many points, ends included; a list of them; `"paper"` for the 30 of Frankle et al. 2020; or
            `"adaptive"`: those among the default's 31 where the first metric may be highest, for less than 12 passes
            over the data instead of 31. An eighth of the examples, drawn at random, screens the 31; at most 8 are
            counted, over all examples, and only they are in the result. Its barrier is never above that of
            all 31, and mostly within `tolerance` of it: a flat or jagged top, or a bump of a few examples, can be
            missed by more, and where the 8 did not suffice a note says so. Barriers of other metrics are of
            these alphas alone. Fewer than 1,000 examples are counted at all 31.
        tolerance: of adaptive alphas, in the unit of the first metric (0.001 is 0.1 points of error): what is not worth
            counting another alpha.
        extrapolate: allow alphas outside [0, 1]; barriers are of [0, 1] alone.
        decide: a threshold: ask only whether the error barrier is above it (0.02 is 2 points). Examples are drawn in a
            fixed random order until a sequential test has decided (`modeconn.analysis.paths.sequential.BarrierTest`), and the
            result's `decided` says what, and from how many; its `barrier` and all other values are then estimates.
            None for the full count.
        error_probability: of that decision: how probably the full count would say the other, at most.
        batchnorm: what happens to BatchNorm's running statistics on the path: `"interpolate"` them like weights,
            `"recalibrate"` them on `calibration` data at every alpha, ends included; or `"repair"`: between the ends,
            rescale every hidden channel, with or without BatchNorm, to the interpolated mean and standard deviation of
            the ends' (Jordan et al. 2022).
        calibration: training data for that, in the form of `data`; targets are not looked at. Stored runs have theirs.
        calibration_batches: how many of its batches to take; all if None.
        device: where to compute; `"auto"` for where the first module is, or a GPU for files, if there is one.
        precision: `"float32"`, `"bfloat16"` for autocast, or `"tf32"` on a GPU.
        batch_size: for data that are not in batches.
        data_dir: folder of data sets, for folders of stored runs.
        names: what to call the two.
        report: called after every point with how far the path is.

    Raises:
        ModeconnError: an option, a network or data that do not fit, before the path is walked; what is wrong is named.

    >>> inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> labels = (inputs[:, 0] > 0).long()
    >>> net_a, net_b = nn.Linear(4, 2), nn.Linear(4, 2)
    >>> result = error_barrier(net_a, net_b, (inputs, labels))
    >>> result.alphas.shape, result.error.shape, result.barrier >= result.chord_barrier >= 0
    ((31,), (31,), True)
    """
    points = grid(alphas, extrapolate)
    adaptive = isinstance(alphas, str) and alphas == "adaptive"
    tolerance = check_tolerance(tolerance)
    if decide is not None:
        check_decide(decide, error_probability, "adaptive" if adaptive else points, batchnorm, higher_is_better)
    with open_scene(
        [a, b],
        data,
        model=model,
        evaluate=evaluate,
        batchnorm=batchnorm,
        calibration=calibration,
        calibration_batches=calibration_batches,
        device=device,
        precision=precision,
        batch_size=batch_size,
        data_dir=data_dir,
        names=names,
    ) as scene:
        line = make_line(scene.networks[0], scene.networks[1], scene.parameters)
        found: dict[float, Measured] = {}
        settings = scene.settings | {"alphas": alphas if isinstance(alphas, str) else "given"}
        if decide is not None:
            said = lambda drawn, of: report(Progress(drawn, 0, of, drawn, of, ()))  # noqa: E731
            found, decided = draw(scene.scratch, line, "", points, decide, error_probability, said)
            estimates = "it was only asked whether the barrier is above a threshold: all values are estimates"
            scene = replace(scene, notes=(*scene.notes, estimates))
            return replace(make_barrier(line, found, scene, frozenset(), settings), decided=decided)
        walk(scene, line, (0.0, 1.0), found, report, len(points))
        better = check_higher(higher_is_better, scene, found[0.0])
        if adaptive:
            step = lambda alpha: walk(scene, line, [alpha], found, report, len(points))  # noqa: E731
            scene = replace(scene, notes=(*scene.notes, *count_highest(scene, line, found, better, tolerance, step)))
        else:
            walk(scene, line, points, found, report, len(points))
    settings |= {"tolerance": tolerance} if adaptive else {}
    return make_barrier(line, found, scene, better, settings)


def make_barrier(
    line: Line, found: dict[float, Measured], scene: Scene, better: frozenset[str], settings: dict[str, Any]
) -> Barrier:
    """The result of a walk: `found` holds the outcomes at every alpha, 0 and 1 among them."""
    alphas = sorted(found)
    points = [found[alpha] for alpha in alphas]
    samples = {name: _samples(name, points) for name in points[0].sums}
    if scene.scratch.meter.perplexity:
        samples["perplexity"] = replace(samples["loss"], exponential=True)
    notes = [*_notes_on_ends(line), *scene.notes, *line.notes]
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
        names=(scene.names[0], scene.names[1]),
        batchnorm=scene.scratch.batchnorm,
        notes=tuple(dict.fromkeys(notes)),
        settings=settings | {"examples": len(next(iter(samples.values())).sums[0])},
    )


def first_metric(measured: Measured) -> str:
    """The metric that is meant by "the barrier": the error, or else the first."""
    return "error" if "error" in measured.sums else next(iter(measured.sums))


def check_higher(higher_is_better: bool | Collection[str], scene: Scene, measured: Measured) -> frozenset[str]:
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
    if names and scene.scratch.meter.name != "own":
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
    scene: Scene, line: Line, points: Collection[float], found: dict[float, Measured], report: Report, total: int
) -> None:
    """Measure a line at the points that were not measured yet, and add the outcomes to `found`, in place.

    Raises:
        DataError: the caller's own `evaluate` gives other metrics, or another number of examples, than at other points.
    """
    for alpha in points:
        if alpha not in found:
            measured = scene.scratch.measure_at(line, alpha)[""]
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
    scene: Scene,
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
    return climb(scene.scratch, line, "", metric, values, count, units=units, sign=sign, tolerance=tolerance)


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
