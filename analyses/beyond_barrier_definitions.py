"""Beyond the papers, Two definitions: the barrier over the mean of the ends, and over the chord.

    modeconn reproduce beyond-barrier-definitions --network digits-conv --protocol paper
    python analyses/beyond_barrier_definitions.py --network digits-conv --protocol paper

Frankle et al. 2020 subtract the mean of the ends' errors from the highest error on the path, Entezari et al. 2022 the
straight line between them. The two agree where ends are equally good.
"""

import sys

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import draw_rows, figure_of_choices, last_rows, scale_k, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import DENSE
from modeconn.result import Row
from modeconn.style import PALETTE, draw_threshold

_NAMES = {"barrier": "over the mean (Frankle et al.)", "chord_barrier": "over the chord (Entezari et al.)"}


def draw(results: Results) -> Drawing:
    """Both barriers over k, test data."""
    result = results["dense"]

    def panel(ax: Axes, choice: str) -> None:
        found = select(last_rows(result), split="test", batchnorm=choice)
        for color, (column, name) in zip(PALETTE, _NAMES.items(), strict=False):
            draw_rows(ax, found, "rewind_iter", column, color=color, factor=100, label=name)
        draw_threshold(ax, result.summary["threshold"])
        scale_k(ax, result.rewind_iters)
        ax.set(ylabel="test barrier (points of error)", ylim=(0, None))
        ax.legend(fontsize=7)

    return figure_of_choices(result, panel)


def rows(results: Results) -> list[Row]:
    """A row for each pair, split and BatchNorm choice."""
    return last_rows(results["dense"])


def judge(results: Results) -> Verdict:
    """The largest difference, and the largest gap between ends."""
    found = [row for row in rows(results) if not np.isnan(row["barrier"])]
    apart = max(abs(row["barrier"] - row["chord_barrier"]) for row in found)
    gap = max(abs(row["error_a"] - row["error_b"]) for row in found)
    said = (
        f"at most {100 * apart:.2f} points apart over {len(found)} paths, whose ends differ by at most {100 * gap:.2f}"
    )
    return Verdict("new", said)


FIGURE = Figure(
    paper="beyond",
    item="Two definitions",
    shows="barriers over the mean of the ends and over the chord",
    networks={
        SMOKE: Network("", source="", protocols=DENSE[SMOKE]),
        "mnist-lenet": Network("", source="", protocols=DENSE["mnist-lenet"]),
        "cifar10-resnet20": Network("", source="", protocols=DENSE["cifar10-resnet20"]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
