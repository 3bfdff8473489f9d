"""What the rows of an instability study say: where they were measured, what diverged, intervals and curves."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from modeconn.result import Row


def iteration_of(row: Row, summary: Mapping[str, Any]) -> int:
    """The iteration at which a row was measured; T in results of version 0.1.0."""
    return int(row.get("iteration", summary.get("iterations", 0)))


def summary_at(summary: Mapping[str, Any], rows: Iterable[Row], iteration: int) -> dict[str, Any]:
    """A study's summary as that of the rows of one iteration before T: with what had diverged and what was alike."""
    rows = list(rows)
    missing = {
        (row["replicate"], row["rewind_iter"], row[end])
        for row in rows
        if math.isnan(row["barrier"])
        for end in ("copy_a", "copy_b")
    }
    diverged = [
        where
        for where in summary["diverged"]
        if where["iteration"] <= iteration and (where["replicate"], where["rewind_iter"], where["copy"]) in missing
    ]
    same = [
        identical_pair(row["replicate"], row["rewind_iter"], (row["copy_a"], row["copy_b"]))
        for row in rows
        if row["l2_distance"] == 0
    ]
    alike = {"identical_pairs": list(dict.fromkeys(same))}
    return {**summary, "iteration": iteration, "diverged": diverged, **alike}


def identical_pair(replicate: int, rewind_iter: int, copies: tuple[int, int]) -> str:
    """A pair of copies that have the same weights, in words."""
    return f"replicate {replicate}, k = {rewind_iter}, copies {copies}"


def student_interval(means: np.ndarray) -> tuple[float, float]:
    """Student's 95 % interval of the mean of independent values, 0 at least."""
    from scipy.special import stdtrit

    if len(means) < 2 or np.isnan(means).any():
        return math.nan, math.nan
    half = float(stdtrit(len(means) - 1, 0.975) * means.std(ddof=1) / math.sqrt(len(means)))
    return max(0.0, float(means.mean()) - half), float(means.mean()) + half


def error_curves(paths: Iterable[Row]) -> tuple[np.ndarray, np.ndarray]:
    """All alphas, float64 [alphas], and the errors of every pair at these, float64 [pairs, alphas].

    Between its own alphas, each pair's curve goes straight.
    """
    pairs: dict[tuple[int, ...], list[tuple[float, float]]] = {}
    for row in paths:
        pair = row["replicate"], row["copy_a"], row["copy_b"]
        pairs.setdefault(pair, []).append((row["alpha"], row["error"]))
    curves = [np.array(points).T for points in pairs.values()]  # each [2, alphas]
    alphas = np.unique([alpha for own, _ in curves for alpha in own])
    return alphas, np.array([np.interp(alphas, own, errors) for own, errors in curves])
