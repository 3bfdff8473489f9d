"""The pieces of a lottery-ticket study's curves: values over density, as the papers draw it, and over k."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from modeconn.style import CONDITIONS, DASHES, draw_mean


def draw_condition(ax: Axes, x: np.ndarray, values: np.ndarray, condition: str, bars: str) -> None:
    """A condition's mean over x as a line, in a band of one sample standard deviation or with bars.

    Args:
        ax: where to draw.
        x: float64 [n].
        values: float64 [n, runs]; NaN where there is none, not all of a place.
        condition: whose label and colour.
        bars: `"std"` for the band, `"minmax"` for bars from the least to the highest value.
    """
    mean = np.nanmean(values, axis=1)
    label, color = CONDITIONS.get(condition, (condition, "black"))
    line = DASHES.get(condition.rpartition("-")[2], "-") if "-" in condition else "-"
    look: dict[str, Any] = {"linestyle": line, "marker": "o", "markersize": 3, "label": label}
    if bars == "minmax":
        ranges = np.maximum(0, [mean - np.nanmin(values, axis=1), np.nanmax(values, axis=1) - mean])  # not by rounding
        ax.errorbar(x, mean, ranges, color=color, capsize=2, elinewidth=0.8, **look)
        return
    std = np.array([np.nanstd(v, ddof=1) if (~np.isnan(v)).sum() > 1 else 0.0 for v in values])
    draw_mean(ax, x, mean, std, color, **look)


def draw_nothing(ax: Axes) -> None:
    """Say that there is nothing to draw."""
    ax.text(0.5, 0.5, "nothing was measured", ha="center", va="center", transform=ax.transAxes)


def draw_legend(ax: Axes) -> None:
    """Label the lines, if there are any."""
    if ax.lines:
        # Opaque, as its place is found without regard to lines across the whole figure.
        ax.legend(fontsize=7, frameon=True, framealpha=1, edgecolor="none")


def mark_densities(ax: Axes, fractions: Sequence[float]) -> None:
    """Percent on the x axis, falling to the right, with a mark at about every other density."""
    densities = sorted({float(f"{100 * density:.3g}") for density in fractions if 0 < density <= 1}, reverse=True)
    if not densities:  # nothing is left at any level
        return
    ax.set_xscale("log")
    ax.set_xlim(1.1 * densities[0], densities[-1] / 1.1)
    ax.xaxis.set_major_locator(FixedLocator(densities[:: 1 + len(densities) // 8]))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("weights remaining (%)")


def mark_iterations(ax: Axes, ks: Sequence[int]) -> None:
    """Rewinding iterations on the x axis, logarithmic from the first that is not 0."""
    positive = [k for k in ks if k > 0]
    if len(positive) > 1:
        ax.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
        ax.set_xlim(left=-0.2 * positive[0] if ks[0] == 0 else 0.8 * positive[0])
    ax.xaxis.set_major_locator(FixedLocator(list(ks)))
    ax.xaxis.set_major_formatter(lambda k, _: f"{k:g}" if k < 10_000 else f"{k / 1000:g}K")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("rewinding iteration k")
