"""Frankle et al. 2020 (LMC), Table 1: the networks and how well they do.

    modeconn reproduce lmc2020-table-1 --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lmc2020_table_1.py --network mnist-lenet --protocol paper --data-dir DIR

The paper lists hyperparameters and accuracies of the full networks. The hyperparameters are those of the tasks
(`modeconn tasks`); here the accuracy of all copies of the study of Figure 3 is compared, whatever their k.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import last_rows, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import DENSE
from modeconn.reproduce.verdicts import apart, judged
from modeconn.result import Row
from modeconn.style import COLORS, panels

_PAPER = {"mnist-lenet": (98.3, 0.1), "cifar10-resnet20": (91.7, 0.1)}  # accuracy in %, its standard deviation


def draw(results: Results) -> Drawing:
    """Accuracy of the copies over k, a dot each, and the paper's."""
    result = results["dense"]
    with panels(1, 1, 3.8, 3.2) as (figure, axes):
        ax = axes[0, 0]
        for split in result.splits:
            found = select(rows(results), split=split)
            places = [result.rewind_iters.tolist().index(row["rewind_iter"]) for row in found]
            ax.plot(places, [row["accuracy"] for row in found], ".", color=COLORS[split], label=split)
        if known := _PAPER.get(result.summary["task"]):
            ax.axhline(known[0], color="grey", linestyle=":", linewidth=0.8, label=f"paper, test: {known[0]} %")
        ax.set_xticks(range(len(result.rewind_iters)), [str(k) for k in result.rewind_iters])
        ax.set(xlabel="rewinding iteration k", ylabel="accuracy (%)")
        ax.legend()
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each copy and split: its accuracy in percent."""
    result = results["dense"]
    found = {
        (row["replicate"], row["rewind_iter"], row[f"copy_{end}"], row["split"]): 100 * (1 - row[f"error_{end}"])
        for row in select(last_rows(result), batchnorm=result.batchnorm[0])
        for end in "ab"
    }
    names = ("replicate", "rewind_iter", "copy", "split")
    return [dict(zip(names, place, strict=True)) | {"accuracy": accuracy} for place, accuracy in found.items()]


def judge(results: Results) -> Verdict:
    """Whether the mean test accuracy is within three of the paper's standard deviations, or half a point."""
    found = np.array([row["accuracy"] for row in select(rows(results), split="test")])
    said = f"test accuracy {found.mean():.2f} % (standard deviation {found.std(ddof=1):.2f}) of {len(found)} networks"
    known = _PAPER.get(results["dense"].summary["task"])
    if known is None:
        return Verdict("new", said)
    if results["dense"].summary["task_changes"]:
        return Verdict("not reached", f"{said}, after a shorter training")
    return judged(said, apart(found.mean(), known[0], most=max(3 * known[1], 0.5)))


FIGURE = Figure(
    paper="lmc2020",
    item="Table 1",
    shows="accuracy of the full networks",
    networks={
        "mnist-lenet": Network("98.3 +- 0.1 %", "memory", DENSE["mnist-lenet"]),
        "cifar10-resnet20": Network("91.7 +- 0.1 %", "memory", DENSE["cifar10-resnet20"]),
        SMOKE: Network("", source="", protocols=DENSE[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
