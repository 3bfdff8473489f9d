"""The two definitions of a barrier in the literature, as functions of a measured curve.

With the error e(alpha) on a path from alpha = 0 to alpha = 1:

    barrier        max over alpha of  e(alpha) - (e(0) + e(1)) / 2                       (Frankle et al. 2020)
    chord barrier  max over alpha of  e(alpha) - ((1 - alpha) e(0) + alpha e(1))         (Entezari et al. 2022)

Needs NumPy alone, so that it can be read, copied and trusted by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BarrierHeights:
    """How high a curve rises above its ends.

    Attributes:
        barrier: max over alpha of the values, minus the mean of the two ends (Frankle et al. 2020, section 2).
            Never negative, as the ends are on the curve.
        chord_barrier: max over alpha of the value minus the straight line between the ends
            (Entezari et al. 2022, definition 3.1). Never negative.
        alpha_at_max: where the values are largest; the smallest such alpha.
    """

    barrier: float
    chord_barrier: float
    alpha_at_max: float


def barrier_heights(alphas: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray) -> BarrierHeights:
    """Both barriers of a curve. The inputs are left unchanged.

    Args:
        alphas: [n], ascending from 0 to 1.
        values: [n], the error or the loss at each alpha.

    Raises:
        ValueError: the shapes differ, or the alphas do not ascend from 0 to 1.

    On a straight line between unequal ends, the first definition sees a barrier and the second does not:

    >>> heights = barrier_heights([0.0, 0.5, 1.0], [0.10, 0.25, 0.40])
    >>> round(heights.barrier, 12), round(heights.chord_barrier, 12)
    (0.15, 0.0)
    """
    x, y = np.asarray(alphas, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(f"alphas and values must be two vectors of one length; got {x.shape} and {y.shape}")
    if x[0] != 0 or x[-1] != 1 or (np.diff(x) <= 0).any():
        raise ValueError("alphas must ascend from 0 to 1")
    # Where an end is not finite, neither are the barriers.
    with np.errstate(invalid="ignore"):
        excess = y - (y[0] + x * (y[-1] - y[0]))
        excess[[0, -1]] = 0.0  # the ends are on the chord
        return BarrierHeights(
            barrier=float(y.max() - (y[0] + y[-1]) / 2),
            chord_barrier=float(excess.max()),
            alpha_at_max=float(x[y.argmax()]),
        )
