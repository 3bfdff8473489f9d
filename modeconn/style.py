"""How figures look and are written: colours, labels, and the pieces that figures share.

Results import this file where they draw, and not before, as it takes a while to load matplotlib.
"""

import contextlib
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.cbook import normalize_kwargs
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D

from modeconn.errors import OptionError, unknown
from modeconn.files import write_atomically, writing
from modeconn.progress import in_notebook

# Blue and vermilion stay apart in grey and for colour-blind readers (Okabe & Ito 2008).
COLORS = {"test": "#0072B2", "train": "#D55E00"}
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
BATCHNORM = {
    "interpolate": "statistics interpolated",
    "recalibrate": "statistics recalibrated",
    "repair": "channels repaired",
    "none": "",
}
# Label and colour of how a subnetwork came about, the same in every figure, whatever else is in it.
CONDITIONS = {
    "imp": ("IMP", "#0072B2"),
    "random": ("random pruning", "#D55E00"),
    "reinit": ("random reinit", "#009E73"),
    "shuffle": ("shuffled", "#CC79A7"),
    "invert": ("inverted", "#E69F00"),
    "rewind0": ("IMP, rewound to 0", "#56B4E9"),
    "sign": ("random reinit, signs kept", "#17BECF"),
    "uniform": ("random, uniform", "#AA4499"),
    "balanced": ("random, balanced", "#882255"),
    "erk": ("random, Erdos-Renyi kernel", "#DDCC77"),
    "magnitude": ("magnitude", "#000000"),
    "snip": ("SNIP", "#8C564B"),
    "grasp": ("GraSP", "#7F7F7F"),
    "grasp-abs": ("GraSP (absolute)", "#BCBD22"),
    "synflow": ("SynFlow", "#9467BD"),
    "oneshot": ("one-shot", "#332288"),
}
# Controls of a criterion have its colour, and lines of their own.
DASHES = {"shuffle": "--", "reinit": ":", "invert": "-."}
CONDITIONS |= {
    f"{name}-{control}": (f"{CONDITIONS[name][0]}, {CONDITIONS[control][0]}", CONDITIONS[name][1])
    for name in ("magnitude", "snip", "grasp", "grasp-abs", "synflow", "oneshot")
    for control in DASHES
}
NAMES = 45  # that can be read side by side under an axis
BAND = "± 1 standard deviation"
FORMATS = ("png", "pdf", "svg")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=[*PALETTE, "#E69F00", "#56B4E9", "#000000"]),
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "legend.title_fontsize": "small",
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # text stays text in the PDF
    "svg.fonttype": "none",  # and in the SVG
    "svg.hashsalt": "modeconn",  # the same figure gives the same file
}
_OURS = "modeconn "  # before the width that a figure was made with, in its id: it may grow by its legend
_BESIDE = "beside"  # id of a legend there
_INSIDE = 4  # entries of a legend that find a place beside the curves; more stand beside the axes
_NEAR = 0.25  # distance in RGB below which two colours look the same


def style() -> dict[Any, Any]:
    """This style, without what the user has set to something else than matplotlib's default."""
    now, default = matplotlib.rcParams, matplotlib.rcParamsDefault
    return {name: value for name, value in STYLE.items() if now[name] == default[name]}


@contextlib.contextmanager
def drawing(ax: Axes | None, width: float = 4, height: float = 3) -> Iterator[Axes]:
    """Axes to draw on in this style: the given ones, or new ones in a figure of their own.

    A new figure is one of pyplot where that shows it, in a notebook or with matplotlib's interactive mode on; elsewhere
    pyplot would keep it for ever.

    Args:
        ax: where to draw, if it is known.
        width, height: of a new figure in inches, where the user has set no `figure.figsize`.
    """
    if ax is not None:
        with matplotlib.rc_context(style()):
            yield ax
        return
    now, default = (of["figure.figsize"] for of in (matplotlib.rcParams, matplotlib.rcParamsDefault))
    if list(now) == list(default):
        figure = _new_figure((width, height))
        figure.set_gid(f"{_OURS}{width}")
    else:
        figure = _new_figure(now)
    with matplotlib.rc_context(style()):
        yield figure.subplots()


def _new_figure(size: Any) -> Figure:
    if not (in_notebook() or matplotlib.is_interactive()):
        return Figure(figsize=size, layout="constrained")
    from matplotlib import pyplot

    return pyplot.figure(figsize=size, layout="constrained")


@contextlib.contextmanager
def panels(
    rows: int, columns: int, width: float, height: float, *, sharex: bool = False, sharey: bool = False
) -> Iterator[tuple[Figure, np.ndarray]]:
    """A new figure in this style, its size in inches, and its axes [rows, columns], on shared scales if asked."""
    with matplotlib.rc_context(style()):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.set_gid(f"{_OURS}{width}" if rows == columns == 1 else None)
        yield figure, figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)


