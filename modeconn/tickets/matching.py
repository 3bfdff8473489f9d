"""Matching: which subnetworks are as accurate as the full network, in both forms of Frankle et al. 2020."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from modeconn.errors import OptionError
from modeconn.result import Row
from modeconn.tickets.options import DENSE

MATCHING_DROP = 0.002  # of error: a subnetwork that loses less matches (Frankle et al. 2020, section 4.4)


def with_matching(rows: Iterable[Row]) -> list[Row]:
    """The rows with both forms of matching against the dense networks.

    `matching_std`: the test error is at most one standard deviation above the mean over the dense networks; None for
    a single replicate, which has no deviation. `matching_02`: it is less than 0.2 points above that of the
    replicate's own dense network.

    Raises:
        OptionError: no dense network among them.
    """
    rows = list(rows)
    dense = {row["replicate"]: row["test_error"] for row in rows if row["condition"] == DENSE}
    if not dense:
        raise OptionError("matching compares with the dense network, which is not among the rows")
    bound = _bound_std(list(dense.values()))

    def matches(row: Row) -> Row:
        error, own = row["test_error"], dense.get(row["replicate"], math.nan)
        unknown_std = math.isnan(error) or math.isnan(bound)
        unknown_02 = math.isnan(error) or math.isnan(own)
        return {
            "matching_std": None if unknown_std else _at_most(error, bound),
            "matching_02": None if unknown_02 else not _at_most(own + MATCHING_DROP, error),
        }

    return [row | matches(row) for row in rows]


def sparsest(rows: list[Row], condition: str) -> dict[str, dict[str, Any] | None]:
    """For each form of matching, the level of lowest density at which a condition matches; see `LotteryResult`."""
    dense = [row["test_error"] for row in rows if row["condition"] == DENSE]
    bounds = {"matching_std": _bound_std(dense), "matching_02": float(np.mean(dense)) + MATCHING_DROP}
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(bounds)
    unbroken = dict.fromkeys(bounds, True)
    for level in sorted({row["level"] for row in rows if row["condition"] == condition}):
        of_level = [row for row in rows if row["condition"] == condition and row["level"] == level]
        error = float(np.mean([row["test_error"] for row in of_level]))
        for form, bound in bounds.items():
            if _at_most(error, bound) if form == "matching_std" else error < bound and not _at_most(bound, error):
                density = float(np.mean([row["density"] for row in of_level]))
                found[form] = {
                    "level": level,
                    "density": density,
                    "test_error": error,
                    "unbroken": unbroken[form],
                }
            else:
                unbroken[form] = False
    return found


def _at_most(error: float, bound: float) -> bool:
    """Whether one fraction of whole numbers is at most another, whatever their last bits say."""
    return error <= bound + 1e-12


def _bound_std(errors: list[float]) -> float:
    """Mean plus one sample standard deviation; NaN without one."""
    return float(np.mean(errors) + np.std(errors, ddof=1)) if len(errors) > 1 else math.nan
