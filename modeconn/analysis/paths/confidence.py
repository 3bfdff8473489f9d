"""How far a barrier measured on a finite test set can be trusted: a confidence interval and a cross-fitted estimate.

A barrier is the largest excess over alphas, B = max d(alpha), d(alpha) = v(alpha) - (v(0) + v(1)) / 2 (or minus the
chord between the ends), of values v that are means over examples. A maximum of noisy values is too high on average, and
the usual percentile bootstrap repeats that error: on a path whose true barrier is 0, its interval misses 0 nearly
always. NumPy alone is needed here.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from modeconn.analysis.paths.barrier import barrier_heights
from modeconn.errors import OptionError, unknown

Transform = Callable[[np.ndarray], np.ndarray]
_Excess = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Alphas whose excess is within so many standard errors (of the paired difference) of the largest may be the highest.
# Chosen by simulation, benchmarks/interval_coverage.py: 2 is too narrow on flat paths, 3 wider than need be on ridges.
_NEAR = 2.5
# A draw's own standard error is at least this part of the measured one: with few events, some draws contain none.
_LEAST_ERROR = 1 / 3
_CHUNK = 1_000_000  # resampling weights held at one time


def identity(ratio: np.ndarray) -> np.ndarray:
    """The default transform of sum / count: none."""
    return ratio


def bootstrap_interval(
    alphas: ArrayLike,
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
    """A confidence interval for the barrier that endless test data would show, by a paired bootstrap over units.

    Each draw resamples the units, the same at all alphas, and moves the excess d(alpha) to d*(alpha). With the standard
    error s(alpha) of d and the draw's own s*(alpha), the bootstrap-t statistic is t* = (d* - d) / s*, and q_p its
    p-quantile over draws, at each alpha; a = (1 - level) / 2.

    - Lower limit: max d minus the larger of two margins. One is the quantile of max(d* - d) over the alphas near the
      highest, as the law of a maximum is that of its maximizers (Fang and Santos 2019; Cárcamo, Cuevas and Rodríguez
      2020); near is within 2.5 standard errors (moment selection, Andrews and Soares 2010). The other is the largest
      bootstrap-t margin of these, q_(1 - a) s.
    - Upper limit: max over all alphas of the bootstrap-t limits of each alone, d - q_a s, as one of the near ones may
      be the only maximizer. If instead they are tied it is rarely missed, and the lower limit is given what is left of
      1 - level: on a flat path all of it.

    The interval contains the measured barrier and ends at 0. It is (0, 0) where no outcome changes along the path, and
    (nan, nan) where a value is not finite.

    Coverage at 95 %, from `benchmarks/interval_coverage.py` (31 alphas; 360, 1000 and 5000 examples): within 2
    points on ridges, plateaus and peaks of 5 to 20 points, straight lines, flat paths, and heavy-tailed losses.
    More, 97 to 99 %, with up to 1000 examples on ridges of 2 points, on a low ridge of perplexity, and where few
    outcomes change (7 of 360); over 99 % on valleys, whose barrier is 0. Less where about 3 examples or fewer make
    the barrier, as it may show in none: 59 % for a peak of 1 point on 100 examples, 92 % for a ridge of 2 points on
    50, 67 % on 20.

    Args:
        alphas: [n_alphas], ascending from 0 to 1.
        sums: [n_alphas, units], boolean or floating-point: each unit's outcome (wrong or not, loss) at each alpha. A
            unit is what was sampled: an example, or a sequence of tokens.
        counts: broadcasts to [n_alphas, units]: 1 for examples, numbers of tokens for sequences.
        level: the wanted probability that the interval contains the true barrier.
        definition: "barrier" (Frankle et al. 2020) or "chord_barrier" (Entezari et al. 2022).
        higher_is_better: negate the values (accuracy).
        transform: the curve is transform(sum of sums / sum of counts); elementwise, such as `np.exp` (perplexity).
        draws: how many times the units are drawn anew.
        seed: of the draws.

    Raises:
        OptionError: a level outside (0, 1), an unknown definition, no draws, fewer than 2 units, or wrong shapes.
        ValueError: the alphas do not ascend from 0 to 1.

    >>> wrong = np.zeros((3, 100), dtype=bool)
    >>> wrong[1, :20] = True  # 20 of 100 examples are wrong in the middle
    >>> low, high = bootstrap_interval([0, 0.5, 1], wrong, np.ones(100))
    >>> bool(0.10 < low < 0.20 < high < 0.32)
    True
    """
    if not 0 < level < 1:
        raise OptionError(f"level must be between 0 and 1, such as 0.95; got {level}")
    if draws < 1:
        raise OptionError(f"draws must be at least 1; got {draws}")
    # 1. The excess at each alpha, its standard error, and which alphas may be the highest, by paired differences.
    with np.errstate(all="ignore"):  # what is not finite is seen in the result
        excess, influence = _jackknife(*_prepared(alphas, sums, counts, definition, transform, higher_is_better))
    if not np.isfinite(influence).all():
        return float("nan"), float("nan")
    tail, best = (1 - level) / 2, excess.argmax()
    error = _standard_error(influence)
    near = excess[best] - excess <= _NEAR * _standard_error(influence - influence[:, [best]])

    # 2. Draws: how far each moves the excess, and that over the draw's own standard error (bootstrap-t).
    shift, draw_error = _draws(influence, draws, np.random.default_rng(seed))
    studentized = np.divide(shift, np.maximum(draw_error, _LEAST_ERROR * error), where=error > 0, out=0 * shift)

    # 3. Margins above and below each alpha alone, then below the highest of the near ones as if they were tied.
    above, below = np.maximum(np.quantile(studentized, [tail, 1 - tail], axis=0) * [[-1], [1]], 0) * error
    missed = ((shift + above)[:, near].max(axis=1) < 0).mean()  # by the upper limit, if they were
    tied = np.quantile(shift[:, near].max(axis=1), level + min(tail, missed))
    low, high = excess[best] - max(tied, below[near].max()), (excess + above).max()
    return max(0.0, float(low)), max(0.0, float(high))


def cross_fitted(
    alphas: ArrayLike,
    sums: ArrayLike,
    counts: ArrayLike,
    *,
    definition: str = "barrier",
    higher_is_better: bool = False,
    transform: Transform = identity,
    splits: int = 10,
    seed: int = 0,
) -> float:
    """The barrier without the upward bias of a maximum: alpha is chosen on one half, the excess measured on the other.

    With the excess d_1 of one half of the units and d_2 of the other, the estimate is d_2(argmax d_1); both ways round,
    averaged over `splits` random divisions into halves. Of a flat path the mean is 0, so it can be negative; of others
    it is at most the true barrier, a little less where the halves choose other alphas. (That is for means. With a
    transform such as exp it holds up to terms of order 1 / units.)

    Args:
        alphas, sums, counts, definition, higher_is_better, transform: as in `bootstrap_interval`.
        splits: how many divisions.
        seed: of the divisions.

    Raises:
        OptionError: an unknown definition, no splits, fewer than 2 units, or wrong shapes.
        ValueError: the alphas do not ascend from 0 to 1.

    >>> cross_fitted([0, 0.5, 1], [[0, 0], [1, 1], [0, 0]], [1, 1])
    1.0
    """
    if splits < 1:
        raise OptionError(f"splits must be at least 1; got {splits}")
    sums, counts, excess = _prepared(alphas, sums, counts, definition, transform, higher_is_better)
    halves = np.tile(np.arange(sums.shape[1]) % 2 == 0, (splits, 1))
    halves = np.random.default_rng(seed).permuted(halves, axis=1)
    halves = np.concatenate([halves, ~halves]).astype(np.float64)  # [2 splits, units]: each half, then its other half
    with np.errstate(all="ignore"):
        of_half = excess(halves @ sums.T, halves @ counts.T)  # [2 splits, n_alphas]
        of_other = np.roll(of_half, splits, axis=0)
        # One half chooses, where alphas are tied several; the other measures their mean.
        chosen = of_half >= of_half.max(axis=1, keepdims=True) - 1e-9 * np.abs(of_half).max()
        return float((of_other * chosen / chosen.sum(axis=1, keepdims=True)).sum(axis=1).mean())


def _prepared(
    alphas: ArrayLike, sums: ArrayLike, counts: ArrayLike, definition: str, transform: Transform, higher_is_better: bool
) -> tuple[np.ndarray, np.ndarray, _Excess]:
    """Sums and counts [n_alphas, units] of the units that count, and the excess as a function of their totals."""
    if definition not in ("barrier", "chord_barrier"):
        raise unknown("definition", definition, ["barrier", "chord_barrier"])
    x, s = np.asarray(alphas, dtype=np.float64), np.asarray(sums)
    barrier_heights(x, x)  # refuses alphas that are no path
    if s.ndim != 2 or len(s) != len(x):
        raise OptionError(f"sums must be [n_alphas, units], here [{len(x)}, units]; got {list(s.shape)}")
    try:
        c = np.broadcast_to(np.asarray(counts), s.shape)
    except ValueError as error:
        raise OptionError(f"counts must be [units] or {list(s.shape)}; got {list(np.shape(counts))}") from error
    counted = c.any(axis=0)
    if counted.sum() < 2:
        found = "one example" if counted.any() else "no examples"
        raise OptionError(f"cannot resample {found}: pass the outcomes of at least two, and better of hundreds")
    if not counted.all():
        s, c = s[:, counted], c[:, counted]

    def excess(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        values = (-1 if higher_is_better else 1) * transform(sums / counts)  # [..., n_alphas]
        a, b = values[..., :1], values[..., -1:]
        if definition == "barrier":
            return values - (a + b) / 2
        return values - np.where(x < 0.5, a + x * (b - a), b - (1 - x) * (b - a))  # exact at the ends and for a = b

    # One layout whatever was given, so that sums are rounded alike.
    return np.ascontiguousarray(s, dtype=np.float64), np.ascontiguousarray(c, dtype=np.float64), excess


def _jackknife(sums: np.ndarray, counts: np.ndarray, excess: _Excess) -> tuple[np.ndarray, np.ndarray]:
    """The excess d [n_alphas], and each unit's influence on it [units, n_alphas] by the jackknife.

    Of n units, unit i moves d by (n - 1) (mean over j of d without j - d without i): for means, its own minus the mean.
    """
    s, c = sums.sum(axis=1), counts.sum(axis=1)
    without = excess(s - sums.T, c - counts.T)  # [units, n_alphas], one unit left out
    return excess(s, c), (len(without) - 1) * (without.mean(axis=0) - without)


def _standard_error(influence: np.ndarray) -> np.ndarray:
    return influence.std(axis=0) / np.sqrt(len(influence))


def _draws(influence: np.ndarray, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How far each bootstrap draw moves the excess, d* - d, and its standard error there; [draws, n_alphas] both.

    A draw takes unit i w_i times, and d* - d is the mean of w_i influence_i: for many draws a product of matrices.
    """
    n, n_alphas = influence.shape
    moments = np.concatenate([influence, influence**2], axis=1) / n  # [units, 2 n_alphas]
    drawn = np.empty((draws, 2 * n_alphas))
    rows = max(1, _CHUNK // n)
    for start in range(0, draws, rows):
        part = drawn[start : start + rows]
        weights = np.stack([np.bincount(units, minlength=n) for units in rng.integers(n, size=(len(part), n))])
        np.matmul(weights.astype(np.float64), moments, out=part)
    shift, squares = drawn[:, :n_alphas], drawn[:, n_alphas:]
    return shift, np.sqrt(np.maximum(squares - shift**2, 0) / n)
