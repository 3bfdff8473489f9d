"""Verdicts: what a paper claims of a figure, claim by claim, each of which holds, fails, or cannot be told."""

import numpy as np

from modeconn.reproduce.figure import Verdict

Claim = bool | None  # None: it cannot be told, as of networks that diverged or what was not measured


def judged(found: str, *claims: Claim) -> Verdict:
    """`"agrees"` if every claim holds, `"disagrees"` if one fails, otherwise, or of no claim, `"not reached"`.

    >>> [judged("0.5 points", *claims).word for claims in ((True, True), (True, None), (None, False), ())]
    ['agrees', 'not reached', 'disagrees', 'not reached']
    """
    if False in claims:
        return Verdict("disagrees", found)
    return Verdict("not reached" if None in claims or not claims else "agrees", found)


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
