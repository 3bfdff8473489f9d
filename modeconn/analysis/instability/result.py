"""Result of an instability study: tidy rows, their summary, its figures and words, and the files it is kept in."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeconn.analysis.instability.curvature_words import curvature_lines
from modeconn.analysis.instability.rows import error_curves, iteration_of, student_interval, summary_at
from modeconn.analysis.instability.tables import columns_of, read_tables
from modeconn.analysis.instability.words import (
    STATISTICS,
    after_alignment,
    answer,
    error_range,
    forks,
    legend,
    over_training,
    place,
    table,
    warnings,
)
from modeconn.errors import DataError, unknown
from modeconn.options import THRESHOLD
from modeconn.result import Result, Row, brief, count, data_frame, note_lines, save_study, study_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ByChoice = dict[str, dict[str, Any]]  # split, then BatchNorm choice


@dataclass(frozen=True, eq=False, repr=False)
class InstabilityResult(Result):
    """The instability of a network over rewinding iterations.

    Errors and barriers are fractions in [0, 1], losses are in nats. A pair with a diverged copy has NaN in its
    measured columns and no rows in `paths`.

    Where copies were measured at several iterations, all properties, words and figures are about the last of them;
    `at` gives the result of another.

    Attributes:
        rows: one per pair of copies, split and BatchNorm choice; the columns of `instability.csv`.
        paths: one per alpha as well; the columns of `paths.csv`.
        summary: the task, its settings, the data's note, what diverged, versions; the content of `summary.json`.
        folder: where the files are, if they were written.
        trunk: one per replicate, k and split with the network at k, if ends were measured; the columns of `trunk.csv`.
        curvature: one per network at k (copy 0) and copy, if it was measured; the columns of `curvature.csv`.

    `mean`, `std`, `interval` and `stable_from` give, for each split and BatchNorm choice:

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
    trunk: list[Row] = field(default_factory=list)
    curvature: list[Row] = field(default_factory=list)

    @property
    def rewind_iters(self) -> np.ndarray:
        """The rewinding iterations k, int64 [n], ascending."""
        return np.array(sorted({row["rewind_iter"] for row in self._last}), dtype=np.int64)

    @property
    def measured_at(self) -> list[int]:
        """The iterations at which copies were measured, ascending."""
        return sorted({iteration_of(row, self.summary) for row in self.rows})

    @property
    def title(self) -> str:
        """The task, how it differs from its preset, and the iteration, if it is about another than T."""
        after = f", after {self.summary['iteration']} iterations" if "iteration" in self.summary else ""
        return study_title(self.summary) + after

    @property
    def samples(self) -> str:
        """How many values each mean is over, in words."""
        pairs = self.summary["copies"] * (self.summary["copies"] - 1) // 2
        each = "" if self.replicates == "1 replicate" else " each"
        return f"{self.replicates}, {count(pairs, 'pair')} of copies{each}"

    @property
    def replicates(self) -> str:
        """How many replicates were trained, in words; a search trains fewer where it is sooner sure."""
        trained = list((self.summary.get("replicates_by_k") or {}).values()) or [self.summary["replicates"]]
        least, most = min(trained), max(trained)
        return count(most, "replicate") if least == most else f"{least} to {count(most, 'replicate')}"

    @property
    def searched(self) -> tuple[str, str] | None:
        """The split and the BatchNorm choice that a search decided about; None for a study that measured every k."""
        return self.choices[0] if self.summary.get("replicates_by_k") else None

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

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame.

        Raises:
            OptionError: pandas is not installed.
        """
        columns, *_ = columns_of(self.summary).values()
        return data_frame(self.rows, columns)

    def at(self, iteration: int) -> "InstabilityResult":
        """The result of measuring at one iteration: that of its rows, with the k before it.

        Raises:
            OptionError: copies were not measured there.
        """
        if iteration not in self.measured_at:
            raise unknown("iteration of measurement", str(iteration), [str(known) for known in self.measured_at])
        rows, paths = (
            [row for row in of if iteration_of(row, self.summary) == iteration] for of in (self.rows, self.paths)
        )
        if iteration == self.summary.get("iterations"):
            return replace(self, rows=rows, paths=paths, folder=None)
        summary = summary_at(self.summary, rows, iteration)
        found = InstabilityResult(rows, paths, summary, trunk=self.trunk, curvature=self.curvature)
        answers: dict[str, Any] = {"stable_from": found.stable_from(summary["threshold"])}
        answers["results"] = found.by_iteration(summary["threshold"])
        return replace(found, summary=summary | answers)

    @property
    def mean(self) -> ByChoice:
        """Mean instability at each k over replicates and pairs, float64 [n]. Diverged pairs are left out."""
        return self.mean_of("barrier")

    @property
    def std(self) -> ByChoice:
        """Sample standard deviation at each k over replicates and pairs, float64 [n]; NaN for a single value."""
        return self._reduce(lambda heights: float(np.std(heights, ddof=1)) if len(heights) > 1 else math.nan)

    @property
    def interval(self) -> ByChoice:
        """The 95 % interval of mean instability at each k, float64 [n, 2]; NaN for one replicate, or if one diverged.

        Student's t over the means of replicates, which are independent; pairs of one replicate share copies. Its lower
        end is 0 at least, as instability is.
        """
        found: ByChoice = {}
        for split, choice in self.choices:
            intervals = [student_interval(means) for means in self._replicate_means(split, choice)]
            found.setdefault(split, {})[choice] = np.array(intervals)
        return found

    @property
    def end_error(self) -> ByChoice:
        """Mean error of the copies themselves at each k, float64 [n]. Diverged pairs are left out."""
        return self.mean_of("error_a", "error_b")

    def mean_of(self, *columns: str) -> ByChoice:
        """Mean of columns of `instability.csv` at each k, float64 [n]; what is missing is left out."""
        return self._reduce(lambda values: float(np.mean(values)) if len(values) else math.nan, *columns)

    def stable_from(self, threshold: float = THRESHOLD) -> ByChoice:
        """The smallest k with a mean instability below the threshold there and at all later k measured, or None.

        A k at which any copy diverged is not stable. A search answers for one split and BatchNorm choice, and for the
        threshold that it was asked for; the others are left out, as the k at which they become stable were not sought.
        """
        found: ByChoice = {}
        for split, choice in self._answered:
            stable = self.stable(split, choice, threshold)
            last_unstable = max(np.flatnonzero(~stable), default=-1)
            later = self.rewind_iters[last_unstable + 1 :]
            found.setdefault(split, {})[choice] = int(later[0]) if len(later) else None
        return found

    def stable(self, split: str, batchnorm: str, threshold: float = THRESHOLD) -> np.ndarray:
        """Whether the network is stable at each k, bool [n]."""
        whole = np.array([not np.isnan(heights).any() for heights in self._heights(split, batchnorm)])
        return whole & (self.mean[split][batchnorm] < threshold)

    def verdicts(self, split: str, batchnorm: str, threshold: float = THRESHOLD) -> list[str]:
        """Whether the network is stable at each k: `"yes"`, `"no"`, or `"undecided"` where the interval holds both."""
        stable = self.stable(split, batchnorm, threshold)
        crossing = [low < threshold <= high for low, high in self.interval[split][batchnorm]]
        words = [{True: "yes", False: "no"}[bool(is_stable)] for is_stable in stable]
        return ["undecided" if crosses else word for word, crosses in zip(words, crossing, strict=True)]

    def by_iteration(self, threshold: float = THRESHOLD) -> list[Row]:
        """One row for each split, BatchNorm choice and k: what is measured there over all replicates and pairs."""
        mean, std, interval, error = self.mean, self.std, self.interval, self.end_error
        columns = {"aligned": "barrier_aligned", "moved": "moved"} if "align" in self.summary else {}
        aligned = {name: self.mean_of(column) for name, column in columns.items()}
        found: list[Row] = []
        for split, choice in self.choices:
            verdicts, replicates = self.verdicts(split, choice, threshold), self._replicate_means(split, choice)
            found += [
                {
                    "split": split,
                    "batchnorm": choice,
                    "rewind_iter": int(k),
                    "replicates": len(replicates[index]),
                    "mean": float(mean[split][choice][index]),
                    "std": float(std[split][choice][index]),
                    "interval": interval[split][choice][index].tolist(),
                    "error": float(error[split][choice][index]),
                    **{name: float(values[split][choice][index]) for name, values in aligned.items()},
                    "stable": verdicts[index],
                }
                for index, k in enumerate(self.rewind_iters)
            ]
        return found

    def plot(
        self,
        ax: "Axes | None" = None,
        batchnorm: str | None = None,
        threshold: float | None = None,
        *,
        label: str | None = None,
        color: str | None = None,
        splits: Sequence[str] | None = None,
        annotate: bool | None = None,
        **line: Any,
    ) -> "Axes":
        """Draw instability over the rewinding iteration: mean, band of one standard deviation, and the threshold.

        The legend has the range of the copies' own errors. Where copies were aligned, the mean after that is dashed.
        In one colour, the second split has dashes, and what is aligned has dots.

        Args:
            ax: where to draw; a new figure if None.
            batchnorm: which BatchNorm choice; the study's first if None.
            threshold: where to draw the line of stability, as a fraction of error; that of the study if None.
            label: what it is called in the legend, beside other results.
            color: of all its lines; on axes where something is drawn already the next of their own colours, if None.
            splits: which; all if None.
            annotate: whether there is a title; on empty axes alone if None.
            line: further options of the curves, for `matplotlib.lines.Line2D`.

        Raises:
            OptionError: the study has no such BatchNorm choice or split.
        """
        from modeconn.style import (
            BATCHNORM,
            draw_legend,
            draw_mean,
            draw_threshold,
            drawing,
            look_of,
            mark_iterations,
            reach_zero,
            unused,
        )

        batchnorm = self._known(batchnorm)
        ks = self.rewind_iters
        with drawing(ax) as ax:
            look = look_of(ax, label, color, annotate, **line)
            for split, tint, dash, part in self._lines(splits, look.color):
                mean, std = 100 * self.mean[split][batchnorm], np.nan_to_num(100 * self.std[split][batchnorm])
                errors = error_range(self.end_error[split][batchnorm])
                own = split if errors == "-" else f"{split}; error {errors} %"
                usual = look.options(linestyle=dash, marker="o", markersize=3.5)
                draw_mean(ax, ks, mean, std, tint, **usual, label=unused(ax, look.name(own, self.title, part)))
                if "align" in self.summary:
                    after = 100 * self.mean_of("barrier_aligned")[split][batchnorm]
                    name = look.name(f"{split}, aligned", self.title, ", ".join(filter(None, (part, "aligned"))))
                    dotted = usual | {"linestyle": "--" if look.color is None else ":", "markersize": 2.5}
                    ax.plot(ks, after, **dotted, color=tint, label=unused(ax, name))
                if len(ks) == 1:  # a band over one k has no width
                    ax.errorbar(ks, mean, std, color=tint, capsize=4)
            draw_threshold(ax, self.summary["threshold"] if threshold is None else threshold)
            ax.set(ylabel="instability (percentage points)")
            if look.annotate:
                ax.set_title(BATCHNORM[batchnorm])
            mark_iterations(ax, ks)
            reach_zero(ax)
            draw_legend(ax)
            return ax

    def plot_path(
        self,
        rewind_iter: int,
        ax: "Axes | None" = None,
        batchnorm: str | None = None,
        *,
        label: str | None = None,
        color: str | None = None,
        splits: Sequence[str] | None = None,
        annotate: bool | None = None,
        **line: Any,
    ) -> "Axes":
        """Draw the error along the path between copies forked at one k: mean and band of one standard deviation.

        Both are over replicates and pairs. Where adaptive alphas differ between pairs, each pair's curve is continued
        straight between its own.

        Args:
            rewind_iter: the k.
            ax: where to draw; a new figure if None.
            batchnorm: which BatchNorm choice; the study's first if None.
            label: what it is called in the legend, beside other results.
            color: of all its lines; on axes where something is drawn already the next of their own colours, if None.
            splits: which; all if None.
            annotate: whether there is a title; on empty axes alone if None.
            line: further options of the curves, for `matplotlib.lines.Line2D`.

        Raises:
            OptionError: the study has no such BatchNorm choice, k or split.
        """
        from modeconn.style import draw_legend, draw_mean, drawing, look_of, reach_zero, unused

        batchnorm = self._known(batchnorm)
        if rewind_iter not in self.rewind_iters:
            raise unknown("rewinding iteration", str(rewind_iter), [str(k) for k in self.rewind_iters])
        last = self.measured_at[-1]
        paths = [row for row in self.paths if iteration_of(row, self.summary) == last]
        with drawing(ax, 3, 2.4) as ax:
            look = look_of(ax, label, color, annotate, **line)
            for split, tint, dash, part in self._lines(splits, look.color):
                chosen = rewind_iter, split, batchnorm
                rows = (row for row in paths if (row["rewind_iter"], row["split"], row["batchnorm"]) == chosen)
                alphas, errors = error_curves(rows)  # [alphas], [pairs, alphas]
                if errors.size:
                    mean, std = 100 * errors.mean(0), 100 * errors.std(0, ddof=min(1, len(errors) - 1))
                    name = unused(ax, look.name(split, self.title, part))
                    draw_mean(ax, alphas, mean, std, tint, **look.options(linestyle=dash), label=name)
            if not ax.lines:
                ax.text(0.5, 0.5, "every pair diverged", ha="center", va="center", transform=ax.transAxes)
            ax.set(xlim=(0, 1), xlabel="alpha", ylabel="error (%)")
            if look.annotate:
                ax.set_title(f"k = {rewind_iter}")
            reach_zero(ax)
            draw_legend(ax)
            return ax

    def __str__(self) -> str:
        summary, threshold = self.summary, self.summary["threshold"]
        lines = []
        results, total = self.by_iteration(threshold), summary["iterations"]
        for split in self.splits:
            lines += [f"instability of {self.title}", f"on {split} data ({self.samples})", ""]
            lines += [*table((row for row in results if row["split"] == split), total, self._answered), ""]
        lines = [*lines[:-1], *legend(self.replicates), ""]
        for split, by_choice in self.stable_from(threshold).items():
            for choice, k in by_choice.items():
                rows = [row for row in results if (row["split"], row["batchnorm"]) == (split, choice)]
                lines += answer(rows, k, threshold, total, self.replicates)
        if "align" in summary:
            lines += after_alignment(results, threshold)
        if len(self.measured_at) > 1:
            by_iteration = {at: self.at(at).by_iteration(threshold) for at in self.measured_at}
            lines += ["", *over_training(by_iteration, self.splits[0])]
        if self.curvature:
            lines += ["", *curvature_lines(self.curvature, summary["curvature_examples"])]
        lines += forks(summary)
        if by_k := summary.get("replicates_by_k"):  # older files have none
            shown = ", ".join(f"{k} ({n})" for k, n in by_k.items())
            of = len(summary["rewind_iters"])
            lines += ["", f"Found by bisection over {of} iterations: these were measured, in so many"]
            lines += [f"replicates as decided about them: {shown}."]
            if others := [place(*other) for other in self.choices if other != self.searched]:
                lines += [f"It was for {place(*self.choices[0])}; not searched: {', '.join(others)}."]
        if len(self.batchnorm) > 1:
            lines += ["", STATISTICS]
        for where in summary["diverged"]:
            copy = f"replicate {where['replicate']}, copy {where['copy']}, k = {where['rewind_iter']}"
            lines.append(f"Diverged: {copy}; its loss was not finite at {where['iteration']}.")
        chance, identical = summary.get("chance", {}), summary.get("identical_pairs", [])
        lines += note_lines(warnings(results, chance, identical, summary["replicates"]))
        if "measurements" in summary:  # older files have none
            read, computed = summary["measurements"]["read"], summary["measurements"]["computed"]
            lines += [
                "",
                f"{read} of {count(read + computed, 'measurement')} read from the store, {computed} computed.",
            ]
        if summary["data_note"]:
            lines += ["", f"Data: {summary['data_note']}"]
        if self.folder:
            figures = ["instability", "paths", *(name for name, drawn in self.more_figures.items() if drawn)]
            tables = [*columns_of(summary), "summary.json"]
            files = f"{', '.join(tables)}, {', '.join(figures[:-1])} and {figures[-1]} .png .pdf"
            lines += ["", f"Files: {self.folder}/ ({files})"]
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self) -> str:
        ks = brief(", ".join(map(str, self.rewind_iters)), 40)
        return brief(f"InstabilityResult({self.title}; k = {ks}; {self.samples})")

    def _shown_rows(self) -> list[Row]:
        return self.by_iteration(self.summary["threshold"])

    def save(self, folder: str | Path) -> "InstabilityResult":
        """Write `instability.csv`, `paths.csv`, `summary.json` and what else was measured; the result with its folder.

        Raises:
            StoreError: the folder cannot be written.
        """
        files = columns_of(self.summary)
        tables = {"trunk.csv": self.trunk, "curvature.csv": self.curvature}
        found = [self.rows, self.paths, *(tables[name] for name in list(files)[2:])]
        save_study(Path(folder), files, found, self.summary)
        return replace(self, folder=Path(folder))

    @property
    def more_figures(self) -> dict[str, bool]:
        """Figures besides `instability` and `paths`, and whether there is something to draw."""
        several = len(self.rewind_iters) > 1
        return {
            "training": len(self.measured_at) > 1,
            "measures": several and "measures" in self.summary,
            "curvature": several and bool(self.curvature),
        }

    @property
    def _answered(self) -> list[tuple[str, str]]:
        return self.choices if self.searched is None else [self.searched]

    @property
    def _last(self) -> list[Row]:
        """The rows of the last iteration of measurement."""
        last = self.measured_at[-1:]
        return [row for row in self.rows if [iteration_of(row, self.summary)] == last]

    def _at(self, split: str, batchnorm: str) -> list[list[Row]]:
        """The rows of a split and a BatchNorm choice, by k."""
        found: dict[int, list[Row]] = {int(k): [] for k in self.rewind_iters}
        for row in self._last:
            if (row["split"], row["batchnorm"]) == (split, batchnorm):
                found[row["rewind_iter"]].append(row)
        return list(found.values())

    def _heights(self, split: str, batchnorm: str) -> list[np.ndarray]:
        return [np.array([row["barrier"] for row in rows]) for rows in self._at(split, batchnorm)]

    def _replicate_means(self, split: str, batchnorm: str) -> list[np.ndarray]:
        """Of each k the mean instability of every replicate, float64 [replicates]; NaN if a copy of it diverged."""
        found = []
        for rows in self._at(split, batchnorm):
            replicates: dict[int, list[float]] = {}
            for row in rows:
                replicates.setdefault(row["replicate"], []).append(row["barrier"])
            found.append(np.array([np.mean(heights) for heights in replicates.values()]))
        return found

    def _reduce(self, function: Callable[[np.ndarray], float], *columns: str) -> ByChoice:
        """A function of all finite values of some columns, `"barrier"` by default, at each k."""
        reduced: ByChoice = {}
        for split, choice in self.choices:
            at = [
                np.array([row.get(name, math.nan) for row in rows for name in columns or ("barrier",)])
                for rows in self._at(split, choice)
            ]
            reduced.setdefault(split, {})[choice] = np.array([function(values[~np.isnan(values)]) for values in at])
        return reduced

    def _lines(self, splits: Sequence[str] | None, color: str | None) -> Iterator[tuple[str, str, str, str]]:
        """The splits to draw, each with its colour, its dashes, and what it is called beside others of the result."""
        from modeconn.style import COLORS

        for split in splits or ():
            if split not in self.splits:
                raise unknown("split of this study", split, self.splits)
        shown = self.splits if splits is None else [split for split in self.splits if split in splits]
        for split, dash in zip(shown, ("-", "--"), strict=False):
            part = split if len(shown) > 1 else ""
            yield split, color or COLORS[split], "-" if color is None else dash, part

    def _known(self, batchnorm: str | None) -> str:
        if batchnorm is not None and batchnorm not in self.batchnorm:
            raise unknown("BatchNorm choice of this study", batchnorm, self.batchnorm)
        return batchnorm or self.batchnorm[0]


def load_instability(folder: str | Path) -> InstabilityResult:
    """The result that was saved in a folder.

    Raises:
        DataError: it is not there, or its files are not those of a study.
    """
    (rows, paths, *more), summary = read_tables(Path(folder))
    tables = dict(zip(list(columns_of(summary))[2:], more, strict=True))
    result = InstabilityResult(
        rows, paths, summary, Path(folder), tables.get("trunk.csv", []), tables.get("curvature.csv", [])
    )
    if len(result.choices) != len(result.splits) * len(result.batchnorm):
        what = "instability.csv has not each BatchNorm choice for each split"
        raise DataError(f"the study in {folder} cannot be read ({what}); run it again to write it anew")
    return result
