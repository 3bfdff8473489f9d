"""From rounds to rows: medians, ratios with their spread, the part of the floor that is reached. Pure."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.floor import Amount
from benchmarks.plan import Row, Work, floor_sides
from benchmarks.rounds import Round, Run

# What a run's value is. Of all but seconds and parts, more is better.
UNITS: dict[str, Callable[[Run], float]] = {
    "images/s": lambda run: run.work / run.seconds,
    "paths/h": lambda run: 3600 * run.work / run.seconds,
    "s": lambda run: run.seconds,
    "of the full grid": lambda run: run.work,
}
LESS_IS_BETTER = ("s", "of the full grid")


def summarize(
    row: Row, kept: Sequence[Round], count: Callable[[Work], Amount], noisy: Callable[[Round], bool]
) -> dict[str, Any]:
    """One line of the table, as JSON. Without a round that counts, it has no values.

    Args:
        row: what is compared.
        kept: the rounds that count.
        count: what one image takes.
        noisy: whether others used the machine in a round.
    """
    line: dict[str, Any] = {
        "name": row.name,
        "unit": row.unit,
        "target": row.target,
        "n": len(kept),
        "noisy rounds among them": sum(noisy(found) for found in kept),
    }
    if not kept:
        return line
    value = UNITS[row.unit]
    ours = [value(found[row.side]) for found in kept]
    line |= {"side": row.side, "value": statistics.median(ours), "range": [min(ours), max(ours)]}
    reached = True
    if row.against:
        baseline = _better(row, kept)
        theirs = [value(found[baseline]) for found in kept]
        ratios = [_times(row, mine, other) for mine, other in zip(ours, theirs, strict=True)]
        line |= {"baseline": baseline, "baseline value": statistics.median(theirs)}
        line |= {"ratio": statistics.median(ratios), "ratio range": [min(ratios), max(ratios)]}
        if row.agree:
            apart = [differences(found[row.side], found[baseline]) for found in kept]
            line["differences"] = {name: max(one[name] for one in apart if name in one) for name in apart[0]}
            line["allowed"] = dict(row.agree)
            reached = all(line["differences"][name] <= limit for name, limit in row.agree.items())
    if row.target is not None:
        of_target = line["ratio"] >= row.target if row.against else line["value"] <= row.target
        line["reached"] = bool(of_target and reached)
    if row.work:
        line["floor"] = floor(row, row.work, kept, count(row.work))
    return line


def floor(row: Row, work: Work, kept: Sequence[Round], one: Amount) -> dict[str, float]:
    """What the machine allows, in the row's unit, and how much of it is reached."""
    products, copies = floor_sides(row)
    flops = statistics.median(found[products].work / found[products].seconds for found in kept)
    speed = statistics.median(found[copies].work / found[copies].seconds for found in kept)
    images = [work.images * found[row.side].work / found[row.side].seconds for found in kept]
    reached = [
        rate * one.operations / (found[products].work / found[products].seconds)
        for rate, found in zip(images, kept, strict=True)
    ]
    return {
        "operations per image": one.operations,
        "bytes per image": one.bytes,
        "matrix products, GFLOP/s": flops / 1e9,
        "copies, GB/s": speed / 1e9,
        "images/s that matrix products allow": flops / one.operations,
        "images/s that copies allow": speed / one.bytes,
        "of matrix products": statistics.median(reached),
        "of copies": statistics.median(images) * one.bytes / speed,
    }


def differences(ours: Run, theirs: Run) -> dict[str, float]:
    """How far the numbers of two paths are apart: the largest of error and loss on equal alphas, the barrier,
    and whether they disagree on the barrier being above the threshold.
    """
    found = {"barrier": abs(ours.facts["barrier"] - theirs.facts["barrier"])}
    if "above" in ours.facts and "above" in theirs.facts:
        found["decision"] = float(ours.facts["above"] != theirs.facts["above"])
    if len(ours.facts["alphas"]) == len(theirs.facts["alphas"]):
        for name in ("error", "loss"):
            pairs = zip(ours.facts[name], theirs.facts[name], strict=True)
            found[name] = max(abs(mine - other) for mine, other in pairs)
    return found


def _better(row: Row, kept: Sequence[Round]) -> str:
    """The best of the baselines, by its median."""
    value, sign = UNITS[row.unit], -1 if row.unit in LESS_IS_BETTER else 1
    return max(row.against, key=lambda name: sign * statistics.median(value(found[name]) for found in kept))


def _times(row: Row, ours: float, theirs: float) -> float:
    """How many times as fast."""
    return theirs / ours if row.unit in LESS_IS_BETTER else ours / theirs
