"""Beyond the papers, Perturbations: one perturbation at k, all noise shared.

    modeconn reproduce beyond-butterfly --network digits-conv --protocol paper
    python analyses/beyond_butterfly.py --network digits-conv --protocol paper

Altintas et al. 2025 let copies share all SGD noise and perturb one of them once: what a single weight does early, a
large perturbation does not do late.
"""

import sys

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from modeconn.analysis.instability.result import InstabilityResult
from modeconn.cli.main import main
from modeconn.reproduce.drawing import draw_rows, figure_of_choices, last_rows, scale_k, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import PERTURBED
from modeconn.reproduce.verdicts import judged, rising
from modeconn.result import Row
from modeconn.style import PALETTE, draw_threshold, share_legend


def draw(results: Results) -> Drawing:
    """Test barrier between the trunk and its perturbed copy over the iteration of the perturbation, a line for each."""
    first = next(iter(results.values()))

    def panel(ax: Axes, choice: str) -> None:
        for color, perturbation in zip(PALETTE, results, strict=False):
            found = select(rows(results), perturbation=perturbation, split="test", batchnorm=choice)
            draw_rows(ax, found, "rewind_iter", "barrier", color=color, factor=100, label=perturbation)
        draw_threshold(ax, first.summary["threshold"])
        scale_k(ax, first.rewind_iters)
        ax.set(xlabel="iteration of the perturbation", ylabel="test barrier (points of error)", ylim=(0, None))

    figure = figure_of_choices(first, panel)
    share_legend(figure, figure.axes)
    return figure


def rows(results: Results) -> list[Row]:
    """A row for each pair, split and BatchNorm choice, after each kind of perturbation."""
    return [{"perturbation": name} | row for name, result in results.items() for row in last_rows(result)]


def judge(results: Results) -> Verdict:
    """Whether each perturbation at iteration 0 makes a barrier, and from 0.5 % of training on at most half of it.

    Of the first BatchNorm choice; what is found says the others', too.
    """
    choices = next(iter(results.values())).batchnorm
    shown = []
    for choice in choices:
        said = "; ".join(f"{name}: {_said(found, choice)}" for name, found in results.items())
        shown.append(f"test barrier in points ({choice}), {said}")
    claims = []
    for found in results.values():
        first, *later = found.mean["test"][choices[0]]
        ks = found.rewind_iters[1:]
        claims.append(rising(found.summary["threshold"], first))
        claims += [
            rising(mean, first / 2)
            for k, mean in zip(ks, later, strict=True)
            if k >= 0.005 * found.summary["iterations"]
        ]
    return judged("; ".join(shown), *claims)


def _said(result: InstabilityResult, choice: str) -> str:
    means = zip(result.rewind_iters, result.mean["test"][choice], strict=True)
    return ", ".join(f"{100 * mean:.1f} at {k}" for k, mean in means)


FIGURE = Figure(
    paper="beyond",
    item="Perturbations",
    shows="barriers after one perturbation at k, all noise shared",
    networks={
        SMOKE: Network(
            "one weight at iteration 0 makes a barrier; after 0.5 % of training much less (other networks)",
            protocols=PERTURBED[SMOKE],
        ),
        "cifar10-resnet20": Network(
            "one weight at iteration 0 makes a barrier; after 0.5 % of training much less",
            protocols=PERTURBED["cifar10-resnet20"],
        ),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
