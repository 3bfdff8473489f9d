"""What an instability study found: tidy rows, their summary, and the files they are kept in."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeconn.errors import DataError
from modeconn.files import write_atomically, writing
from modeconn.options import THRESHOLD
from modeconn.result import Row, count, read_csv, write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS: dict[str, Callable[[str], Any]] = {
    "replicate": int,
    "rewind_iter": int,
    "copy_a": int,
    "copy_b": int,
    "split": str,
    "barrier": float,
    "chord_barrier": float,
    "alpha_at_max": float,
    "error_a": float,
    "error_b": float,
    "loss_barrier": float,
    "l2_distance": float,
    "batchnorm": str,
}
_PATH_COLUMNS: dict[str, Callable[[str], Any]] = {
    "replicate": int,
    "rewind_iter": int,
    "copy_a": int,
    "copy_b": int,
    "split": str,
    "batchnorm": str,
    "alpha": float,
    "error": float,
    "loss": float,
}
# What figures and tables say of a study.
_SUMMARY_KEYS = ("task", "task_changes", "iterations", "replicates", "copies", "threshold", "data_note", "diverged")
ByChoice = dict[str, dict[str, Any]]  # split, then BatchNorm choice


@dataclass(frozen=True, eq=False, repr=False)
class InstabilityResult:
    """The instability of a network over rewinding iterations.

    Errors and barriers are fractions in [0, 1], losses are in nats. A pair with a diverged copy has NaN in its
    measured columns and no rows in `paths`.

    Attributes:
        rows: one per pair of copies, split and BatchNorm choice; the columns of `instability.csv`.
        paths: one per alpha as well; the columns of `paths.csv`.
        summary: the task, its settings, the data's note, what diverged, versions; the content of `summary.json`.
        folder: where the files are, if they were written.

    `mean`, `std` and `stable_from` give, for each split and BatchNorm choice:

    >>> row = dict(replicate=0, copy_a=1, copy_b=2, split="test", batchnorm="none")
    >>> rows = [row | dict(rewind_iter=k, barrier=height) for k, height in [(0, 0.3), (10, 0.01), (20, 0.004)]]
    >>> result = InstabilityResult(rows, [], {"iterations": 100})
    >>> result.mean["test"]["none"].tolist(), result.stable_from()["test"]["none"]
    ([0.3, 0.01, 0.004], 10)
    """

    rows: list[Row]
    paths: list[Row]
    summary: dict[str, Any]
    folder: Path | None = field(default=None)

    @property
    def rewind_iters(self) -> np.ndarray:
        """The rewinding iterations k, int64 [n], ascending."""
        return np.array(sorted({row["rewind_iter"] for row in self.rows}), dtype=np.int64)

    @property
    def title(self) -> str:
        """What was studied: the task, and how it differs from its preset."""
        return ", ".join(filter(None, (self.summary["task"], self.summary["task_changes"])))

    @property
    def samples(self) -> str:
        """How many values each mean is over, in words."""
        pairs = self.summary["copies"] * (self.summary["copies"] - 1) // 2
        replicates = self.summary["replicates"]
        each = " each" if replicates > 1 else ""
        return f"{count(replicates, 'replicate')}, {count(pairs, 'pair')} of copies{each}"

    @property
    def choices(self) -> list[tuple[str, str]]:
        """The pairs of split and BatchNorm choice, in the order of the rows."""
        return list(dict.fromkeys((row["split"], row["batchnorm"]) for row in self.rows))

    @property
    def mean(self) -> ByChoice:
        """Mean instability at each k over replicates and pairs, float64 [n]. Diverged pairs are left out."""
        return self._reduce(lambda heights: float(np.mean(heights)) if len(heights) else math.nan)

    @property
    def std(self) -> ByChoice:
        """Sample standard deviation at each k over replicates and pairs, float64 [n]; NaN for a single value."""
        return self._reduce(lambda heights: float(np.std(heights, ddof=1)) if len(heights) > 1 else math.nan)

    def stable_from(self, threshold: float = THRESHOLD) -> ByChoice:
        """The smallest k with a mean instability below the threshold there and at all later k measured, or None.

        A k at which any copy diverged is not stable.
        """
        found: ByChoice = {}
        for split, choice in self.choices:
            stable = self.stable(split, choice, threshold)
            last_unstable = max(np.flatnonzero(~stable), default=-1)
            later = self.rewind_iters[last_unstable + 1 :]
            found.setdefault(split, {})[choice] = int(later[0]) if len(later) else None
        return found

    def stable(self, split: str, batchnorm: str, threshold: float = THRESHOLD) -> np.ndarray:
        """Whether the network is stable at each k, bool [n]."""
        whole = np.array([not np.isnan(heights).any() for heights in self._heights(split, batchnorm)])
        return whole & (self.mean[split][batchnorm] < threshold)

    def plot(self, ax: "Axes | None" = None, **options: Any) -> "Axes":
        """Draw instability over k; see `modeconn.plots.plot_instability`."""
        from modeconn.plots import plot_instability

        return plot_instability(self, ax=ax, **options)

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame (pandas must be installed)."""
        import pandas

        return pandas.DataFrame(self.rows, columns=list(_COLUMNS))

    def __str__(self) -> str:
        from modeconn.report import describe_study

        return describe_study(self)

    def __repr__(self) -> str:
        return f"InstabilityResult({self.title}; k = {', '.join(map(str, self.rewind_iters))}; {self.samples})"

    def save(self, folder: str | Path) -> "InstabilityResult":
        """Write `instability.csv`, `paths.csv` and `summary.json`; the same result with its folder.

        Raises:
            StoreError: the folder cannot be written.
        """
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_csv(folder / "instability.csv", self.rows, _COLUMNS)
            write_csv(folder / "paths.csv", self.paths, _PATH_COLUMNS)
            write_atomically(folder / "summary.json", json.dumps(self.summary, indent=2).encode() + b"\n")
        return InstabilityResult(self.rows, self.paths, self.summary, folder)

    def _heights(self, split: str, batchnorm: str) -> list[np.ndarray]:
        chosen = [row for row in self.rows if (row["split"], row["batchnorm"]) == (split, batchnorm)]
        return [np.array([r["barrier"] for r in chosen if r["rewind_iter"] == k]) for k in self.rewind_iters]

    def _reduce(self, function: Callable[[np.ndarray], float]) -> ByChoice:
        reduced: ByChoice = {}
        for split, choice in self.choices:
            values = [function(heights[~np.isnan(heights)]) for heights in self._heights(split, choice)]
            reduced.setdefault(split, {})[choice] = np.array(values)
        return reduced


def load_instability(folder: str | Path) -> InstabilityResult:
    """The result that was saved in a folder.

    Raises:
        DataError: it is not there, or its files are not those of a study.
    """
    folder = Path(folder)
    try:
        rows = read_csv(_COLUMNS, (folder / "instability.csv").read_text())
        paths = read_csv(_PATH_COLUMNS, (folder / "paths.csv").read_text())
        summary = json.loads((folder / "summary.json").read_text())
        _ = [summary[key] for key in _SUMMARY_KEYS]
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no instability study: no file {Path(error.filename).name}") from error
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise DataError(f"the study in {folder} cannot be read ({error}); run it again to write it anew") from error
    return InstabilityResult(rows, paths, summary, folder)
