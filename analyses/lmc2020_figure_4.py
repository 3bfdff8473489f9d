"""Frankle et al. 2020 (LMC), Figure 4: whether the length of the copies' training matters.

    modeconn reproduce lmc2020-figure-4 --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lmc2020_figure_4.py --network mnist-lenet --protocol paper --data-dir DIR

Copies from a later k train fewer iterations. The paper's control trains them for the full T iterations, the learning-
rate schedule started anew, and finds the same instability.
"""

import sys

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import draw_rows, figure_of_choices, last_rows, scale_k, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import WHOLE
from modeconn.reproduce.verdicts import apart, judged
from modeconn.result import Row
from modeconn.style import PALETTE, draw_threshold

_NAMES = {"dense": "the remaining T - k iterations", "whole": "T iterations, schedule anew"}


def draw(results: Results) -> Drawing:
    """Test instability over k, of copies that train T - k iterations and of those that train T."""

    def panel(ax: Axes, choice: str) -> None:
        for color, (title, name) in zip(PALETTE, _NAMES.items(), strict=False):
            of_study = select(rows(results), study=title, split="test", batchnorm=choice)
            draw_rows(ax, of_study, "rewind_iter", "barrier", color=color, factor=100, label=name)
        draw_threshold(ax, results["dense"].summary["threshold"])
        scale_k(ax, results["dense"].rewind_iters)
        ax.set(ylabel="test instability (points of error)", ylim=(0, None))
        ax.legend(fontsize=7)

    return figure_of_choices(results["dense"], panel)


def rows(results: Results) -> list[Row]:
    """A row for each pair, split and BatchNorm choice of both studies."""
    return [{"study": title} | row for title in _NAMES for row in last_rows(results[title])]


def judge(results: Results) -> Verdict:
    """Whether both curves are within 2 points of each other, or within their standard deviations, at every k but 0.

    At k = 0 both are one training. Of a single pair of copies no deviation is known: where they are farther apart than
    2 points, but on the same side of it, that may be the scatter of pairs.
    """
    choice = results["dense"].batchnorm[0]
    ks = results["dense"].rewind_iters
    both = [results[title] for title in _NAMES]
    means = [100 * result.mean["test"][choice] for result in both]
    spread = sum(100 * result.std["test"][choice] for result in both)
    same = np.equal(*(result.stable("test", choice) for result in both))
    shown = ", ".join(f"{a:.2f} and {b:.2f} at {k}" for k, a, b in zip(ks, *means, strict=True))
    found = f"test instability in points of T - k and of T iterations: {shown}"
    near = [apart(a, b, most=most) for a, b, most in zip(*means, np.fmax(2, spread), strict=True)]
    scatter = [one is False and same[place] and np.isnan(spread[place]) for place, one in enumerate(near)]
    if any(scatter):
        found += "; one pair of copies does not tell a difference from scatter"
    claims = [None if unknown else one for one, unknown in zip(near, scatter, strict=True)]
    return judged(found, *(claim for k, claim in zip(ks, claims, strict=True) if k > 0))


FIGURE = Figure(
    paper="lmc2020",
    item="Figure 4",
    shows="instability of copies that train T - k or T iterations",
    networks={
        "mnist-lenet": Network("indistinguishable", protocols=WHOLE["mnist-lenet"]),
        "cifar10-resnet20": Network("indistinguishable", protocols=WHOLE["cifar10-resnet20"]),
        SMOKE: Network("", source="", protocols=WHOLE[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
