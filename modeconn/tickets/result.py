"""Result of a lottery-ticket study: tidy rows, their summary, its figures and words, and the files it is kept in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeconn.errors import DataError, OptionError, unknown
from modeconn.result import Result, Row, count, load_study, save_study, study_title
from modeconn.tickets.matching import sparsest
from modeconn.tickets.options import DENSE
from modeconn.tickets.tables import ADDED, COLUMNS, FIXED, TABLES, Summary, measured
from modeconn.tickets.words import failures, matching_sentences, pruning_sentence, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FIXES = {"recalibrate": "BatchNorm recalibrated", "repair": "with REPAIR", "none": ""}
_DRAWN = {  # column: label of the axis, factor
    "test_error": ("test error (%)", 100),
    "train_error": ("train error (%)", 100),
    "early_stop_iter": ("iteration of early stopping", 1),
    "early_stop_error": ("test error at early stopping (%)", 100),
    "instability_test": ("test instability (points of error)", 100),
    "instability_train": ("train instability (points of error)", 100),
    "barrier_to_previous": ("barrier to the previous level, over the mean (points)", 100),
    "barrier_to_dense": ("barrier to the dense network, over the mean (points)", 100),
    "chord_barrier_to_previous": ("chord barrier to the previous level (points)", 100),
    "chord_barrier_to_dense": ("chord barrier to the dense network (points)", 100),
}


@dataclass(frozen=True, eq=False, repr=False)
class LotteryResult(Result):
    """Subnetworks at every level of pruning, under every condition.

    Errors and barriers are fractions in [0, 1]. What was not measured, or diverged, is NaN or None.

    Attributes:
        rows: one per replicate, level and condition; the columns of `lottery.csv`. The condition at level 0, the full
            network, is `"dense"`. Columns that end in `_fixed` were measured with a statistics fix on the path.
        layers: one per layer as well; the columns of `layers.csv`.
        summary: the task, its settings, k and why, the sparsest matching level of each condition; `summary.json`.
        folder: where the files are, if they were written.

    >>> from modeconn.tickets.matching import with_matching
    >>> row = dict(replicate=0, rewind_iter=0)
    >>> errors = {1.0: 0.020, 0.8: 0.019, 0.64: 0.021, 0.512: 0.05}
    >>> rows = [row | dict(level=n, density=d, condition="imp" if n else "dense", test_error=e)
    ...         for n, (d, e) in enumerate(errors.items())]
    >>> result = LotteryResult(with_matching(rows), [], {})
    >>> [row["matching_02"] for row in result.rows], result.sparsest_matching()["imp"]["matching_02"]["level"]
    ([True, True, True, False], 2)
    """

    _COLUMNS = COLUMNS

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
        """The task, and how it differs from its preset."""
        return study_title(self.summary)

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

    def plot(
        self, ax: "Axes | None" = None, column: str = "test_error", conditions: Sequence[str] | None = None
    ) -> "Axes":
        """Draw a measurement over density, on a logarithmic axis that falls to the right: mean, band of one deviation.

        Args:
            ax: where to draw; a new figure if None.
            column: a number of `lottery.csv`, for instance `"early_stop_iter"` or `"instability_test"`.
            conditions: which; all for which it was measured if None.

        Raises:
            OptionError: no such column or condition.
        """
        from modeconn.style import CONDITIONS, draw_mean, draw_threshold, drawing

        plain = column.removesuffix(FIXED)
        if plain not in _DRAWN:
            raise OptionError(f"column {column!r} is not drawn over density; choose one of {', '.join(_DRAWN)}")
        axis, factor = _DRAWN[plain]
        shown = self.conditions if conditions is None else list(conditions)
        with drawing(ax) as ax:
            drawn = False
            for condition in shown or [DENSE]:
                densities, values = self.values(column, condition)
                some = ~np.isnan(values).all(axis=1)
                if condition != DENSE and not some[densities < 1].any():
                    continue
                drawn = True
                percent, values = 100 * densities[some], factor * values[some]  # [levels], [levels, replicates]
                mean = np.nanmean(values, axis=1)
                std = np.array([np.nanstd(v, ddof=1) if (~np.isnan(v)).sum() > 1 else 0.0 for v in values])
                label, color = CONDITIONS.get(condition, (condition, "black"))
                draw_mean(ax, percent, mean, std, color, marker="o", markersize=3, label=label)
            if not drawn:
                ax.text(0.5, 0.5, "nothing was measured", ha="center", va="center", transform=ax.transAxes)
            self._mark_densities(ax)
            ax.set(ylabel=axis, title=_FIXES[self.summary["statistics_fix"]] if column.endswith(FIXED) else "")
            dense = self.values(column, DENSE)[1][0]  # [replicates]
            if not np.isnan(dense).all():
                ax.axhline(factor * np.nanmean(dense), color="grey", linewidth=0.8, linestyle=":", label="dense")
            if plain.startswith("instability"):
                draw_threshold(ax, self.summary["threshold"])
            if ax.lines:
                # Opaque, as its place is found without regard to lines across the whole figure.
                ax.legend(fontsize=7, frameon=True, framealpha=1, edgecolor="none")
            return ax

    def plot_layers(self, ax: "Axes | None" = None, condition: str | None = None) -> "Axes":
        """Draw the density of every layer over that of the network, a line each; mean over replicates.

        Args:
            ax: where to draw; a new figure if None.
            condition: whose masks; the first if None.

        Raises:
            OptionError: no masks of such a condition.
        """
        import matplotlib
        from matplotlib.ticker import LogLocator, NullLocator

        from modeconn.style import CONDITIONS, drawing, short

        condition = condition or next((row["condition"] for row in self.layers), "")
        rows = [row for row in self.layers if row["condition"] == condition]
        if not rows:
            raise OptionError(f"there are no masks of condition {condition!r}; there are {', '.join(self.conditions)}")
        overall, _ = self.values("density", condition)
        names = list(dict.fromkeys(row["layer"] for row in rows))
        levels = sorted({row["level"] for row in rows})
        with drawing(ax) as ax:
            colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(names)))
            for name, color in zip(names, colors, strict=True):
                of_layer = [[r["density"] for r in rows if (r["layer"], r["level"]) == (name, n)] for n in levels]
                means = np.array([1.0, *map(np.mean, of_layer)])
                # A logarithm has no place for an emptied layer; its line ends.
                percent = np.where(means > 0, 100 * means, np.nan)
                ax.plot(100 * overall[[0, *levels]], percent, color=color, marker=".", label=short(name, 24))
            self._mark_densities(ax)
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.set(ylabel="density of the layer (%)", title=CONDITIONS.get(condition, (condition, ""))[0])
            if len(names) <= 8:
                ax.legend(fontsize=7)
            else:  # too many for all of their names
                ends = [f"first: {short(names[0])}", f"last: {short(names[-1])}"]
                ax.legend([ax.lines[0], ax.lines[-1]], ends, fontsize=7)
            return ax

    def __str__(self) -> str:
        summary = self.summary
        held_out = f"{summary['validation']} training examples held out"
        lines = [f"lottery tickets of {self.title}", f"{self.samples}; errors and barriers in points; {held_out}"]
        lines += [pruning_sentence(summary), "", summary["rewind_iter_because"], "", *table(self.rows), ""]
        lines += matching_sentences(summary["sparsest_matching"], summary["replicates"])
        lines += failures(summary)
        lines += [
            "",
            "Masks make networks sparse, not fast: pruned weights are zeros that are multiplied like any other.",
        ]
        if summary["data_note"]:
            lines += ["", f"Data: {summary['data_note']}"]
        if self.folder:
            files = sorted(f"{file.name}{'/' if file.is_dir() else ''}" for file in self.folder.iterdir())
            lines += ["", f"Files: {self.folder}/ ({', '.join(files)})"]
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self) -> str:
        return f"LotteryResult({self.title}; {', '.join(self.conditions)}; {self.samples})"

    def save(self, folder: str | Path) -> "LotteryResult":
        """Write `lottery.csv`, `layers.csv` and `summary.json`; the same result with its folder.

        Raises:
            StoreError: the folder cannot be written.
        """
        save_study(Path(folder), TABLES, (self.rows, self.layers), self.summary)
        return replace(self, folder=Path(folder))

    def _mark_densities(self, ax: "Axes") -> None:
        """Percent on the x axis, falling to the right, with a mark at about every other level."""
        from matplotlib.ticker import FixedLocator, NullLocator

        found = {float(f"{100 * row['density']:.3g}") for row in self.rows if 0 < row["density"] <= 1}
        densities = sorted(found, reverse=True)
        if not densities:  # nothing is left at any level
            return
        ax.set_xscale("log")
        ax.set_xlim(1.1 * densities[0], densities[-1] / 1.1)
        ax.xaxis.set_major_locator(FixedLocator(densities[:: 1 + len(densities) // 8]))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("weights remaining (%)")


def load_lottery(folder: str | Path) -> LotteryResult:
    """The result that was saved in a folder.

    Raises:
        DataError: it is not there, or its files are not those of a lottery-ticket study.
    """
    (rows, layers), summary = load_study(Path(folder), TABLES, Summary, "lottery-ticket", ADDED)
    sound = all(0 <= density <= 1 for density in measured(rows, "density"))
    if not sound or not any(row["condition"] == DENSE for row in rows):
        what = "lottery.csv has no row of the dense network, or a density outside 0 to 1"
        raise DataError(f"the study in {folder} cannot be read ({what}); run it again to write it anew")
    return LotteryResult(rows, layers, summary, Path(folder))
