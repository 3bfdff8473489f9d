"""Beyond the papers, Intervals: instability with its 95 % interval over initialisations.

    modeconn reproduce beyond-intervals --network digits-conv --protocol paper
    python analyses/beyond_intervals.py --network digits-conv --protocol paper

The paper's bands are standard deviations over nine pairs, three of each initialisation, which share copies. Here they
are Student's intervals of the mean over initialisations, which are independent.
"""

import sys

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import figure_of_choices, rows_of_k, scale_k
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import INTERVALS
from modeconn.result import Row
from modeconn.style import COLORS, draw_band, draw_threshold


def draw(results: Results) -> Drawing:
    """Instability over k, train and test: mean and 95 % interval."""
    result = results["dense"]
    ks = result.rewind_iters

    def panel(ax: Axes, choice: str) -> None:
        for split in result.splits:
            mean, between = 100 * result.mean[split][choice], 100 * result.interval[split][choice]
            ax.plot(ks, mean, color=COLORS[split], marker="o", markersize=3, label=split)
            draw_band(ax, ks, between[:, 0], between[:, 1], COLORS[split], "95 % interval")
        draw_threshold(ax, result.summary["threshold"])
        scale_k(ax, ks)
        ax.set(ylabel="instability (points of error)", ylim=(0, None))
        ax.legend(fontsize=7)

    return figure_of_choices(result, panel)


def rows(results: Results) -> list[Row]:
    """A row for each k, split and BatchNorm choice, with the interval's ends."""
    return rows_of_k(results["dense"])


def judge(results: Results) -> Verdict:
    """At which k the replicates do not decide whether the network is stable."""
    undecided = [row for row in rows(results) if row["stable"] == "undecided"]
    places = [f"{row['split']} {row['batchnorm']} k = {row['rewind_iter']}" for row in undecided]
    widths = [row["interval_high"] - row["interval_low"] for row in rows(results)]
    if np.isnan(widths).all():
        return Verdict("not reached", "one initialisation has no interval")
    found = (
        f"intervals are up to {100 * np.nanmax(widths):.1f} points long; undecided at {len(places)} of {len(widths)}"
    )
    return Verdict("new", found + (f": {', '.join(places)}" if places else ""))


FIGURE = Figure(
    paper="beyond",
    item="Intervals",
    shows="instability with 95 % intervals over initialisations",
    networks={
        SMOKE: Network("", source="", protocols=INTERVALS[SMOKE]),
        "mnist-lenet": Network("", source="", protocols=INTERVALS["mnist-lenet"]),
        "cifar10-resnet20": Network("", source="", protocols=INTERVALS["cifar10-resnet20"]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
