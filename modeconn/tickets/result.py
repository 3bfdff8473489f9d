"""Result of a lottery-ticket study: tidy rows, their summary, its figures and words, and the files it is kept in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeconn.errors import DataError, OptionError, unknown
from modeconn.reading import is_file
from modeconn.result import Result, Row, brief, count, load_study, save_study, study_title
from modeconn.tickets.matching import sparsest
from modeconn.tickets.options import DENSE
from modeconn.tickets.tables import ADDED, DETAILED, FIXED, Summary, measured, row_columns, tables_of
from modeconn.tickets.words import as_given, failures, matching_sentences, pruning_sentence, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BARS = ("std", "minmax")  # around a mean in figures: one standard deviation, or the least and the highest
_FIXES = {"recalibrate": "BatchNorm recalibrated", "repair": "with REPAIR", "none": ""}
_DRAWN = {  # column: label of the axis, factor
    "test_error": ("test error (%)", 100),
    "train_error": ("train error (%)", 100),
    "early_stop_iter": ("iteration of early stopping", 1),
    "early_stop_error": ("test error at early stopping (%)", 100),
    "sign_flips": ("weights whose sign changed (%)", 100),
    "l2_distance": ("L2 distance of parameters", 1),
    "cosine_distance": ("cosine distance of parameters", 1),
    "disagreement_test": ("disagreement on test data (%)", 100),
    "disagreement_train": ("disagreement on train data (%)", 100),
    "loss_l2_test": ("L2 distance of test losses", 1),
    "loss_l2_train": ("L2 distance of train losses", 1),
    "instability_test": ("test instability (percentage points)", 100),
    "instability_train": ("train instability (percentage points)", 100),
    "barrier_to_previous": ("barrier to the previous level,\nover the mean (points)", 100),
    "barrier_to_dense": ("barrier to the dense network,\nover the mean (points)", 100),
    "chord_barrier_to_previous": ("chord barrier to the previous\nlevel (points)", 100),
    "chord_barrier_to_dense": ("chord barrier to the dense\nnetwork (points)", 100),
}


@dataclass(frozen=True, eq=False, repr=False)
class LotteryResult(Result):
    """Subnetworks at every level of pruning, under every condition.

    Errors and barriers are fractions in [0, 1]. What was not measured, or diverged, is NaN or None.

    Attributes:
        rows: one per replicate, level, condition and draw of new weights; the columns of `lottery.csv`. The condition
            at level 0, the full network, is `"dense"`. Columns that end in `_fixed` were measured with a statistics
            fix on the path.
        layers: one per layer as well; the columns of `layers.csv`.
        paths, curves: if they were asked for, one row for each alpha between copies, and for each evaluation during
            training; the columns of `paths.csv` and `curves.csv`.
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

    rows: list[Row]
    layers: list[Row]
    summary: dict[str, Any]
    folder: Path | None = field(default=None)
    paths: list[Row] = field(default_factory=list)
    curves: list[Row] = field(default_factory=list)

    @property
    def conditions(self) -> list[str]:
        """The conditions, without the dense network, in the order of the rows."""
        return list(dict.fromkeys(row["condition"] for row in self.rows if row["condition"] != DENSE))

    @property
    def rewind_iters(self) -> list[int]:
        """The rewinding iterations k, ascending."""
        ks: set[Any] = {row.get("rewind_iter") for row in self.rows if row["condition"] == DENSE}
        return sorted(ks)

    def at(self, rewind_iter: int) -> "LotteryResult":
        """The result of one rewinding iteration of several; it has no files of its own.

        Raises:
            OptionError: the study has no such k.
        """
        ks = self.rewind_iters
        if rewind_iter not in ks:
            raise unknown("rewinding iteration", str(rewind_iter), [str(k) for k in ks])
        if len(ks) == 1:
            return self
        of_one = self.summary["by_rewind_iter"][str(rewind_iter)]
        summary = {name: value for name, value in self.summary.items() if name != "by_rewind_iter"} | of_one
        summary |= {"rewind_iter": rewind_iter, "rewind_iter_because": as_given([rewind_iter])}
        tables = self.rows, self.layers, self.paths, self.curves
        rows, layers, paths, curves = ([row for row in table if row["rewind_iter"] == rewind_iter] for table in tables)
        return LotteryResult(rows, layers, summary, paths=paths, curves=curves)

    @property
    def title(self) -> str:
        """The task, and how it differs from its preset."""
        return study_title(self.summary)

    @property
    def samples(self) -> str:
        """How many values each mean is over, in words."""
        draws = self.summary.get("reinits", 1)
        each = f", {draws} initialisations where weights are drawn anew" if draws > 1 else ""
        return count(self.summary["replicates"], "replicate") + each

    def values(self, column: str, condition: str) -> tuple[np.ndarray, np.ndarray]:
        """A column of one condition over levels, which begin with the dense network.

        Returns:
            Density, float64 [levels], the same for all replicates; and the values, float64 [levels, runs]: replicates,
            or every draw of each. NaN where there is none.

        Raises:
            OptionError: no such column or condition; or several rewinding iterations, of which `at` takes one.
        """
        self._require_one()
        columns = row_columns(self.summary)
        if column not in columns:
            raise unknown("column", column, columns)
        if condition not in (*self.conditions, DENSE):
            raise unknown("condition", condition, (*self.conditions, DENSE))
        chosen = [row for row in self.rows if row["condition"] in (condition, DENSE)]
        levels = sorted({row["level"] for row in chosen})
        runs = sorted({_run(row) for row in chosen})
        values = np.full((len(levels), len(runs)), math.nan)
        densities = np.full(len(levels), math.nan)
        for row in chosen:
            level = levels.index(row["level"])
            if not math.isnan(row["density"]):  # as that of a mask that was to be found on a diverged training
                densities[level] = row["density"]
            if row[column] is not None:
                values[level, runs.index(_run(row))] = row[column]
        return densities, values

    def over_rewind_iters(self, column: str, condition: str, level: int) -> tuple[np.ndarray, np.ndarray]:
        """A column of one condition at one level over the rewinding iterations.

        Returns:
            The k, int64 [n], and the values, float64 [n, runs], as of `values`. NaN where there is none.

        Raises:
            OptionError: no such column or condition.
        """
        ks = self.rewind_iters
        rows = [self.at(k)._at_level(column, condition, level) for k in ks]
        return np.array(ks, dtype=np.int64), np.array(rows)

    def sparsest_matching(self) -> dict[str, dict[str, dict[str, Any] | None]]:
        """For each condition and each form of matching, the level of lowest density that matches, or None.

        A level matches if the mean test error of its replicates does: `"matching_std"`, at most one standard deviation
        above the dense networks' mean; `"matching_02"`, less than 0.2 points above it (Frankle et al. 2020). `unbroken`
        says whether all levels before it match too: of many levels, one may match by chance.

        Raises:
            OptionError: the study has several rewinding iterations, of which `at` takes one.
        """
        self._require_one()
        return {condition: sparsest(self.rows, condition) for condition in self.conditions}

    def plot(
        self,
        ax: "Axes | None" = None,
        column: str = "test_error",
        conditions: Sequence[str] | None = None,
        bars: str = "std",
        *,
        label: str | None = None,
        color: str | None = None,
        annotate: bool | None = None,
        **line: Any,
    ) -> "Axes":
        """Draw a measurement over density, on a logarithmic axis that falls to the right: mean, band of one deviation.

        With several rewinding iterations it is drawn over these, as `plot_rewinding` does it, and `at(k).plot()` draws
        one of them over density.

        Args:
            ax: where to draw; a new figure if None.
            column: a number of `lottery.csv`, for instance `"early_stop_iter"` or `"instability_test"`.
            conditions: which; all for which it was measured if None.
            bars: `"std"`, or `"minmax"` for the least and the highest of the runs, as Frankle & Carbin (2019) draw.
            label: what it is called in the legend, beside other results.
            color: of all its lines; on axes where something is drawn already the next of their own colours, if None.
            annotate: whether there is a title; on empty axes alone if None.
            line: further options of the curves, for `matplotlib.lines.Line2D`.

        Raises:
            OptionError: no such column, condition or bars.
        """
        from modeconn.style import draw_legend, draw_threshold, drawing, look_of
        from modeconn.tickets.drawing import draw_condition, draw_dense, draw_nothing, mark_densities

        if len(self.rewind_iters) > 1:
            how: dict[str, Any] = {"label": label, "color": color, "annotate": annotate, **line}
            return self.plot_rewinding(ax, column, conditions, bars=bars, **how)
        axis, factor = _drawn(column, bars)
        shown = self.conditions if conditions is None else list(conditions)
        with drawing(ax) as ax:
            look = look_of(ax, label, color, annotate, **line)
            drawn = False
            for place, condition in enumerate(shown or [DENSE]):
                densities, values = self.values(column, condition)
                some = ~np.isnan(values).all(axis=1)
                if condition != DENSE and not some[densities < 1].any():
                    continue
                drawn = True
                percent = 100 * densities[some]
                draw_condition(ax, percent, factor * values[some], condition, bars, look, self.title, place)
            if not drawn:
                draw_nothing(ax)
            mark_densities(ax, [row["density"] for row in self.rows])
            ax.set_ylabel(axis)
            if look.annotate:
                ax.set_title(self._fix(column))
            dense = self.values(column, DENSE)[1][0]  # [runs]
            if not np.isnan(dense).all():
                draw_dense(ax, None, factor * np.nanmean(dense), look, self.title)
            if column.startswith("instability"):
                draw_threshold(ax, self.summary["threshold"])
            draw_legend(ax)
            return ax

    def plot_rewinding(
        self,
        ax: "Axes | None" = None,
        column: str = "test_error",
        conditions: Sequence[str] | None = None,
        level: int | None = None,
        bars: str = "std",
        *,
        label: str | None = None,
        color: str | None = None,
        annotate: bool | None = None,
        **line: Any,
    ) -> "Axes":
        """Draw a measurement over the rewinding iteration at one level: mean, band of one deviation, dense networks.

        Args:
            ax: where to draw; a new figure if None.
            column: a number of `lottery.csv`, as of `plot`.
            conditions: which; all for which it was measured if None.
            level: of pruning; the last, and sparsest, if None.
            bars, label, color, annotate, line: as of `plot`.

        Raises:
            OptionError: no such column, condition, level or bars.
        """
        from modeconn.style import draw_legend, draw_threshold, drawing, look_of, mark_iterations
        from modeconn.tickets.drawing import draw_condition, draw_dense, draw_nothing

        axis, factor = _drawn(column, bars)
        level = self._known_level(level)
        shown = self.conditions if conditions is None else list(conditions)
        with drawing(ax) as ax:
            look = look_of(ax, label, color, annotate, **line)
            for place, condition in enumerate(shown if level else ()):
                ks, values = self.over_rewind_iters(column, condition, level)
                some = ~np.isnan(values).all(axis=1)
                if some.any():
                    draw_condition(ax, ks[some], factor * values[some], condition, bars, look, self.title, place)
            if level and not ax.lines:
                draw_nothing(ax)
            ks, dense = self.over_rewind_iters(column, DENSE, 0)
            if (some := ~np.isnan(dense).all(axis=1)).any():
                draw_dense(ax, ks[some], factor * np.nanmean(dense[some], axis=1), look, self.title)
            mark_iterations(ax, self.rewind_iters)
            density = np.mean(measured([row for row in self.rows if row["level"] == level], "density") or [math.nan])
            ax.set_ylabel(axis)
            if look.annotate:
                ax.set_title(", ".join(filter(None, (f"{100 * density:.3g} % of weights", self._fix(column)))))
            if column.startswith("instability"):
                draw_threshold(ax, self.summary["threshold"])
            draw_legend(ax)
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

        from modeconn.style import CONDITIONS, draw_legend, drawing, short
        from modeconn.tickets.drawing import mark_densities

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
            mark_densities(ax, [row["density"] for row in self.rows])
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.set(ylabel="density of the layer (%)", title=CONDITIONS.get(condition, (condition, ""))[0])
            if len(names) > 8:  # too many for all of their names
                for drawn in ax.lines[1:-1]:
                    drawn.set_label("_")
                ax.lines[0].set_label(f"first: {short(names[0])}")
                ax.lines[-1].set_label(f"last: {short(names[-1])}")
            draw_legend(ax)
            return ax

    def __str__(self) -> str:
        summary = self.summary
        held_out = f"{summary['validation']} training examples held out"
        lines = [f"lottery tickets of {self.title}", f"{self.samples}; {held_out}"]
        lines += [pruning_sentence(summary), "", summary["rewind_iter_because"], ""]
        ks = self.rewind_iters
        for k in ks:
            one = self.at(k)
            share = 100 * k / summary["iterations"]
            lines += [f"k = {k} ({share:.3g} % of training)", ""] if len(ks) > 1 else []
            lines += [*table(one.rows, summary["statistics_fix"]), ""]
            lines += matching_sentences(one.summary["sparsest_matching"], summary["replicates"])
            lines += [""] if k != ks[-1] else []
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
        return brief(f"LotteryResult({self.title}; {', '.join(self.conditions)}; {self.samples})")

    def save(self, folder: str | Path) -> "LotteryResult":
        """Write `lottery.csv`, `layers.csv` and `summary.json`; the same result with its folder.

        Beside them `paths.csv` and `curves.csv`, if they were asked for.

        Raises:
            StoreError: the folder cannot be written.
        """
        details = {name: rows for name, rows in (("paths", self.paths), ("curves", self.curves)) if rows}
        files = tables_of(self.summary) | {f"{name}.csv": DETAILED[name] for name in details}
        for name in DETAILED.keys() - details.keys():  # of an earlier study in this folder
            (Path(folder) / f"{name}.csv").unlink(missing_ok=True)
        save_study(Path(folder), files, (self.rows, self.layers, *details.values()), self.summary)
        return replace(self, folder=Path(folder))

    def _require_one(self) -> None:
        if len(ks := self.rewind_iters) > 1:
            raise OptionError(
                f"the study has several rewinding iterations; take one of {', '.join(map(str, ks))} by at(k)"
            )

    def _at_level(self, column: str, condition: str, level: int) -> np.ndarray:
        """Of one rewinding iteration, float64 [runs]."""
        levels = sorted({row["level"] for row in self.rows if row["condition"] in (condition, DENSE)})
        values = self.values(column, condition)[1]
        return values[levels.index(level)] if level in levels else np.full(values.shape[1], math.nan)

    def _fix(self, column: str) -> str:
        return _FIXES[self.summary["statistics_fix"]] if column.endswith(FIXED) else ""

    def _known_level(self, level: int | None) -> int:
        levels = sorted({row["level"] for row in self.rows})
        if level is not None and level not in levels:
            raise OptionError(f"the study has no level {level}; it has {', '.join(map(str, levels))}")
        return levels[-1] if level is None else level


