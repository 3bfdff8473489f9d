"""Frankle et al. 2020 (LMC), Appendix B: where a network is when it becomes stable.

    modeconn reproduce lmc2020-appendix-b --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lmc2020_appendix_b.py --network mnist-lenet --protocol paper --data-dir DIR

The paper describes the network at the k from which it is stable: its error, how far it is from its initialisation and
its end, and how far its copies end from each other.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import by, draw_rows, last_rows, scale_k, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import DENSE
from modeconn.reproduce.verdicts import apart, judged, rising
from modeconn.result import Row
from modeconn.style import COLORS, PALETTE, panels

_DISTANCES = {"trunk": "initialisation to k", "ends": "initialisation to end", "copies": "between the copies' ends"}


def draw(results: Results) -> Drawing:
    """Over k: the trunk's error at k, and the three distances."""
    result = results["dense"]
    with panels(1, 2, 7.6, 3.2) as (figure, axes):
        for split in result.splits:
            draw_rows(
                axes[0, 0], select(result.trunk, split=split), "rewind_iter", "error",
                color=COLORS[split], factor=100, label=split,
            )  # fmt: skip
        axes[0, 0].set(ylabel="error at k (%)")
        for color, (column, name) in zip(PALETTE, _DISTANCES.items(), strict=False):
            draw_rows(axes[0, 1], rows(results), "rewind_iter", column, color=color, label=name)
        axes[0, 1].set(ylabel="L2 distance of parameters")
        for ax in axes[0]:
            scale_k(ax, result.rewind_iters)
            ax.legend(fontsize=7)
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each pair of copies: the trunk's test error, and the distances."""
    result = results["dense"]
    trunk = {(row["replicate"], row["rewind_iter"]): row for row in select(result.trunk, split="test")}
    found = []
    for row in select(last_rows(result), split="test", batchnorm=result.batchnorm[0]):
        start = trunk[row["replicate"], row["rewind_iter"]]
        found.append(
            {name: row[name] for name in ("replicate", "rewind_iter", "copy_a", "copy_b")}
            | {"error_at_k": start["error"], "error_at_end": (row["error_a"] + row["error_b"]) / 2}
            | {"trunk": start["l2_from_init"], "ends": (row["l2_from_init_a"] + row["l2_from_init_b"]) / 2}
            | {"copies": row["l2_distance"]}
        )
    return found


def judge(results: Results) -> Verdict:
    """Whether where it becomes stable the network errs as the paper's, nearer to its initialisation than to its end.

    Its distance from the end is not measured, but is at least that between initialisation and end less its own from the
    initialisation. Errors are compared after a training of the paper's length alone.
    """
    result = results["dense"]
    k = result.stable_from()["test"][result.batchnorm[0]]
    if k is None:
        return Verdict("not reached", "stable at no measured k")
    means = {
        name: float(np.mean(by(rows(results), "rewind_iter", name)[k])) for name in rows(results)[0] if name != "copy_a"
    }
    found = (
        f"at k = {k}: test error {100 * means['error_at_k']:.1f} % (at the end {100 * means['error_at_end']:.1f}); "
        f"{means['trunk']:.1f} from the initialisation, where the ends are {means['ends']:.1f}; its copies end "
        f"{means['copies']:.1f} apart"
    )
    if result.summary["task"] != "cifar10-resnet20":
        return Verdict("new", found)
    nearer = rising(means["trunk"], means["ends"] - means["trunk"]) or None
    if result.summary["task_changes"]:
        return judged(f"{found}; errors are those of a shorter training", nearer, None)
    return judged(found, nearer, apart(means["error_at_k"], 0.25, most=0.05))


FIGURE = Figure(
    paper="lmc2020",
    item="Appendix B",
    shows="error and distances of the network when it becomes stable",
    networks={
        "mnist-lenet": Network("not shown", protocols=DENSE["mnist-lenet"]),
        "cifar10-resnet20": Network(
            "test error about 25 % (8.3 at the end), nearer to its initialisation than to its end",
            protocols=DENSE["cifar10-resnet20"],
        ),
        SMOKE: Network("", source="", protocols=DENSE[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
