"""Frankle et al. 2020 (LMC), Figure 5: error between copies of sparse networks rewound to initialisation.

    modeconn reproduce lmc2020-figure-5 --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lmc2020_figure_5.py --network mnist-lenet --protocol paper --data-dir DIR

The paper plots train and test error along the line between copies of sparse networks that were rewound to k = 0: by
IMP, with random masks, and reinitialised; at the density of Figures 6 and 7.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import by, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import SPARSE, WHY_SPARSE
from modeconn.reproduce.tickets import over_k
from modeconn.reproduce.verdicts import judged, rising
from modeconn.result import Row
from modeconn.style import CONDITIONS, draw_mean, panels
from modeconn.tickets.drawing import mean_and_std

_CONDITIONS = ("imp", "random", "reinit")


def draw(results: Results) -> Drawing:
    """Error over alpha, a panel for train and test each, a line for each condition."""
    splits = sorted({row["split"] for row in rows(results)})
    with panels(1, len(splits), 3.8 * len(splits), 3.2, sharey=True) as (figure, axes):
        for ax, split in zip(axes[0], splits, strict=True):
            for condition in _CONDITIONS:
                curves = by(select(rows(results), split=split, condition=condition), "alpha", "error")
                if not curves:
                    continue
                mean, std = mean_and_std(100 * np.array(list(curves.values())))
                name, color = CONDITIONS[condition]
                draw_mean(ax, np.array(list(curves)), mean, std, color, label=name)
            ax.set(title=split, xlabel="alpha", xlim=(0, 1))
        axes[0, 0].set_ylabel("error (%)")
        axes[0, 0].legend(fontsize=7)
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, pair of copies, condition, split and alpha, at the smallest k and the last level."""
    result = results["sparse"]
    last, first = max(row["level"] for row in result.paths), min(result.rewind_iters)
    return select(result.paths, level=last, rewind_iter=first)


def judge(results: Results) -> Verdict:
    """Whether the error rises by less than 2 points for LeNet; for ResNet-20 by more, of IMP about as for random masks.

    About as much is at most 2 points less.
    """
    result = results["sparse"]
    first = min(result.rewind_iters)
    heights = {condition: over_k(result, "instability_test", condition)[first] for condition in _CONDITIONS}
    errors = {condition: over_k(result, "test_error", condition)[first] for condition in ("dense", *_CONDITIONS)}
    shown = ", ".join(f"{name} {100 * height:.2f}" for name, height in heights.items())
    ends = ", ".join(f"{name} {100 * error:.2f}" for name, error in errors.items())
    found = f"test error rises by, in points: {shown}; error at the ends in %: {ends}"
    if result.summary["task"] == "mnist-lenet":
        return judged(found, *(rising(height, 0.02) for height in heights.values()))
    rises = (rising(0.02, height) for height in heights.values())
    return judged(found, *rises, rising(heights["random"] - 0.02, heights["imp"]))


FIGURE = Figure(
    paper="lmc2020",
    item="Figure 5",
    shows="error along the line between copies of sparse networks, k = 0",
    networks={
        "mnist-lenet": Network("no condition rises by 2 points", protocols=SPARSE["mnist-lenet"]),
        "cifar10-resnet20": Network(
            "at learning rate 0.1 all rise, IMP no less than random masks",
            protocols=SPARSE["cifar10-resnet20"],
            why=WHY_SPARSE,
        ),
        "cifar10-resnet20-low": Network("IMP is stable at k = 0", cost="22 to 35 h on two cores"),
        "cifar10-resnet20-warmup": Network("IMP is stable at k = 0", cost="22 to 35 h on two cores"),
        "cifar10-vgg16": Network("all rise", cost="22 h a training on two cores"),
        "imagenet-resnet50": Network("all rise", cost="ImageNet, GPUs"),
        "imagenet-inception-v3": Network("all rise", cost="ImageNet, GPUs"),
        SMOKE: Network("", source="", protocols=SPARSE[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
