"""Which points of a path are measured: a grid, or as many as it takes to know its highest one."""

import itertools
import math
from collections.abc import Sequence
from numbers import Integral, Real

from modeconn.errors import OptionError

PAPER = 30  # points, both ends included (Frankle et al. 2020, section 3)
# Points that adaptive refinement starts from, as many as the default grid has, so that it is never below that. From 9,
# two bumps, or a narrow one, are often missed (tests/test_alphas.py has such curves).
COARSE = 31
FINEST = 1 / 128  # adaptive points are no closer


def grid(alphas: int | str | Sequence[float], extrapolate: bool = False) -> tuple[float, ...]:
    """The points that were asked for, ascending; 0 and 1 are always among them.

    Args:
        alphas: how many, evenly spaced, ends included; `"paper"` for the 30 of Frankle et al. 2020, which do not
            include 0.5; `"adaptive"` for the points that refinement starts from; or the points themselves.
        extrapolate: whether points may lie outside [0, 1].

    Raises:
        OptionError: fewer than 3 points, or one that lies outside.

    >>> grid(5)
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    if isinstance(alphas, str):
        if alphas not in ("paper", "adaptive"):
            raise OptionError(f'alphas are a whole number or a list of numbers, "paper" or "adaptive"; got {alphas!r}')
        return grid(PAPER if alphas == "paper" else COARSE)
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
    """The tolerance of adaptive refinement.

    Raises:
        OptionError: not a positive number.
    """
    if not isinstance(tolerance, Real) or not 0 < float(tolerance) < math.inf:
        raise OptionError(f"the tolerance of adaptive alphas must be a positive number; got {tolerance!r}")
    return float(tolerance)


def refine(alphas: Sequence[float], values: Sequence[float], tolerance: float) -> list[float]:
    """Where to measure next, so that the largest value is known to `tolerance`; nowhere when it is.

    Between two neighbouring points a curve that is concave there lies below the continuations of the chords on their
    other sides. An interval is halved while that bound exceeds the largest value so far by more than the tolerance.
    So a concave top is known to the tolerance; a bump between two points that neither neighbour hints at is missed,
    as on any grid.

    Args:
        alphas: [n], ascending.
        values: [n], of which the largest is sought.
        tolerance: in the unit of the values.

    >>> refine([0, 0.5, 1], [0.0, 1.0, 0.0], 0.01)
    [0.25, 0.75]
    """
    top = max(values)
    points = list(zip(alphas, values, strict=True))
    slopes = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in itertools.pairwise(points)]
    wanted = []
    for i, ((x0, y0), (x1, y1)) in enumerate(itertools.pairwise(points)):
        left = slopes[i - 1] if i > 0 else math.inf  # beyond the ends nothing is known
        right = slopes[i + 1] if i + 1 < len(slopes) else -math.inf
        if x1 - x0 > 1.5 * FINEST and _bound(x1 - x0, y0, y1, left, right) > top + tolerance:
            wanted.append((x0 + x1) / 2)
    return wanted


def _bound(width: float, y0: float, y1: float, left: float, right: float) -> float:
    """How high a concave curve can be between two points, under lines with these slopes through the two."""
    if left <= right:  # not concave here: nothing hints at a top in between
        return max(y0, y1)
    if left == math.inf and right == -math.inf:
        return math.inf
    if left == math.inf:
        return max(y0, y1, y1 - right * width)
    if right == -math.inf:
        return max(y0, y1, y0 + left * width)
    meet = min(max((y1 - y0 - right * width) / (left - right), 0.0), width)
    return max(y0, y1, y0 + left * meet)
