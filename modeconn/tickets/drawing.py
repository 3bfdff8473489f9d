"""The pieces of a lottery-ticket study's curves: values over density, as the papers draw it, and over k."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from modeconn.style import CONDITIONS, DASHES, Look, draw_mean, look_of, unused

MARKERS = "osD^vP*X"  # of conditions that have one colour


def draw_condition(
    ax: Axes,
    x: np.ndarray,
    values: np.ndarray,
    condition: str,
    bars: str,
    look: Look | None = None,
    among: str = "",
    place: int = 0,
) -> None:
    """A condition's mean over x as a line, in a band of one sample standard deviation or with bars.

    Args:
        ax: where to draw.
        x: float64 [n].
        values: float64 [n, runs]; NaN where there is none, not all of a place.
        condition: whose label and colour.
        bars: `"std"` for the band, `"minmax"` for bars from the least to the highest value.
        look: of the study among others; in one colour, conditions have markers of their own.
        among: what the study is called there.
        place: of the condition in the study.
    """
    look = look or look_of(ax)
    mean, std = mean_and_std(values)
    name, color = CONDITIONS.get(condition, (condition, "black"))
    dash = DASHES.get(condition.rpartition("-")[2], "-") if "-" in condition else "-"
    marker = "o" if look.color is None else MARKERS[place % len(MARKERS)]
    line = look.options(linestyle=dash, marker=marker, markersize=3)
    line |= {"label": unused(ax, look.name(name, among, name)), "color": look.color or color}
    if bars == "minmax":
        ranges = np.maximum(0, [mean - np.nanmin(values, axis=1), np.nanmax(values, axis=1) - mean])  # not by rounding
        ax.errorbar(x, mean, ranges, capsize=2, elinewidth=0.8, **line)
        return
    draw_mean(ax, x, mean, std, **line)


def mean_and_std(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample standard deviation over runs, float64 [n] each; of one run alone the latter is 0.

    Args:
        values: float64 [n, runs]; NaN where there is none, not all of a place.

    >>> mean_and_std(np.array([[1.0, 3.0], [2.0, np.nan]]))
    (array([2., 2.]), array([1.41421356, 0.        ]))
    """
    std = [np.nanstd(v, ddof=1) if (~np.isnan(v)).sum() > 1 else 0.0 for v in values]
    return np.nanmean(values, axis=1), np.array(std)


def draw_dense(ax: Axes, x: np.ndarray | None, values: np.ndarray, look: Look, among: str) -> None:
    """The dense networks' mean, dotted: over x, or as a line across where there is one value."""
    line: dict[str, Any] = {"color": look.color or "grey", "linewidth": 0.8, "linestyle": ":"}
    label = unused(ax, look.name("dense", among, "dense"))
    if x is None:
        ax.axhline(float(np.squeeze(values)), **line, label=label)
    else:
        ax.plot(x, values, **line, marker=".", label=label)


def draw_nothing(ax: Axes) -> None:
    """Say that there is nothing to draw."""
    ax.text(0.5, 0.5, "nothing was measured", ha="center", va="center", transform=ax.transAxes)


def mark_densities(ax: Axes, fractions: Sequence[float]) -> None:
    """Percent on the x axis, falling to the right, with as many marks as find room, those of other results too."""
    before = ax.xaxis.get_major_locator()
    known = {float(f"{100 * density:.3g}") for density in fractions if 0 < density <= 1}
    known |= set(map(float, before.tick_values(0, 0))) if isinstance(before, FixedLocator) else set()
    densities = sorted(known, reverse=True)
    if not densities:  # nothing is left at any level
        return
    ax.set_xscale("log")
    ax.set_xlim(1.1 * densities[0], densities[-1] / 1.1)
    ax.xaxis.set_major_locator(FixedLocator(_spaced(densities)))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("weights remaining (%, log scale)")


def _spaced(densities: list[float]) -> list[float]:
    """Falling numbers without those that are near their neighbours on a logarithmic axis."""
    least = (densities[0] / densities[-1]) ** (1 / 7)  # ratio of neighbours
    kept = densities[:1]
    for density in densities[1:]:
        if kept[-1] / density >= 0.999 * least:
            kept.append(density)
    return kept
