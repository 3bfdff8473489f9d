"""Frankle et al. 2021, Ablations: masks shuffled, weights drawn anew, scores inverted.

    modeconn reproduce pai2021-ablations --network cifar10-resnet20 --protocol short --data-dir DIR
    python analyses/pai2021_ablations.py --network cifar10-resnet20 --protocol short --data-dir DIR

The paper shuffles each mask within its layers, draws the weights anew, and inverts the scores. What is found before
training loses nothing by the first two; magnitude pruning after training does.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import ABLATIONS
from modeconn.reproduce.tickets import columns, mean_at
from modeconn.reproduce.verdicts import judged, rising
from modeconn.result import Row
from modeconn.style import CONDITIONS, PALETTE, draw_mean, panels, share_legend
from modeconn.tickets.drawing import mark_densities, mean_and_std

_METHODS = ("magnitude", "snip", "grasp", "synflow", "oneshot")
_CONTROLS = {"shuffle": "masks shuffled", "reinit": "weights drawn anew", "invert": "scores inverted"}


def draw(results: Results) -> Drawing:
    """Test error over density, a panel for each method, a line for each of its ablations."""
    result = results["ablations"]
    dense = 100 * float(np.nanmean(result.values("test_error", "dense")[1][0]))
    with panels(1, len(_METHODS), 2.4 * len(_METHODS), 3, sharey=True) as (figure, axes):
        for ax, method in zip(axes[0], _METHODS, strict=True):
            for color, (control, name) in zip(PALETTE, {"": "as found", **_CONTROLS}.items(), strict=False):
                density, values = result.values("test_error", f"{method}-{control}" if control else method)
                some = ~np.isnan(values).all(axis=1)  # not where all diverged
                mean, std = mean_and_std(100 * values[some])
                draw_mean(ax, 100 * density[some], mean, std, color, marker="o", markersize=3, label=name)
            ax.axhline(dense, color="grey", linewidth=0.8, linestyle=":", label="dense")
            mark_densities(ax, density)
            ax.set(title=CONDITIONS[method][0], ylabel="test error (%)")
            ax.label_outer()
        share_legend(figure, axes[0])
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, level and condition."""
    return columns(results["ablations"], ("test_error", "train_error"))


def judge(results: Results) -> Verdict:
    """Whether shuffling and new weights cost early methods at most a point, and pruning after training more.

    Costs are means over densities.
    """
    result = results["ablations"]
    densities = sorted({row["density"] for row in result.rows if 0 < row["density"] < 1})

    def mean(condition: str) -> float:
        return sum(100 * mean_at(result, "test_error", condition, density) for density in densities) / len(densities)

    costs = {
        method: {control: mean(f"{method}-{control}") - mean(method) for control in _CONTROLS} for method in _METHODS
    }
    shown = "; ".join(
        f"{method} {', '.join(f'{name} {cost:+.2f}' for name, cost in of.items())}" for method, of in costs.items()
    )
    found = f"points of test error that an ablation adds, mean over densities: {shown}"
    early = [costs[method][control] for method in _METHODS[:-1] for control in ("shuffle", "reinit")]
    after = [costs["oneshot"][control] for control in ("shuffle", "reinit")]
    return judged(found, *(rising(cost, 1) for cost in early), *(rising(1, cost) for cost in after))


FIGURE = Figure(
    paper="pai2021",
    item="Ablations",
    shows="test error with shuffled masks, new weights and inverted scores",
    networks={
        "cifar10-resnet20": Network(
            "shuffling and new weights cost early methods nothing, pruning after training something",
            "paper",
            ABLATIONS["cifar10-resnet20"],
        ),
        "cifar10-vgg16": Network(
            "shuffling and new weights cost early methods nothing, pruning after training something",
            "paper",
            cost="22 h a training on two cores",
        ),
        "tinyimagenet-resnet18": Network(
            "shuffling and new weights cost early methods nothing, pruning after training something",
            "paper",
            cost="TinyImageNet, GPUs",
        ),
        "imagenet-resnet50": Network(
            "shuffling and new weights cost early methods nothing, pruning after training something",
            "paper",
            cost="ImageNet, GPUs",
        ),
        SMOKE: Network("", source="", protocols=ABLATIONS[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
