"""Frankle & Carbin 2019, Figure 4: early stopping and accuracy of LeNet's tickets and of reinitialised ones.

    modeconn reproduce lth2019-figure-4 --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lth2019_figure_4.py --network mnist-lenet --protocol paper --data-dir DIR

The paper plots, over the part of weights that remains, the iteration of early stopping, the test accuracy there and at
the end of training, of winning tickets and of their masks on new weights; iterative and one-shot pruning.
"""

import sys

from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import TICKETS
from modeconn.reproduce.tickets import columns, mean_at
from modeconn.reproduce.verdicts import judged, more, rising
from modeconn.result import Row
from modeconn.style import panels

_CONDITIONS = ("imp", "reinit", "oneshot", "oneshot-reinit")


def draw(results: Results) -> Drawing:
    """Early stopping, test error there, and at the end over density; lines from minimum to maximum of the trials."""
    result = results["tickets"]
    shown = [name for name in _CONDITIONS if name in result.conditions]  # short has no one-shot pruning
    with panels(1, 3, 11.0, 3.2) as (figure, axes):
        for ax, column in zip(axes[0], ("early_stop_iter", "early_stop_error", "test_error"), strict=True):
            result.plot(ax, column, shown, bars="minmax")
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, level and condition."""
    names = ("early_stop_iter", "early_stop_error", "test_error", "train_error")
    return [row for row in columns(results["tickets"], names) if row["condition"] in ("dense", *_CONDITIONS)]


def judge(results: Results) -> Verdict:
    """The paper's comparisons at 21.1 and 13.5 % of the weights, and of tickets with their reinitialisation."""
    result = results["tickets"]
    stop = {name: mean_at(result, "early_stop_iter", name, 0.211) for name in ("dense", "imp", "reinit")}
    sooner = 100 * (1 - stop["imp"] / stop["dense"])
    better = 100 * (mean_at(result, "early_stop_error", "dense", 1) - mean_at(result, "early_stop_error", "imp", 0.135))
    over = 100 * (
        mean_at(result, "early_stop_error", "reinit", 0.211) - mean_at(result, "early_stop_error", "imp", 0.211)
    )
    sooner_than_new = stop["reinit"] / stop["imp"]
    worse, gain = more(over, "points worse", "points better"), more(better, "points better", "points worse")
    found = (
        f"tickets of 21 % stop {more(sooner, '% sooner', '% later', 0)} than the dense network and "
        f"{sooner_than_new:.2f} times as soon as reinitialised, which are {worse}; of 13.5 % they are {gain} than dense"
    )
    return judged(found, rising(10, sooner), rising(0, better), rising(0, over), rising(1, sooner_than_new))


FIGURE = Figure(
    paper="lth2019",
    item="Figure 4",
    shows="early stopping and accuracy of tickets and reinitialised networks over density",
    networks={
        "mnist-lenet": Network(
            "tickets of 21 % stop 38 % sooner than dense and 2.51 times as soon as reinitialised, which are 0.5 points "
            "worse; those of 13.5 % are 0.3 points better than dense",
            "paper",
            TICKETS["mnist-lenet"],
        ),
        SMOKE: Network("", source="", protocols=TICKETS[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
