"""Frankle et al. 2020 (LMC), Figure 2: error between copies that share their initialisation alone.

    modeconn reproduce lmc2020-figure-2 --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lmc2020_figure_2.py --network mnist-lenet --protocol paper --data-dir DIR

The paper plots train and test error along the line between two copies that were forked at initialisation (k = 0): mean
and standard deviation of nine pairs, for five networks.
"""

import sys

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import by, figure_of_choices, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import DENSE, FULL_LENGTH
from modeconn.reproduce.verdicts import judged, rising
from modeconn.result import Row
from modeconn.style import share_legend


def draw(results: Results) -> Drawing:
    """Error over alpha at k = 0, train and test."""
    result = results["dense"]

    def panel(ax: Axes, choice: str) -> None:
        result.plot_path(0, ax, choice)

    figure = figure_of_choices(result, panel)
    share_legend(figure, figure.axes)
    return figure


def rows(results: Results) -> list[Row]:
    """A row for each pair, split, BatchNorm choice and alpha, at k = 0 and the end of training."""
    result = results["dense"]
    return select(result.at(result.measured_at[-1]).paths, rewind_iter=0)


def judge(results: Results) -> Verdict:
    """Whether the error rises as in the paper: by under a point for LeNet, to that of guessing for ResNet-20."""
    result = results["dense"]
    choice, task = result.batchnorm[0], result.summary["task"]
    rise = 100 * result.mean["test"][choice][0]
    curve = by(select(rows(results), split="test", batchnorm=choice), "alpha", "error")
    highest = 100 * float(max(map(np.mean, curve.values())))
    found = f"test error rises by {rise:.2f} points over the mean of its ends, to {highest:.1f} % on average"
    if task == "mnist-lenet":
        return judged(found, rising(rise, 1))
    return judged(found, rising(0, rise), rising(85, highest))  # of 90, with one pair's scatter


FIGURE = Figure(
    paper="lmc2020",
    item="Figure 2",
    shows="error along the line between copies forked at k = 0",
    networks={
        "mnist-lenet": Network("rises by less than 1 point", protocols=DENSE["mnist-lenet"]),
        "cifar10-resnet20": Network(
            "rises to random guessing, train and test",
            protocols=DENSE["cifar10-resnet20"],
            cost=FULL_LENGTH,
            why={"short": "a shorter training leaves the copies nearer to each other, and the path less far from both"},
        ),
        "cifar10-vgg16": Network("rises to random guessing", cost="22 h a training on two cores"),
        "imagenet-resnet50": Network("rises to random guessing", cost="ImageNet, GPUs"),
        "imagenet-inception-v3": Network("rises to random guessing", cost="ImageNet, GPUs"),
        SMOKE: Network("", source="", protocols=DENSE[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
