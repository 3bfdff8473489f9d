"""Pictures of a landscape: contours or a surface over a plane, a curve over a line."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modeconn.analysis.landscape.planes.places import Axis, Picture, paths_of
from modeconn.analysis.landscape.planes.refine import is_wide

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEVELS = 16
_MOST = 1e4  # the highest level over the lowest, of equal ratios
_FAR = 4.0  # the highest level of equal differences, in distances from the lowest value to the upper quartile
_GREY = "#D9D9D9"
_BELOW = 32  # points from the axes to the legend, for the ticks and the label


def draw_contour(
    picture: Picture, log: bool | None, levels: Sequence[float] | None, ax: "Axes | None", colorbar: bool = True
) -> "Axes":
    """Filled contours, the networks as points, and the trajectories as lines."""
    from matplotlib.colors import BoundaryNorm

    from modeconn.style import drawing

    x, y, values, metric = picture.x, picture.y, picture.values, picture.metric
    edges, above = levels_of(values, metric, log) if levels is None else _given(levels, values)
    scale, label = _unit(metric)
    with drawing(ax, 5.2, 4.2) as ax:
        ax.set_facecolor(_GREY)
        ax.grid(visible=False)
        shown = np.where(values > edges[-1], edges[-1] * (1 + 1e-9) + 1e-12, np.maximum(values, edges[0]))
        triangles = _triangles(x, y, np.isfinite(values))
        if triangles is not None:
            extend: Literal["max", "neither"] = "max" if above else "neither"
            norm = BoundaryNorm(edges.tolist(), 256, extend=extend)
            shown = np.nan_to_num(shown, nan=edges[0])
            drawn = ax.tricontourf(triangles, shown, levels=edges, norm=norm, cmap="viridis_r", extend=extend)
            if colorbar:
                bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.85)
                ticks = edges[:: max(1, (len(edges) - 1) // 5)].tolist()
                bar.set_ticks(ticks, labels=[f"{scale * tick:.3g}" for tick in ticks])
                bar.set_label(f"{label}; {scale * edges[-1]:.3g} and above in the last colour" if above else label)
        draw_networks(picture, ax)
        ax.set(xlabel=_axis(picture.axes[0]), ylabel=_axis(picture.axes[1]), title=_title(picture))
        if picture.isometric:
            ax.set_aspect("equal")
        ax.set_xlim(float(picture.x.min()), float(picture.x.max()))
        ax.set_ylim(float(picture.y.min()), float(picture.y.max()))
        return ax


def draw_surface(picture: Picture, log: bool | None, levels: Sequence[float] | None, ax: "Axes | None") -> "Axes":
    """A surface in three dimensions; values above the highest level are cut there."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from modeconn.style import STYLE, drawing

    x, y, values, metric = picture.x, picture.y, picture.values, picture.metric
    wide = _is_log(values, metric, log)
    edges, above = levels_of(values, metric, log) if levels is None else _given(levels, values)
    scale, label = _unit(metric)
    if ax is None:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            ax = Figure(figsize=(5.4, 4.4), layout="constrained").add_subplot(projection="3d")
    with drawing(ax) as ax:
        height = np.clip(values, edges[0], edges[-1])
        height = np.log10(np.maximum(height, np.finfo(float).tiny)) if wide else scale * height
        triangles = _triangles(x, y, np.isfinite(height))
        solid: Any = ax
        if triangles is not None:
            solid.plot_trisurf(triangles, np.nan_to_num(height), cmap="viridis_r", linewidth=0.1, edgecolor="white")
        for place in picture.places:
            if metric in place.values:
                top = float(np.clip(place.values[metric], edges[0], edges[-1]))
                top = float(np.log10(max(top, np.finfo(float).tiny))) if wide else scale * top
                solid.plot([place.x], [place.y], [top], "o", color="black", markersize=4)
                solid.text(place.x, place.y, top, f"  {place.name}", fontsize=7)
        if wide:
            solid.zaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{10**value:.3g}"))
        cut = f" (cut at {scale * edges[-1]:.3g})" if above else ""
        solid.set(xlabel=_axis(picture.axes[0]), ylabel=_axis(picture.axes[1]))
        solid.set_zlabel(f"{label}{cut}", labelpad=10)
        ax.set_title(_title(picture))
        return ax


def draw_line(picture: Picture, log: bool | None, ax: "Axes | None") -> "Axes":
    """A metric over the coordinate of a line."""
    from modeconn.style import COLORS, drawing

    scale, label = _unit(picture.metric)
    order = np.argsort(picture.x)
    x, values = picture.x[order], picture.values[order]
    with drawing(ax) as ax:
        ax.plot(x, scale * values, "o-", color=COLORS["test"], markersize=2.5)
        for place in picture.places:
            if picture.metric in place.values:
                ax.plot(place.x, scale * place.values[picture.metric], "o", color="black", label=place.name)
        if _is_log(values, picture.metric, log):
            ax.set_yscale("log")
        ax.set(xlabel=_axis(picture.axes[0]), ylabel=label, title=_title(picture))
        ax.legend(fontsize=8)
        return ax


