"""Frankle et al. 2020 (LMC), Figure 7: from which rewinding iteration on sparse networks match the full one.

    modeconn reproduce lmc2020-figure-7 --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lmc2020_figure_7.py --network mnist-lenet --protocol paper --data-dir DIR

The paper plots the test error of the same sparse networks as in Figure 6, beside that of the full network.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import SPARSE, WHY_SPARSE
from modeconn.reproduce.tickets import columns, over_k
from modeconn.reproduce.verdicts import judged, opposite, rising
from modeconn.result import Row
from modeconn.style import panels
from modeconn.tickets.result import LotteryResult

_CONDITIONS = ("imp", "random", "reinit")


def draw(results: Results) -> Drawing:
    """Test error over k at the last level, a line for each condition, and the full network's."""
    result = results["sparse"]
    with panels(1, 1, 4.4, 3.4) as (figure, axes):
        result.plot_rewinding(axes[0, 0], "test_error", _CONDITIONS)
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, k, level and condition."""
    return columns(results["sparse"], ("test_error", "train_error", "matching_std", "matching_02"))


def judge(results: Results) -> Verdict:
    """Whether IMP matches where the paper's does, and random masks and new weights nowhere, for LeNet are worse.

    Matching is within one standard deviation of the dense networks, as in the paper's section 4; of a single replicate,
    which has none, less than 0.2 points above it.
    """
    result = results["sparse"]
    means = {condition: over_k(result, "test_error", condition) for condition in ("dense", *_CONDITIONS)}
    shown = "; ".join(
        f"{condition} {', '.join(f'{100 * mean:.2f} at {k}' for k, mean in of.items())}"
        for condition, of in means.items()
    )
    matching = {
        condition: [None if np.isnan(mean) else _matches(result, condition, k) for k, mean in means[condition].items()]
        for condition in _CONDITIONS
    }
    there = ", ".join(str(k) for k, yes in zip(means["imp"], matching["imp"], strict=True) if yes)
    found = f"test error in %: {shown}; IMP matches at k = {there or 'none'}"
    if result.summary["task"] == "mnist-lenet":
        best = (rising(means["imp"][k], means[other][k]) for k in means["imp"] for other in ("random", "reinit"))
        return judged(found, matching["imp"][0], *best)
    never = (opposite(one) for other in ("random", "reinit") for one in matching[other])
    return judged(found, opposite(matching["imp"][0]), matching["imp"][-1], *never)


def _matches(result: LotteryResult, condition: str, k: int) -> bool:
    """Whether a condition matches at the last level, rewound to k."""
    of_k = result.at(k)
    form = "matching_std" if result.summary["replicates"] > 1 else "matching_02"
    sparsest = of_k.sparsest_matching()[condition][form]
    return sparsest is not None and sparsest["level"] == max(row["level"] for row in of_k.rows)


FIGURE = Figure(
    paper="lmc2020",
    item="Figure 7",
    shows="test error of sparse networks over the rewinding iteration",
    networks={
        "mnist-lenet": Network("IMP matches at k = 0, and is best", protocols=SPARSE["mnist-lenet"]),
        "cifar10-resnet20": Network(
            "IMP matches from about the k where it is stable (500), not at 0; random masks and weights never do",
            protocols=SPARSE["cifar10-resnet20"],
            why=WHY_SPARSE,
        ),
        "cifar10-vgg16": Network("matches from about where it is stable", cost="22 h a training on two cores"),
        "imagenet-resnet50": Network("matches from about where it is stable", cost="ImageNet, GPUs"),
        "imagenet-inception-v3": Network("matches from about where it is stable", cost="ImageNet, GPUs"),
        SMOKE: Network("", source="", protocols=SPARSE[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
