"""How often `bootstrap_interval` contains the true barrier, on simulated paths whose true barrier is known.

    python benchmarks/interval_coverage.py --units 360 1000 --repetitions 500 --level 0.95

Prints one row per kind of path and number of examples: the true barrier, the mean over the simulated data sets of the
measured (plain) and of the cross-fitted barrier, the coverage, in which part of the data sets the interval is wholly
above or wholly below the true barrier, its mean length, and beside it the coverage of the usual percentile bootstrap.
The standard error of a coverage near 95 % is 1 point at 500 repetitions. Rows called "adaptive" choose their alphas as
`alphas="adaptive"` does, by a quarter of the examples, and take interval and cross-fitted barrier from the others; rows
called "same" take them from all, which is what version 0.1.0 did. Both need 1,000 examples.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from modeconn.analysis.paths.adaptive import LEAST, most_doubtful_alpha
from modeconn.analysis.paths.alphas import COUNTED, FIRST, grid
from modeconn.analysis.paths.barrier import barrier_heights
from modeconn.analysis.paths.confidence import bootstrap_interval, cross_fitted, identity

ALPHAS = np.array(grid(31))
Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Scenario:
    """A law of outcomes along a path, and the barrier that it has.

    Attributes:
        draw: (generator, n) to sums [31, n] and counts [n].
        truth: the barrier that endless data would show.
        alphas: all 31; or adaptive ones, with the interval of other examples than chose them, or of the same.
    """

    draw: Draw
    truth: float
    definition: str = "barrier"
    transform: Callable[[np.ndarray], np.ndarray] = identity
    alphas: Literal["grid", "adaptive", "same"] = "grid"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--units", type=int, nargs="+", default=[360, 1000], help="examples in a test set")
    parser.add_argument("--repetitions", type=int, default=500, help="simulated data sets per row")
    parser.add_argument("--draws", type=int, default=500, help="bootstrap draws per interval")
    parser.add_argument("--level", type=float, default=0.95)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"level {options.level:g}, {options.repetitions} data sets a row, {options.draws} draws, seed {options.seed}")
    print(f"{'path':28} {'n':>5} {'true':>6} {'plain':>7} {'cross':>7} {'cover':>6} {'above':>6} {'below':>6}", end=" ")
    print(f"{'length':>7} {'percentile':>10}")
    for name, scenario in SCENARIOS.items():
        if options.only in name:
            for n in options.units if scenario.alphas == "grid" else [n for n in options.units if n >= LEAST]:
                found = study(scenario, n, options.repetitions, options.draws, options.level, options.seed)
                print(f"{name:28} {n:5} {scenario.truth:6.3f} {found.plain:7.4f} {found.cross:7.4f}", end=" ")
                print(f"{1 - found.above - found.below:6.1%} {found.above:6.1%} {found.below:6.1%}", end=" ")
                print(f"{found.length:7.4f} {found.percentile:10.1%}", flush=True)


@dataclass(frozen=True)
class Found:
    """Means over the simulated data sets of one row."""

    plain: float
    cross: float
    above: float
    below: float
    length: float
    percentile: float


def study(scenario: Scenario, n: int, repetitions: int, draws: int, level: float = 0.95, seed: int = 0) -> Found:
    """Simulate one row of the table."""
    rng = np.random.default_rng([seed, n])
    rows = []
    for repetition in range(repetitions):
        sums, counts = scenario.draw(rng, n)
        definition, transform = scenario.definition, scenario.transform
        alphas, others = chosen(scenario, sums, n)
        sums = sums[alphas]
        plain = getattr(barrier_heights(ALPHAS[alphas], transform(sums.sum(axis=1) / counts.sum())), definition)
        outcomes = ALPHAS[alphas], sums[:, others], counts[others]
        how: Any = {"definition": definition, "transform": transform, "seed": repetition}
        low, high = bootstrap_interval(*outcomes, level=level, draws=draws, **how)
        cross = cross_fitted(*outcomes, **how)
        usual_low, usual_high = percentile_interval(scenario, *outcomes, draws, level, repetition)
        above, below = low > scenario.truth + 1e-9, high < scenario.truth - 1e-9
        inside = usual_low <= scenario.truth + 1e-9 and usual_high >= scenario.truth - 1e-9
        rows.append([plain, cross, above, below, high - low, inside])
    return Found(*np.mean(rows, axis=0).tolist())


def chosen(scenario: Scenario, sums: np.ndarray, n: int) -> tuple[list[int], np.ndarray]:
    """Places of the alphas that are counted, and the examples, int [units], that the interval is of."""
    if scenario.alphas == "grid":
        return list(range(len(ALPHAS))), np.arange(n)
    at = np.arange(n)  # examples are alike, so the first ones stand for those drawn at random
    eighth, rest = at[: n // 8], at[n // 4 :]
    choosing = at[: n // 4] if scenario.alphas == "adaptive" else at
    values = {float(alpha): float(sums[place, choosing].mean()) for place, alpha in enumerate(ALPHAS)}
    counted = {alpha: values[alpha] for alpha in FIRST}
    screened, share = sums[:, eighth].astype(np.float64), len(eighth) / len(choosing)
    while (doubt := most_doubtful_alpha(counted, screened, share, 0.001)) and len(counted) < COUNTED:
        counted[doubt[0]] = values[doubt[0]]
    places = [place for place, alpha in enumerate(ALPHAS) if float(alpha) in counted]
    return places, rest if scenario.alphas == "adaptive" else at


def percentile_interval(
    scenario: Scenario,
    alphas: np.ndarray,
    sums: np.ndarray,
    counts: np.ndarray,
    draws: int,
    level: float,
    seed: int,
) -> tuple[float, float]:
    """The usual interval: quantiles of the barriers of resampled test sets."""
    n = sums.shape[1]
    units = np.random.default_rng(seed).integers(n, size=(draws, n))
    weights = np.stack([np.bincount(row, minlength=n) for row in units]).astype(float)
    values = scenario.transform((weights @ sums.T) / (weights @ counts)[:, None])
    ends = values[:, [0, -1]]
    base = ends.mean(axis=1, keepdims=True) if scenario.definition == "barrier" else ends @ [1 - alphas, alphas]
    low, high = np.quantile((values - base).max(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ridge(height: float, rise: tuple[float, float], flips: float = 0.04, switch: float = 0.3) -> Draw:
    """Errors: 0.1 of the examples are always wrong, `height` on a random interval around 0.5, `flips` at random.

    Args:
        height: the true barrier.
        rise: the intervals begin at Beta(*rise) / 2 and end as far from 1.
        flips: part of the examples that are wrong or right at random, each half of the time.
        switch: the chance that these change from one alpha to the next.
    """

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        role = rng.random(n)
        begin, end = 0.5 * rng.beta(*rise, size=(2, n))
        wrong = (role < height) & (ALPHAS[:, None] >= begin - 1e-12) & (ALPHAS[:, None] <= 1 - end + 1e-12)
        wrong |= (role >= height) & (role < height + 0.1)
        flipping = role > 1 - flips
        changes = (
            rng.random((len(ALPHAS), flipping.sum())) < np.where(np.arange(len(ALPHAS)) == 0, 0.5, switch)[:, None]
        )
        wrong[:, flipping] = changes.cumsum(axis=0) % 2 == 1
        return wrong, np.ones(n)

    return draw


def line(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors that rise from 0.10 to 0.40 on a straight line: each example turns wrong somewhere, or never."""
    turns = rng.uniform(-0.1 / 0.3, 0.9 / 0.3, size=n)
    return ALPHAS[:, None] >= turns, np.ones(n)