@dataclass(frozen=True)
class Files:
    """How figures are written.

    Attributes:
        formats: endings of the files, among `FORMATS`.
        width: in inches, to which a figure is scaled, its text left as large as it is; None for its own.
        log: whether the y axes are logarithmic.

    Raises:
        OptionError: another format, or a width that is no positive number.
    """

    formats: Sequence[str] = ("png", "pdf")
    width: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if wrong := [name for name in self.formats if name not in FORMATS]:
            raise unknown("format", wrong[0], FORMATS)
        if self.width is not None and not 0 < self.width < 100:
            raise OptionError(f"the width of a figure is in inches, above 0 and below 100; got {self.width:g}")


AS_USUAL = Files()


def save_figure(figure: Figure, path: Path, files: Files = AS_USUAL) -> list[Path]:
    """Write a finished figure to the path with the endings of its formats, PNG and PDF; the files' paths.

    Raises:
        StoreError: they cannot be written.
    """
    if files.width is not None:
        _scale(figure, files.width)
    for ax in figure.axes if files.log else ():
        if ax.has_data() and not ax.images and ax.get_label() != "<colorbar>":
            ax.set_yscale("log")
    written = []
    for ending in files.formats:
        file = path.with_name(f"{path.name}.{ending}")
        content = io.BytesIO()
        with matplotlib.rc_context(style()):
            # Without its date, the same result gives the same file.
            metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(ending)
            figure.savefig(content, format=ending, metadata=metadata)
        with writing(file):
            write_atomically(file, content.getvalue())
        _keep_layout(figure)
        written.append(file)
    return written


def _keep_layout(figure: Figure) -> None:
    """Let things stay where they are: finding that out takes as long as drawing them, and was done once.

    Not the layout engine "none": it does nothing, but a figure that has one is drawn twice.
    """
    with matplotlib.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)


def short(name: str, length: int = 20) -> str:
    """A name as long as a figure has room for."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


@dataclass(frozen=True)
class Look:
    """How a result is drawn on axes where there may be others, from the options that its `plot` was given.

    Attributes:
        label: what it is called; None for the words of its kind.
        color: of all its lines; None where each has the colour of its kind.
        annotate: whether there are a title and the marks that explain a single result.
        shared: something else was drawn before.
        line: options of its curves, for `matplotlib.lines.Line2D`.
    """

    label: str | None
    color: str | None
    annotate: bool
    shared: bool
    line: Mapping[str, Any]

    def name(self, own: str, among: str, part: str = "") -> str:
        """The label of a curve.

        Args:
            own: where the result is alone on its axes.
            among: of the result, where there are others.
            part: of the result, if it has several curves.
        """
        if self.label is None and not self.shared:
            return own
        return ", ".join(filter(None, (among if self.label is None else self.label, part)))

    def options(self, **usual: Any) -> dict[str, Any]:
        """Options of a curve: the usual ones, and in place of these what was asked for."""
        return usual | dict(self.line)


def look_of(
    ax: Axes, label: str | None = None, color: str | None = None, annotate: bool | None = None, **line: Any
) -> Look:
    """The look of the next result on axes.

    Args:
        ax: where it is drawn.
        label: what it is called.
        color: of all its lines; by default, where something was drawn before, the next of the axes' own colours.
        annotate: None for a title and marks on empty axes alone.
        line: options of its curves; short names (`lw`, `ls`) are understood.
    """
    shared = ax.has_data()
    color = _next_color(ax) if color is None and shared else color
    return Look(label, color, not shared if annotate is None else annotate, shared, normalize_kwargs(line, Line2D))


def _next_color(ax: Axes) -> Any:
    """The next colour of the axes' cycle that looks like none of those that were drawn."""
    used = [line.get_color() for line in ax.lines] + [patch.get_facecolor() for patch in ax.patches]
    color: Any = "black"
    for _ in range(10):
        (line,) = ax.plot([], [])
        color = line.get_color()
        line.remove()
        if all(np.linalg.norm(np.subtract(to_rgb(color), to_rgb(other))) > _NEAR for other in used):
            break
    return color


def unused(ax: Axes, label: str) -> str:
    """A label that nothing on the axes has yet: the given one, or with a number.

    >>> ax = Figure().subplots()
    >>> unused(ax, "error"), ax.plot([0, 1], label="error") and unused(ax, "error")
    ('error', 'error (2)')
    """
    there = ax.get_legend_handles_labels()[1]
    others = (f"{label} ({number})" for number in itertools.count(2))
    return next(name for name in itertools.chain([label], others) if name not in there)


def draw_mean(ax: Axes, x: np.ndarray, mean: np.ndarray, std: np.ndarray, color: str, **line: Any) -> None:
    """A mean over x as a line, in a band of one standard deviation on either side, which the legend explains."""
    ax.plot(x, mean, color=color, **line)
    draw_band(ax, x, mean - std, mean + std, color, BAND)


def draw_band(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: str, label: str) -> None:
    """A band over x, which the legend explains once; not at all where it has no width."""
    ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    if np.any(high > low) and label not in ax.get_legend_handles_labels()[1]:
        ax.fill_between([], [], color="0.5", alpha=0.3, linewidth=0, label=label)


