"""Which points of a path are measured: a grid, or those of a grid that may be its highest."""

import bisect
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real

import numpy as np

from modeconn.errors import OptionError

PAPER = 30  # points, both ends included (Frankle et al. 2020, section 3)
CANDIDATES = 31  # among which adaptive alphas are chosen: the default grid
SHARE = 1 / 8  # of the examples, on which all candidates are screened
FIRST = (0.0, 0.5, 1.0)  # adaptive alphas that are counted in any case
# Adaptive alphas counted at most; with the screening that is 31 / 8 + 8 < 12 passes over the data instead of 31.
COUNTED = 8
_DEVIATIONS = 2.0  # standard errors by which a candidate is given the benefit of the doubt


def grid(alphas: int | str | Sequence[float], extrapolate: bool = False) -> tuple[float, ...]:
    """The points that were asked for, ascending; 0 and 1 are always among them.

    Args:
        alphas: how many, evenly spaced, ends included; `"paper"` for the 30 of Frankle et al. 2020, which do not
            include 0.5; `"adaptive"` for those that adaptive alphas are chosen among; or the points themselves.
        extrapolate: whether points may lie outside [0, 1].

    Raises:
        OptionError: fewer than 3 points, or one that lies outside.

    >>> grid(5)
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    if isinstance(alphas, str):
        if alphas not in ("paper", "adaptive"):
            raise OptionError(f'alphas are a whole number or a list of numbers, "paper" or "adaptive"; got {alphas!r}')
        return grid(PAPER if alphas == "paper" else CANDIDATES)
    few = f"a path needs at least 3 alphas, its ends and one between; got {alphas}"
    if isinstance(alphas, int | Integral):
        count = int(alphas)
        if count < 3:
            raise OptionError(few)
        return tuple(index / (count - 1) for index in range(count))
    try:
        points = tuple(sorted({0.0, 1.0, *(float(alpha) for alpha in alphas)}))
    except (TypeError, ValueError) as error:
        raise OptionError(f"alphas are a whole number or a list of numbers; got {alphas!r}") from error
    if not all(map(math.isfinite, points)):
        raise OptionError(f"alphas must be numbers between 0 and 1; got {alphas}")
    if not extrapolate and not all(0 <= point <= 1 for point in points):
        raise OptionError(f"alphas must be between 0 and 1 (or ask for extrapolate=True); got {alphas}")
    if len(points) < 3:
        raise OptionError(few)
    return points


def check_tolerance(tolerance: float) -> float:
    """The tolerance of adaptive alphas.

    Raises:
        OptionError: not a positive number.
    """
    if not isinstance(tolerance, Real) or not 0 < float(tolerance) < math.inf:
        raise OptionError(f"the tolerance of adaptive alphas must be a positive number; got {tolerance!r}")
    return float(tolerance)


def doubtful(
    counted: Mapping[float, float], screened: np.ndarray, share: float, tolerance: float
) -> tuple[float, float] | None:
    """Which candidate most likely exceeds the highest alpha counted, and by how much it may; None if none may.

    What is not counted is estimated from the part of the examples on which every candidate was screened: between two
    alphas that were counted, the straight line between their counts, plus what the part shows over the straight line
    between its own values there. Counted and uncounted alphas share examples, so most of the chance in the part cancels
    (a control variate). To that are added 2 standard errors of it. The highest is sought twice: of the values, and
    of their excess over the chord between the ends, so that both definitions of a barrier are served.

    Args:
        counted: alpha to its value over all examples; 0 and 1 are among them. High is bad.
        screened: [candidates, units], on an even grid from 0 to 1: each example's contribution to the part's mean,
            so that the means over units are values.
        share: of the examples that were screened; standard errors shrink as it nears 1.
        tolerance: what is not worth counting, in the unit of the values.

    >>> curve = np.array([[0.0], [0.2], [0.9], [0.2], [0.0]]) + np.zeros(10)
    >>> doubtful({0.0: 0.0, 1.0: 0.0}, curve, 0.1, 0.01)
    (0.5, 0.9)
    >>> doubtful({0.0: 0.0, 0.5: 0.9, 1.0: 0.0}, curve, 0.1, 0.01) is None
    True
    """
    alphas = grid(len(screened))
    places = sorted(alphas.index(alpha) for alpha in counted)
    left, right = counted[0.0], counted[1.0]
    best = None
    for chord in (lambda alpha: 0.0, lambda alpha: (1 - alpha) * left + alpha * right):
        top = max(_bad(value - chord(alpha)) for alpha, value in counted.items())
        for index, alpha in enumerate(alphas):
            if alpha not in counted:
                after = bisect.bisect(places, index)
                low, high = places[after - 1], places[after]
                weight = (index - low) / (high - low)
                between = (1 - weight) * counted[alphas[low]] + weight * counted[alphas[high]]
                over = screened[index] - (1 - weight) * screened[low] - weight * screened[high]
                error = over.std() * math.sqrt((1 - share) / len(over))
                excess = _bad(between + over.mean() + _DEVIATIONS * error - chord(alpha)) - top
                if excess > tolerance and (best is None or excess > best[1]):
                    best = alpha, float(excess)
    return best


def _bad(value: float) -> float:
    """What is not a number is as bad as can be."""
    return math.inf if math.isnan(value) else value
