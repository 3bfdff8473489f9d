"""Ainsworth et al. 2023 (Git Re-Basin), Table 3 and Figure 2: barriers on MNIST after alignment, all networks merged.

    modeconn reproduce rebasin2023-table-3 --network mnist-mlp --protocol short --data-dir DIR
    python analyses/rebasin2023_table_3.py --network mnist-mlp --protocol short --data-dir DIR

The paper trains multilayer perceptrons of three hidden layers of 512 units from five initialisations with Adam, aligns
them pairwise and all together, and measures the barriers on test data and the accuracy of the average of all five.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.alignment_studies import REBASIN
from modeconn.reproduce.alignments import MERGED, PLAIN
from modeconn.reproduce.drawing import figure_of_alignments, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.verdicts import judged, rising
from modeconn.result import Row

_BARRIER = 0.01  # nats of loss, in which the paper measures: a pair whose barrier is lower is said to have none
_WORSE = 0.005  # of error, that the average of all may be worse than single networks


def draw(results: Results) -> Drawing:
    """The barriers of all pairs, of error and of loss, without alignment and with each method."""
    return figure_of_alignments([row for row in results["alignment"].rows if row["align"] != MERGED])


def rows(results: Results) -> list[Row]:
    """A row for each pair and method, and for the average of all."""
    return list(results["alignment"].rows)


def judge(results: Results) -> Verdict:
    """Whether the barrier is gone after alignment, and how accurate the average of all networks is."""
    found = results["alignment"].rows
    said, highest = [], {}
    for way in dict.fromkeys(row["align"] for row in found if row["align"] != MERGED):
        of = select(found, align=way)
        errors, losses = ([row[name] for row in of] for name in ("barrier", "loss_barrier"))
        highest[way] = float(np.max(losses))
        said.append(
            f"{'not aligned' if way == PLAIN else f'by {way}'} {min(losses):.3f} to {max(losses):.3f} nats "
            f"({100 * min(errors):.2f} to {100 * max(errors):.2f} points of error)"
        )
    said[0] = f"test loss barriers of {len(select(found, align=PLAIN))} pairs: {said[0]}"
    merged = select(found, align=MERGED)[0]
    single = float(np.mean([row["error"] for row in select(found, align=PLAIN)]))
    said.append(f"all merged {100 * (1 - merged['error']):.2f} % correct, single {100 * (1 - single):.2f} %")
    if results["alignment"].summary["task"] != "mnist-lenet":
        return Verdict("new", "; ".join(said))
    gone = (rising(value, _BARRIER) for way, value in highest.items() if way != PLAIN)
    return judged("; ".join(said), *gone, rising(merged["error"], single + _WORSE))


FIGURE = Figure(
    paper="rebasin2023",
    item="Table 3",
    shows="barriers between networks of five initialisations, and the accuracy of their average",
    networks={
        "mnist-mlp": Network(
            "barrier 0 after alignment by weights, activations and straight-through; all five merged 98.31 % correct, "
            "single 98.5 to 98.7 %",
            source="paper",
            protocols=REBASIN["mnist-mlp"],
            why={"short": "barriers are gone, and the average of all five is what errs more; trained a tenth as long"},
        ),
        SMOKE: Network("", source="", protocols=REBASIN[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
