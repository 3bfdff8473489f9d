"""Beyond the papers, Sources of noise: which source of SGD noise makes the instability.

    modeconn reproduce beyond-noise-sources --network digits-conv --protocol paper
    python analyses/beyond_noise_sources.py --network digits-conv --protocol paper

Copies differ in one source of SGD noise alone: data order, augmentation or dropout; or in all of them.
"""

import sys

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import draw_rows, figure_of_choices, last_rows, scale_k, select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import NOISE
from modeconn.result import Row
from modeconn.style import PALETTE, draw_threshold


def draw(results: Results) -> Drawing:
    """Test instability over k, a line for each source."""
    first = next(iter(results.values()))

    def panel(ax: Axes, choice: str) -> None:
        for color, source in zip(PALETTE, results, strict=False):
            found = select(rows(results), noise=source, split="test", batchnorm=choice)
            draw_rows(ax, found, "rewind_iter", "barrier", color=color, factor=100, label=source)
        draw_threshold(ax, first.summary["threshold"])
        scale_k(ax, first.rewind_iters)
        ax.set(ylabel="test instability (points of error)", ylim=(0, None))
        ax.legend(fontsize=7)

    return figure_of_choices(first, panel)


def rows(results: Results) -> list[Row]:
    """A row for each pair, split and BatchNorm choice, under each source."""
    return [{"noise": source} | row for source, result in results.items() for row in last_rows(result)]


def judge(results: Results) -> Verdict:
    """The instability at the first k under each source."""
    first = next(iter(results.values()))
    choice, k = first.batchnorm[0], first.rewind_iters[0]
    shown = [f"{source} {100 * result.mean['test'][choice][0]:.1f}" for source, result in results.items()]
    return Verdict("new", f"test instability at k = {k} in points: {', '.join(shown)}")


FIGURE = Figure(
    paper="beyond",
    item="Sources of noise",
    shows="instability by the source of noise that differs",
    networks={
        SMOKE: Network("", source="", protocols=NOISE[SMOKE]),
        "cifar10-resnet20": Network("", source="", protocols=NOISE["cifar10-resnet20"]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
