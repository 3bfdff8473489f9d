"""Frankle & Carbin 2019, Figure 7: tickets of VGG-19 at three learning rates.

    modeconn reproduce lth2019-figure-7 --network digits-conv --protocol paper
    python analyses/lth2019_figure_7.py --network digits-conv --protocol paper

The paper plots test accuracy of VGG-19 at fixed iterations over the part of weights that remains, for a high and a low
learning rate and a high one with warmup.
"""

import sys

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network
from modeconn.reproduce.rates import draw, judge, rows
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import RATES

FIGURE = Figure(
    paper="lth2019",
    item="Figure 7",
    shows="tickets of VGG-19 at three learning rates",
    networks={
        "VGG-19": Network(
            "at learning rate 0.1 no tickets; at 0.01 within 1 point to 3.5 %; with warmup tickets to 1.5 %",
            "paper",
            cost="25 h a training on two cores",
        ),
        SMOKE: Network("", source="", protocols=RATES[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
