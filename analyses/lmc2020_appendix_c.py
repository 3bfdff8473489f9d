"""Frankle et al. 2020 (LMC), Appendix C: whether stable copies are connected throughout training.

    modeconn reproduce lmc2020-appendix-c --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lmc2020_appendix_c.py --network mnist-lenet --protocol paper --data-dir DIR

The paper asks whether copies that are connected at the end of training were so all along: instability between copies at
earlier iterations. ResNet-20's copies from k = 2,000 are connected at every epoch.
"""

import sys

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import draw_rows, figure_of_choices, gradient, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import DENSE
from modeconn.reproduce.verdicts import judged, rising
from modeconn.result import Row
from modeconn.style import draw_threshold, share_legend


def draw(results: Results) -> Drawing:
    """Test instability over the iteration at which the copies are compared, a line for each k."""
    result = results["dense"]

    def panel(ax: Axes, choice: str) -> None:
        of_choice = select(result.rows, split="test", batchnorm=choice)
        for k, color in zip(result.rewind_iters, gradient(len(result.rewind_iters)), strict=True):
            draw_rows(
                ax, select(of_choice, rewind_iter=k), "iteration", "barrier",
                color=color, factor=100, label=f"k = {k}",
            )  # fmt: skip
        draw_threshold(ax, result.summary["threshold"])
        ax.set(xlabel="iteration of measurement", ylabel="test instability (points of error)")

    figure = figure_of_choices(result, panel)
    share_legend(figure, figure.axes)
    return figure


def rows(results: Results) -> list[Row]:
    """A row for each pair, split, BatchNorm choice and iteration of measurement."""
    return results["dense"].rows


def judge(results: Results) -> Verdict:
    """Whether copies that are stable at the end (below 2 points) were so whenever they were compared."""
    result = results["dense"]
    choice, threshold = result.batchnorm[0], result.summary["threshold"]
    stable = [
        int(k) for k, yes in zip(result.rewind_iters, result.stable("test", choice, threshold), strict=True) if yes
    ]
    if not stable:
        return Verdict("not reached", "no k is stable at the end")
    if len(result.measured_at) == 1:
        return Verdict("not reached", "copies were compared at the end alone")
    worst, at, of = max(
        (float(earlier.mean["test"][choice][index]), iteration, int(k))
        for iteration in result.measured_at
        for earlier in [result.at(iteration)]
        for index, k in enumerate(earlier.rewind_iters)
        if k in stable
    )
    found = f"of the k that are stable at the end ({', '.join(map(str, stable))}), the highest test instability at "
    found += f"{len(result.measured_at)} iterations is {100 * worst:.2f} points, at {at} for k = {of}"
    if result.summary["task"] != "cifar10-resnet20":  # of others the paper shows nothing
        return Verdict("new", found)
    return judged(found, rising(worst, threshold))


FIGURE = Figure(
    paper="lmc2020",
    item="Appendix C",
    shows="instability between copies during training",
    networks={
        "mnist-lenet": Network("not shown", protocols=DENSE["mnist-lenet"]),
        "cifar10-resnet20": Network(
            "k = 2,000: connected at every epoch",
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
