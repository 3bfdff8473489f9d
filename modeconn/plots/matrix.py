"""The heat map of the barriers between several networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from modeconn.options import THRESHOLD
from modeconn.style import BATCHNORM, COLORS, STYLE, new_axes

if TYPE_CHECKING:
    from modeconn.analysis.connectivity.matrix_result import BarrierMatrix

_WRITTEN = 12  # networks up to which the values are written in the cells


def plot_matrix(
    result: BarrierMatrix,
    ax: Axes | None = None,
    metric: str | None = None,
    definition: str = "barrier",
    threshold: float | None = None,
) -> Axes:
    """The barrier between every two networks, connected ones side by side, with a border around each group.

    Cells of paths that were not finite are grey. Up to 12 networks, the values are written in the cells.

    Args:
        result: of `modeconn.barrier_matrix`.
        ax: where to draw; a new figure if None.
        metric: which one; the result's first if None.
        definition: `"barrier"` or `"chord_barrier"`.
        threshold: of the groups, in the unit of the metric; 2 points of error if None, and no groups for another
            metric.

    Raises:
        OptionError: no such metric or definition, or a threshold that is not a positive number.
    """
    metric = metric or result.metric
    scale, unit = (100, "points of error") if metric == "error" else (1, metric)
    order = result.order(definition, metric)
    values = scale * result.matrix(definition, metric)[np.ix_(order, order)]
    names = [result.names[index] for index in order]
    threshold = THRESHOLD if threshold is None and metric == "error" else threshold
    groups = result.groups(threshold, definition, metric) if threshold is not None else []
    with matplotlib.rc_context(STYLE):
        ax = _new_axes(names) if ax is None else ax
        top = float(np.max(values, initial=0, where=np.isfinite(values)))
        colors = matplotlib.colormaps["Blues"].with_extremes(bad="#cccccc")
        image = ax.imshow(values, cmap=colors, vmin=0, vmax=top or 1)
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.set_xticks(range(len(names)), names, rotation=0 if _fit_side_by_side(names) else 90)
        ax.set_yticks(range(len(names)), names)
        room = 72 * ax.get_window_extent().height / ax.figure.dpi / len(names)  # points for a label
        ax.tick_params(length=0, labelsize=min(9, max(3, 0.7 * room)))
        if len(names) <= _WRITTEN:
            _write_values(ax, values, top)
        for group in groups:
            first = min(names.index(name) for name in group) - 0.5
            border = Rectangle((first, first), len(group), len(group), fill=False, clip_on=False)
            border.set(edgecolor=COLORS["train"], linewidth=1.6)
            ax.add_patch(border)
        word = "barrier" if definition == "barrier" else "barrier over the chord"
        ax.figure.colorbar(image, ax=ax, label=f"{word} ({unit})", shrink=0.85)
        ax.set_title("\n".join(filter(None, (_counted(groups, threshold, scale), BATCHNORM[result.batchnorm]))))
        return ax


def _new_axes(names: list[str]) -> Axes:
    side = 0.5 * len(names) if len(names) <= _WRITTEN else min(12.0, max(6.0, 0.18 * len(names)))
    written = 0.07 * max(map(len, names))
    return new_axes(max(2.2, side) + written + 1.2, max(2, side) + 0.6 + (0 if _fit_side_by_side(names) else written))


def _fit_side_by_side(names: list[str]) -> bool:
    return max(map(len, names)) <= 5 and len(names) <= _WRITTEN


def _write_values(ax: Axes, values: np.ndarray, top: float) -> None:
    decimals = max(0, 2 - int(np.floor(np.log10(top)))) if top else 0  # the largest has three digits
    for (row, column), value in np.ndenumerate(values):
        if row != column:
            shown = f"{value:.{decimals}f}" if np.isfinite(value) else "-"
            color = "white" if np.isfinite(value) and value > 0.6 * top else "black"
            ax.text(column, row, shown, ha="center", va="center", fontsize=7.5, color=color)


def _counted(groups: list[list[str]], threshold: float | None, scale: int) -> str:
    if threshold is None:
        return ""
    word = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
    return f"{word} with every barrier below {scale * threshold:g}{' points' if scale == 100 else ''}"
