"""Which alphas count for either limit of an interval, where alphas differ in height and in noise."""

import numpy as np
import pytest
from scipy.stats import norm

from modeconn.analysis.paths.confidence import bootstrap_interval

N = 4000
ALPHAS = [0.0, 0.4, 0.6, 1.0]
QUIET, NOISY = 1.0, 4.0  # standard errors of the excess at both alphas between the ends, in units of 1 / sqrt(N)


def limits(gap: float) -> tuple[float, float]:
    """The interval where the quiet alpha is highest, at 1, and the noisy one lower by `gap` of the difference's errors.

    In units of 1 / sqrt(N), around that height. Ends are exactly 0, and outcomes normal to the last quantile.
    """
    quantiles = norm.ppf((np.arange(N) + 0.5) / N)
    quantiles /= quantiles.std()
    rng = np.random.default_rng(0)
    first = rng.permutation(quantiles)
    second = rng.permutation(quantiles)
    second -= (first @ second / N) * first  # uncorrelated
    second /= second.std()
    unit, lower = N**-0.5, gap * np.hypot(QUIET, NOISY)
    sums = np.zeros((4, N))
    sums[1] = 1.0 + QUIET * first
    sums[2] = 1.0 - lower * unit + NOISY * second
    low, high = bootstrap_interval(ALPHAS, sums, np.ones(N), draws=4000)
    return (low - 1.0) / unit, (high - 1.0) / unit


@pytest.mark.parametrize(("gap", "near"), [(1.0, True), (1.7, True), (2.3, True), (2.7, False), (4.0, False)])
def test_alphas_within_two_and_a_half_standard_errors_may_be_the_highest(gap, near):
    """The margin below is that of the noisiest alpha that may be; at 1.5 standard errors the interval is too short."""
    low, _ = limits(gap)
    assert low == pytest.approx(-norm.ppf(0.975) * (NOISY if near else QUIET), rel=0.06)


@pytest.mark.parametrize("gap", [0.2, 0.5, 0.9, 4.0])
def test_the_upper_limit_is_the_highest_of_all_alphas_limits_and_not_that_of_the_best(gap):
    _, high = limits(gap)
    alone = norm.ppf(0.975) * np.array([QUIET, NOISY]) - [0.0, gap * np.hypot(QUIET, NOISY)]
    assert high == pytest.approx(alone.max(), rel=0.06)
