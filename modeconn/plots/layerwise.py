"""The figure of layer-wise barriers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from modeconn.style import BATCHNORM, PALETTE, STYLE, new_axes, short

if TYPE_CHECKING:
    from modeconn.analysis.connectivity.layerwise_result import LayerwiseBarrier

_LOOKS: dict[str, dict[str, Any]] = {
    "single": {"color": PALETTE[0], "label": "this layer alone"},
    "random": {"color": "#999999", "label": "as far, at random"},
    "from input": {"color": PALETTE[1], "marker": ">", "label": "from the input to here"},
    "from output": {"color": PALETTE[2], "marker": "<", "label": "from here to the output"},
}
_BAR = 0.38  # of the space of a layer
_LINE = 0.11  # inches that a label needs


def plot_layerwise(result: LayerwiseBarrier, ax: Axes | None = None, metric: str | None = None) -> Axes:
    """The barrier over the layers: bars for one layer at a time, lines for several; dotted, that of the full path.

    What is not finite is left out.

    Args:
        result: of `modeconn.layerwise_barrier`.
        ax: where to draw; a new figure, as wide as the layers need, if None.
        metric: which one; the result's first if None.

    Raises:
        OptionError: no such metric.
    """
    metric = metric or result.metric
    scale, unit = (100, "points of error") if metric == "error" else (1, metric)
    places = np.arange(len(result.layers))
    with matplotlib.rc_context(STYLE):
        ax = _new_axes(result.layers) if ax is None else ax
        full = float(_finite(scale * result.full.heights(metric).barrier))
        ax.axhline(full, color="black", linewidth=1, linestyle=":", label="all layers together")
        heights = {mode: _finite(scale * result.heights(mode, metric)) for mode in _LOOKS if mode in result.modes}
        for mode, values in heights.items():
            if mode in ("single", "random"):
                side = -1 if mode == "single" else 1
                ax.bar(places + side * _BAR / 2, values, _BAR, **_LOOKS[mode])
            else:
                ax.plot(places, values, linewidth=1, markersize=3, **_LOOKS[mode])
        ax.axhline(0, color="black", linewidth=0.6)
        every = _stride(ax, len(places))
        ax.set_xticks(places[::every], result.layers[::every], rotation=90, fontsize=7)
        ax.set_xlim(-0.6, len(places) - 0.4)
        ax.grid(False, axis="x")
        a, b = map(short, result.full.names)
        ax.set(xlabel="layer", ylabel=f"barrier ({unit})")
        title = f"layers of {b} in {a}"
        ax.set_title(", ".join(filter(None, (title, BATCHNORM[result.full.batchnorm]))))
        columns = 2 if _width(ax) < 6 else 3
        rows = -(-len(ax.get_legend_handles_labels()[0]) // columns)
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + (0.08 + 0.08 * rows) * (high - low))  # room for the legend
        ax.legend(loc="upper center", fontsize=7, ncols=columns, handlelength=1.6, columnspacing=1)
        return ax


def _new_axes(layers: tuple[str, ...]) -> Axes:
    return new_axes(max(4.5, 0.16 * len(layers) + 1), 3 + 0.05 * max(map(len, layers)))


def _finite(heights: Any) -> Any:
    return np.where(np.isfinite(heights), heights, np.nan)


def _stride(ax: Axes, layers: int) -> int:
    """Every how many layers there is room for a label."""
    return max(1, int(np.ceil(layers * _LINE / _width(ax))))


def _width(ax: Axes) -> float:
    """In inches."""
    return ax.get_window_extent().width / ax.figure.dpi
