"""The smallest stable k by bisection, with as many replicates as each decision needs."""

import functools
import math
from collections.abc import Callable, Sequence


def search(
    candidates: Sequence[int], replicates: int, threshold: float, measure: Callable[[int, int], float]
) -> dict[int, int]:
    """Find the smallest stable k by bisection, and confirm it at its neighbours.

    Instability falls with k, so the candidates are halved as long as it is open which of them is the first stable one,
    by the first replicate alone. Then as many replicates as it takes decide about the one found, which must be stable,
    and the one below, which must not be; where it is otherwise, the search goes on above or below. That instability
    falls is a rule with exceptions: the candidate above the one found is measured too, in one replicate if that one is
    stable, and while it is unstable the search goes on above it.

    A k is unstable as soon as `sum of the measured / replicates >= threshold`: the mean over all replicates cannot be
    lower, whatever the others have, as instability is never negative. So one replicate often decides, and
    the decisions about the k found and the one below are those of the full study, not estimates. Where the mean over
    all replicates falls with k, the answer is that of the full study.

    Of the default eleven k with 3 replicates of 2 copies, at most 25 % of the full grid's iterations are trained where
    one replicate decides about the k below the one found, and at most a third where it takes all; more where
    replicates disagree on which k are stable.

    Args:
        candidates: rewinding iterations k, ascending.
        replicates: of the full study.
        threshold: the mean instability below which a network is stable.
        measure: from k and a replicate's number to its instability; NaN if a copy diverged, which is not stable.

    Returns:
        How many replicates were measured, by k.

    >>> search([0, 10, 20, 30, 40], 3, 0.02, lambda k, replicate: 0.3 if k < 20 else 0.004)
    {0: 1, 10: 1, 20: 3, 30: 1}
    """
    measured: dict[int, int] = {}

    @functools.cache
    def known(index: int, replicate: int) -> float:
        return measure(candidates[index], replicate)

    @functools.cache
    def stable(index: int) -> bool:
        total = 0.0
        for replicate in range(replicates):
            total += known(index, replicate)
            measured[candidates[index]] = replicate + 1
            if math.isnan(total) or total / replicates >= threshold:
                return False
        return True

    def looks_stable(index: int) -> bool:
        measured.setdefault(candidates[index], 1)
        return known(index, 0) < threshold

    # 1. Halve: the first replicate looks unstable at `low` and stable at `high`; beyond both ends by assumption.
    low, high = -1, len(candidates)
    while high - low > 1:
        middle = (low + high) // 2
        if looks_stable(middle):
            high = middle
        else:
            low = middle
    # 2. Up, as long as all replicates together find it unstable after all.
    while high < len(candidates) and not stable(high):
        high += 1
    # 3. Down, as long as all replicates together find the one below stable, too.
    while high > 0 and stable(high - 1):
        high -= 1
    # 4. Where the one above is unstable, instability rose again: on to the next stable one above that.
    while high < len(candidates) - 1 and not looks_stable(high + 1) and not stable(high + 1):
        high = next((i for i in range(high + 2, len(candidates)) if stable(i)), len(candidates))
    return dict(sorted(measured.items()))