def valley(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors that are 3 points lower in the middle."""
    wrong, counts = ridge(0.03, (2, 2))(rng, n)
    return ~wrong, counts


def losses(height: float, spread: float) -> Draw:
    """Losses: lognormal with mean 1, a lognormal wobble along the path, and a parabola times an exponential."""
    waves = np.cos(np.pi * np.arange(1, 5) * ALPHAS[:, None]) / 20  # [n_alphas, 4]

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        level = np.exp(spread * rng.standard_normal(n) - spread**2 / 2)
        wobble = np.exp(waves @ rng.standard_normal((4, n)) - (waves**2).sum(axis=1, keepdims=True) / 2)
        bump = height * 4 * (ALPHAS * (1 - ALPHAS))[:, None] * rng.exponential(size=n)
        return level * (wobble + bump), np.ones(n)

    return draw


def tokens(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of token losses of mean 3 to 3.1, in sequences of 20 to 200 tokens."""
    sums, _ = losses(0.1 / 3, 0.3)(rng, n)
    counts = rng.integers(20, 201, size=n).astype(float)
    return 3 * sums * counts, counts


SCENARIOS = {
    "ridge, 20 points": Scenario(ridge(0.2, (2, 2)), 0.2),
    "ridge, 20 points, adaptive": Scenario(ridge(0.2, (2, 2)), 0.2, alphas="adaptive"),
    "ridge, 2 points": Scenario(ridge(0.02, (2, 2)), 0.02),
    "ridge, 2 points, adaptive": Scenario(ridge(0.02, (2, 2)), 0.02, alphas="adaptive"),
    "ridge, 2 points, 10 % flip": Scenario(ridge(0.02, (2, 2), flips=0.1, switch=0.5), 0.02),
    "plateau, 20 points": Scenario(ridge(0.2, (2, 12)), 0.2),
    "plateau, 5 points, 10 % flip": Scenario(ridge(0.05, (2, 12), flips=0.1, switch=0.5), 0.05),
    "sharp peak, 20 points": Scenario(ridge(0.2, (12, 1)), 0.2),
    "sharp peak, 2 points, chord": Scenario(ridge(0.02, (12, 1)), 0.02, "chord_barrier"),
    "sharp peak, 1 point, no flips": Scenario(ridge(0.01, (12, 1), flips=0), 0.01),
    "line 0.10 to 0.40": Scenario(line, 0.15),
    "line 0.10 to 0.40, chord": Scenario(line, 0.0, "chord_barrier"),
    "flat, 2 % flip slowly": Scenario(ridge(0, (2, 2), flips=0.02, switch=0.1), 0.0),
    "flat, 4 % flip": Scenario(ridge(0, (2, 2)), 0.0),
    "flat, 4 % flip, adaptive": Scenario(ridge(0, (2, 2)), 0.0, alphas="adaptive"),
    "flat, 4 % flip, same": Scenario(ridge(0, (2, 2)), 0.0, alphas="same"),
    "flat, 4 % flip, chord": Scenario(ridge(0, (2, 2)), 0.0, "chord_barrier"),
    "flat, 8 % flip fast": Scenario(ridge(0, (2, 2), flips=0.08, switch=0.5), 0.0),
    "flat, 8 % flip fast, adaptive": Scenario(ridge(0, (2, 2), flips=0.08, switch=0.5), 0.0, alphas="adaptive"),
    "flat, 8 % flip fast, same": Scenario(ridge(0, (2, 2), flips=0.08, switch=0.5), 0.0, alphas="same"),
    "valley, 3 points": Scenario(valley, 0.0),
    "losses, 0.3 over 1": Scenario(losses(0.3, 1.0), 0.3),
    "losses, 0.1 over 1, wide": Scenario(losses(0.1, 1.5), 0.1),
    "losses, flat": Scenario(losses(0.0, 1.0), 0.0),
    "losses, flat, wide, chord": Scenario(losses(0.0, 1.5), 0.0, "chord_barrier"),
    "perplexity, 2.1 over 20": Scenario(tokens, float(np.exp(3.1) - np.exp(3)), transform=np.exp),
}


if __name__ == "__main__":
    main()
