"""Frankle et al. 2020 (LMC), Appendix G: other comparisons of two copies than the barrier.

    modeconn reproduce lmc2020-appendix-g --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lmc2020_appendix_g.py --network mnist-lenet --protocol paper --data-dir DIR

The paper compares copies by the L2 and cosine distance of their weights, by how often they classify differently, and by
the L2 distance of their losses, and finds that none of them tells stable dense networks from others.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing
from scipy.stats import spearmanr

from modeconn.cli.main import main
from modeconn.reproduce.drawing import by, draw_rows, last_rows, scale_k, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import DENSE
from modeconn.reproduce.verdicts import judged, rising
from modeconn.result import Row
from modeconn.style import COLORS, panels

_MEASURES = {
    "barrier": "instability (points of error)",
    "l2_distance": "L2 distance of parameters",
    "cosine_distance": "cosine distance of parameters",
    "disagreement": "disagreement\n(% of the most possible)",
    "loss_l2": "L2 distance of losses",
}

_DISTANCES = ("l2_distance", "cosine_distance")
_CLEAN = 0.9  # a rank correlation over k that is higher is a clean relation


def draw(results: Results) -> Drawing:
    """Each measure over k, train and test, beside the instability."""
    result = results["dense"]
    with panels(1, len(_MEASURES), 3.0 * len(_MEASURES), 3.0) as (figure, axes):
        for ax, (column, name) in zip(axes[0], _MEASURES.items(), strict=True):
            factor = 100 if column in ("barrier", "disagreement") else 1
            for split in result.splits:
                of_split = select(rows(results), split=split)
                draw_rows(ax, of_split, "rewind_iter", column, color=COLORS[split], factor=factor, label=split)
            scale_k(ax, result.rewind_iters)
            ax.set(ylabel=name, ylim=(0, None))
        axes[0, 0].legend()
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each pair and split; disagreement as a part of the most that is possible with their errors."""
    result = results["dense"]
    names = ("replicate", "rewind_iter", "copy_a", "copy_b", "split", *_MEASURES)
    return [
        {name: row[name] for name in names}
        | {"disagreement": row["disagreement"] / (row["possible_disagreement"] or 1)}
        for row in select(last_rows(result), batchnorm=result.batchnorm[0])
    ]


def judge(results: Results) -> Verdict:
    """Whether L2 and cosine distance are far from 0 where the network is stable, and for ResNet-20 follow nothing."""
    result = results["dense"]
    test = select(rows(results), split="test")
    ks = result.rewind_iters.tolist()
    # `by` leaves out where copies diverged, which may be all of a k.
    known = {name: by(test, "rewind_iter", name) for name in _MEASURES}
    means = {name: [float(np.mean(of[k])) if k in of else np.nan for k in ks] for name, of in known.items()}
    k = result.stable_from()["test"][result.batchnorm[0]]
    shown = ", ".join(f"{first:.3g} to {last:.3g}" for first, last in ((m[0], m[-1]) for m in means.values()))
    found = f"from the first to the last k, {', '.join(_MEASURES)}: {shown}"
    ranks = dict.fromkeys(_MEASURES, np.nan)
    if len(ks) > 3:
        ranks = {name: float(spearmanr(means["barrier"], means[name])[0]) for name in list(_MEASURES)[1:]}
        found += f"; rank correlation with instability over k: {', '.join(f'{rank:.2f}' for rank in ranks.values())}"
    if k is None:
        return Verdict("not reached", found)
    claims = [rising(0.1 * max(means[name]), means[name][ks.index(k)]) for name in _DISTANCES]
    if result.summary["task"] == "cifar10-resnet20":
        claims += [rising(ranks[name], _CLEAN) for name in _DISTANCES]
    return judged(found, *claims)


FIGURE = Figure(
    paper="lmc2020",
    item="Appendix G",
    shows="distances, disagreement and losses of two copies over k",
    networks={
        "mnist-lenet": Network("L2 and cosine distance are far from 0 though stable", protocols=DENSE["mnist-lenet"]),
        "cifar10-resnet20": Network(
            "L2 and cosine distance show no clean relation; far from 0 when stable",
            protocols=DENSE["cifar10-resnet20"],
            why={
                "short": "the last two k leave 90 and 70 % of this short training, so that their copies are nearer for "
                "that alone; the paper's k leave nearly all of 63,000 iterations"
            },
        ),
        SMOKE: Network("", source="", protocols=DENSE[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
