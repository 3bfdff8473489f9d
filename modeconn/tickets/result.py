"""What a lottery-ticket study found: tidy rows, their summary, and the files they are kept in."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeconn.errors import DataError, unknown
from modeconn.files import write_atomically, writing
from modeconn.result import Row, count, read_csv, write_csv
from modeconn.tickets.matching import sparsest
from modeconn.tickets.options import DENSE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _whole(text: str) -> int | None:
    return int(text) if text else None


def _truth(text: str) -> bool | None:
    return {"True": True, "False": False, "": None}[text]


COLUMNS: dict[str, Callable[[str], Any]] = {
    "replicate": int,
    "level": int,
    "density": float,
    "condition": str,
    "rewind_iter": int,
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
    "weights": int,
    "diverged_at": _whole,
    "ticket": str,
    "mask": str,
}
LAYER_COLUMNS: dict[str, Callable[[str], Any]] = {
    "replicate": int,
    "level": int,
    "condition": str,
    "layer": str,
    "weights": int,
    "kept": int,
    "density": float,
}
_SUMMARY_KEYS = ("task", "task_changes", "iterations", "rewind_iter", "replicates", "levels", "data_note")


@dataclass(frozen=True, eq=False, repr=False)
class LotteryResult:
    """Subnetworks at every level of pruning, under every condition.

    Errors and barriers are fractions in [0, 1]. What was not measured, or diverged, is NaN or None.

    Attributes:
        rows: one per replicate, level and condition; the columns of `lottery.csv`. The condition at level 0, the full
            network, is `"dense"`. Columns that end in `_fixed` were measured with a statistics fix on the path.
        layers: one per layer as well; the columns of `layers.csv`.
        summary: the task, its settings, k and why, the sparsest matching level of each condition; `summary.json`.
        folder: where the files are, if they were written.

    >>> row = dict(replicate=0, rewind_iter=0)
    >>> errors = {1.0: 0.020, 0.8: 0.019, 0.64: 0.021, 0.512: 0.05}
    >>> rows = [row | dict(level=n, density=d, condition="imp" if n else "dense", test_error=e)
    ...         for n, (d, e) in enumerate(errors.items())]
    >>> result = LotteryResult(with_matching(rows), [], {})
    >>> [row["matching_02"] for row in result.rows], result.sparsest_matching()["imp"]["matching_02"]["level"]
    ([True, True, True, False], 2)
    """

    rows: list[Row]
    layers: list[Row]
    summary: dict[str, Any]
    folder: Path | None = field(default=None)

    @property
    def conditions(self) -> list[str]:
        """The conditions, without the dense network, in the order of the rows."""
        return list(dict.fromkeys(row["condition"] for row in self.rows if row["condition"] != DENSE))

    @property
    def title(self) -> str:
        """What was studied: the task, and how it differs from its preset."""
        return ", ".join(filter(None, (self.summary["task"], self.summary["task_changes"])))

    @property
    def samples(self) -> str:
        """How many values each mean is over, in words."""
        return count(self.summary["replicates"], "replicate")

    def values(self, column: str, condition: str) -> tuple[np.ndarray, np.ndarray]:
        """A column of one condition over levels, which begin with the dense network.

        Returns:
            Density, float64 [levels], the same for all replicates; and the values, float64 [levels, replicates].
            NaN where there is none.

        Raises:
            OptionError: no such column or condition.
        """
        if column not in COLUMNS:
            raise unknown("column", column, COLUMNS)
        if condition not in (*self.conditions, DENSE):
            raise unknown("condition", condition, (*self.conditions, DENSE))
        chosen = [row for row in self.rows if row["condition"] in (condition, DENSE)]
        levels = sorted({row["level"] for row in chosen})
        replicates = sorted({row["replicate"] for row in chosen})
        values = np.full((len(levels), len(replicates)), math.nan)
        densities = np.full(len(levels), math.nan)
        for row in chosen:
            level = levels.index(row["level"])
            if not math.isnan(row["density"]):  # as that of a mask that was to be found on a diverged training
                densities[level] = row["density"]
            if row[column] is not None:
                values[level, replicates.index(row["replicate"])] = row[column]
        return densities, values

    def sparsest_matching(self) -> dict[str, dict[str, dict[str, Any] | None]]:
        """For each condition and each form of matching, the level of lowest density that matches, or None.

        A level matches if the mean test error of its replicates does: `"matching_std"`, at most one standard deviation
        above the dense networks' mean; `"matching_02"`, less than 0.2 points above it (Frankle et al. 2020). `unbroken`
        says whether all levels before it match too: of many levels, one may match by chance.
        """
        return {condition: sparsest(self.rows, condition) for condition in self.conditions}

    def plot(self, ax: "Axes | None" = None, **options: Any) -> "Axes":
        """Draw error over density; see `modeconn.plots.plot_lottery`."""
        from modeconn.plots import plot_lottery

        return plot_lottery(self, ax=ax, **options)

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame (pandas must be installed)."""
        import pandas

        return pandas.DataFrame(self.rows, columns=list(COLUMNS))

    def __str__(self) -> str:
        from modeconn.report import describe_lottery

        return describe_lottery(self)

    def __repr__(self) -> str:
        return f"LotteryResult({self.title}; {', '.join(self.conditions)}; {self.samples})"

    def save(self, folder: str | Path) -> "LotteryResult":
        """Write `lottery.csv`, `layers.csv` and `summary.json`; the same result with its folder.

        Raises:
            StoreError: the folder cannot be written.
        """
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_csv(folder / "lottery.csv", self.rows, COLUMNS)
            write_csv(folder / "layers.csv", self.layers, LAYER_COLUMNS)
            write_atomically(folder / "summary.json", json.dumps(self.summary, indent=2).encode() + b"\n")
        return replace(self, folder=folder)


def load_lottery(folder: str | Path) -> LotteryResult:
    """The result that was saved in a folder.

    Raises:
        DataError: it is not there, or its files are not those of a lottery-ticket study.
    """
    folder = Path(folder)
    try:
        rows = read_csv(COLUMNS, (folder / "lottery.csv").read_text())
        layers = read_csv(LAYER_COLUMNS, (folder / "layers.csv").read_text())
        summary = json.loads((folder / "summary.json").read_text())
        _ = [summary[key] for key in _SUMMARY_KEYS]
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no lottery-ticket study: no file {Path(error.filename).name}") from error
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise DataError(f"the study in {folder} cannot be read ({error}); run it again to write it anew") from error
    return LotteryResult(rows, layers, summary, folder)
