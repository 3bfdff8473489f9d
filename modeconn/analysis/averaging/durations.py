"""`sweep_durations(run, data)`: how much of a run should be averaged? Measured at each share of it."""

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from modeconn.analysis.averaging.checkpoints import Checkpoint, checkpoints_of, select
from modeconn.analysis.averaging.durations_result import Duration, Durations
from modeconn.analysis.averaging.held_out import means, standard_errors
from modeconn.analysis.averaging.shares import shares_of
from modeconn.analysis.connectivity.averaging import mean_of
from modeconn.analysis.connectivity.comparison import SPLIT, Comparison, open_comparison
from modeconn.analysis.connectivity.curve import main_metric, report_points, resolve_higher_is_better
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.errors import DataError, OptionError
from modeconn.evaluation.measure import MetricSums, measure
from modeconn.progress import Report, silent, with_progress

if TYPE_CHECKING:
    from modeconn.training.stored import Run

_STATISTICS = {
    "recalibrate": "running statistics are measured anew on the calibration data for every average; the last "
    "checkpoint as it is has its own",
    "interpolate": 'running statistics are averaged like weights; batchnorm="recalibrate" measures them anew',
}
LASTS = ("5%", "10%", "20%", "30%", "50%", "75%", "100%")


@with_progress
def sweep_durations(
    networks: "Sequence[Source] | str | Path | Run",
    data: Any = None,
    lasts: Sequence[int | str] = LASTS,
    weights: str | None = None,
    *,
    every: int = 1,
    decay: float | None = None,
    test: Any = None,
    higher_is_better: bool | Collection[str] = (),
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> Durations:
    """Measure the averages of the last checkpoints of one run over how much of it is averaged, and find the best.

    The duration matters more than the weights (WSM, 2507.17634). Beside the averages stands the last checkpoint as it
    is, with its own running statistics.

    `data` choose the best duration, so its error on them is too low for an estimate: they must be held out, and `test`
    data, on which nothing is chosen, give an unbiased one.

    Args:
        networks: of one run, as `modeconn.average` takes them.
        data: held-out data, as `modeconn.error_barrier` takes them. Of stored runs, `"test"` and `"train"` are known.
        lasts: the durations, as `last` of `modeconn.average`.
        weights: as of `modeconn.average`, by name.
        every: of these checkpoints, the last and each n-th before it.
        decay: of exponential weights.
        test: further held-out data, on which the best duration and the last checkpoint are measured.
        higher_is_better: as `modeconn.error_barrier` takes it.
        report: called after every measurement with how far it is.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.
        **how: options of `modeconn.error_barrier`. `batchnorm` is `"recalibrate"` (needs `calibration`; statistics are
            measured anew for every average) or `"interpolate"` (they are averaged).

    Raises:
        ModeconnError: an option, a network or data that do not fit, before anything is measured.

    >>> import torch
    >>> from torch import nn
    >>> run = [nn.Linear(4, 2) for _ in range(10)]
    >>> inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> result = sweep_durations(run, (inputs, (inputs[:, 0] > 0).long()), lasts=["10%", "50%", "100%"])
    >>> [point.checkpoints for point in result.points]
    [1, 5, 10]
    """
    options: OptionKeywords = {"batchnorm": "recalibrate", **how}
    if options.get("batchnorm") == "repair":
        raise OptionError(
            'batchnorm="repair" is defined between two networks and not for an average of many; choose "recalibrate" '
            'or "interpolate"'
        )
    if weights is not None and not isinstance(weights, str):
        raise OptionError("the weights of a sweep are named, as their number differs from duration to duration")
    if test is not None and (test is data or (isinstance(test, str) and test == data)):
        raise OptionError("test= are the data= that choose the duration, on which its error is too low; give others")
    if test is not None and isinstance(options.get("calibration"), Iterator):  # which is needed twice
        options["calibration"] = list(itertools.islice(options["calibration"], options.get("calibration_batches")))
    found, notes = checkpoints_of(networks, options.pop("names", None))
    chosen = _chosen(found, lasts, every)
    for members in chosen.values():
        shares_of(weights, len(members), decay)
    used = [one for one in reversed(found) if any(one in members for members in chosen.values())]  # the newest first
    point_done = report_points(report, len(chosen) + 1 + (0 if test is None else 2))
    with open_comparison(_sources(used), data, _options(options, used)) as comparison:
        newest = _as_it_is(comparison)
        point_done()
        better, comparison = resolve_higher_is_better(higher_is_better, comparison, newest)
        metric = main_metric(newest)
        points = []
        for last, members in chosen.items():
            measured = _average(comparison, used, members, weights, decay)
            if metric not in measured.sums:
                raise DataError(f"evaluate gives {metric!r} for one network and not for another")
            points.append(
                Duration(
                    last=str(last),
                    checkpoints=len(members),
                    first=members[0].name,
                    first_step=members[0].step,
                    value=means(measured),
                    standard_error=standard_errors(newest, measured),
                )
            )
            point_done()
    sign = -1 if metric in better else 1
    order = [math.inf if math.isnan(point.value[metric]) else sign * point.value[metric] for point in points]
    best = order.index(min(order))
    tested: tuple[MetricSums | None, MetricSums | None] = (None, None)
    if test is not None:
        members = list(chosen.values())[best]
        again = [used[0], *(one for one in reversed(members) if one is not used[0])]
        with open_comparison(_sources(again), test, _options(options, again)) as on_test:
            tested = _as_it_is(on_test), _average(on_test, again, members, weights, decay)
            point_done()
            point_done()
    return Durations(
        points=tuple(points),
        best=best,
        newest=means(newest),
        test=means(tested[1]),
        test_newest=means(tested[0]),
        test_standard_error=standard_errors(*tested),
        metric=metric,
        higher_is_better=better,
        weights=weights or "uniform",
        decay=math.nan if decay is None else decay,
        every=every,
        batchnorm=comparison.evaluator.batchnorm,
        notes=(*notes, *_notes(comparison, used)),
        settings=comparison.settings
        | {"checkpoints": len(found), "newest": found[-1].name, "examples": len(next(iter(newest.sums.values())))},
    )


def _chosen(found: Sequence[Checkpoint], lasts: Sequence[int | str], every: int) -> dict[int | str, list[Checkpoint]]:
    """The checkpoints of each duration; of durations with the same ones, the first."""
    if isinstance(lasts, str | int) or not list(lasts):
        raise OptionError(f'the durations of a sweep are a list such as ["10%", "20%"]; got {lasts!r}')
    chosen: dict[int | str, list[Checkpoint]] = {}
    for last in lasts:
        members = select(found, last, every)
        if members not in chosen.values():
            chosen[last] = members
    return dict(sorted(chosen.items(), key=lambda item: len(item[1])))


def _sources(used: Sequence[Checkpoint]) -> list[Source]:
    """The newest as the network that it is, which knows its architecture; of the others their weights alone."""
    return [used[0].source, *(one.weights for one in used[1:])]


def _options(options: OptionKeywords, used: Sequence[Checkpoint]) -> ComparisonOptions:
    names = [one.name for one in used]
    return replace(ComparisonOptions(**options), names=names)


def _notes(comparison: Comparison, used: Sequence[Checkpoint]) -> list[str]:
    """The comparison's, those that several checkpoints share once, and what is said of paths as it is of averages."""
    sharing: dict[str, list[str]] = {}
    for note in dict.fromkeys(comparison.notes):
        if note.startswith("running statistics of "):
            note = _STATISTICS[comparison.evaluator.batchnorm]
        owner = next((one.name for one in used if note.startswith(f"{one.name}: ")), "")
        sharing.setdefault(note.removeprefix(f"{owner}: ") if owner else note, []).append(owner)
    called = {note: owners[0] if len(owners) == 1 else f"{len(owners)} checkpoints" for note, owners in sharing.items()}
    return [f"{owner}: {note}" if owner else note for note, owner in called.items()]


def _as_it_is(comparison: Comparison) -> MetricSums:
    """The newest checkpoint, with the running statistics that it has."""
    evaluator = comparison.evaluator
    network = evaluator.network_of(comparison.networks[0])
    return measure(network, evaluator.data[SPLIT], evaluator.meter, evaluator.precision)


def _average(
    comparison: Comparison, used: Sequence[Checkpoint], members: Sequence[Checkpoint], weights: str | None, decay: Any
) -> MetricSums:
    """The average of some of the checkpoints, the newest first, as `modeconn.average` computes it."""
    shares = shares_of(weights, len(members), decay)
    networks = [comparison.networks[used.index(one)] for one in reversed(members)]
    return comparison.measure_end(mean_of(networks, shares[::-1]))
