"""Errors and losses along a curve between two networks, and on the segment between them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from modeconn.analysis.connectivity.comparison import open_comparison
from modeconn.analysis.connectivity.curve import MeasuredPath, report_points, resolve_higher_is_better
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.analysis.landscape.curves.curve_line import curve_line
from modeconn.analysis.landscape.curves.curve_result import CurveResult
from modeconn.analysis.paths.alphas import choose_alphas
from modeconn.progress import Report
from modeconn.weights.names import match_names
from modeconn.weights.state_dicts import Weights


def measure_curve(
    kind: str,
    points: Sequence[Weights],
    states: Sequence[Mapping[str, Tensor]],
    data: Any,
    how: OptionKeywords,
    alphas: int | str | Sequence[float],
    tolerance: float,
    higher_is_better: bool | Collection[str],
    report: Report,
    about: Mapping[str, Any],
) -> CurveResult:
    """Measure a curve and the segment between its ends at the same points; the ends once.

    Args:
        kind: of the curve.
        points: its control points, ends included.
        states: the same as state dicts.
        data, how, alphas, tolerance, higher_is_better, report: as `modeconn.error_barrier` takes them.
        about: the result's other fields.

    Raises:
        ModeconnError: as `modeconn.error_barrier`.
    """
    chosen = choose_alphas(alphas, tolerance)
    point_done = report_points(report, 2 * len(chosen.points) - 2)
    with open_comparison([states[0], states[-1]], data, ComparisonOptions(**how)) as comparison:
        segment = comparison.line(0, 1)
        network = comparison.evaluator.network
        bends = [match_names(bend, network, bend.origin) for bend in points[1:-1]]
        ends = MeasuredPath(comparison, segment).measure_at((0.0, 1.0), point_done)
        better, comparison = resolve_higher_is_better(higher_is_better, comparison, ends.points[0.0])
        ends = replace(ends, comparison=comparison, higher_is_better=better)
        along, straight = (
            replace(ends, line=line).measure(chosen, point_done).barrier()
            for line in (curve_line(segment, kind, bends), segment)
        )
    return CurveResult(curve=along, segment=straight, kind=kind, **about)
