"""Frankle et al. 2020 (LMC), Table 2: accuracy of sparse networks rewound to initialisation.

    modeconn reproduce lmc2020-table-2 --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lmc2020_table_2.py --network mnist-lenet --protocol paper --data-dir DIR

The paper lists the accuracy of the full network, of IMP's subnetwork rewound to k = 0, of random masks and of
reinitialised weights, at the density of Figures 5 to 7.
"""

import itertools
import sys

from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import SPARSE
from modeconn.reproduce.tickets import columns, over_k
from modeconn.reproduce.verdicts import apart, judged, rising
from modeconn.result import Row
from modeconn.style import CONDITIONS, panels

_CONDITIONS = ("dense", "imp", "random", "reinit")
_PAPER = {"mnist-lenet": (98.3, 98.2, 96.7, 97.5), "cifar10-resnet20": (91.7, 88.5, 88.6, 88.8)}
_NEAR = 0.5  # points of accuracy


def draw(results: Results) -> Drawing:
    """Accuracy of each condition, a dot for each replicate, and the paper's as crosses."""
    with panels(1, 1, 4.4, 3.2) as (figure, axes):
        ax = axes[0, 0]
        for place, condition in enumerate(_CONDITIONS):
            values = [100 * (1 - row["test_error"]) for row in rows(results) if row["condition"] == condition]
            ax.plot([place] * len(values), values, ".", color=CONDITIONS.get(condition, ("", "black"))[1])
        if known := _PAPER.get(results["sparse"].summary["task"]):
            ax.plot(range(len(known)), known, "x", color="grey", label="paper (from memory)")
            ax.legend(fontsize=7)
        ax.set_xticks(range(len(_CONDITIONS)), ["full", *(CONDITIONS[name][0] for name in _CONDITIONS[1:])])
        ax.set_ylabel("test accuracy (%)")
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate and condition, at the smallest k and the last level, and of the full network."""
    result = results["sparse"]
    last, first = max(row["level"] for row in result.rows), min(result.rewind_iters)
    return [
        row
        for row in columns(result, ("test_error",))
        if row["rewind_iter"] == first and row["condition"] in _CONDITIONS and row["level"] in (0, last)
    ]


def judge(results: Results) -> Verdict:
    """Whether the full network and IMP are within half a point, and what is farther apart there has its order."""
    result = results["sparse"]
    first = min(result.rewind_iters)
    found = [100 * (1 - over_k(result, "test_error", condition)[first]) for condition in _CONDITIONS]
    said = ", ".join(f"{name} {accuracy:.2f}" for name, accuracy in zip(_CONDITIONS, found, strict=True))
    known = _PAPER.get(result.summary["task"])
    if known is None:
        return Verdict("new", f"accuracy in %: {said}")
    if "iterations" in result.summary["task_changes"]:
        return Verdict("not reached", f"accuracy in %, after a shorter training: {said}")
    near = (apart(ours, theirs, most=_NEAR) for ours, theirs in zip(found[:2], known[:2], strict=True))
    pairs = itertools.permutations(zip(known, found, strict=True), 2)
    order = (rising(ours, better) for (theirs, ours), (best, better) in pairs if best - theirs > _NEAR)
    return judged(f"accuracy in %: {said}", *near, *order)


FIGURE = Figure(
    paper="lmc2020",
    item="Table 2",
    shows="accuracy of sparse networks rewound to k = 0",
    networks={
        "mnist-lenet": Network(
            "full 98.3, IMP 98.2, random masks 96.7, reinitialised 97.5 %",
            "memory",
            SPARSE["mnist-lenet"],
            why={"short": "the paper's values are from memory, and its pixels and initialisation may be others"},
        ),
        "cifar10-resnet20": Network(
            "full 91.7, IMP 88.5, random masks 88.6, reinitialised 88.8 %",
            "memory",
            SPARSE["cifar10-resnet20"],
        ),
        "cifar10-vgg16": Network("93.7, 90.9, 89.4, 91.0 %", "memory", cost="22 h a training on two cores"),
        "imagenet-resnet50": Network("76.1, 73.7, 73.1, 73.4 %", "memory", cost="ImageNet, GPUs"),
        "imagenet-inception-v3": Network("78.1, 75.7, 75.2, 75.5 %", "memory", cost="ImageNet, GPUs"),
        SMOKE: Network("", source="", protocols=SPARSE[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
