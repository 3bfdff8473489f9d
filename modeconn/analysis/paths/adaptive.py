"""Adaptive alphas: all of a grid are screened on a part of the examples, and those that may be highest are counted.

What was chosen on some examples must not be tested on the same ones: the chosen alphas are those where these examples
happen to err most. So alphas can be chosen by a quarter of the examples, and intervals taken from the others.
"""

import bisect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from modeconn.analysis.paths.alphas import CANDIDATES, COUNTED, FIRST, SHARE, grid
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import Line
from modeconn.evaluation.measure import MetricSums
from modeconn.evaluation.sampling import RandomSubset, every_nth_batch, order, random_access

LEAST = 1000  # examples; of fewer, a part says too little, and counting all is quick
_BATCHES = 16  # at least, where batches cannot be taken apart
_EVERY = round(1 / SHARE)
# Of the examples (or batches), one in so many chooses: the screened ones and as many others. On simulated curves,
# alphas that all choose are no nearer to the highest of 31, and those that only the screened ones choose are farther.
_CHOOSES = _EVERY // 2
_DEVIATIONS = 2.0  # standard errors by which a candidate is given the benefit of the doubt


@dataclass(frozen=True, eq=False)
class Screening:
    """The part of some data on which all candidates are measured.

    Attributes:
        evaluator: what is measured, on that part.
        share: the part of all examples, or batches, that it is.
        examples: how many there are in all; None where batches are not taken apart.
    """

    evaluator: PathEvaluator
    share: float
    examples: int | None

    def chooses(self, measured: MetricSums, metric: str) -> np.ndarray:
        """Which units of a measurement of all data choose alphas, bool [units]: a quarter, the screened among them.

        All do where a metric has other units than were drawn.
        """
        sums = measured.sums[metric]
        if self.examples is None:
            batches = np.arange(len(measured.sizes[metric])) % _CHOOSES == 0
            return np.repeat(batches, measured.sizes[metric])
        if metric in measured.whole or len(sums) != self.examples:
            return np.ones(len(sums), dtype=bool)
        chooses = np.zeros(len(sums), dtype=bool)
        chooses[order(self.examples)[: self.examples // _CHOOSES].numpy()] = True
        return chooses


def screen(evaluator: PathEvaluator, split: str, units: int | None) -> Screening | None:
    """The part of the data to screen candidates on; None of too few data.

    It is one example in eight, drawn at random in a fixed order, or one batch in eight where batches cannot be taken
    apart; with statistics from one calibration batch in eight.

    Args:
        evaluator: what is measured, and with what network.
        split: the data.
        units: how many examples there are; None if the metric is of whole batches.
    """
    batches = evaluator.data[split]
    examples = None if units is None else random_access(batches, units)
    if examples is not None:
        if len(examples) < LEAST:
            return None
        size = len(examples) // _EVERY
        few, share = RandomSubset(examples, 0, size), size / len(examples)
    else:
        total = sum(1 for _ in batches)
        if total < _BATCHES or (units is not None and units < LEAST):
            return None
        few = every_nth_batch(batches, _EVERY)  # type: ignore[assignment]
        share = len(few) / total  # type: ignore[arg-type]
    calibration = every_nth_batch(evaluator.calibration, _EVERY) or evaluator.calibration
    part = replace(evaluator, data={split: few}, calibration=calibration)
    return Screening(part, share, None if examples is None else len(examples))


def count_highest_alphas(
    screening: Screening | None,
    line: Line,
    split: str,
    metric: str,
    values: dict[float, float],
    count: Callable[[float], float],
    *,
    part: float = 1.0,
    sign: int = 1,
    tolerance: float,
) -> tuple[str, ...]:
    """Count as many candidates as it takes to know the highest one, or as many as are allowed.

    Each of `CANDIDATES` evenly spaced alphas is measured on the part of the data that is screened. Then alphas are
    counted in full, the most doubtful first (`most_doubtful_alpha`), `COUNTED` at most. Without a part, of fewer than
    `LEAST` examples, all candidates are counted.

    Args:
        screening: the part, as `screen` gives it.
        line: the path.
        split: the data.
        metric: whose highest alpha is sought.
        values: alpha to its value, times `sign`, over the examples that choose; 0 and 1 are among them. Counted
            alphas are added, in place.
        count: counts an alpha over all examples, and gives its value, times `sign`, over those that choose.
        part: of all examples, that choose; the screened ones are among them.
        sign: -1 where high is good.
        tolerance: what is not worth counting.

    Returns:
        Notes on what was decided.
    """

    def add(alpha: float) -> None:
        if alpha not in values:
            values[alpha] = count(alpha)

    if screening is None:
        for alpha in grid(CANDIDATES):
            add(alpha)
        return (f"too few data for a part to stand for them: all {CANDIDATES} adaptive alphas are counted",)
    # Screen every candidate on the part, then count in full until nothing is in doubt.
    measured = [screening.evaluator.measure_at(line, alpha)[split] for alpha in grid(CANDIDATES)]
    screened = np.stack([sign * _contributions(of_alpha, metric) for of_alpha in measured])
    share = min(1.0, screening.share / part)
    for alpha in FIRST:
        add(alpha)
    while (doubt := most_doubtful_alpha(values, screened, share, tolerance)) and len(values) < COUNTED:
        add(doubt[0])
    chosen = (
        f"adaptive alphas are where {metric} may be highest; another metric may be higher where nothing was counted"
    )
    if doubt is None:
        return (chosen,)
    by = f"by {doubt[1]:.2g}" if np.isfinite(doubt[1]) else "by any amount"
    return chosen, (
        f"{COUNTED} adaptive alphas are counted at most: that {metric} is higher at alpha {doubt[0]:.3g}, {by}, is not "
        f"excluded; alphas={CANDIDATES} would tell"
    )


def most_doubtful_alpha(
    counted: Mapping[float, float], screened: np.ndarray, share: float, tolerance: float
) -> tuple[float, float] | None:
    """The candidate that most likely exceeds the highest alpha counted, and by how much it may; None if none may.

    A candidate at alpha lies between two neighbours that were counted, l < alpha < r, at a part w of the way:
    w = (alpha - l) / (r - l). With v the values over all examples, and e_i the contribution of example i of the part,
    whose n examples are the share s of all, its value is estimated by a control variate, at most

        (1 - w) v(l) + w v(r) + mean(x) + 2 std(x) sqrt((1 - s) / n),    x_i = e_i(alpha) - (1 - w) e_i(l) - w e_i(r):

    the straight line between its neighbours' values, plus what the part shows over its own straight line there, plus 2
    standard errors of that. Counted and uncounted alphas share examples, so most of the chance in the part cancels. The
    highest is sought twice: of the values, and of their excess over the chord between the ends, so that both
    definitions of a barrier are served.

    Args:
        counted: alpha to its value over all examples; 0 and 1 are among them. High is bad.
        screened: [candidates, units], on an even grid from 0 to 1: each example's contribution to the part's mean,
            so that the means over units are values.
        share: of the examples that were screened; standard errors shrink as it nears 1.
        tolerance: what is not worth counting, in the unit of the values.

    >>> curve = np.array([[0.0], [0.2], [0.9], [0.2], [0.0]]) + np.zeros(10)
    >>> most_doubtful_alpha({0.0: 0.0, 1.0: 0.0}, curve, 0.1, 0.01)
    (0.5, 0.9)
    >>> most_doubtful_alpha({0.0: 0.0, 0.5: 0.9, 1.0: 0.0}, curve, 0.1, 0.01) is None
    True
    """
    alphas = grid(len(screened))
    places = sorted(alphas.index(alpha) for alpha in counted)
    first, last = counted[0.0], counted[1.0]
    best = None
    for chord in (lambda alpha: 0.0, lambda alpha: (1 - alpha) * first + alpha * last):
        top = max(_nan_to_inf(value - chord(alpha)) for alpha, value in counted.items())
        for index, alpha in enumerate(alphas):
            if alpha not in counted:
                # The neighbours that were counted, and the line between their values.
                after = bisect.bisect(places, index)
                left, right = places[after - 1], places[after]
                weight = (index - left) / (right - left)
                line = (1 - weight) * counted[alphas[left]] + weight * counted[alphas[right]]
                # What the part shows over that line, and how sure that is.
                over = screened[index] - (1 - weight) * screened[left] - weight * screened[right]
                error = over.std() * math.sqrt((1 - share) / len(over))
                excess = _nan_to_inf(line + over.mean() + _DEVIATIONS * error - chord(alpha)) - top
                if excess > tolerance and (best is None or excess > best[1]):
                    best = alpha, float(excess)
    return best


def _contributions(measured: MetricSums, metric: str) -> np.ndarray:
    """[units], whose mean is the value."""
    sums, counts = measured.sums[metric].astype(np.float64), measured.counts[metric].astype(np.float64)
    return sums / counts.mean()


def _nan_to_inf(value: float) -> float:
    """NaN counts as +inf."""
    return math.inf if math.isnan(value) else value