def draw_networks(picture: Picture, ax: "Axes") -> None:
    """The networks as points with their names, and each trajectory as a line from its first state to its last."""
    from modeconn.style import short

    dashes = ("-", "--", ":", "-.")
    paths = paths_of(picture.places)
    for (path, states), dash in zip(paths.items(), dashes * len(paths), strict=False):
        farthest = max(state.distance for state in states)
        of = f"{short(path)} (up to {farthest:.2g} from the plane)"
        line: dict[str, Any] = {"color": "black", "linewidth": 0.9, "markersize": 2.5}
        ax.plot([s.x for s in states], [s.y for s in states], f"o{dash}", label=of, **line)
    for place in picture.places:
        if place.path:
            continue
        own = bool(place.values)
        ax.plot(
            place.x, place.y, "o" if own else "D", color="black", markerfacecolor="white", markersize=6 if own else 4
        )
        on_the_right = place.x > (2 * picture.x.max() + picture.x.min()) / 3
        beside = "" if own else f" ({place.distance:.2g} away)"
        ax.annotate(
            f"{short(place.name)}{beside}",
            (place.x, place.y),
            xytext=(-5 if on_the_right else 5, 5),
            textcoords="offset points",
            horizontalalignment="right" if on_the_right else "left",
            fontsize=8,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0},
        )
    if paths:
        from matplotlib.transforms import ScaledTranslation

        # By points and not by the axes' height, so that it is below their label however flat the plane is.
        below = ScaledTranslation(0, -_BELOW / 72, ax.figure.dpi_scale_trans)
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=ax.transAxes + below, ncols=2)


def levels_of(values: np.ndarray, metric: str, log: bool | None = None) -> tuple[np.ndarray, bool]:
    """Levels of the colours, and whether there are values above the last.

    An error has levels of equal differences up to its highest value. Anything else that is positive and spans more
    than a factor of 20 has levels of equal ratios, up to 10,000 times the lowest value; else of equal differences, up
    to four times as far from the lowest value as the upper quartile is.

    >>> levels, above = levels_of(np.array([0.1, 1.0, 1e9]), "loss")
    >>> float(levels[0]), round(float(levels[-1])), above
    (0.1, 1000, True)
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.linspace(0.0, 1.0, _LEVELS), False
    low, high = float(finite.min()), float(finite.max())
    if _is_log(values, metric, log):
        top = min(high, _MOST * low)
        return np.geomspace(low, top, _LEVELS) if top > low else _around(low), high > top
    top = high
    if metric != "error":
        quartile = float(np.quantile(finite, 0.75))
        top = min(high, low + _FAR * (quartile - low)) if quartile > low else high
    return (np.linspace(low, top, _LEVELS) if top > low else _around(low)), high > top


def _is_log(values: np.ndarray, metric: str, log: bool | None) -> bool:
    """Whether levels are of equal ratios, which only positive values can have."""
    if log is None:
        return metric != "error" and is_wide(values)
    return log and bool(np.nanmin(values) > 0)


def _around(value: float) -> np.ndarray:
    wide = max(abs(value) * 1e-3, 1e-9)
    return np.linspace(value - wide, value + wide, 3)


def _given(levels: Sequence[float], values: np.ndarray) -> tuple[np.ndarray, bool]:
    edges, finite = np.asarray(levels, dtype=np.float64), values[np.isfinite(values)]
    return edges, bool(len(finite) and finite.max() > edges[-1])


def _triangles(x: np.ndarray, y: np.ndarray, finite: np.ndarray) -> Any:
    """Triangles between the points, without those that have a corner where nothing finite was measured."""
    from matplotlib.tri import Triangulation

    if finite.sum() < 3:
        return None
    triangles = Triangulation(x, y)
    triangles.set_mask(~finite[triangles.triangles].all(axis=1))
    return triangles


def _unit(metric: str) -> tuple[float, str]:
    return (100.0, "error (%)") if metric == "error" else (1.0, metric)


def _axis(axis: Axis) -> str:
    explained = "" if np.isnan(axis.explained) else f" ({100 * axis.explained:.3g} % of the variance)"
    length = "" if abs(axis.length - 1) < 1e-3 else f", of length {axis.length:.3g}"
    return f"{axis.name}{explained}{length}"


def _title(picture: Picture) -> str:
    from modeconn.style import BATCHNORM

    return ", ".join(filter(None, (picture.metric, BATCHNORM[picture.batchnorm])))
