"""Asking less: the smallest stable k by bisection, with as many replicates as each decision needs."""

import functools
import math
from collections.abc import Callable, Sequence


def search(
    candidates: Sequence[int], replicates: int, threshold: float, measure: Callable[[int, int], float]
) -> dict[int, int]:
    """Measure only what is needed to find the smallest stable k, and its neighbours to confirm it.

    Instability falls with k, so the candidates are halved as long as it is open which of them is the first stable one.
    That is a rule with exceptions: the candidate above the one found is measured too, and while it is unstable the
    search goes on above it. The candidate below was found unstable on the way.

    A k is unstable as soon as the replicates measured have so much instability that the mean over all of them cannot be
    below the threshold, whatever the others have: instability is never negative. So one replicate often decides, and
    the decision is that of the full study, not an estimate.

    Args:
        candidates: rewinding iterations k, ascending.
        replicates: of the full study.
        threshold: the mean instability below which a network is stable.
        measure: from k and a replicate's number to its instability; NaN if a copy diverged, which is not stable.

    Returns:
        How many replicates were measured, by k.

    >>> search([0, 10, 20, 30, 40], 3, 0.02, lambda k, replicate: 0.3 if k < 20 else 0.004)
    {0: 1, 10: 1, 20: 3, 30: 3}
    """
    measured: dict[int, int] = {}

    @functools.cache
    def stable(index: int) -> bool:
        total = 0.0
        for replicate in range(replicates):
            total += measure(candidates[index], replicate)
            measured[candidates[index]] = replicate + 1
            if math.isnan(total) or total / replicates >= threshold:
                return False
        return True

    low, high = -1, len(candidates)  # unstable up to low, stable from high on, as far as is known
    while high - low > 1:
        middle = (low + high) // 2
        if stable(middle):
            high = middle
        else:
            low = middle
    while high < len(candidates) - 1 and not stable(high + 1):
        high = next((i for i in range(high + 2, len(candidates)) if stable(i)), len(candidates))
    return dict(sorted(measured.items()))
