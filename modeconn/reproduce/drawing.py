"""Pieces that the drawings of several figures share: values over k and over density, in the papers' manner."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modeconn.analysis.instability.result import InstabilityResult
from modeconn.result import Row
from modeconn.style import BATCHNORM, PALETTE, draw_mean, panels


def figure_of_choices(result: InstabilityResult, draw: Callable[[Axes, str], None]) -> Figure:
    """A figure with a panel for each BatchNorm choice, on one scale.

    Args:
        result: which choices there are.
        draw: called with axes and a BatchNorm choice.
    """
    choices = result.batchnorm
    with panels(1, len(choices), 3.8 * len(choices), 3.4, sharey=True) as (figure, axes):
        for ax, choice in zip(axes[0], choices, strict=True):
            draw(ax, choice)
            ax.set_title(BATCHNORM[choice])
            ax.label_outer()
        return figure


def figure_of_alignments(rows: Sequence[Row]) -> Figure:
    """Barriers of error and of loss of all pairs of networks, for each way of alignment.

    Args:
        rows: of pairs, with the columns of `modeconn.reproduce.alignments.AlignmentStudy`.
    """
    ways = list(dict.fromkeys(row["align"] for row in rows))
    with panels(1, 2, 4.4, 3.4) as (figure, axes):
        for ax, name, factor, label in (
            (axes[0, 0], "barrier", 100, "test error barrier (points)"),
            (axes[0, 1], "loss_barrier", 1, "test loss barrier (nats)"),
        ):
            for place, (way, color) in enumerate(zip(ways, PALETTE, strict=False)):
                values = [factor * row[name] for row in select(rows, align=way)]
                spread = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
                ax.plot(place + spread, values, "o", color=color, markersize=4)
            ax.set_xticks(range(len(ways)), ways, fontsize=6.5)
            ax.set_yscale("symlog", linthresh=1 if factor == 100 else 0.1)
            highest = max(factor * row[name] for row in rows)
            ax.set(ylabel=label, ylim=(0, 1.5 * highest or 1), xlim=(-0.5, len(ways) - 0.5), xlabel="aligned by")
        return figure


def last_rows(result: InstabilityResult) -> list[Row]:
    """The rows that were measured at the end of training."""
    return result.at(result.measured_at[-1]).rows


def rows_of_k(result: InstabilityResult) -> list[Row]:
    """A row for each k, split and BatchNorm choice, at the end of training, with the interval's ends in two columns."""
    return [
        {name: value for name, value in row.items() if name != "interval"}
        | dict(zip(("interval_low", "interval_high"), row["interval"], strict=True))
        for row in result.by_iteration()
    ]


def select(rows: Iterable[Row], **values: Any) -> list[Row]:
    """The rows that have these values in these columns.

    >>> select([dict(k=1, error=0.5), dict(k=0, error=1.0)], k=0)
    [{'k': 0, 'error': 1.0}]
    """
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def scale_k(ax: Axes, ks: np.ndarray) -> None:
    """Rewinding iterations on the x axis, 0 and powers side by side, a mark at each."""
    from matplotlib.ticker import FixedLocator, NullLocator

    positive = ks[ks > 0]
    if len(positive) > 1:
        ax.set_xscale("symlog", linthresh=int(positive[0]), linscale=0.5)
        ax.set_xlim(left=-0.2 * positive[0] if ks[0] == 0 else 0.8 * positive[0])
    ax.xaxis.set_major_locator(FixedLocator(ks.tolist()))
    ax.xaxis.set_major_formatter(lambda k, _: f"{k:g}" if k < 10_000 else f"{k / 1000:g}K")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("rewinding iteration k")


def draw_rows(ax: Axes, rows: Iterable[Row], x: str, y: str, *, color: Any, factor: float = 1, **line: Any) -> None:
    """The mean of a column over another, and a band of one standard deviation."""
    values = by(rows, x, y)
    mean = np.array([np.mean(found) for found in values.values()])
    std = np.array([np.std(found, ddof=min(1, len(found) - 1)) for found in values.values()])
    draw_mean(ax, np.array(list(values)), factor * mean, factor * std, color, marker="o", markersize=3, **line)


def by(rows: Iterable[Row], x: str, y: str) -> Mapping[float, Sequence[float]]:
    """The values of a column at each value of another, ascending; those that are NaN are left out.

    >>> by([dict(k=1, error=0.5), dict(k=0, error=1.0), dict(k=1, error=0.25)], "k", "error")
    {0: [1.0], 1: [0.5, 0.25]}
    """
    found: dict[float, list[float]] = {}
    for row in sorted(rows, key=lambda row: row[x]):
        if not np.isnan(row[y]):
            found.setdefault(row[x], []).append(row[y])
    return found


def gradient(count: int) -> np.ndarray:
    """So many colours from dark to light, [count, 4], for lines in an order."""
    return colormaps["viridis"](np.linspace(0, 0.9, count))
