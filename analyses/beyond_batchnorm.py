"""Beyond the papers, BatchNorm: the same curve under each choice for BatchNorm's statistics.

    modeconn reproduce beyond-batchnorm --network digits-conv --protocol paper
    python analyses/beyond_batchnorm.py --network digits-conv --protocol paper

Papers differ in what happens to BatchNorm's running statistics on the path, and mostly do not say. Here both choices
are drawn on one axes.
"""

import sys

from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import draw_rows, last_rows, rows_of_k, scale_k, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import DENSE
from modeconn.result import Row
from modeconn.style import BATCHNORM, PALETTE, draw_threshold, panels


def draw(results: Results) -> Drawing:
    """Test instability over k, a line for each choice."""
    result = results["dense"]
    with panels(1, 1, 4.2, 3.4) as (figure, axes):
        ax = axes[0, 0]
        for color, choice in zip(PALETTE, result.batchnorm, strict=False):
            found = select(last_rows(result), split="test", batchnorm=choice)
            draw_rows(ax, found, "rewind_iter", "barrier", color=color, factor=100, label=BATCHNORM[choice])
        draw_threshold(ax, result.summary["threshold"])
        scale_k(ax, result.rewind_iters)
        ax.set(ylabel="test instability (points of error)", ylim=(0, None))
        ax.legend(fontsize=7)
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each k, split and BatchNorm choice."""
    return rows_of_k(results["dense"])


def judge(results: Results) -> Verdict:
    """From where on the network is stable, by each choice."""
    result = results["dense"]
    stable = result.stable_from()["test"]
    first = {choice: f"{100 * result.mean['test'][choice][0]:.1f}" for choice in result.batchnorm}
    where = {choice: "at no measured k" if k is None else f"from {k}" for choice, k in stable.items()}
    said = [f"{first[choice]} points at the first k, stable {where[choice]} ({choice})" for choice in stable]
    return Verdict("new", "; ".join(said))


FIGURE = Figure(
    paper="beyond",
    item="BatchNorm",
    shows="instability under interpolated and recalibrated statistics",
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
