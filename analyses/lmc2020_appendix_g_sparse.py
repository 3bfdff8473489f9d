"""Frankle et al. 2020 (LMC), Appendix G for subnetworks: other comparisons of two copies than the barrier.

    modeconn reproduce lmc2020-appendix-g-sparse --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lmc2020_appendix_g_sparse.py --network mnist-lenet --protocol paper --data-dir DIR

The paper compares the copies of Figure 6's sparse networks, too, over the iteration k that they are rewound to. How
often they classify differently, as a part of the most that their errors allow, and the L2 distance of their losses fall
with the instability of IMP's subnetworks; the distances of their weights do not.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import SPARSE
from modeconn.reproduce.tickets import columns
from modeconn.reproduce.verdicts import judged, rising
from modeconn.result import Row
from modeconn.style import mark_iterations, panels, share_legend
from modeconn.tickets.drawing import draw_condition
from modeconn.tickets.result import LotteryResult

_CONDITIONS = ("imp", "random", "reinit")
_MEASURES = {  # label of the axis, factor
    "instability_test": ("instability (points of error)", 100),
    "disagreement_test": ("disagreement (% of the possible)", 100),
    "loss_l2_test": ("L2 distance of losses", 1),
    "l2_distance": ("L2 distance of parameters", 1),
    "cosine_distance": ("cosine distance of parameters", 1),
}


def draw(results: Results) -> Drawing:
    """Each measure on test data over k at the last level, a line for each condition, beside the instability."""
    result = results["sparse"]
    with panels(1, len(_MEASURES), 3.0 * len(_MEASURES), 3.0) as (figure, axes):
        for ax, (measure, (label, factor)) in zip(axes[0], _MEASURES.items(), strict=True):
            for condition in _CONDITIONS:
                ks, values = _over_k(result, measure, condition)
                some = ~np.isnan(values).all(axis=1)
                if some.any():
                    draw_condition(ax, ks[some], factor * values[some], condition, "std")
            mark_iterations(ax, result.rewind_iters)
            ax.set(ylabel=label, ylim=(0, None))
        share_legend(figure, axes[0])
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, k, level and condition; disagreement as it is, and the most that is possible."""
    return columns(results["sparse"], (*_MEASURES, "possible_disagreement_test"))


def judge(results: Results) -> Verdict:
    """Whether, where the instability of IMP's copies falls over k, their disagreement does so by a third or more."""
    result = results["sparse"]
    means = {condition: _means(result, "disagreement_test", condition) for condition in _CONDITIONS}
    shown = "; ".join(
        f"{condition} {', '.join(f'{100 * mean:.0f} at {k}' for k, mean in of.items())}"
        for condition, of in means.items()
    )
    found = f"disagreement in % of the most possible: {shown}"
    if result.summary["task"] not in ("mnist-lenet", "cifar10-resnet20"):
        return Verdict("new", found)
    instability = list(_means(result, "instability_test", "imp").values())
    if all(mean < result.summary["threshold"] for mean in instability):
        return Verdict("not reached", f"{found}; IMP is stable at every k, so that there is nothing to follow")
    if not instability[-1] < instability[0]:
        return Verdict("not reached", f"{found}; IMP's instability does not fall, so that there is nothing to follow")
    disagreement = list(means["imp"].values())
    return judged(found, rising(disagreement[-1], 2 / 3 * disagreement[0]))


def _means(result: LotteryResult, measure: str, condition: str) -> dict[int, float]:
    """The mean of a measure over replicates at each k."""
    ks, values = _over_k(result, measure, condition)
    return {int(k): float(np.mean(found)) for k, found in zip(ks, values, strict=True)}


def _over_k(result: LotteryResult, measure: str, condition: str) -> tuple[np.ndarray, np.ndarray]:
    """A measure at the last level: the k, int64 [n], and its values, float64 [n, replicates]."""
    level = max(row["level"] for row in result.rows)
    ks, values = result.over_rewind_iters(measure, condition, level)
    if measure == "disagreement_test":
        _, possible = result.over_rewind_iters("possible_disagreement_test", condition, level)
        values = values / np.where(possible == 0, 1, possible)  # where neither errs they agree
    return ks, values


FIGURE = Figure(
    paper="lmc2020",
    item="Appendix G, subnetworks",
    shows="distances, disagreement and losses of two copies of sparse networks over the rewinding iteration",
    networks={
        "mnist-lenet": Network("IMP's disagreement follows its instability", protocols=SPARSE["mnist-lenet"]),
        "cifar10-resnet20": Network(
            "IMP's disagreement follows its instability: from 50 % of the most possible at k = 0 to 21 % at k = 1,000",
            protocols=SPARSE["cifar10-resnet20"],
        ),
        SMOKE: Network("", source="", protocols=SPARSE[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
