"""Figures of a lottery-ticket study: over density, as the papers draw it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from modeconn.errors import OptionError
from modeconn.result import count
from modeconn.style import STYLE, new_axes, save_figure, short

if TYPE_CHECKING:
    from modeconn.tickets.result import LotteryResult

# Each condition has its colour in every figure, whatever else is in it.
_COLORS = {
    "imp": "#0072B2",
    "random": "#D55E00",
    "reinit": "#009E73",
    "shuffle": "#CC79A7",
    "invert": "#E69F00",
    "rewind0": "#56B4E9",
    "magnitude": "#000000",
    "snip": "#8C564B",
    "grasp": "#7F7F7F",
    "grasp-abs": "#BCBD22",
    "synflow": "#9467BD",
}
_LABELS = {
    "imp": "IMP",
    "random": "random pruning",
    "reinit": "random reinit",
    "shuffle": "shuffled",
    "invert": "inverted",
    "rewind0": "IMP, rewound to 0",
    "magnitude": "magnitude",
    "snip": "SNIP",
    "grasp": "GraSP",
    "grasp-abs": "GraSP (absolute)",
    "synflow": "SynFlow",
}
_NAMES = {  # column: label of the axis, factor
    "test_error": ("test error (%)", 100),
    "train_error": ("train error (%)", 100),
    "early_stop_iter": ("iteration of early stopping", 1),
    "early_stop_error": ("test error at early stopping (%)", 100),
    "instability_test": ("test instability (points of error)", 100),
    "instability_train": ("train instability (points of error)", 100),
    "barrier_to_previous": ("barrier to the previous level (points)", 100),
    "barrier_to_dense": ("barrier to the dense network (points)", 100),
}
_FIXED = "_fixed"
_FIXES = {"recalibrate": "BatchNorm recalibrated", "repair": "with REPAIR", "none": ""}


def plot_lottery(
    result: LotteryResult,
    ax: Axes | None = None,
    column: str = "test_error",
    conditions: Sequence[str] | None = None,
) -> Axes:
    """A measurement over density, on a logarithmic axis that falls to the right: mean, and a band of one deviation.

    Args:
        result: of `modeconn.lottery`.
        ax: where to draw; a new figure if None.
        column: a number of `lottery.csv`, for instance `"early_stop_iter"` or `"instability_test"`.
        conditions: which; all for which it was measured if None.

    Raises:
        OptionError: no such column or condition.
    """
    plain = column.removesuffix(_FIXED)
    if plain not in _NAMES:
        raise OptionError(f"column {column!r} is not drawn over density; choose one of {', '.join(_NAMES)}")
    label, factor = _NAMES[plain]
    shown = result.conditions if conditions is None else list(conditions)
    with matplotlib.rc_context(STYLE):
        ax = new_axes() if ax is None else ax
        drawn = False
        for condition in shown or ["dense"]:
            densities, values = result.values(column, condition)
            some = ~np.isnan(values).all(axis=1)
            if condition != "dense" and not some[densities < 1].any():
                continue
            drawn = True
            percent, values = 100 * densities[some], factor * values[some]  # [levels], [levels, replicates]
            mean = np.nanmean(values, axis=1)
            std = np.array([np.nanstd(v, ddof=1) if (~np.isnan(v)).sum() > 1 else 0.0 for v in values])
            color = _COLORS.get(condition, "black")
            ax.plot(percent, mean, marker="o", markersize=3, color=color, label=_LABELS.get(condition, condition))
            ax.fill_between(percent, mean - std, mean + std, color=color, alpha=0.18, linewidth=0)
        if not drawn:
            ax.text(0.5, 0.5, "nothing was measured", ha="center", va="center", transform=ax.transAxes)
        _density_axis(ax, result)
        fixed = _FIXES[result.summary["statistics_fix"]] if column.endswith(_FIXED) else ""
        ax.set(ylabel=label, title=fixed)
        _dense_line(ax, result, column, factor)
        if plain.startswith("instability"):
            limit = 100 * result.summary["threshold"]
            ax.axhline(limit, color="black", linewidth=0.8, linestyle="--", label=f"{limit:g} points")
        if ax.lines:
            # Opaque, as its place is found without regard to lines across the whole figure.
            ax.legend(fontsize=7, frameon=True, framealpha=1, edgecolor="none")
        return ax


def plot_layers(result: LotteryResult, ax: Axes | None = None, condition: str | None = None) -> Axes:
    """The density of every layer over that of the network, a line each; mean over replicates.

    Args:
        result: of `modeconn.lottery`.
        ax: where to draw; a new figure if None.
        condition: whose masks; the first if None.

    Raises:
        OptionError: no masks of such a condition.
    """
    condition = condition or next((row["condition"] for row in result.layers), "")
    rows = [row for row in result.layers if row["condition"] == condition]
    if not rows:
        raise OptionError(f"there are no masks of condition {condition!r}; there are {', '.join(result.conditions)}")
    overall, _ = result.values("density", condition)
    names = list(dict.fromkeys(row["layer"] for row in rows))
    levels = sorted({row["level"] for row in rows})
    with matplotlib.rc_context(STYLE):
        ax = new_axes() if ax is None else ax
        colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(names)))
        for name, color in zip(names, colors, strict=True):
            of_layer = [[r["density"] for r in rows if (r["layer"], r["level"]) == (name, level)] for level in levels]
            means = np.array([1.0, *map(np.mean, of_layer)])
            # A logarithm has no place for an emptied layer; its line ends.
            ax.plot(
                100 * overall[[0, *levels]],
                np.where(means > 0, 100 * means, np.nan),
                color=color,
                marker=".",
                label=short(name, 24),
            )
        _density_axis(ax, result)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set(ylabel="density of the layer (%)", title=_LABELS.get(condition, condition))
        if len(names) <= 8:
            ax.legend(fontsize=7)
        else:
            _name_ends(ax, names)
        return ax


def lottery_figure(result: LotteryResult) -> Figure:
    """Test error, early stopping, instability and layerwise density, over density."""
    others = [column for column in ("early_stop_iter", "instability_test") if _measured(result, column)]
    panels = ["test_error", *others]
    with matplotlib.rc_context(STYLE):
        width = len(panels) + bool(result.layers)
        figure = Figure(figsize=(3.6 * width, 3.4), layout="constrained")
        axes = figure.subplots(1, width, squeeze=False)[0]
        for ax, column in zip(axes, panels, strict=False):
            plot_lottery(result, ax, column)
        if result.layers:
            plot_layers(result, axes[-1])
        _describe(figure, result)
        return figure


def barriers_figure(result: LotteryResult) -> Figure | None:
    """Barriers to the previous level and to the dense network, plain and with a statistics fix; None without any."""
    columns = [f"{name}{way}" for name in ("barrier_to_previous", "barrier_to_dense") for way in ("", _FIXED)]
    columns = [column for column in columns if _measured(result, column)]
    if not columns:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * len(columns), 3.2), layout="constrained")
        axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for ax, column in zip(axes, columns, strict=True):
            plot_lottery(result, ax, column)
        _describe(figure, result)
        return figure


def save_lottery_figures(result: LotteryResult) -> list[Path]:
    """Write `lottery` and, if measured, `barriers` as PNG and PDF into the result's folder; the files' paths.

    Raises:
        StoreError: the folder cannot be written.
    """
    if result.folder is None:
        raise ValueError("the result was not saved, so it has no folder for figures")
    written = save_figure(lottery_figure(result), result.folder / "lottery")
    barriers = barriers_figure(result)
    if barriers is None:  # one of an earlier study in this folder would be taken for ours
        for ending in ("png", "pdf"):
            (result.folder / f"barriers.{ending}").unlink(missing_ok=True)
        return written
    return written + save_figure(barriers, result.folder / "barriers")


def _measured(result: LotteryResult, column: str) -> bool:
    rows = [row[column] for row in result.rows if row["condition"] != "dense"]
    return any(value is not None and not np.isnan(value) for value in rows)


def _density_axis(ax: Axes, result: LotteryResult) -> None:
    """Percent, falling to the right, with a mark at about every other level."""
    densities = sorted(
        {float(f"{100 * row['density']:.3g}") for row in result.rows if row["density"] > 0}, reverse=True
    )
    ax.set_xscale("log")
    ax.set_xlim(1.1 * densities[0], densities[-1] / 1.1)
    ax.xaxis.set_major_locator(FixedLocator(densities[:: 1 + len(densities) // 8]))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("weights remaining (%)")


def _dense_line(ax: Axes, result: LotteryResult, column: str, factor: float) -> None:
    _, values = result.values(column, "dense")
    if not np.isnan(values[0]).all():
        ax.axhline(factor * np.nanmean(values[0]), color="grey", linewidth=0.8, linestyle=":", label="dense")


def _name_ends(ax: Axes, names: list[str]) -> None:
    """A key of the first and last layers, where there are too many for a legend."""
    handles = ax.lines
    ax.legend([handles[0], handles[-1]], [f"first: {short(names[0])}", f"last: {short(names[-1])}"], fontsize=7)


def _describe(figure: Figure, result: LotteryResult) -> None:
    summary = result.summary
    figure.suptitle(f"{result.title}, rewound to iteration {summary['rewind_iter']}\n{result.samples}", fontsize=9)
    diverged = len(summary["diverged"])
    below = [summary["data_note"], f"{count(diverged, 'training')} diverged, left out" if diverged else ""]
    text = "; ".join(filter(None, below))
    if text:
        figure.supxlabel(text, fontsize=7, color="#444444")
