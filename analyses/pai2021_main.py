"""Frankle et al. 2021, Main figure: accuracy of networks pruned at initialisation.

    modeconn reproduce pai2021-main --network cifar10-resnet20 --protocol short --data-dir DIR
    python analyses/pai2021_main.py --network cifar10-resnet20 --protocol short --data-dir DIR

The paper plots accuracy over sparsity of networks pruned at initialisation at random, by magnitude, SNIP, GraSP and
SynFlow, and of magnitude pruning after training and iterative pruning with rewinding.
"""

import sys

from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import EARLY
from modeconn.reproduce.tickets import columns, mean_at
from modeconn.reproduce.verdicts import judged, rising
from modeconn.result import Row
from modeconn.style import panels

_EARLY = ("magnitude", "snip", "grasp", "synflow")
_CONDITIONS = ("uniform", "erk", "balanced", *_EARLY, "oneshot", "imp")


def draw(results: Results) -> Drawing:
    """Test error over density, a line for each way of pruning."""
    result = results["early"]
    with panels(1, 1, 5.4, 4.0) as (figure, axes):
        result.plot(axes[0, 0], "test_error", _CONDITIONS)
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, level and condition."""
    return columns(results["early"], ("test_error", "train_error"))


def judge(results: Results) -> Verdict:
    """Whether each early method lies between random pruning and magnitude pruning after training, on average."""
    result = results["early"]
    densities = sorted({row["density"] for row in result.rows if row["condition"] == "imp"})
    means = {
        condition: sum(100 * mean_at(result, "test_error", condition, density) for density in densities)
        / len(densities)
        for condition in _CONDITIONS
    }
    found = "test error in %, mean over densities: " + ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())
    return judged(found, *(rising(means["oneshot"], means[name], means["uniform"]) for name in _EARLY))


FIGURE = Figure(
    paper="pai2021",
    item="Main figure",
    shows="test error over density by the way of pruning",
    networks={
        "cifar10-resnet20": Network(
            "random is worst, SNIP, GraSP, SynFlow and magnitude lie between, after training is best",
            "paper",
            EARLY["cifar10-resnet20"],
            why={"short": "after 600 of 63,000 iterations an error says how fast a network learns, not yet how well"},
        ),
        "cifar10-vgg16": Network(
            "random is worst, SNIP, GraSP, SynFlow and magnitude lie between, after training is best",
            "paper",
            cost="22 h a training on two cores",
        ),
        "tinyimagenet-resnet18": Network(
            "random is worst, SNIP, GraSP, SynFlow and magnitude lie between, after training is best",
            "paper",
            cost="TinyImageNet, GPUs",
        ),
        "imagenet-resnet50": Network(
            "random is worst, SNIP, GraSP, SynFlow and magnitude lie between, after training is best",
            "paper",
            cost="ImageNet, GPUs",
        ),
        SMOKE: Network("", source="", protocols=EARLY[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
