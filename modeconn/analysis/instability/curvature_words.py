"""What a study says of the curvature at k and at the copies' ends, in rows and words."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from modeconn.result import Row


def curvature_at_k(rows: Sequence[Row], column: str, copies: bool) -> dict[int, tuple[float, float]]:
    """The mean and the sample standard deviation of a column at each k, ascending; NaN is left out.

    Args:
        rows: of `curvature.csv`.
        column: one of its numbers.
        copies: of the copies at their last iteration; else of the network at k.

    >>> rows = [dict(rewind_iter=k, copy=0, iteration=k, eigenvalue=v) for k, v in ((5, 2.0), (0, 1.0), (5, 4.0))]
    >>> curvature_at_k(rows, "eigenvalue", copies=False)
    {0: (1.0, nan), 5: (3.0, 1.4142135623730951)}
    """
    last = max((row["iteration"] for row in rows if row["copy"]), default=0)
    chosen: dict[int, list[float]] = {}
    for row in sorted(rows, key=lambda row: row["rewind_iter"]):
        if bool(row["copy"]) == copies and (not copies or row["iteration"] == last) and not math.isnan(row[column]):
            chosen.setdefault(row["rewind_iter"], []).append(row[column])
    spread: Callable[[list[float]], float] = lambda v: float(np.std(v, ddof=1)) if len(v) > 1 else math.nan  # noqa: E731
    return {k: (float(np.mean(values)), spread(values)) for k, values in chosen.items()}


def curvature_lines(rows: Sequence[Row], examples: int) -> list[str]:
    """A table of the curvature over k."""
    columns = [curvature_at_k(rows, name, copies) for name in ("eigenvalue", "trace") for copies in (False, True)]
    ks = sorted({row["rewind_iter"] for row in rows})
    lines = [
        f"curvature of the training loss, on {examples:,} training examples: largest eigenvalue and trace of its",
        "Hessian, means over replicates and copies",
        "",
        f"{'k':>8}  {'eigenvalue at k':>16}  {'of the copies':>14}  {'trace at k':>11}  {'of the copies':>14}",
    ]
    for k in ks:
        shown = [f"{column[k][0]:.4g}" if k in column else "-" for column in columns]
        lines.append(f"{k:>8}  {shown[0]:>16}  {shown[1]:>14}  {shown[2]:>11}  {shown[3]:>14}")
    return lines
