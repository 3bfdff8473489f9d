"""What figures read from lottery-ticket studies: columns, means at a density, and curves of trainings."""

from collections.abc import Iterable

import numpy as np

from modeconn.reproduce.drawing import select
from modeconn.result import Row
from modeconn.tickets.result import LotteryResult

_PLACE = ("replicate", "rewind_iter", "level", "density", "condition")


def columns(result: LotteryResult, names: Iterable[str]) -> list[Row]:
    """Where each subnetwork stands, and these columns of it."""
    return [{name: row[name] for name in (*_PLACE, *names)} for row in result.rows]


def at_density(result: LotteryResult, density: float) -> int:
    """The level whose density is nearest, in proportion.

    >>> rows = [dict(level=n, density=0.8**n) for n in range(9)]
    >>> at_density(LotteryResult(rows, [], {}), 0.2)
    7
    """
    levels = {row["level"]: row["density"] for row in result.rows if row["density"] > 0}
    return min(levels, key=lambda level: abs(np.log(levels[level] / density)))


def density_of(result: LotteryResult, level: int) -> float:
    """The density of a level, the mean over replicates."""
    return float(np.mean([row["density"] for row in result.rows if row["level"] == level]))


def mean_at(result: LotteryResult, column: str, condition: str, density: float) -> float:
    """The mean of a column over replicates, of one condition at the level nearest to a density, or of the dense one.

    Not a number if a replicate has none, as a network that diverged: a mean over the others would hide it.
    """
    level = 0 if condition == "dense" else at_density(result, density)
    place = ("dense" if level == 0 else condition), level
    values = [row[column] for row in result.rows if (row["condition"], row["level"]) == place]
    return float(np.mean(np.array(values, dtype=np.float64))) if values else float("nan")  # None becomes NaN


def over_k(result: LotteryResult, column: str, condition: str) -> dict[int, float]:
    """The mean of a column over replicates at each rewinding iteration, at the last level; of the dense network.

    Not a number where a replicate has none.
    """
    level = 0 if condition == "dense" else max(row["level"] for row in result.rows)
    ks, values = result.over_rewind_iters(column, condition, level)  # [n], [n, replicates]
    return {int(k): float(np.mean(found)) for k, found in zip(ks, values, strict=True)}


def curve_of(result: LotteryResult, condition: str, level: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean validation error over replicates at each iteration of evaluation, int64 [n], float64 [n]."""
    rows = select(result.curves, condition=condition, level=level, split="validation")
    iterations = sorted({row["iteration"] for row in rows})
    means = [np.mean([row["error"] for row in select(rows, iteration=iteration)]) for iteration in iterations]
    return np.array(iterations, dtype=np.int64), np.array(means)
