"""The weights of networks in an average: equal, rising over a run, or the caller's own."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from modeconn.errors import OptionError, unknown

KINDS = ("uniform", "linear", "exponential", "1-sqrt")
_SUM = 1e-6  # how far from 1 the sum of given weights may be


def shares_of(weights: str | Sequence[float] | None, count: int, decay: float | None = None) -> list[float]:
    """The weight of each of `count` networks, oldest first, up to a common factor.

    With i = 1 for the oldest and n for the newest:

        uniform       1                                     LAWA (Kaddour 2022), SWA (Izmailov et al. 2018)
        linear        i                                     PMA's weighted mean (2505.12082)
        exponential   (1 - decay) decay^(n - i), and decay^(n - 1) for i = 1
        1-sqrt        sqrt(i) - sqrt(i - 1)                 WSM (2507.17634)

    Exponential weights are those of the moving average m_1 = x_1, m_i = decay m_(i-1) + (1 - decay) x_i. With 1-sqrt,
    the average is x_1 plus each later step x_i - x_(i-1) times 1 - sqrt((i - 1) / n): the steps of the run as if its
    learning rate had been decayed so. Uniform weights decay it linearly, to 1 - (i - 1) / n of each step.

    Raises:
        OptionError: no such weights, or a decay that is missing, not asked for, or not in (0, 1).

    >>> shares_of("linear", 3), shares_of("exponential", 3, decay=0.5)
    ([1.0, 2.0, 3.0], [0.25, 0.25, 0.5])
    """
    kind = "uniform" if weights is None else weights
    if (kind == "exponential") != (decay is not None):
        raise OptionError(
            'weights="exponential" need decay=, the share of the old average at each step, such as 0.9; other weights '
            "have none"
        )
    if not isinstance(kind, str):
        return _own(kind, count)
    if kind not in KINDS:
        raise unknown("kind of weights", kind, KINDS)
    if kind == "exponential":
        return _exponential(count, decay)
    if kind == "1-sqrt":
        return [math.sqrt(i) - math.sqrt(i - 1) for i in range(1, count + 1)]
    return [float(i) if kind == "linear" else 1.0 for i in range(1, count + 1)]


def percentage(text: str, what: str) -> Fraction:
    """A percentage as a fraction of 1, exactly.

    Raises:
        OptionError: it is none, or not in (0, 100].

    >>> percentage("12.5%", "last")
    Fraction(1, 8)
    """
    try:
        share = Fraction(text.strip().removesuffix("%")) / 100 if text.strip().endswith("%") else Fraction(-1)
    except (ValueError, ZeroDivisionError):
        share = Fraction(-1)
    if not 0 < share <= 1:
        raise OptionError(f'{what} is a count, or a percentage such as "20%", over 0 and at most 100; got {text!r:.40}')
    return share


def _exponential(count: int, decay: Any) -> list[float]:
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay < 1:
        raise OptionError(f"decay must be a number between 0 and 1, such as 0.9; got {decay!r}")
    return [(1 - decay if i else 1.0) * decay ** (count - 1 - i) for i in range(count)]


def _own(weights: Sequence[float], count: int) -> list[float]:
    try:
        shares = [float(weight) for weight in weights]
    except (TypeError, ValueError) as error:
        raise OptionError(f"weights must be {count} numbers, one for each network; got {weights!r}") from error
    if len(shares) != count:
        raise OptionError(f"weights must be {count} numbers, one for each network; got {len(shares)}")
    if not all(0 <= share < math.inf for share in shares) or abs(math.fsum(shares) - 1) > _SUM:
        raise OptionError(f"weights must not be negative and have a sum of 1; got {shares}")
    return shares
