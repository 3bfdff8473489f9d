"""Points of a path at which it is measured: a grid, or those of a grid where it may be highest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from modeconn.errors import OptionError

PAPER = 30  # points, both ends included (Frankle et al. 2020, section 3)
CANDIDATES = 31  # among which adaptive alphas are chosen: the default grid
SHARE = 1 / 8  # of the examples, on which all candidates are screened
FIRST = (0.0, 0.5, 1.0)  # adaptive alphas that are counted in any case
# Adaptive alphas counted at most; with the screening that is 31 / 8 + 8 < 12 passes over the data instead of 31.
COUNTED = 8
MOST = 10_000  # alphas of a path, more than any curve shows


@dataclass(frozen=True)
class Alphas:
    """The points that were asked for, checked.

    Attributes:
        points: ascending, 0 and 1 among them; if adaptive, those that are chosen among.
        kind: `"given"`, `"paper"` or `"adaptive"`.
        tolerance: of adaptive alphas, in the unit of the metric: what is not worth measuring another alpha.
    """

    points: tuple[float, ...]
    kind: str
    tolerance: float

    @property
    def adaptive(self) -> bool:
        """Whether points are measured only where the path may be highest."""
        return self.kind == "adaptive"

    @property
    def settings(self) -> dict[str, Any]:
        """For the settings of a result."""
        return {"alphas": self.kind} | ({"tolerance": self.tolerance} if self.adaptive else {})


def choose_alphas(
    alphas: int | str | Sequence[float], tolerance: float = 0.001, *, extrapolate: bool = False
) -> Alphas:
    """The points of `grid`, and how they are chosen.

    Raises:
        OptionError: as `grid`, or a tolerance that is not a positive number.

    >>> choose_alphas(3)
    Alphas(points=(0.0, 0.5, 1.0), kind='given', tolerance=0.001)
    >>> choose_alphas("adaptive").settings
    {'alphas': 'adaptive', 'tolerance': 0.001}
    """
    points = grid(alphas, extrapolate)
    if not isinstance(tolerance, Real) or not 0 < float(tolerance) < math.inf:
        raise OptionError(f"the tolerance of adaptive alphas must be a positive number; got {tolerance!r}")
    return Alphas(points, alphas if isinstance(alphas, str) else "given", float(tolerance))


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
        if count > MOST:
            raise OptionError(f"{count:,} alphas are as many passes over the data; a path has at most {MOST:,}")
        return tuple(index / (count - 1) for index in range(count))
    try:
        points = tuple(sorted({0.0, 1.0, *(float(alpha) for alpha in alphas)}))
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"alphas are a whole number or a list of numbers; got {alphas!r}") from error
    if len(points) > MOST:
        raise OptionError(f"{len(points):,} alphas are as many passes over the data; a path has at most {MOST:,}")
    if not all(map(math.isfinite, points)):
        raise OptionError(f"alphas must be numbers between 0 and 1; got {alphas}")
    if not extrapolate and not all(0 <= point <= 1 for point in points):
        raise OptionError(f"alphas must be between 0 and 1 (or ask for extrapolate=True); got {alphas}")
    if len(points) < 3:
        raise OptionError(few)
    return points
