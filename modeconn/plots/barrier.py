"""The figure of one path between two networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from modeconn.style import BATCHNORM, COLORS, STYLE, new_axes, short

if TYPE_CHECKING:
    from modeconn.analysis.connectivity.barrier_result import Barrier


def plot_barrier(result: Barrier, ax: Axes | None = None, metric: str | None = None) -> Axes:
    """A metric along the path, with both barriers drawn where they are measured.

    The dashed line joins the ends (the chord), the dotted one is their mean; the arrow is the barrier.

    Args:
        result: of `modeconn.error_barrier`.
        ax: where to draw; a new figure if None.
        metric: which one; the result's first if None.

    Raises:
        OptionError: no such metric.
    """
    metric = metric or result.metric
    values, heights = result.values(metric), result.heights(metric)
    scale, unit = (100, "%") if metric == "error" else (1, "")
    end_a, end_b = (scale * value for value in result.end_values(metric))
    with matplotlib.rc_context(STYLE):
        ax = new_axes() if ax is None else ax
        ax.plot(result.alphas, scale * values, marker="o", markersize=2.5, color=COLORS["test"], label=metric)
        ax.plot([0, 1], [end_a, end_b], color="black", linewidth=0.8, linestyle="--", label="between the ends")
        mean = (end_a + end_b) / 2
        ax.axhline(mean, color="black", linewidth=0.8, linestyle=":", label="mean of the ends")
        top = scale * float(values[np.flatnonzero(result.alphas == heights.alpha_at_max)[0]])
        if np.isfinite(top) and heights.barrier > 0:
            arrow = {"arrowstyle": "<->", "color": COLORS["train"], "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", (heights.alpha_at_max, top), (heights.alpha_at_max, mean), arrowprops=arrow)
        points = " points" if metric == "error" else ""
        what = "estimated barrier" if result.decided else "barrier"
        ax.set_title(
            f"{what} {scale * heights.barrier:.3g}{points}, over the chord {scale * heights.chord_barrier:.3g}"
        )
        a, b = map(short, result.names)
        ax.set(xlabel=f"alpha (0: {a}, 1: {b})", ylabel=f"{metric} ({unit})" if unit else metric)
        ax.set_xlim(min(0.0, float(result.alphas[0])), max(1.0, float(result.alphas[-1])))
        if metric not in result.higher_is_better:
            ax.set_ylim(bottom=min(0.0, scale * float(np.nanmin(values))))
        note = BATCHNORM[result.batchnorm]
        ax.legend(loc="best", title=note or None, title_fontsize=8, fontsize=8)
        return ax
