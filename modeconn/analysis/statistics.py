"""How far a barrier measured on a finite test set can be trusted: a confidence interval and a cross-fitted estimate.

A barrier is a maximum over alphas of noisy values. So the measured one is too high on average, and a percentile
bootstrap repeats that error: on a path whose true barrier is 0, its interval misses 0 nearly always. Both functions
here answer to that. They need NumPy alone, and take the outcomes of single units: an example, or a sequence of tokens.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from modeconn.analysis.barrier import barrier_heights
from modeconn.errors import OptionError, unknown

Transform = Callable[[np.ndarray], np.ndarray]

# Alphas whose excess is within so many standard errors (of the paired difference) of the largest may be the highest.
# Chosen by simulation, benchmarks/interval_coverage.py: 2 is too narrow on flat paths, 3 wider than need be on ridges.
_NEAR = 2.5
# A draw's own standard error is at least this part of the measured one: with few events, some draws contain none.
_LEAST_ERROR = 1 / 3
_CHUNK = 2_000_000  # resampling weights held at one time


def identity(ratio: np.ndarray) -> np.ndarray:
    """The default transform of sum / count: none."""
    return ratio


def bootstrap_interval(
    alphas: Sequence[float] | np.ndarray,
    sums: ArrayLike,
    counts: ArrayLike,
    *,
    level: float = 0.95,
    definition: str = "barrier",
    higher_is_better: bool = False,
    transform: Transform = identity,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """A confidence interval for the barrier of the path, as an endless test set would show it.

    The same resampled units are used at every alpha and in both ends (a paired bootstrap). With `excess` the value
    above the ends' mean or above the chord, and the barrier its maximum:

    - The lower limit takes the draws of max(excess* - excess) over the alphas that may be the highest ("near", within
      2.5 standard errors of the maximum): the law of a maximum is that of its maximizers (Fang and Santos 2019, section
      3; Carcamo, Cuevas and Rodriguez 2020, theorem 2.1), and near ones are found as in Andrews and Soares (2010).
    - The upper limit is the largest over alphas of the upper limit at that alpha (bootstrap-t), as one of the near
      alphas may be alone the highest. Then that of a set of ties is rarely missed, and what is left of 1 - `level` is
      given to the lower limit: for a flat path all of it.

    The interval contains the measured barrier, and is cut at 0. Where all outcomes are equal along the path it is
    (0, 0). Where a value is not finite it is (nan, nan).

    Coverage in {reps} simulated data sets each (31 alphas; n = 360, 1000, 5000): COVERAGE

    Args:
        alphas: [n_alphas], ascending from 0 to 1.
        sums: [n_alphas, units], boolean or floating-point: the outcome of each unit at each alpha (wrong or not, loss).
        counts: [n_alphas, units], or [units], or anything that broadcasts: what the sums are divided by (1 per
            example, tokens per sequence). The curve is transform(sum of sums / sum of counts).
        level: the wanted probability that the interval contains the true barrier.
        definition: "barrier" (Frankle et al. 2020) or "chord_barrier" (Entezari et al. 2022).
        higher_is_better: the values are negated first (accuracy).
        transform: of the ratio to the value, elementwise and increasing, such as `np.exp` for perplexity.
        draws: how many bootstrap draws.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        OptionError: a level outside (0, 1), an unknown definition, no draws, fewer than 2 units, or shapes that do not
            fit the alphas.
        ValueError: the alphas do not ascend from 0 to 1.

    An example is wrong on the middle of the path in 20 of 100 cases:

    >>> wrong = np.zeros((3, 100), dtype=bool)
    >>> wrong[1, :20] = True
    >>> low, high = bootstrap_interval([0, 0.5, 1], wrong, np.ones(100))
    >>> bool(0.10 < low < 0.20 < high < 0.32)
    True
    """
    if not 0 < level < 1:
        raise OptionError(f"level must be between 0 and 1, such as 0.95; got {level}")
    if draws < 1:
        raise OptionError(f"draws must be at least 1; got {draws}")
    x, s, c = _checked(alphas, sums, counts, definition)
    value = _value(transform, higher_is_better)
    excess, influence = _jackknife(x, s, c, definition, value)
    if not np.isfinite(influence).all():
        return float("nan"), float("nan")
    n, tail, best = len(influence), (1 - level) / 2, excess.argmax()
    error = influence.std(axis=0) / np.sqrt(n)  # [n_alphas]
    near = excess[best] - excess <= _NEAR * (influence - influence[:, [best]]).std(axis=0) / np.sqrt(n)
    shift, draw_error = _draws(influence, draws, np.random.default_rng(seed))  # [draws, n_alphas] both
    studentized = np.divide(shift, np.maximum(draw_error, _LEAST_ERROR * error), where=error > 0, out=0 * shift)

    # Margins at each alpha alone, by the bootstrap-t, and then below the highest of the near ones together.
    above, below = np.maximum(np.quantile(studentized, [tail, 1 - tail], axis=0) * [[-1], [1]], 0) * error
    upper_misses = ((shift + above)[:, near].max(axis=1) < -1e-9 * error.max()).mean()  # if all near ones were tied
    together = np.quantile(shift[:, near].max(axis=1), 1 - 2 * tail + min(tail, upper_misses))
    low = excess[best] - max(together, below[near].max())
    high = (excess + above).max()
    return max(0.0, float(low)), max(0.0, float(high))
