"""Beyond the papers, Early: how early in training instability can be told.

    modeconn reproduce beyond-early --network digits-conv --protocol paper
    python analyses/beyond_early.py --network digits-conv --protocol paper

Copies are compared at parts of their training and at its end: does the barrier after a tenth of training foretell the
last one?
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing
from scipy.stats import spearmanr

from modeconn.cli.main import main
from modeconn.reproduce.drawing import gradient, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import DENSE
from modeconn.result import Row
from modeconn.style import panels


def draw(results: Results) -> Drawing:
    """The barrier at each earlier iteration against that at the end, a dot for each pair, test data."""
    early = sorted({row["part"] for row in rows(results)})
    ks = sorted({row["rewind_iter"] for row in rows(results)})
    with panels(1, len(early), 3.0 * len(early), 3.0, sharex=True, sharey=True) as (figure, axes):
        for ax, part in zip(axes[0], early, strict=True):
            found = select(rows(results), part=part)
            for k, color in zip(ks, gradient(len(ks)), strict=True):
                of_k = select(found, rewind_iter=k)
                x, y = ([100 * row[name] for row in of_k] for name in ("barrier", "barrier_at_end"))
                ax.plot(x, y, ".", color=color, label=f"k = {k}")
            ax.axline((0, 0), slope=1, color="grey", linewidth=0.8, linestyle=":")
            ax.set(title=f"{100 * part:.3g} % of training", xlabel="barrier there (points)")
            ax.legend(fontsize=6)
        axes[0, 0].set_ylabel("barrier at the end (points)")
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each pair and earlier iteration: the barrier there and at the end, of the first BatchNorm choice."""
    result = results["dense"]
    total, names = result.summary["iterations"], ("replicate", "rewind_iter", "copy_a", "copy_b")
    found = select(result.rows, split="test", batchnorm=result.batchnorm[0])
    ends = {tuple(row[name] for name in names): row["barrier"] for row in found if row["iteration"] == total}
    return [
        {name: row[name] for name in (*names, "iteration", "barrier")}
        | {"part": row["iteration"] / total, "barrier_at_end": ends[tuple(row[name] for name in names)]}
        for row in found
        if row["iteration"] < total
    ]


def judge(results: Results) -> Verdict:
    """The rank correlation of both barriers at each part of training, over pairs and k."""
    said = []
    for part in sorted({row["part"] for row in rows(results)}):
        found = [
            row for row in select(rows(results), part=part) if not np.isnan(row["barrier"] - row["barrier_at_end"])
        ]
        early, last = ([row[name] for row in found] for name in ("barrier", "barrier_at_end"))
        same = np.mean((np.array(early) < 0.02) == (np.array(last) < 0.02))
        rank = spearmanr(early, last)[0] if len(set(early)) > 1 and len(set(last)) > 1 else np.nan
        said.append(
            f"{100 * part:.3g} % of training {100 * same:.0f} % of {len(found)} pairs (rank correlation {rank:.2f})"
        )
    return Verdict("new", f"on the same side of 2 points as at the end: after {'; after '.join(said)}")


FIGURE = Figure(
    paper="beyond",
    item="Early",
    shows="barriers early in training against those at its end",
    networks={
        SMOKE: Network("", source="", protocols=DENSE[SMOKE]),
        "mnist-lenet": Network("", source="", protocols=DENSE["mnist-lenet"]),
        "cifar10-resnet20": Network("", source="", protocols=DENSE["cifar10-resnet20"]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
