"""How figures look and are written: colours, labels, and the pieces that figures share.

Results import this file where they draw, and not before, as it takes a while to load matplotlib.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modeconn.files import write_atomically, writing

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
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text in the PDF
}


@contextlib.contextmanager
def drawing(ax: Axes | None, width: float = 4, height: float = 3) -> Iterator[Axes]:
    """Axes to draw on in this style: the given ones, or new ones in a figure of their own, its size in inches."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained").subplots() if ax is None else ax


@contextlib.contextmanager
def panels(
    rows: int, columns: int, width: float, height: float, *, sharex: bool = False, sharey: bool = False
) -> Iterator[tuple[Figure, np.ndarray]]:
    """A new figure in this style, its size in inches, and its axes [rows, columns], on shared scales if asked."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a finished figure as PNG and PDF to the path with these endings; the files' paths.

    Raises:
        StoreError: they cannot be written.
    """
    written = []
    for ending in ("png", "pdf"):
        file = path.with_name(f"{path.name}.{ending}")
        content = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            # Without its date, the same result gives the same file.
            metadata = {"CreationDate": None} if ending == "pdf" else None
            figure.savefig(content, format=ending, dpi=200, metadata=metadata)
        with writing(file):
            write_atomically(file, content.getvalue())
        figure.set_layout_engine("none")  # where things are was found once, which takes as long as drawing them
        written.append(file)
    return written


def short(name: str, length: int = 20) -> str:
    """A name as long as a figure has room for."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def draw_mean(ax: Axes, x: np.ndarray, mean: np.ndarray, std: np.ndarray, color: str, **line: Any) -> None:
    """A mean over x as a line, in a band of one standard deviation on either side."""
    ax.plot(x, mean, color=color, **line)
    ax.fill_between(x, mean - std, mean + std, color=color, alpha=0.18, linewidth=0)


def draw_threshold(ax: Axes, threshold: float) -> None:
    """The line below which a network is stable, from a fraction of error, in points."""
    points = 100 * threshold
    ax.axhline(points, color="black", linewidth=0.8, linestyle="--", label=f"{points:g} points")


def name_places(ax: Axes, names: Sequence[str], every: int | None = None) -> None:
    """Names under the places 0, 1, 2, ...; of more than there is room for, every second, every third, ..."""
    every = every or -(-len(names) // NAMES)
    ax.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize=7)


def caption(figure: Figure, above: str, below: Iterable[str]) -> None:
    """Above, what was studied; below, what a reader must know to trust it, without what is empty."""
    figure.suptitle(above, fontsize=9)
    text = "; ".join(filter(None, below))
    if text:
        figure.supxlabel(text, fontsize=7, color="#444444")
