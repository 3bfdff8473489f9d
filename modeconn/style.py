"""How figures look, and how they are written."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modeconn.files import writing

# Blue and vermilion stay apart in grey and for colour-blind readers (Okabe & Ito 2008).
COLORS = {"test": "#0072B2", "train": "#D55E00"}
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
BATCHNORM = {
    "interpolate": "statistics interpolated",
    "recalibrate": "statistics recalibrated",
    "repair": "channels repaired",
    "none": "",
}
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


def short(name: str, length: int = 20) -> str:
    """A name as long as a figure has room for."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def new_axes(width: float = 4, height: float = 3) -> Axes:
    """Axes in a figure of their own."""
    return Figure(figsize=(width, height), layout="constrained").subplots()


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a finished figure as PNG and PDF to the path with these endings; the files' paths.

    Raises:
        StoreError: they cannot be written.
    """
    written = []
    for ending in ("png", "pdf"):
        file = path.with_name(f"{path.name}.{ending}")
        with writing(file), matplotlib.rc_context(STYLE):
            # Without its date, the same result gives the same file.
            figure.savefig(file, dpi=200, metadata={"CreationDate": None} if ending == "pdf" else None)
        figure.set_layout_engine("none")  # where things are was found once, which takes as long as drawing them
        written.append(file)
    return written
