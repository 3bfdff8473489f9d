"""Frankle & Carbin 2019, Figure 8: tickets of ResNet-18 (20 layers) at three learning rates.

    modeconn reproduce lth2019-figure-8 --network digits-conv --protocol paper
    python analyses/lth2019_figure_8.py --network digits-conv --protocol paper

The paper plots test accuracy of ResNet-18 (20 layers) at fixed iterations over the part of weights that remains, for a
high and a low learning rate and a high one with warmup.
"""

import sys

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network
from modeconn.reproduce.rates import draw, judge, rows
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import RATES

FIGURE = Figure(
    paper="lth2019",
    item="Figure 8",
    shows="tickets of ResNet-18 (20 layers) at three learning rates",
    networks={
        "ResNet-18 (20 layers)": Network(
            "at learning rate 0.1 no tickets; at 0.01 best 89.5 %; at 0.03 with warmup 90.5 % at 27.1 %, tickets to "
            "11.8 %",
            "paper",
            cost="1 to 1.5 h a training on two cores, 12 levels at each of three learning rates",
        ),
        SMOKE: Network("", source="", protocols=RATES[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