def load_lottery(folder: str | Path) -> LotteryResult:
    """The result that was saved in a folder.

    Raises:
        DataError: it is not there, or its files are not those of a lottery-ticket study.
    """
    there = [name for name in DETAILED if is_file(Path(folder) / f"{name}.csv")]
    details = {f"{name}.csv": DETAILED[name] for name in there}
    _, summary = load_study(Path(folder), tables_of({}), Summary, "lottery-ticket", ADDED)
    files = tables_of(summary) | details
    (rows, layers, *kept), _ = load_study(Path(folder), files, Summary, "lottery-ticket", ADDED)
    sound = all(0 <= density <= 1 for density in measured(rows, "density"))
    if not sound or not any(row["condition"] == DENSE for row in rows):
        what = "lottery.csv has no row of the dense network, or a density outside 0 to 1"
        raise DataError(f"the study in {folder} cannot be read ({what}); run it again to write it anew")
    result = LotteryResult(rows, layers, summary, Path(folder), **dict(zip(there, kept, strict=True)))
    ks = result.rewind_iters
    stated = sorted(summary.get("by_rewind_iter", {})) if summary["rewind_iter"] is None else ["one"]
    if stated != (sorted(map(str, ks)) if len(ks) > 1 else ["one"]):
        what = "summary.json is not about the rewinding iterations of lottery.csv"
        raise DataError(f"the study in {folder} cannot be read ({what}); run it again to write it anew")
    return result


def _run(row: Row) -> tuple[int, int]:
    """The replicate, and which draw of new weights."""
    return row["replicate"], row.get("draw") or 0


def _drawn(column: str, bars: str) -> tuple[str, int]:
    """The label of a column's axis, and the factor to its unit, if it and its bars can be drawn."""
    if bars not in BARS:
        raise unknown("bars", bars, BARS)
    plain = column.removesuffix(FIXED)
    if plain not in _DRAWN:
        raise OptionError(f"column {column!r} is not drawn over density; choose one of {', '.join(_DRAWN)}")
    return _DRAWN[plain]
