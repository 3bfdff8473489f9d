"""Frankle & Carbin 2019, Figure 6: dropout and pruning together.

    modeconn reproduce lth2019-figure-6 --network digits-conv --protocol paper
    python analyses/lth2019_figure_6.py --network digits-conv --protocol paper

The paper trains Conv-2, -4 and -6 with dropout (rate 0.5) and prunes them: dropout helps, and pruning helps further.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import DROPOUT
from modeconn.reproduce.tickets import columns, mean_at
from modeconn.reproduce.verdicts import judged, more, rising
from modeconn.result import Row
from modeconn.style import panels


def draw(results: Results) -> Drawing:
    """Early stopping and test error there over density, without and with dropout."""
    with panels(2, 2, 7.6, 6.0, sharex=True) as (figure, axes):
        for line, (title, result) in zip(axes, results.items(), strict=True):
            for ax, column in zip(line, ("early_stop_iter", "early_stop_error"), strict=True):
                result.plot(ax, column, ("imp", "reinit"), bars="minmax")
                ax.set_title(title)
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, level and condition of both studies."""
    return [
        {"study": title} | row
        for title, result in results.items()
        for row in columns(result, ("early_stop_iter", "early_stop_error"))
    ]


def judge(results: Results) -> Verdict:
    """How much better dropout is when dense, and the best ticket with dropout than the dense network with it."""
    plain, dropout = results.values()
    dense = [100 * mean_at(result, "early_stop_error", "dense", 1) for result in (plain, dropout)]
    densities = sorted({row["density"] for row in dropout.rows if row["condition"] == "imp"})
    best = float(np.min([100 * mean_at(dropout, "early_stop_error", "imp", density) for density in densities]))
    gains = [more(gain, "points better", "points worse") for gain in (dense[0] - dense[1], dense[1] - best)]
    found = f"dropout is {gains[0]} when dense, the best ticket with it {gains[1]} than that"
    return judged(found, rising(best, dense[1], dense[0]))


FIGURE = Figure(
    paper="lth2019",
    item="Figure 6",
    shows="early stopping and accuracy over density with dropout",
    networks={
        "cifar10-conv2": Network(
            "2.1 points better when dense, 2.3 further by pruning", "paper", cost="28 min a training on two cores"
        ),
        "cifar10-conv4": Network("3.0 and 4.6 points", "paper", cost="1.3 h a training on two cores"),
        "cifar10-conv6": Network("2.4 and 4.7 points", "paper", cost="2.5 h a training on two cores"),
        SMOKE: Network("", source="", protocols=DROPOUT[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
