"""The figure of a model soup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from modeconn.style import BATCHNORM, COLORS, STYLE, new_axes

if TYPE_CHECKING:
    from modeconn.analysis.connectivity.soup_result import Soup

_ROOM = 45  # networks whose names can be read side by side


def plot_soup(result: Soup, ax: Axes | None = None) -> Axes:
    """The metric of every network, best first, full circles being members, and of the soup as a line.

    A greedy soup's steps are squares: the metric of the average with each next network, full where it joined. What lies
    far outside of the range of the members is drawn at the edge, with its number.

    Args:
        result: of `modeconn.soup`.
        ax: where to draw; a new figure, as wide as the names need, if None.
    """
    scale, unit = (100, "error (%)") if result.metric == "error" else (1, result.metric)
    names = list(result.outcomes)
    places = np.arange(len(names))
    added = np.array([step.added for step in result.steps])
    own = scale * np.array(list(result.values.values()))
    with_it = scale * np.array([step.value for step in result.steps])
    soup = scale * result.value
    low, high = _range(np.array([*own[added], *with_it[added], soup]), np.array([*own, *with_it]))
    with matplotlib.rc_context(STYLE):
        ax = new_axes(max(4.0, 1.5 + 0.25 * min(len(names), _ROOM)), 3.6) if ax is None else ax
        ax.axhline(soup, color="black", linewidth=1, linestyle="--", label=f"soup: {soup:.3g}")
        labels = ("network in the soup", "network left out")
        _dots(ax, places, own.clip(low, high), added, "o", COLORS["test"], labels)
        if result.kind == "greedy":
            labels = ("soup after it joined", "soup if it had joined")
            later = slice(1, None)
            _dots(ax, places[later], with_it[later].clip(low, high), added[later], "s", COLORS["train"], labels)
        for place, *values in zip(places, own, with_it, strict=True):
            for edge, beyond in ((low, [v for v in values if v < low]), (high, [v for v in values if v > high])):
                for row, value in enumerate(dict.fromkeys(beyond)):
                    _beyond(ax, float(place), value, edge, row)
        every = -(-len(names) // _ROOM)
        ax.set_xticks(places[::every], names[::every], rotation=90, fontsize=7)
        ax.margins(x=0.05, y=0.1)
        members = f"{len(result.members)} of {len(names)}"
        ax.set(ylabel=unit, title=f"{result.kind} soup of {members} networks")
        note = BATCHNORM[result.batchnorm]
        ax.legend(loc="best", title=note or None, title_fontsize=8, fontsize=7)
        return ax


def _dots(
    ax: Axes, x: np.ndarray, y: np.ndarray, full: np.ndarray, marker: str, color: str, labels: tuple[str, str]
) -> None:
    dots: dict[str, Any] = {"linestyle": "none", "marker": marker, "markersize": 5, "zorder": 3}
    for chosen, fill, label in ((full, color, labels[0]), (~full, "white", labels[1])):
        if chosen.any():
            ax.plot(x[chosen], y[chosen], **dots, color=color, markerfacecolor=fill, label=label)


def _range(members: np.ndarray, everything: np.ndarray) -> tuple[float, float]:
    """What is drawn in full: three times as far as the soup and its members reach, or as half of all values lie from
    them. One bad network hides no other.
    """
    inside, finite = members[np.isfinite(members)], everything[np.isfinite(everything)]
    low, high = inside.min(initial=np.inf), inside.max(initial=-np.inf)
    if low > high:
        return 0.0, 1.0
    away = np.median(np.maximum(np.maximum(low - finite, finite - high), 0))
    room = 3 * max(high - low, away, 0.02 * abs(high), 1e-9)
    return low - room, high + room


def _beyond(ax: Axes, place: float, value: float, edge: float, row: int) -> None:
    """The number of what lies beyond the edge; of several, one above the other."""
    above = value > edge
    offset = 7 + 8 * row
    ax.annotate(
        f"{value:.3g}",
        (place, edge),
        xytext=(0, offset if above else -offset),
        textcoords="offset points",
        ha="center",
        va="bottom" if above else "top",
        fontsize=7,
    )
