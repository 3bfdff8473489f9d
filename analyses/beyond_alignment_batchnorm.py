"""Alignment and BatchNorm: barriers between two initialisations, aligned and not, under each choice for BatchNorm.

    modeconn reproduce beyond-alignment-batchnorm --network cifar10-resnet20 --protocol short --data-dir DIR
    python analyses/beyond_alignment_batchnorm.py --network cifar10-resnet20 --protocol short --data-dir DIR

Running statistics do not fit between aligned networks, so that alignment looks useless where they are interpolated
(Jordan et al. 2022). Here are all three choices, over the width of the network.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.alignment_studies import CHANNELS
from modeconn.reproduce.alignments import PLAIN
from modeconn.reproduce.drawing import select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.result import Row
from modeconn.style import BATCHNORM, PALETTE, panels


def draw(results: Results) -> Drawing:
    """Test error barriers over width: a colour for each choice, dashed without alignment."""
    found = rows(results)
    widths = sorted({row["width"] for row in found})
    with panels(1, 1, 4.6, 3.6) as (figure, axes):
        ax = axes[0, 0]
        for choice, color in zip(dict.fromkeys(row["batchnorm"] for row in found), PALETTE, strict=False):
            for way in dict.fromkeys(row["align"] for row in found):
                means = [100 * _mean(found, width, choice, way) for width in widths]
                label = f"{BATCHNORM.get(choice, choice)}, {'not aligned' if way == PLAIN else 'aligned'}"
                ax.plot(widths, means, "o--" if way == PLAIN else "o-", color=color, markersize=4, label=label)
        ax.set_xscale("log", base=2)
        ax.set_xticks(widths, [f"{width:g}" for width in widths])
        ax.set(xlabel="width of the network", ylabel="test error barrier (points)", ylim=(0, None))
        ax.legend(fontsize=6, handlelength=4)  # long enough to show which lines are dashed
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each width, BatchNorm choice, pair and method."""
    variants = results["alignment"].summary["variants"]
    return [{"width": variants[row["variant"]]["width"], **row} for row in results["alignment"].rows]


def judge(results: Results) -> Verdict:
    """The barriers of each."""
    found, said = rows(results), []
    for width in sorted({row["width"] for row in found}):
        for choice in dict.fromkeys(row["batchnorm"] for row in found):
            ways = dict.fromkeys(row["align"] for row in found)
            shown = ", ".join(
                f"{'not aligned' if way == PLAIN else way} {100 * _mean(found, width, choice, way):.1f}" for way in ways
            )
            said.append(f"width {width:g}, {choice}: {shown}")
    return Verdict("new", f"test error barriers in points: {'; '.join(said)}")


def _mean(found: list[Row], width: float, choice: str, way: str) -> float:
    return float(np.mean([row["barrier"] for row in select(found, width=width, batchnorm=choice, align=way)]))


FIGURE = Figure(
    paper="beyond",
    item="Alignment and BatchNorm",
    shows="barriers between initialisations over width, aligned and not, by the choice for BatchNorm",
    networks={
        "cifar10-resnet20": Network("", source="", protocols=CHANNELS["cifar10-resnet20"]),
        SMOKE: Network("", source="", protocols=CHANNELS[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
