"""What the files of a lottery-ticket study hold: the columns of its tables, and its summary."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from modeconn.options import SPLITS
from modeconn.result import Columns, Number, Row, one_of, whole


def _whole(text: str) -> int | None:
    return whole(text) if text else None


def _draw(text: str) -> int:
    return whole(text) if text else 0


def _truth(text: str) -> bool | None:
    return {"True": True, "False": False, "": None}[text]


COLUMNS: Columns = {
    "replicate": whole,
    "level": whole,
    "density": float,
    "condition": str,
    "rewind_iter": whole,
    "test_error": float,
    "train_error": float,
    "early_stop_iter": _whole,
    "early_stop_error": float,
    "instability_test": float,
    "instability_train": float,
    "barrier_to_previous": float,
    "barrier_to_dense": float,
    "matching_std": _truth,
    "matching_02": _truth,
    "instability_test_fixed": float,
    "instability_train_fixed": float,
    "barrier_to_previous_fixed": float,
    "barrier_to_dense_fixed": float,
    "weights": whole,
    "diverged_at": _whole,
    "ticket": str,
    "mask": str,
    "chord_barrier_to_previous": float,
    "chord_barrier_to_dense": float,
    "chord_barrier_to_previous_fixed": float,
    "chord_barrier_to_dense_fixed": float,
    "draw": _draw,
    "sign_flips": float,
}
DISTANCES: Columns = {  # with measures "ends", last
    "l2_distance": float,
    "cosine_distance": float,
    "disagreement_test": float,
    "disagreement_train": float,
    "possible_disagreement_test": float,
    "possible_disagreement_train": float,
    "loss_l2_test": float,
    "loss_l2_train": float,
    "l2_from_init_a": float,
    "l2_from_init_b": float,
}
LAYER_COLUMNS: Columns = {
    "replicate": whole,
    "level": whole,
    "condition": str,
    "layer": str,
    "weights": whole,
    "kept": whole,
    "density": float,
    "rewind_iter": _whole,
}
CHORD = "chord_"  # beginning of a column with a barrier over the straight line between the errors of the ends
# Which files of version 0.1.0 lack; that of a k is in the table of rows, and was not in that of layers.
ADDED = [*(name for name in COLUMNS if name.startswith(CHORD)), "draw", "sign_flips", "rewind_iter"]
_SUBNETWORK: Columns = {"replicate": whole, "rewind_iter": whole, "level": whole, "condition": str, "draw": whole}
_PATHS: Columns = {"copy_a": whole, "copy_b": whole, "split": one_of(*SPLITS), "alpha": float}
_CURVES: Columns = {"split": one_of(*SPLITS, "validation"), "iteration": whole}
_MEASURED: Columns = {"error": float, "loss": float}
DETAILED: dict[str, Columns] = {  # tables that are kept if asked, by `modeconn.tickets.options.DETAILS`
    "paths": {**_SUBNETWORK, **_PATHS, **_MEASURED},
    "curves": {**_SUBNETWORK, **_CURVES, **_MEASURED},
}
FIXED = "_fixed"  # ending of a column that was measured with a statistics fix on the path


class _Place(TypedDict):
    replicate: int
    level: int
    condition: str
    rewind_iter: NotRequired[int]  # where there are several


class _Diverged(_Place):
    diverged_at: int


class _Emptied(_Place):
    layer: str


class _Level(TypedDict):
    level: int
    density: Number
    unbroken: bool


class _Forms(TypedDict):
    matching_std: _Level | None
    matching_02: _Level | None


class OfOne(TypedDict):
    """What is said of each rewinding iteration of several."""

    sparsest_matching: dict[str, _Forms]
    emptied_layers: list[_Emptied]
    diverged: list[_Diverged]
    not_trained: int


class Summary(TypedDict):
    """What figures and tables say of a study, in summary.json.

    With several rewinding iterations, `rewind_iter` is None, and `sparsest_matching` is in `by_rewind_iter` alone.
    """

    task: str
    task_changes: str
    iterations: int
    rewind_iter: int | None
    rewind_iter_because: str
    replicates: int
    levels: int
    fraction: float
    scope: Literal["global", "layerwise"]
    rates: list[tuple[str, float]]
    threshold: float
    statistics_fix: Literal["recalibrate", "repair", "none"]
    validation: int
    data_note: str
    sparsest_matching: dict[str, _Forms]
    emptied_layers: list[_Emptied]
    diverged: list[_Diverged]
    not_trained: int
    by_rewind_iter: NotRequired[dict[str, OfOne]]
    measures: NotRequired[list[str]]
    trained: NotRequired[dict[str, str]]  # runs, by the runs of their tickets, where networks train together


def row_columns(summary: Mapping[str, Any]) -> Columns:
    """The columns of a study's rows, from its summary."""
    return {**COLUMNS, **DISTANCES} if "ends" in summary.get("measures", ()) else COLUMNS


def tables_of(summary: Mapping[str, Any]) -> dict[str, Columns]:
    """The columns of the tables that every study has, by their files, from its summary."""
    return {"lottery.csv": row_columns(summary), "layers.csv": LAYER_COLUMNS}


def measured(rows: list[Row], column: str) -> list[Any]:
    """The values of a column that there are, neither None nor NaN."""
    return [row[column] for row in rows if row[column] is not None and not math.isnan(row[column])]


def barrier_column(rows: list[Row], other: str) -> str:
    """The column of the barrier to the `"previous"` or `"dense"` network that is shown: of the chord, if it is there.

    Two levels differ in their errors, and over the mean of these every path rises by half the gap or more.
    """
    chord = f"{CHORD}barrier_to_{other}"
    return chord if measured(rows, chord) else chord.removeprefix(CHORD)
