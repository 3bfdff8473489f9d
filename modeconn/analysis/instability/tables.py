"""What the files of an instability study hold: the columns of its tables, and its summary."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from modeconn.errors import DataError
from modeconn.options import BATCHNORM, SPLITS
from modeconn.result import Columns, Row, load_study, one_of, whole

COLUMNS: Columns = {
    "replicate": whole,
    "rewind_iter": whole,
    "copy_a": whole,
    "copy_b": whole,
    "split": one_of(*SPLITS),
    "barrier": float,
    "chord_barrier": float,
    "alpha_at_max": float,
    "error_a": float,
    "error_b": float,
    "loss_barrier": float,
    "l2_distance": float,
    "batchnorm": one_of(*BATCHNORM, "none"),
    "iteration": float,  # whole; a number, so that files of version 0.1.0 may lack it
}
END_COLUMNS: Columns = {  # with measures "ends"
    "cosine_distance": float,
    "disagreement": float,
    "possible_disagreement": float,
    "loss_l2": float,
    "l2_from_init_a": float,
    "l2_from_init_b": float,
}
ALIGNED_COLUMNS: Columns = {  # with align: of the path to the aligned second copy
    "barrier_aligned": float,
    "chord_barrier_aligned": float,
    "loss_barrier_aligned": float,
    "l2_distance_aligned": float,
    "moved": float,
}
TRUNK_COLUMNS: Columns = {
    "replicate": whole,
    "rewind_iter": whole,
    "split": one_of(*SPLITS),
    "error": float,
    "loss": float,
    "l2_from_init": float,
}
CURVATURE_COLUMNS: Columns = {  # with curvature: of the network at k (copy 0), and of each copy
    "replicate": whole,
    "rewind_iter": whole,
    "copy": whole,
    "iteration": whole,
    "eigenvalue": float,
    "residual": float,
    "trace": float,
    "trace_error": float,
    "loss": float,
}
PATH_COLUMNS: Columns = {
    "replicate": whole,
    "rewind_iter": whole,
    "copy_a": whole,
    "copy_b": whole,
    "split": one_of(*SPLITS),
    "batchnorm": one_of(*BATCHNORM, "none"),
    "alpha": float,
    "error": float,
    "loss": float,
    "iteration": float,
}
ADDED = ("iteration",)  # columns that files of version 0.1.0 lack


class _Diverged(TypedDict):
    replicate: int
    copy: int
    rewind_iter: int
    iteration: int


class _Measurements(TypedDict):
    read: int
    computed: int


class Summary(TypedDict):
    """What figures and tables say of a study, in summary.json; files of earlier versions lack some of it."""

    task: str
    task_changes: str
    iterations: int
    replicates: int
    copies: int
    threshold: float
    data_note: str
    diverged: list[_Diverged]
    rewind_iters: NotRequired[list[int]]
    replicates_by_k: NotRequired[dict[str, int] | None]
    chance: NotRequired[dict[str, float]]
    identical_pairs: NotRequired[list[str]]
    measurements: NotRequired[_Measurements]
    iteration: NotRequired[int]
    measures: NotRequired[list[str]]
    copies_train: NotRequired[str]
    fork_optimizer: NotRequired[str]
    perturb: NotRequired[str]
    align: NotRequired[str]
    curvature_examples: NotRequired[int]


def columns_of(summary: Mapping[str, Any]) -> dict[str, Columns]:
    """The columns of a study's tables by their files, from its summary."""
    rows = {**COLUMNS, **(ALIGNED_COLUMNS if "align" in summary else {})}
    tables = {"instability.csv": rows, "paths.csv": PATH_COLUMNS}
    if "measures" in summary:
        rows |= END_COLUMNS
        tables["trunk.csv"] = TRUNK_COLUMNS
    return tables | ({"curvature.csv": CURVATURE_COLUMNS} if "curvature_examples" in summary else {})


def read_tables(folder: Path) -> tuple[list[list[Row]], dict[str, Any]]:
    """The tables of a study in the order of `columns_of`, and its summary.

    Raises:
        DataError: they are not there, or are not those of a study.
    """
    _, summary = load_study(folder, columns_of({}), Summary, "instability", ADDED)
    tables, _ = load_study(folder, columns_of(summary), Summary, "instability", ADDED)
    for row in (*tables[0], *tables[1]):
        value = row["iteration"]
        if not math.isnan(value) and not (value.is_integer() and 0 <= value <= summary["iterations"]):
            raise DataError(f"the study in {folder} cannot be read ({value} is no iteration); run it again")
        row["iteration"] = summary["iterations"] if math.isnan(value) else int(value)
    return tables, summary
