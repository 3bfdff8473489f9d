"""A lottery-ticket study's answers in words, from its rows and its summary."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from modeconn.result import Row, count, from_jsonable
from modeconn.tickets.options import DENSE
from modeconn.tickets.tables import CHORD, FIXED, barrier_column, measured

_HEADS = {
    "test_error": "test error",
    "early_stop_iter": "best iter.",
    "early_stop_error": "error at best iter.",
    "instability_test": "instability",
    "sign_flips": "sign flips",
}


_FIXES = {"recalibrate": "same, recalibrated", "repair": "same, REPAIR", "none": "same, fixed"}


def table(rows: list[Row], fix: str = "none") -> Iterator[str]:
    """Lines of a table, one for each level and condition: means over its rows.

    Args:
        rows: of one rewinding iteration.
        fix: what was done to statistics on the path beside interpolation: `"recalibrate"`, `"repair"` or `"none"`.
    """
    previous, dense = (barrier_column(rows, other) for other in ("previous", "dense"))
    heads = _HEADS | {previous: "barrier to prev.", dense: "barrier to dense", f"{dense}{FIXED}": _FIXES[fix]}
    shown = [column for column in heads if measured(rows, column)]
    conditions = dict.fromkeys((DENSE, *(row["condition"] for row in rows)))
    width = max(11, *map(len, conditions))
    wide = {name: max(12, len(heads[name]) + 2) for name in shown}
    titles = "".join(f"{heads[name]:>{wide[name]}}" for name in shown)
    yield f"{'level':>5}{'density %':>11}  {'condition':<{width}}{titles}"
    for level in sorted({row["level"] for row in rows}):
        for condition in conditions:
            here = [row for row in rows if (row["level"], row["condition"]) == (level, condition)]
            if here:
                density = 100 * np.mean(measured(here, "density") or [np.nan])
                cells = "".join(f"{_cell(column, measured(here, column)):>{wide[column]}}" for column in shown)
                yield f"{level:>5}{density:>11.2f}  {condition:<{width}}{cells}"
    yield "Errors in %, barriers in percentage points. density: weights that remain."
    if "instability_test" in shown:
        yield "instability: the barrier between two copies, over the mean of their errors."
    if "early_stop_iter" in shown:
        yield "best iter.: where the loss on held-out examples is lowest, counted from 0."
    if previous in shown or dense in shown:
        line = "the straight line between" if CHORD in f"{previous}{dense}" else "the mean of"
        yield f"Barriers to the previous level and to the dense network are over {line} both networks' errors."


def as_given(ks: Sequence[int]) -> str:
    """Where subnetworks are rewound to, as was asked.

    >>> as_given([500]), as_given([0, 500, 2000])
    ('Rewinding to iteration 500, as given.', 'Rewinding to iterations 0, 500 and 2000, as given.')
    """
    if len(ks) == 1:
        return f"Rewinding to iteration {ks[0]}, as given."
    return f"Rewinding to iterations {', '.join(map(str, ks[:-1]))} and {ks[-1]}, as given."


def pruning_sentence(summary: dict[str, Any]) -> str:
    """What a level prunes."""
    where = {"global": "the network", "layerwise": "each layer"}[summary["scope"]]
    pruned = f"Each level prunes {100 * summary['fraction']:g} % of the remaining weights, the smallest of {where}"
    rates = ", ".join(
        f"{layer} at {rate:g} times that rate" if rate else f"{layer} not" for layer, rate in summary["rates"]
    )
    return f"{pruned}{rates and f'; {rates}'}."


def matching_sentences(found: dict[str, Any], replicates: int) -> Iterator[str]:
    """Of each condition down to where it matches.

    Args:
        found: `sparsest_matching` of the study.
        replicates: how many there are.
    """
    for condition, forms in found.items():
        yield f"{condition}: {_matching_sentence(forms, replicates)}"


def failures(summary: dict[str, Any]) -> Iterator[str]:
    """What was emptied, diverged, or not trained at all."""
    if emptied := summary["emptied_layers"]:
        first = emptied[0]
        place = f"{first['layer']}, {first['condition']} at level {first['level']}, replicate {first['replicate']}"
        place += f", k = {first['rewind_iter']}" if "rewind_iter" in first else ""
        yield f"Layers with nothing left: {len(emptied)}, first {place}."
    for where in summary["diverged"]:
        place = ", ".join(f"{name} {where[name]}" for name in ("replicate", "level", "condition"))
        place += f", k = {where['rewind_iter']}" if "rewind_iter" in where else ""
        yield f"Diverged: {place}; its loss was not finite at {where['diverged_at']}."
    if summary["not_trained"]:
        yield f"Not trained, as what they go on from diverged: {count(summary['not_trained'], 'subnetwork')}."


def _cell(column: str, values: list[Any]) -> str:
    if not values:
        return "-"
    return f"{np.mean(values):.0f}" if column == "early_stop_iter" else f"{100 * np.mean(values):.2f}"


def _matching_sentence(forms: dict[str, Any], replicates: int) -> str:
    def where(found: dict[str, Any] | None) -> str:
        if found is None:
            return "at no level"
        place = f"{100 * from_jsonable(found['density']):.3g} % (level {found['level']})"
        return f"down to {place} of weights" if found["unbroken"] else f"last at {place}, not at all levels before"

    drop = f"error increase below 0.2 percentage points {where(forms['matching_02'])}"
    if replicates == 1:
        return f"{drop}. No standard deviation to match within: 1 replicate."
    return f"matches the dense networks within one standard deviation {where(forms['matching_std'])}; {drop}."
