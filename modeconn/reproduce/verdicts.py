"""Verdicts: what a paper claims of a figure, claim by claim, each of which holds, fails, or cannot be told."""

from collections.abc import Iterable

import numpy as np

from modeconn.reproduce.figure import Verdict

Claim = bool | None  # None: it cannot be told, as of networks that diverged or what was not measured


def judged(found: str, *claims: Claim) -> Verdict:
    """`"agrees"` if every claim holds, `"disagrees"` if one fails, otherwise `"not reached"`.

    >>> judged("0.5 points", True, None).word, judged("0.5 points", False, None).word
    ('not reached', 'disagrees')
    """
    holds = every(claims)
    return Verdict("not reached" if holds is None else "agrees" if holds else "disagrees", found)


def every(claims: Iterable[Claim]) -> Claim:
    """Whether all claims hold; None if none fails and one cannot be told, or if there is none.

    >>> every([True, True]), every([True, None]), every([None, False]), every([])
    (True, None, False, None)
    """
    known = list(claims)
    if False in known:
        return False
    return None if None in known or not known else True


def rising(*values: float) -> Claim:
    """Whether each value is below the next one; None if one is not a number.

    >>> rising(1, 2, 3), rising(1, 1), rising(1, float("nan"))
    (True, False, None)
    """
    return None if np.isnan(values).any() else bool(np.all(np.diff(values) > 0))


def apart(a: float, b: float, most: float) -> Claim:
    """Whether two values are at most so far apart; None if one is not a number.

    >>> apart(1.0, 1.5, most=0.5), apart(1.0, 2.0, most=0.5), apart(1.0, float("nan"), most=0.5)
    (True, False, None)
    """
    return None if np.isnan([a, b, most]).any() else bool(abs(a - b) <= most)


def opposite(claim: Claim) -> Claim:
    """Whether a claim fails; None if it cannot be told."""
    return None if claim is None else not claim


def more(value: float, above: str, below: str, digits: int = 2) -> str:
    """A difference in words, whatever its sign.

    >>> more(-1.5, "points better", "points worse"), more(7, "% sooner", "% later", digits=0)
    ('1.50 points worse', '7 % sooner')
    """
    return f"{abs(value):.{digits}f} {below if value < 0 else above}"
