"""Frankle & Carbin 2019, Figure 5: tickets of convolutional networks.

    modeconn reproduce lth2019-figure-5 --network cifar10-conv2 --protocol short --data-dir DIR
    python analyses/lth2019_figure_5.py --network cifar10-conv2 --protocol short --data-dir DIR

The paper plots early stopping, test and train accuracy of Conv-2, -4 and -6 over the part of weights that remains,
iterative tickets and reinitialised ones.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import TICKETS, WHY_CONV
from modeconn.reproduce.tickets import columns, mean_at
from modeconn.reproduce.verdicts import judged, more
from modeconn.result import Row
from modeconn.style import panels, share_legend

_NAMES = ("early_stop_iter", "early_stop_error", "test_error", "train_error")


def draw(results: Results) -> Drawing:
    """Early stopping, test error there and at the end, and train error over density."""
    result = results["tickets"]
    with panels(1, len(_NAMES), 3.6 * len(_NAMES), 3.2) as (figure, axes):
        for ax, column in zip(axes[0], _NAMES, strict=True):
            result.plot(ax, column, ("imp", "reinit"), bars="minmax")
        share_legend(figure, axes[0])
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, level and condition."""
    return [row for row in columns(results["tickets"], _NAMES) if row["condition"] in ("dense", "imp", "reinit")]


def judge(results: Results) -> Verdict:
    """Whether tickets that err no more than the dense network stop twice as soon, and the best err 2 points less."""
    result = results["tickets"]
    densities = sorted({row["density"] for row in result.rows if row["condition"] == "imp"})
    stops = {d: mean_at(result, "early_stop_iter", "imp", d) for d in densities}
    errors = {d: mean_at(result, "early_stop_error", "imp", d) for d in densities}
    dense_stop, dense_error = (mean_at(result, name, "dense", 1) for name in ("early_stop_iter", "early_stop_error"))
    if np.isnan([*stops.values(), *errors.values(), dense_stop, dense_error]).any():
        return Verdict("not reached", "networks diverged")
    best = min(errors, key=errors.__getitem__)
    better = 100 * (dense_error - errors[best])
    found = f"the best ticket is {more(better, 'points better', 'points worse')} than dense (at {100 * best:.3g} %)"
    as_good = [d for d in densities if errors[d] <= dense_error]  # one that learns nothing stops soonest
    if not as_good:
        return judged(found, False)
    soonest = min(as_good, key=stops.__getitem__)
    sooner = dense_stop / stops[soonest]
    found += f"; of those that are no worse, the soonest stops {sooner:.2f} times as soon (at {100 * soonest:.3g} %)"
    return judged(found, sooner > 2, better > 2)


FIGURE = Figure(
    paper="lth2019",
    item="Figure 5",
    shows="early stopping and accuracy of convolutional tickets over density",
    networks={
        "cifar10-conv2": Network(
            "up to 3.5 times as soon (8.8 %), 3.4 points better (4.6 %)",
            "paper",
            TICKETS["cifar10-conv2"],
            why=WHY_CONV,
        ),
        "cifar10-conv4": Network(
            "up to 3.5 times as soon (9.2 %), 3.5 points better (11.1 %)", "paper", cost="1.3 h a training on two cores"
        ),
        "cifar10-conv6": Network(
            "up to 2.5 times as soon (15.1 %), 3.3 points better (26.4 %)",
            "paper",
            cost="2.5 h a training on two cores",
        ),
        SMOKE: Network("", source="", protocols=TICKETS[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
