"""What the files of an instability study hold: the columns of its tables, and its summary."""

from typing import NotRequired, TypedDict

from modeconn.options import BATCHNORM, SPLITS
from modeconn.result import Columns, one_of, whole

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
TABLES = {"instability.csv": COLUMNS, "paths.csv": PATH_COLUMNS}


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
