"""The figure of layer-wise linear feature connectivity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from modeconn.style import BATCHNORM, COLORS, STYLE, new_axes, short

if TYPE_CHECKING:
    from modeconn.analysis.connectivity.features_result import FeatureConnectivity

_ROOM = 45  # layers whose names can be read side by side


def plot_features(result: FeatureConnectivity, ax: Axes | None = None) -> Axes:
    """1 - cosine over the layers, in the order in which they are called: on the path, and between the ends.

    Args:
        result: of `modeconn.feature_connectivity`.
        ax: where to draw; a new figure, as wide as the layers need, if None.
    """
    places = np.arange(len(result.layers))
    with matplotlib.rc_context(STYLE):
        ax = new_axes(max(4.0, 1.5 + 0.18 * min(len(places), _ROOM)), 3.6) if ax is None else ax
        a, b = map(short, result.names)
        for cosine, split, marker, label in (
            (result.cosine_ends, "train", "s", f"{a} against {b}"),
            (result.cosine, "test", "o", f"alpha {result.alpha:g} against the average of both"),
        ):
            ax.plot(places, 1 - cosine, marker=marker, markersize=3.5, color=COLORS[split], label=label)
        ax.axhline(0, color="black", linewidth=0.6)
        every = -(-len(places) // _ROOM)
        ax.set_xticks(places[::every], result.layers[::every], rotation=90, fontsize=7)
        ax.margins(x=0.02)
        finite = result.scale[np.isfinite(result.scale)]
        scale = f", scale c {finite.min():.2f} to {finite.max():.2f}" if len(finite) else ""
        ax.set(ylabel="1 - cosine of features", title=f"{result.examples:,} examples{scale}")
        note = BATCHNORM[result.batchnorm]
        # On white, as it may lie on the line at 0.
        ax.legend(loc="best", title=note or None, title_fontsize=8, fontsize=8, frameon=True, edgecolor="white")
        return ax