def draw_threshold(ax: Axes, threshold: float) -> None:
    """The line below which a network is stable, from a fraction of error, in points; once, however often drawn."""
    points = 100 * threshold
    label = f"{points:g} points"
    if label not in ax.get_legend_handles_labels()[1]:
        ax.axhline(points, color="black", linewidth=0.8, linestyle="--", label=label)


def draw_legend(ax: Axes, title: str = "") -> None:
    """Label what is drawn, each once: among the curves where there is room, beside the axes if there is much of it.

    Under a title, which is left out if an earlier legend had another.
    """
    labeled: dict[str, Any] = {}
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
        labeled.setdefault(label, handle)
    if not labeled:
        return
    before = ax.get_legend()
    if before is not None and before.get_title().get_text() != title:
        title = ""
    # Only where the layout makes room for it.
    beside = len(labeled) > _INSIDE and isinstance(ax.figure, Figure) and ax.figure.get_layout_engine() is not None
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0} if beside else {}
    legend = ax.legend(list(labeled.values()), list(labeled), title=title or None, **place)
    legend.set_gid(_BESIDE if beside else None)
    figure = ax.figure
    if beside and isinstance(figure, Figure) and (figure.get_gid() or "").startswith(_OURS):
        width = float(str(figure.get_gid()).removeprefix(_OURS))
        figure.set_figwidth(width + legend.get_window_extent().width / figure.dpi)


def share_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend for several panels in place of their own, below them; of what has one label, once."""
    labeled: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            labeled.setdefault(label, handle)
        if (legend := ax.get_legend()) is not None:
            legend.remove()
    with matplotlib.rc_context(style()):
        for columns in range(min(len(labeled), 6), 0, -1):  # as many as fit side by side
            legend = figure.legend(list(labeled.values()), list(labeled), loc="outside lower center", ncols=columns)
            # Text is a little wider at the resolution of files.
            if columns == 1 or legend.get_window_extent().width <= 0.9 * figure.bbox.width:
                break
            legend.remove()


def _scale(figure: Figure, width: float) -> None:
    """Scale a figure to a width in inches; legends beside its axes, which would take most of it, go below them."""
    own, height = figure.get_size_inches()
    beside = [ax for ax in figure.axes if (legend := ax.get_legend()) is not None and legend.get_gid() == _BESIDE]
    if beside and (gid := figure.get_gid()) is not None and gid.startswith(_OURS):
        own = float(gid.removeprefix(_OURS))
    figure.set_size_inches(width, height * width / own)
    if beside:
        share_legend(figure, beside)
        below = figure.legends[-1].get_window_extent().height / figure.dpi
        figure.set_figheight(figure.get_figheight() + below)


def reach_zero(ax: Axes) -> None:
    """Have the y axis begin at 0, if nothing lies below, and yet be free to become logarithmic: it has no limit."""
    ax.update_datalim([(0, 0)], updatex=False)
    for line in ax.lines:
        line.sticky_edges.y.append(0)
    ax.autoscale_view(scalex=False)


def mark_iterations(ax: Axes, ks: Iterable[int]) -> None:
    """Rewinding iterations on the x axis, with those that are marked already; from the first positive one symlog."""
    from matplotlib.ticker import FixedLocator, NullLocator

    before = ax.xaxis.get_major_locator()
    others = before.tick_values(0, 0) if isinstance(before, FixedLocator) else ()
    marked = sorted({int(k) for k in (*ks, *others)})
    positive = [k for k in marked if k > 0]
    scale = ""
    if len(positive) > 1:
        ax.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
        left = -0.2 * positive[0] if marked[0] == 0 else 0.8 * positive[0]
        ax.set_xlim(left, positive[-1] * (positive[-1] / positive[0]) ** 0.05)
        scale = " (symlog scale)" if marked[0] == 0 else " (log scale)"
    ax.xaxis.set_major_locator(FixedLocator(marked))
    ax.xaxis.set_major_formatter(lambda k, _: f"{k:g}" if k < 10_000 else f"{k / 1000:g}K")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(f"rewinding iteration k{scale}")


def name_places(ax: Axes, names: Sequence[str], every: int | None = None) -> None:
    """Names under the places 0, 1, 2, ...; of more than there is room for, every second, every third, ..."""
    every = every or -(-len(names) // NAMES)
    ax.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize="small")


def caption(figure: Figure, above: str, below: Iterable[str]) -> None:
    """Above, what was studied; below, what a reader must know to trust it, without what is empty."""
    with matplotlib.rc_context(style()):
        figure.suptitle(above, fontsize="medium")
        text = "; ".join(filter(None, below))
        if text and figure.legends:  # both are below the panels
            figure.legends[-1].set_title(text, prop=FontProperties(size="small"))
        elif text:
            figure.supxlabel(text, fontsize="small", color="#444444")
