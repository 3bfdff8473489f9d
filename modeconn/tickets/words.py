"""A lottery-ticket study's answers in words, from its rows and its summary."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from modeconn.result import Row, count, from_jsonable
from modeconn.tickets.options import DENSE
from modeconn.tickets.tables import CHORD, FIXED, barrier_column, measured

_HEADS = {
    "test_error": "test error",
    "early_stop_iter": "early stop",
    "early_stop_error": "error there",
    "instability_test": "instability",
    "sign_flips": "sign flips",
}


def table(rows: list[Row]) -> Iterator[str]:
    """Lines of a table, one for each level and condition: means over its rows."""
    previous, dense = (barrier_column(rows, other) for other in ("previous", "dense"))
    heads = _HEADS | {previous: "to previous", dense: "to dense", f"{dense}{FIXED}": "with fix"}
    shown = [column for column in heads if measured(rows, column)]
    conditions = dict.fromkeys((DENSE, *(row["condition"] for row in rows)))
    width = max(11, *map(len, conditions))
    yield f"{'level':>5}{'density %':>11}  {'condition':<{width}}" + "".join(f"{heads[name]:>12}" for name in shown)
    for level in sorted({row["level"] for row in rows}):
        for condition in conditions:
            here = [row for row in rows if (row["level"], row["condition"]) == (level, condition)]
            if here:
                density = 100 * np.mean(measured(here, "density") or [np.nan])
                cells = "".join(f"{_cell(column, measured(here, column)):>12}" for column in shown)
                yield f"{level:>5}{density:>11.2f}  {condition:<{width}}{cells}"
    others = [heads[column] for column in (previous, dense) if column in shown]
    if others:
        line = "the straight line between" if CHORD in f"{previous}{dense}" else "the mean of"
        yield f"Barriers {' and '.join(others)} are over {line} both networks' errors, instability over their mean."


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
        yield f"{condition}: {_matching_sentence(forms, replicates)}."


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
        return f"down to {place}" if found["unbroken"] else f"last at {place}, not at all levels before"

    drop = f"loses less than 0.2 points {where(forms['matching_02'])}"
    if replicates == 1:
        return f"{drop}; one replicate has no deviation to match within"
    return f"matches within one standard deviation of the dense networks {where(forms['matching_std'])}, {drop}"
