"""Which points of a landscape are measured first: an even grid, so large that the networks fit."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from modeconn.errors import OptionError

_MOST = 1_000_000  # points


def check_points(points: Any, axes: int) -> tuple[int, ...]:
    """How many points there are along each axis.

    Raises:
        OptionError: no such numbers.

    >>> check_points(21, 2), check_points((31, 21), 2), check_points(51, 1)
    ((21, 21), (31, 21), (51,))
    """
    listed = tuple(points) if isinstance(points, Sequence) or getattr(points, "ndim", 0) == 1 else ()
    counts = (points,) * axes if isinstance(points, Integral) else listed
    whole = all(isinstance(count, Integral) and not isinstance(count, bool) and int(count) >= 2 for count in counts)
    if len(counts) != axes or not whole or isinstance(points, str):
        each = "a whole number of at least 2" if axes == 1 else "a whole number of at least 2, or one for each axis"
        raise OptionError(f"points must be {each}; got {points!r}")
    if math.prod(counts) > _MOST:
        raise OptionError(f"points={points!r} are {math.prod(counts):,} points; ask for {_MOST:,} at most")
    return tuple(map(int, counts))


def check_number(value: Any, name: str, least: float, above: bool = False) -> float:
    """A finite number that is large enough.

    Raises:
        OptionError: it is not.
    """
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or number < least or (above and number == least):
        word = "above" if above else "of at least"
        raise OptionError(f"{name} must be a number {word} {least:g}; got {value!r}")
    return number


def extent_around(places: Sequence[Sequence[float]], margin: float) -> tuple[tuple[float, float], ...]:
    """Along each axis, from where to where places fit, with a margin on either side.

    Args:
        places: coordinates of what has to fit.
        margin: as a part of the longer side.

    >>> extent_around([(0.0, 0.0), (4.0, 0.0), (1.0, 2.0)], 0.25)
    ((-1.0, 5.0), (-1.0, 3.0))
    """
    table = np.array(places, dtype=np.float64)
    low, high = table.min(axis=0), table.max(axis=0)
    wide = margin * float((high - low).max())
    return tuple((float(a - wide), float(b + wide)) for a, b in zip(low, high, strict=True))


def grid(extent: Sequence[tuple[float, float]], points: Sequence[int]) -> np.ndarray:
    """The points of an even grid, row by row from the lowest y up, float64 [points, axes].

    >>> grid([(0.0, 1.0), (0.0, 2.0)], (2, 2)).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 2.0]]
    """
    axes = [np.linspace(low, high, count) for (low, high), count in zip(extent, points, strict=True)]
    return np.stack([part.reshape(-1) for part in np.meshgrid(*axes, indexing="xy")], axis=1)
