"""Is a barrier above a threshold? Decided from as few examples as it takes, with a stated probability of error.

Needs NumPy alone, so that it can be read, copied and trusted by itself.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

Decision = Literal["above", "below"]
# A stake is at most so much that one example leaves a quarter of the wealth.
MOST_STAKED = 0.75
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ThresholdDecision:
    """Whether a barrier is above a threshold, decided from a part of the examples.

    Attributes:
        decision: `"above"` (or at the threshold) or `"below"`.
        threshold: of the error barrier, as a fraction.
        error_probability: with which the barrier of all examples may be on the other side, at most.
        examples: there are.
        drawn: of these, at random.
        counts: how many of those drawn each alpha was measured on; fewer where it was settled before.
    """

    decision: str
    threshold: float
    error_probability: float
    examples: int
    drawn: int
    counts: tuple[int, ...]

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        """The decision whose fields JSON holds.

        Raises:
            ValueError: it was decided from no examples.
        """
        if not content["counts"] or content["examples"] < 1:
            raise ValueError("it was decided from no examples")
        return cls(**content | {"counts": tuple(content["counts"])})

    def __str__(self) -> str:
        share = sum(self.counts) / (len(self.counts) * self.examples)
        return (
            f"The error barrier is {self.decision} {100 * self.threshold:g} points, decided from {self.drawn} of "
            f"{self.examples} examples ({100 * share:.3g} % of a full count); an error has a probability of at most "
            f"{self.error_probability:g}"
        )


@dataclass(frozen=True, eq=False)
class BarrierTest:
    """A sequential test of an error barrier over a finite set of examples, drawn at random without replacement.

    Of example i, d_i(alpha) = e_i(alpha) - (e_i(0) + e_i(1)) / 2 in [-1, 1] is the excess at alpha, from the errors e
    in [0, 1]. The barrier over all N examples is the largest mean of d over the alphas, the ends among them (Frankle
    et al. 2020, section 2). It is above if it is at least the threshold c, else below.

    At every alpha, two gamblers bet on the next excess x, after t - 1 examples whose excesses sum to S. If the mean of
    all N were exactly c, that of those not drawn yet would be m = (N c - S) / (N - t + 1), so

        W+ <- W+ (1 + l (x - m)),   W- <- W- (1 - l' (x - m))

    with stakes l, l' >= 0 that are chosen before x is seen: W+ is a supermartingale if the mean at this alpha is at
    most c, W- if it is at least c (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by
    betting", on sampling without replacement). Such a one, which begins at 1, ever reaches 1 / p with a probability of
    at most p (Ville's inequality), however often one looks.

    - Above: the mean of W+ over the alphas reaches 1 / p. Where the barrier is below c, all the means are; then each W+
      is a supermartingale, and so is their mean.
    - Below: at every alpha W- has reached 1 / p at some time. Where the barrier is not below c, there is an alpha whose
      mean is not, and its W- reaches 1 / p with a probability of at most p. That it may be any of them needs no
      correction, as all must have reached it.

    So a barrier is taken for the other kind with a probability of at most p, over the order in which examples are
    drawn, whatever the errors are. An alpha whose W- has reached 1 / p is settled: it need not be measured any more,
    and its W+ stays as it is, which a supermartingale may at any stopping time. Where all examples have been drawn, the
    decision is that of the full count at the alphas that are not settled.

    Attributes:
        examples: N, of the whole set.
        threshold: c, in (0, 1).
        error_probability: p, in (0, 1).
        drawn: examples drawn so far.
        decision: `"above"`, `"below"`, or None while it is open.
        counts: int64 [alphas], how many examples each alpha was measured on.
        sums: float64 [alphas], of the excesses of these.
        log_wealth: float64 [2, alphas], log W+ and log W-.

    >>> test = begin_test(alphas=3, examples=10_000, threshold=0.02, error_probability=0.001)
    >>> generator = np.random.default_rng(0)
    >>> while test.decision is None:
    ...     test = test.after(np.where(generator.random((len(test.open), 50)) < 0.2, 1.0, 0.0))
    >>> test.decision, test.drawn
    ('above', 100)
    """

    examples: int
    threshold: float
    error_probability: float
    drawn: int
    decision: Decision | None
    counts: np.ndarray
    sums: np.ndarray
    log_wealth: np.ndarray
    _squares: np.ndarray  # [alphas], sums of squared excesses
    _settled: np.ndarray  # [alphas]

    @property
    def open(self) -> np.ndarray:
        """The alphas that are not settled, int64 [n], as places among all: those that must be measured."""
        return np.flatnonzero(~self._settled)

    @property
    def means(self) -> np.ndarray:
        """The mean excess at each alpha over the examples that it was measured on, float64 [alphas]; NaN of none."""
        return np.divide(self.sums, self.counts, out=np.full(len(self.sums), np.nan), where=self.counts > 0)

    def after(self, excess: np.ndarray) -> "BarrierTest":
        """The test once the next examples are measured.

        Args:
            excess: float64 [open, n], of the next n examples of the order at the alphas that are `open`.

        Raises:
            ValueError: the test is decided, the shape does not fit, or a value is not in [-1, 1].
        """
        rows, size = self.open, excess.shape[-1]
        if self.decision is not None:
            raise ValueError(f"the test is decided: {self.decision}")
        if excess.shape != (len(rows), size) or not 0 < size <= self.examples - self.drawn:
            left = self.examples - self.drawn
            raise ValueError(f"give excesses [{len(rows)}, n] of at most {left} examples; got {list(excess.shape)}")
        if not (np.abs(excess) <= 1).all():
            raise ValueError("excesses of errors lie in [-1, 1]")
        # 1. Bet on every example, in order: [2, open, n], the wealth after each.
        wealth = self.log_wealth[:, rows, None] + np.cumsum(self._log_bets(excess, rows), axis=2)
        enough = -np.log(self.error_probability)  # log 1 / p

        # 2. An alpha is settled as soon as its W- has reached 1 / p; the W+ of those settled before stays as it is.
        settled, last = self._settled.copy(), self.log_wealth.copy()
        settled[rows] = (wealth[1] >= enough).any(1)
        last[:, rows] = wealth[:, :, -1]
        above = np.repeat(self.log_wealth[0][:, None], size, axis=1)  # [alphas, n]: W+ of all, after each example
        above[rows] = wealth[0]

        # 3. What the next bets are made from.
        sums, squares, counts = self.sums.copy(), self._squares.copy(), self.counts.copy()
        sums[rows] += excess.sum(1)
        squares[rows] += np.square(excess).sum(1)
        counts[rows] += size

        # 4. Above: the mean of W+ over the alphas has reached 1 / p. Below: all are settled. Else go on, or count.
        decision: Decision | None = None
        if (np.logaddexp.reduce(above, axis=0) - np.log(len(above)) >= enough).any():
            decision = "above"
        elif settled.all():
            decision = "below"
        elif self.drawn + size == self.examples:
            decision = "above" if (sums[rows] / self.examples).max() >= self.threshold else "below"
        return replace(
            self,
            drawn=self.drawn + size,
            decision=decision,
            counts=counts,
            sums=sums,
            log_wealth=last,
            _squares=squares,
            _settled=settled,
        )

    def _log_bets(self, excess: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The logs of the factors 1 + l (x - m) and 1 - l' (x - m) of each example, [2, open, n]."""
        # 1. S, the sum of squares and t - 1 before each example, and m, the mean of those not drawn yet if c is true.
        before = self.drawn + np.arange(excess.shape[1])
        sums = self.sums[rows, None] + _shifted(np.cumsum(excess, axis=1))
        squares = self._squares[rows, None] + _shifted(np.cumsum(np.square(excess), axis=1))
        of_rest = (self.examples * self.threshold - sums) / (self.examples - before)

        # 2. Stakes that would let wealth grow fastest if what is to come were like what was seen: approximately, and
        #    with one example more, of the threshold's mean and a variance of 1/4, so that nothing is staked on nothing.
        mean = (sums + self.threshold) / (before + 1)
        variance = (squares + 0.25 + self.threshold**2) / (before + 1) - mean**2
        gain = mean - of_rest
        stake = gain / (variance + gain**2)

        # 3. One gambler bets on a high mean, one on a low one; no example takes more than MOST_STAKED of the wealth.
        with np.errstate(divide="ignore", invalid="ignore"):
            up = np.clip(stake, 0, MOST_STAKED / np.maximum(1 + of_rest, 1e-9))
            down = np.clip(-stake, 0, MOST_STAKED / np.maximum(1 - of_rest, 1e-9))
            bets = np.log1p(np.stack([up * (excess - of_rest), -down * (excess - of_rest)]))

        # 4. Where what is left cannot bring the mean back to the threshold, nothing is open.
        bets[0][of_rest < -1 - _ROUNDING] = np.inf
        bets[1][of_rest > 1 + _ROUNDING] = np.inf
        return bets


def begin_test(alphas: int, examples: int, threshold: float, error_probability: float) -> BarrierTest:
    """The test before the first example.

    Args:
        alphas: how many there are, ends included.
        examples: of the whole set.
        threshold: of the barrier, as a fraction of error.
        error_probability: with which the decision may be another than that of all examples.
    """
    return BarrierTest(
        examples=examples,
        threshold=threshold,
        error_probability=error_probability,
        drawn=0,
        decision=None,
        counts=np.zeros(alphas, dtype=np.int64),
        sums=np.zeros(alphas),
        log_wealth=np.zeros((2, alphas)),  # both gamblers begin with 1
        _squares=np.zeros(alphas),
        _settled=np.zeros(alphas, dtype=bool),
    )


def _shifted(sums: np.ndarray) -> np.ndarray:
    """Sums before each entry, from those after each."""
    return np.concatenate([np.zeros_like(sums[:, :1]), sums[:, :-1]], axis=1)
