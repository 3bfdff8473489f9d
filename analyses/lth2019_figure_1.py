"""Frankle & Carbin 2019, Figure 1: how soon and how well tickets and random sparse networks learn.

    modeconn reproduce lth2019-figure-1 --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lth2019_figure_1.py --network mnist-lenet --protocol paper --data-dir DIR

The paper plots the iteration of the lowest validation loss, and the test accuracy there, over the part of weights that
remains: winning tickets as solid lines, networks with random masks dashed, LeNet and Conv-2, -4 and -6.
"""

import sys

from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import TICKETS, WHY_CONV
from modeconn.reproduce.tickets import at_density, columns, density_of, mean_at
from modeconn.reproduce.verdicts import judged, rising
from modeconn.result import Row
from modeconn.style import panels


def draw(results: Results) -> Drawing:
    """Early stopping and test error there over density, tickets and random masks; lines from minimum to maximum."""
    result = results["tickets"]
    with panels(1, 2, 7.6, 3.2) as (figure, axes):
        for ax, column in zip(axes[0], ("early_stop_iter", "early_stop_error"), strict=True):
            result.plot(ax, column, ("imp", "random"), bars="minmax")
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, level and condition."""
    names = ("early_stop_iter", "early_stop_error")
    return [row for row in columns(results["tickets"], names) if row["condition"] in ("dense", "imp", "random")]


def judge(results: Results) -> Verdict:
    """Whether at about 21 % of the weights tickets stop sooner and err less than dense networks, random neither."""
    result = results["tickets"]
    stops = {name: mean_at(result, "early_stop_iter", name, 0.21) for name in ("dense", "imp", "random")}
    errors = {name: 100 * mean_at(result, "early_stop_error", name, 0.21) for name in stops}
    shown = ", ".join(f"{name} {stops[name]:.0f} ({errors[name]:.2f} %)" for name in stops)
    density = density_of(result, at_density(result, 0.21))
    found = f"iteration of early stopping (test error there) at {100 * density:.3g} % of the weights: {shown}"
    order = ("imp", "dense", "random")
    return judged(found, *(rising(*(of[name] for name in order)) for of in (stops, errors)))


_CLAIM = "tickets learn faster and better than the dense network, random sparse ones slower and worse"

FIGURE = Figure(
    paper="lth2019",
    item="Figure 1",
    shows="early stopping and accuracy of tickets and random sparse networks over density",
    networks={
        "mnist-lenet": Network(
            _CLAIM,
            "paper",
            TICKETS["mnist-lenet"],
            why={"short": "at this density random masks err as much as the dense network; sparser ones err more"},
        ),
        "cifar10-conv2": Network(_CLAIM, "paper", TICKETS["cifar10-conv2"], why=WHY_CONV),
        "cifar10-conv4": Network(_CLAIM, "paper", cost="1.3 h a training on two cores"),
        "cifar10-conv6": Network(_CLAIM, "paper", cost="2.5 h a training on two cores"),
        SMOKE: Network("", source="", protocols=TICKETS[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
