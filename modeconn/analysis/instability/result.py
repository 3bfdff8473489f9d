"""Result of an instability study: tidy rows, their summary, its figures and words, and the files it is kept in."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeconn.errors import unknown
from modeconn.options import THRESHOLD
from modeconn.result import Columns, Result, Row, count, load_study, save_study, study_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS: Columns = {
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
PATH_COLUMNS: Columns = {
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
_TABLES = {"instability.csv": COLUMNS, "paths.csv": PATH_COLUMNS}
# Figures and tables say these of a study.
_SUMMARY_KEYS = ("task", "task_changes", "iterations", "replicates", "copies", "threshold", "data_note", "diverged")
ByChoice = dict[str, dict[str, Any]]  # split, then BatchNorm choice


@dataclass(frozen=True, eq=False, repr=False)
class InstabilityResult(Result):
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

    _COLUMNS = COLUMNS

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
        """The task, and how it differs from its preset."""
        return study_title(self.summary)

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
    def splits(self) -> list[str]:
        """The splits, in the order of the rows."""
        return list(dict.fromkeys(split for split, _ in self.choices))

    @property
    def batchnorm(self) -> list[str]:
        """The BatchNorm choices, in the order of the rows."""
        return list(dict.fromkeys(choice for _, choice in self.choices))

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

    def plot(self, ax: "Axes | None" = None, batchnorm: str | None = None, threshold: float | None = None) -> "Axes":
        """Draw instability over the rewinding iteration: mean, band of one standard deviation, and the threshold.

        Args:
            ax: where to draw; a new figure if None.
            batchnorm: which BatchNorm choice; the study's first if None.
            threshold: where to draw the line of stability, as a fraction of error; that of the study if None.

        Raises:
            OptionError: the study has no such BatchNorm choice.
        """
        from matplotlib.ticker import FixedLocator, NullLocator

        from modeconn.style import BATCHNORM, COLORS, draw_mean, draw_threshold, drawing

        batchnorm = self._known(batchnorm)
        ks = self.rewind_iters
        with drawing(ax) as ax:
            lowest = 0.0
            for split in self.splits:
                mean, std = 100 * self.mean[split][batchnorm], np.nan_to_num(100 * self.std[split][batchnorm])
                draw_mean(ax, ks, mean, std, COLORS[split], marker="o", markersize=3.5, label=split)
                if len(ks) == 1:  # a band over one k has no width
                    ax.errorbar(ks, mean, std, color=COLORS[split], capsize=4)
                lowest = min(lowest, np.nanmin([*(mean - std), lowest]))
            draw_threshold(ax, self.summary["threshold"] if threshold is None else threshold)
            ax.set(xlabel="rewinding iteration k", ylabel="instability (points of error)", title=BATCHNORM[batchnorm])
            ax.set_ylim(bottom=1.05 * lowest)
            positive = ks[ks > 0]
            if len(positive) > 1:
                ax.set_xscale("symlog", linthresh=int(positive[0]), linscale=0.5)
                ax.set_xlim(left=-0.2 * positive[0] if ks[0] == 0 else 0.8 * positive[0])
            ax.xaxis.set_major_locator(FixedLocator(ks.tolist()))
            ax.xaxis.set_major_formatter(lambda k, _: f"{k:g}" if k < 10_000 else f"{k / 1000:g}K")
            ax.xaxis.set_minor_locator(NullLocator())
            ax.legend(loc="upper right")
            return ax

    def plot_path(self, rewind_iter: int, ax: "Axes | None" = None, batchnorm: str | None = None) -> "Axes":
        """Draw the error along the path between copies forked at one k: mean and band of one standard deviation.

        Both are over replicates and pairs. Where adaptive alphas differ between pairs, each pair's curve is continued
        straight between its own.

        Args:
            rewind_iter: the k.
            ax: where to draw; a new figure if None.
            batchnorm: which BatchNorm choice; the study's first if None.

        Raises:
            OptionError: the study has no such BatchNorm choice or k.
        """
        from modeconn.style import COLORS, draw_mean, drawing

        batchnorm = self._known(batchnorm)
        if rewind_iter not in self.rewind_iters:
            raise unknown("rewinding iteration", str(rewind_iter), [str(k) for k in self.rewind_iters])
        with drawing(ax, 3, 2.4) as ax:
            for split in self.splits:
                alphas, errors = self._curves(rewind_iter, split, batchnorm)  # [alphas], [pairs, alphas]
                if errors.size:
                    mean, std = 100 * errors.mean(0), 100 * errors.std(0, ddof=min(1, len(errors) - 1))
                    draw_mean(ax, alphas, mean, std, COLORS[split], label=split)
            if not ax.lines:
                ax.text(0.5, 0.5, "every pair diverged", ha="center", va="center", transform=ax.transAxes)
            ax.set(xlim=(0, 1), ylim=(0, None), xlabel="alpha", ylabel="error (%)", title=f"k = {rewind_iter}")
            return ax

    def __str__(self) -> str:
        summary, threshold = self.summary, self.summary["threshold"]
        lines = []
        for split in self.splits:
            lines += [f"instability of {self.title}", f"on {split} data, points of error ({self.samples})", ""]
            lines += [*_table(self, split, threshold), ""]
        for split, by_choice in self.stable_from(threshold).items():
            lines.append(f"On {split} data {_sentence(by_choice, threshold, summary['iterations'])}.")
        if by_k := summary.get("replicates_by_k"):  # older files have none
            shown = ", ".join(f"{k} ({n})" for k, n in by_k.items())
            of = len(summary["rewind_iters"])
            lines += ["", f"Found by bisection over {of} iterations: these were measured, in so many"]
            lines += [f"replicates as decided about them: {shown}."]
        if len(self.batchnorm) > 1:
            lines += ["", _STATISTICS]
        for where in summary["diverged"]:
            place = f"replicate {where['replicate']}, copy {where['copy']}, k = {where['rewind_iter']}"
            lines.append(f"Diverged: {place}; its loss was not finite at {where['iteration']}.")
        if summary["data_note"]:
            lines += ["", f"Data: {summary['data_note']}"]
        if self.folder:
            files = "instability.csv, paths.csv, summary.json, instability and paths .png .pdf"
            lines += ["", f"Files: {self.folder}/ ({files})"]
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self) -> str:
        return f"InstabilityResult({self.title}; k = {', '.join(map(str, self.rewind_iters))}; {self.samples})"

    def save(self, folder: str | Path) -> "InstabilityResult":
        """Write `instability.csv`, `paths.csv` and `summary.json`; the same result with its folder.

        Raises:
            StoreError: the folder cannot be written.
        """
        save_study(Path(folder), _TABLES, (self.rows, self.paths), self.summary)
        return replace(self, folder=Path(folder))

    def _heights(self, split: str, batchnorm: str) -> list[np.ndarray]:
        chosen = [row for row in self.rows if (row["split"], row["batchnorm"]) == (split, batchnorm)]
        return [np.array([r["barrier"] for r in chosen if r["rewind_iter"] == k]) for k in self.rewind_iters]

    def _reduce(self, function: Callable[[np.ndarray], float]) -> ByChoice:
        reduced: ByChoice = {}
        for split, choice in self.choices:
            values = [function(heights[~np.isnan(heights)]) for heights in self._heights(split, choice)]
            reduced.setdefault(split, {})[choice] = np.array(values)
        return reduced

    def _curves(self, k: int, split: str, batchnorm: str) -> tuple[np.ndarray, np.ndarray]:
        """All alphas, float64 [alphas], and the errors of every pair at these, float64 [pairs, alphas]."""
        pairs: dict[tuple[int, ...], list[tuple[float, float]]] = {}
        for row in self.paths:
            if (row["rewind_iter"], row["split"], row["batchnorm"]) == (k, split, batchnorm):
                pair = row["replicate"], row["copy_a"], row["copy_b"]
                pairs.setdefault(pair, []).append((row["alpha"], row["error"]))
        curves = [np.array(points).T for points in pairs.values()]  # each [2, alphas]
        alphas = np.unique([alpha for own, _ in curves for alpha in own])
        return alphas, np.array([np.interp(alphas, own, errors) for own, errors in curves])

    def _known(self, batchnorm: str | None) -> str:
        if batchnorm is not None and batchnorm not in self.batchnorm:
            raise unknown("BatchNorm choice of this study", batchnorm, self.batchnorm)
        return batchnorm or self.batchnorm[0]


def load_instability(folder: str | Path) -> InstabilityResult:
    """The result that was saved in a folder.

    Raises:
        DataError: it is not there, or its files are not those of a study.
    """
    (rows, paths), summary = load_study(Path(folder), _TABLES, _SUMMARY_KEYS, "instability")
    return InstabilityResult(rows, paths, summary, Path(folder))


_WORDS = {
    "interpolate": "with interpolated running statistics",
    "recalibrate": "with recalibrated running statistics",
    "none": "",
}
_STATISTICS = (
    "The two columns differ in BatchNorm alone. Interpolated: running means and variances are averaged like weights,\n"
    "though activations between two networks vary less than either average says, so error can come from the\n"
    "statistics and not from the weights. Recalibrated: they are measured anew on training data at every point. A\n"
    "barrier that recalibration removes was no ridge in the loss."
)


def _table(result: InstabilityResult, split: str, threshold: float) -> Iterator[str]:
    total, choices = result.summary["iterations"], result.batchnorm
    if choices != ["none"]:
        yield " " * 18 + "".join(f"  {choice:^26}" for choice in choices)
    yield f"{'k':>8}{'of T':>10}" + "".join(f"  {'mean':>8}{'std':>8}{'stable':>10}" for _ in choices)
    stable = {choice: result.stable(split, choice, threshold) for choice in choices}
    mean, std = result.mean[split], result.std[split]
    for index, k in enumerate(result.rewind_iters):
        cells = [
            f"  {_points(mean[choice][index]):>8}{_points(std[choice][index]):>8}"
            f"{'yes' if stable[choice][index] else 'no':>10}"
            for choice in choices
        ]
        yield f"{k:>8}{f'{100 * k / total:.3g} %':>10}" + "".join(cells)


def _points(fraction: float) -> str:
    return "-" if np.isnan(fraction) else f"{100 * fraction:.2f}"


def _sentence(by_choice: dict[str, int | None], threshold: float, total: int) -> str:
    parts = []
    for choice, k in by_choice.items():
        where = "at no measured iteration" if k is None else f"from iteration {k} ({100 * k / total:.3g} % of training)"
        parts.append(" ".join(filter(None, (where, _WORDS[choice]))))
    return f"the network is stable (below {100 * threshold:g} points) {', and '.join(parts)}"
