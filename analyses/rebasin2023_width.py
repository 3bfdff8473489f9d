"""Alignment over width: the barrier between two initialisations, by width of the hidden layers and weight decay.

    modeconn reproduce rebasin2023-width --network mnist-mlp --protocol short --data-dir DIR
    python analyses/rebasin2023_width.py --network mnist-mlp --protocol short --data-dir DIR

Ainsworth et al. (2023, Figure 4) find that barriers after alignment fall with width. Here also without alignment, as
wide networks may need none, and at two weight decays.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.alignment_studies import WIDTHS
from modeconn.reproduce.alignments import PLAIN
from modeconn.reproduce.drawing import select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.verdicts import judged, rising
from modeconn.result import Row
from modeconn.style import PALETTE, panels


def draw(results: Results) -> Drawing:
    """Loss barriers over width, a panel for each weight decay and a line for each way of alignment."""
    found = rows(results)
    decays = sorted({row["weight_decay"] for row in found})
    with panels(1, len(decays), 3.8 * len(decays), 3.4, sharey=True) as (figure, axes):
        for ax, decay in zip(axes[0], decays, strict=True):
            for way, color in zip(dict.fromkeys(row["align"] for row in found), PALETTE, strict=False):
                widths, means = _over_width(found, decay, way, "barrier")
                label = "not aligned" if way == PLAIN else f"aligned by {way}"
                ax.plot(widths, 100 * means, "o-", color=color, markersize=4, label=label)
            ax.set_xscale("log", base=2)
            ax.set_yscale("symlog", linthresh=1)
            ax.set_xticks(widths, [f"{width:g}" for width in widths])
            ax.set(title=f"weight decay {decay:g}", xlabel="units of a hidden layer", ylim=(0, 100))
            ax.set_ylabel("test error barrier (points)")
            ax.label_outer()
        axes[0, 0].legend(fontsize=7)
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each variant, pair and method, with its width and weight decay."""
    variants = results["alignment"].summary["variants"]
    return [
        {
            "width": int(variants[row["variant"]]["model"].split("-")[1]),
            "weight_decay": variants[row["variant"]]["weight_decay"],
            **row,
        }
        for row in results["alignment"].rows
    ]


def judge(results: Results) -> Verdict:
    """Whether the barrier after weight matching is lower in the widest network than in the narrowest."""
    found, said, falls = rows(results), [], []
    for decay in sorted({row["weight_decay"] for row in found}):
        for way in dict.fromkeys(row["align"] for row in found):
            widths, means = _over_width(found, decay, way, "barrier")
            shown = ", ".join(f"{100 * mean:.2f} at {width:g}" for width, mean in zip(widths, means, strict=True))
            said.append(f"weight decay {decay:g}, {'not aligned' if way == PLAIN else way}: {shown}")
            if way != PLAIN:
                falls.append(rising(means[-1], means[0]))
    words = f"test error barriers in points over width: {'; '.join(said)}"
    if results["alignment"].summary["task"] != "mnist-lenet":
        return Verdict("new", words)
    return judged(words, *falls)


def _over_width(found: list[Row], decay: float, way: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Widths, ascending, and the mean of a column at each."""
    widths = sorted({row["width"] for row in found})
    means = [np.mean([row[column] for row in select(found, width=w, weight_decay=decay, align=way)]) for w in widths]
    return np.array(widths), np.array(means)


FIGURE = Figure(
    paper="rebasin2023",
    item="Figure 4",
    shows="barriers over width, with and without alignment",
    networks={
        "mnist-mlp": Network(
            "barriers after alignment fall with width (shown for VGG-16 and ResNet-20)",
            source="paper",
            protocols=WIDTHS["mnist-mlp"],
        ),
        SMOKE: Network("", source="", protocols=WIDTHS[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
