"""Beyond the papers, Perturbations: one perturbation at k, all noise shared.

    modeconn reproduce beyond-butterfly --network digits-conv --protocol paper
    python analyses/beyond_butterfly.py --network digits-conv --protocol paper

Altintas et al. 2025 let copies share all SGD noise and perturb one of them once: what a single weight does early, a
large perturbation does not do late.
"""

import sys

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import draw_rows, figure_of_choices, last_rows, scale_k, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import PERTURBED
from modeconn.result import Row
from modeconn.style import PALETTE, draw_threshold


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
        ax.legend(fontsize=7)

    return figure_of_choices(first, panel)


def rows(results: Results) -> list[Row]:
    """A row for each pair, split and BatchNorm choice, after each kind of perturbation."""
    return [{"perturbation": name} | row for name, result in results.items() for row in last_rows(result)]


def judge(results: Results) -> Verdict:
    """Whether a perturbation at iteration 0 makes a barrier, and what is left of it later."""
    choice = next(iter(results.values())).batchnorm[0]
    shown = [
        f"{name}: "
        + ", ".join(
            f"{100 * mean:.1f} at {k}" for k, mean in zip(found.rewind_iters, found.mean["test"][choice], strict=True)
        )
        for name, found in results.items()
    ]
    falls = all(found.mean["test"][choice][-1] < found.mean["test"][choice][0] for found in results.values())
    starts = all(found.mean["test"][choice][0] > 0.02 for found in results.values())
    return Verdict("agrees" if falls and starts else "disagrees", f"test barrier in points, {'; '.join(shown)}")


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
