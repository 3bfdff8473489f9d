"""Frankle et al. 2020 (LMC), Figure 3: from which iteration on unpruned networks are stable.

    modeconn reproduce lmc2020-figure-3 --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lmc2020_figure_3.py --network mnist-lenet --protocol paper --data-dir DIR

The paper plots instability, on train and test data, over the iteration k until which two copies share their SGD noise:
the mean and the standard deviation of three initialisations with three pairs of copies each, for five networks.
"""

import sys

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import figure_of_choices, rows_of_k
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import DENSE, FULL_LENGTH
from modeconn.result import Row

# The part of training after which the paper's are stable.
_PAPER = {"mnist-lenet": 0.0, "cifar10-resnet20": 2_000 / 63_000}


def draw(results: Results) -> Drawing:
    """Instability over k, train and test, with the iteration from which the paper's network is stable."""
    result = results["dense"]

    def panel(ax: Axes, choice: str) -> None:
        result.plot(ax, choice)
        if (part := _PAPER.get(result.summary["task"])) is not None:
            k = part * result.summary["iterations"]
            ax.axvline(k, color="grey", linewidth=0.8, linestyle=":")

    return figure_of_choices(result, panel)


def rows(results: Results) -> list[Row]:
    """A row for each k, split and BatchNorm choice."""
    return rows_of_k(results["dense"])


def judge(results: Results) -> Verdict:
    """Whether the test error's instability falls below 2 points where the paper's does, as a part of training."""
    result = results["dense"]
    choice = result.batchnorm[0]
    total, means = result.summary["iterations"], 100 * result.mean["test"][choice]
    shown = ", ".join(f"{mean:.2f} at {k}" for k, mean in zip(result.rewind_iters, means, strict=True))
    k = result.stable_from()["test"][choice]
    stable = "stable at no measured k" if k is None else f"stable from {k} ({100 * k / total:.3g} % of training)"
    found = f"{stable}; test instability in points: {shown}"
    part = _PAPER.get(result.summary["task"])
    if part is None:
        return Verdict("new", found)
    if k is None:
        return Verdict("disagrees", found)
    before = max((one for one in result.rewind_iters if one < k), default=-1)  # where it was measured to be unstable
    between = before < part * total <= k
    if between and k > 4 * part * total:
        return Verdict("not reached", f"{found}; the measured k are too far apart to tell")
    return Verdict("agrees" if between else "disagrees", found)


FIGURE = Figure(
    paper="lmc2020",
    item="Figure 3",
    shows="instability of unpruned networks over the rewinding iteration k",
    networks={
        "mnist-lenet": Network("stable from k = 0", protocols=DENSE["mnist-lenet"]),
        "cifar10-resnet20": Network(
            "stable from iteration 2,000 (3 % of 63,000); train and test alike",
            protocols=DENSE["cifar10-resnet20"],
            cost=FULL_LENGTH,
        ),
        "cifar10-vgg16": Network("stable from iteration 1,000 (1.5 %)", cost="22 h a training on two cores"),
        "imagenet-resnet50": Network("stable from epoch 18 of 90 (20 %)", cost="ImageNet, GPUs"),
        "imagenet-inception-v3": Network(
            "stable on test data from epoch 28 of 171 (16 %), never on training data", cost="ImageNet, GPUs"
        ),
        SMOKE: Network("", source="", protocols=DENSE[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
