"""Frankle et al. 2021, Pruning later: the same criteria later in training.

    modeconn reproduce pai2021-later --network cifar10-resnet20 --protocol short --data-dir DIR
    python analyses/pai2021_later.py --network cifar10-resnet20 --protocol short --data-dir DIR

The paper prunes at later iterations and rewinds to the same: accuracy rises with the iteration of pruning, and stays
below that of pruning after training.
"""

import sys

from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import LATER
from modeconn.reproduce.tickets import columns, over_k
from modeconn.reproduce.verdicts import judged, rising
from modeconn.result import Row
from modeconn.style import panels

_METHODS = ("magnitude", "snip", "grasp", "synflow")


def draw(results: Results) -> Drawing:
    """Test error over the iteration of pruning at the last level, a line for each criterion, and after training."""
    result = results["later"]
    with panels(1, 1, 4.8, 3.6) as (figure, axes):
        result.plot_rewinding(axes[0, 0], "test_error", (*_METHODS, "oneshot"))
        axes[0, 0].set_xlabel("iteration of pruning and rewinding")
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, k, level and condition."""
    return columns(results["later"], ("test_error", "train_error"))


def judge(results: Results) -> Verdict:
    """Whether error is highest at the first k, lowest at the last, and always above that of pruning after training."""
    result = results["later"]
    means = {method: over_k(result, "test_error", method) for method in (*_METHODS, "oneshot")}
    ks = list(means["snip"])
    shown = "; ".join(
        f"{method} {', '.join(f'{100 * mean:.2f} at {k}' for k, mean in of.items())}" for method, of in means.items()
    )
    found = f"test error in %: {shown}"
    claims = []
    for of in (means[method] for method in _METHODS):
        between = (rising(of[ks[-1]], of[k], of[ks[0]]) for k in ks[1:-1])
        claims += [rising(of[ks[-1]], of[ks[0]]), *between, *(rising(means["oneshot"][k], of[k]) for k in ks)]
    return judged(found, *claims)


FIGURE = Figure(
    paper="pai2021",
    item="Pruning later",
    shows="test error over the iteration of pruning",
    networks={
        "cifar10-resnet20": Network(
            "error falls the later one prunes, and stays above that of pruning after training",
            "paper",
            LATER["cifar10-resnet20"],
        ),
        "cifar10-vgg16": Network(
            "error falls the later one prunes, and stays above that of pruning after training",
            "paper",
            cost="22 h a training on two cores",
        ),
        "tinyimagenet-resnet18": Network(
            "error falls the later one prunes, and stays above that of pruning after training",
            "paper",
            cost="TinyImageNet, GPUs",
        ),
        "imagenet-resnet50": Network(
            "error falls the later one prunes, and stays above that of pruning after training",
            "paper",
            cost="ImageNet, GPUs",
        ),
        SMOKE: Network("", source="", protocols=LATER[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
