"""What `--search` would train, beside the full grid of its eleven k: iterations are counted, nothing is trained."""

from collections.abc import Callable, Mapping
from typing import Any

from modeconn.analysis.instability.bisection import search
from modeconn.analysis.instability.options import SEARCHED, StudyOptions
from modeconn.tasks import get_task, parse_iterations

_UNSTABLE = 0.1  # instability below the first stable k: one replicate of three decides


def cost(index: int, task: str) -> Callable[[], dict[str, Any]]:
    """The part of the full grid's iterations that is trained, at most, wherever the first stable k is; work is it."""

    def measure() -> dict[str, Any]:
        ratios = ratio_by_answer(task)
        return {
            "work": max(ratios.values()),
            "seconds": 0.0,
            "by first stable k": {str(k): ratio for k, ratio in ratios.items()},
        }

    return measure


def ratio_by_answer(task: str) -> dict[int | None, float]:
    """By the first stable k of the grid, or None if none is stable."""
    total, options = get_task(task).iterations, StudyOptions(search=True)
    grid = parse_iterations(SEARCHED, total, per_epoch=0)
    full = iterations(dict.fromkeys(grid, options.replicates), total, options.copies)
    ratios = {}
    for first in (*grid, None):

        def instability(k: int, replicate: int, first: int | None = first) -> float:
            return 0.0 if first is not None and k >= first else _UNSTABLE

        measured = search(grid, options.replicates, options.threshold, instability)
        ratios[first] = iterations(measured, total, options.copies) / full
    return ratios


def iterations(replicates_by_k: Mapping[int, int], total: int, copies: int) -> int:
    """Of the trunks, each up to its last k, and of the copies that are forked from them.

    >>> iterations({10: 2, 40: 1}, total=100, copies=2)
    530
    """
    trained = sum(copies * replicates * (total - k) for k, replicates in replicates_by_k.items())
    for replicate in range(max(replicates_by_k.values())):
        trained += max(k for k, replicates in replicates_by_k.items() if replicates > replicate)
    return trained
