"""Is there a barrier at the midpoint of two networks, and what removes it? Each attempt with its number."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.analysis.connectivity.error_barrier import error_barrier
from modeconn.errors import ModeconnError, OptionError
from modeconn.progress import Report

MIDPOINT = (0.0, 0.5, 1.0)

Way = Literal["average", "recalibrate", "repair", "align", "align and recalibrate", "align and repair"]
_HOW: dict[Way, dict[str, Any]] = {
    "average": {},
    "recalibrate": {"batchnorm": "recalibrate"},
    "repair": {"batchnorm": "repair"},
    "align": {"align": "weights"},
    "align and recalibrate": {"align": "weights", "batchnorm": "recalibrate"},
    "align and repair": {"align": "weights", "batchnorm": "repair"},
}


@dataclass(frozen=True, eq=False)
class Attempt:
    """One way to average two networks, and the barrier that is left.

    Attributes:
        way: what is done besides averaging; `"average"` for nothing.
        height: the metric at the midpoint minus the mean of the two networks as they are (for a metric where higher is
            better, the mean minus the midpoint).
        ends: the metric of the two networks as they are.
        midpoint: the metric of the average.
        removed: whether the height is below what is allowed.
        barrier: the path that was measured, at alphas 0, 0.5 and 1; None where that failed.
        failed: why it did.
    """

    way: Way
    height: float
    ends: tuple[float, float]
    midpoint: float
    removed: bool
    barrier: Barrier | None
    failed: str = ""


def measure_barrier(
    a: Any, b: Any, data: Any, threshold: float, error_probability: float, common: Mapping[str, Any], report: Report
) -> Attempt:
    """The plain average: is the barrier at the midpoint below the threshold?

    Decided by the sequential test where the metric is an error of each example, and by the full count where it is not,
    where the test says that the barrier is above, and where it is the end of the worse network that is.

    Args:
        a, b, data: as `modeconn.error_barrier` takes them.
        threshold: of an error, as a fraction; of other metrics, relative to the mean of the ends.
        error_probability: of the sequential test.
        common: further options of `modeconn.error_barrier`.
        report: called with how far the path is.

    Raises:
        ModeconnError: as `modeconn.error_barrier`.
    """
    measure: Callable[..., Barrier] = lambda **how: error_barrier(  # noqa: E731
        a, b, data, alphas=MIDPOINT, report=report, **common, **how
    )
    try:
        sampled = measure(decide=threshold, error_probability=error_probability)
        if sampled.decided is not None and sampled.decided.decision == "below":
            return _attempt("average", sampled, sampled, threshold)
    except OptionError:  # not of this metric; what is wrong with other options is said again
        pass
    full = measure()
    return _attempt("average", full, full, threshold)


def try_to_remove(
    a: Any,
    b: Any,
    data: Any,
    plain: Barrier,
    calibrated: bool,
    threshold: float,
    common: Mapping[str, Any],
    report: Report,
) -> Iterator[Attempt]:
    """What may remove a barrier, in the order of what it costs: statistics, REPAIR, alignment, alignment and those.

    Args:
        a, b, data: as `modeconn.error_barrier` takes them.
        plain: the path between them as they are.
        calibrated: whether there are calibration data, which all but alignment need.
        threshold, common, report: as `measure_barrier`.
    """
    for way in _ways(plain.batchnorm != "none", calibrated):
        try:
            barrier = error_barrier(a, b, data, alphas=MIDPOINT, report=report, **common, **_HOW[way])
        except ModeconnError as error:
            yield Attempt(way, math.nan, plain.end_values(), math.nan, False, None, str(error))
        else:
            yield _attempt(way, barrier, plain, threshold)


def _ways(statistics: bool, calibrated: bool) -> tuple[Way, ...]:
    """Those that can be tried."""
    if not calibrated:
        return ("align",)
    if not statistics:
        return ("repair", "align", "align and repair")
    return ("recalibrate", "repair", "align", "align and recalibrate", "align and repair")


def _attempt(way: Way, barrier: Barrier, plain: Barrier, threshold: float) -> Attempt:
    """The height over the ends as they are: recalibration changes them too, and must not win by making them worse."""
    ends, values = plain.end_values(), barrier.values()
    midpoint = float(values[MIDPOINT.index(0.5)])
    mean = sum(ends) / 2
    height = mean - midpoint if barrier.metric in barrier.higher_is_better else midpoint - mean
    allowed = threshold if barrier.metric == "error" else threshold * abs(mean)
    return Attempt(way, height, ends, midpoint, height < allowed or height <= 0, barrier)
