"""Frankle et al. 2020 (LMC), Figure 6: from which rewinding iteration on sparse networks are stable.

    modeconn reproduce lmc2020-figure-6 --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lmc2020_figure_6.py --network mnist-lenet --protocol paper --data-dir DIR

The paper plots the instability of sparse networks over the iteration k that they are rewound to: found by iterative
magnitude pruning (IMP), with random masks, and with IMP's masks on weights drawn anew; at the lowest density at which
IMP matches the full network for some k.
"""

import sys

from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import SPARSE, WHY_SPARSE
from modeconn.reproduce.tickets import columns, over_k
from modeconn.reproduce.verdicts import judged, opposite, rising
from modeconn.result import Row
from modeconn.style import panels

_CONDITIONS = ("imp", "random", "reinit")


def draw(results: Results) -> Drawing:
    """Test instability over k at the last level, a line for each condition."""
    result = results["sparse"]
    with panels(1, 1, 4.4, 3.4) as (figure, axes):
        result.plot_rewinding(axes[0, 0], "instability_test", _CONDITIONS)
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, k, level and condition."""
    return columns(results["sparse"], ("instability_test", "instability_train"))


def judge(results: Results) -> Verdict:
    """Whether each condition is stable where the paper's is: its mean instability below 2 points there and later."""
    result = results["sparse"]
    threshold = result.summary["threshold"]
    stable, shown = {}, []
    for condition in _CONDITIONS:
        means = over_k(result, "instability_test", condition)
        stable[condition] = [rising(mean, threshold) for mean in means.values()]  # None where a copy diverged
        shown.append(f"{condition} {', '.join(f'{100 * mean:.2f} at {k}' for k, mean in means.items())}")
    found = f"test instability in points: {'; '.join(shown)}"
    if result.summary["task"] == "mnist-lenet":
        return judged(found, *(one for of in stable.values() for one in of))
    never = (opposite(one) for name in ("random", "reinit") for one in stable[name])
    return judged(found, opposite(stable["imp"][0]), stable["imp"][-1], *never)


FIGURE = Figure(
    paper="lmc2020",
    item="Figure 6",
    shows="instability of sparse networks over the rewinding iteration",
    networks={
        "mnist-lenet": Network("all conditions are stable at every k", protocols=SPARSE["mnist-lenet"]),
        "cifar10-resnet20": Network(
            "IMP is stable from k = 500 (0.8 %) and not at 0, random masks and weights at no k",
            protocols=SPARSE["cifar10-resnet20"],
            why=WHY_SPARSE,
        ),
        "cifar10-vgg16": Network("IMP is stable from k = 1,000 (1.6 %)", cost="22 h a training on two cores"),
        "imagenet-resnet50": Network("IMP is stable from epoch 5 of 90", cost="ImageNet, GPUs"),
        "imagenet-inception-v3": Network("IMP is stable from epoch 6 of 171", cost="ImageNet, GPUs"),
        SMOKE: Network("", source="", protocols=SPARSE[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
