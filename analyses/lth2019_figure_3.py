"""Frankle & Carbin 2019, Figure 3: test accuracy during training at several densities.

    modeconn reproduce lth2019-figure-3 --network mnist-lenet --protocol paper --data-dir DIR
    python analyses/lth2019_figure_3.py --network mnist-lenet --protocol paper --data-dir DIR

The paper plots the test accuracy of LeNet's winning tickets over the training iteration, for some parts of weights that
remain, and of the same masks on weights drawn anew. Here it is the error on the training
images that are held out for early stopping.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import gradient
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import TICKETS
from modeconn.reproduce.tickets import at_density, curve_of, density_of
from modeconn.reproduce.verdicts import apart, judged
from modeconn.result import Row
from modeconn.style import panels

_DENSITIES = (1.0, 0.512, 0.211, 0.07, 0.036)


def draw(results: Results) -> Drawing:
    """Validation error over the iteration, a line for each density: tickets left, reinitialised right."""
    result = results["tickets"]
    levels = list(dict.fromkeys(at_density(result, density) for density in _DENSITIES))
    with panels(1, 2, 7.6, 3.2, sharex=True, sharey=True) as (figure, axes):
        for ax, condition in zip(axes[0], ("imp", "reinit"), strict=True):
            for level, color in zip(levels, gradient(len(levels)), strict=True):
                x, y = curve_of(result, condition if level else "dense", level)
                ax.plot(x, 100 * y, color=color, label=f"{100 * density_of(result, level):.3g} %")
            ax.set(title={"imp": "winning tickets", "reinit": "reinitialised"}[condition], xlabel="iteration")
            ax.legend(fontsize=7)
        axes[0, 0].set_ylabel("validation error (%)")
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, level, condition and iteration of evaluation."""
    return [row for row in results["tickets"].curves if row["split"] == "validation"]


def judge(results: Results) -> Verdict:
    """Whether the mean validation error early in training is lowest near 21 %, and at the sparsest about as when dense.

    Near 21 % is from 10 to 35; about as when dense, apart by at most half of what is gained at best.
    """
    result = results["tickets"]
    means = {}
    for level in dict.fromkeys(at_density(result, density) for density in _DENSITIES):
        x, y = curve_of(result, "imp" if level else "dense", level)
        means[density_of(result, level)] = float(np.mean(y[x <= 0.25 * result.summary["iterations"]]))
    shown = ", ".join(f"{100 * mean:.2f} at {100 * density:.3g} %" for density, mean in means.items())
    found = f"mean validation error in % over the first quarter of training: {shown}"
    if np.isnan(list(means.values())).any():
        return judged(found, None)
    best, dense = min(means, key=means.__getitem__), means[max(means)]
    about_as_fast = apart(means[min(means)], dense, most=(dense - means[best]) / 2)
    return judged(found, 0.1 < best < 0.35, about_as_fast)


FIGURE = Figure(
    paper="lth2019",
    item="Figure 3",
    shows="validation error during training at several densities",
    networks={
        "mnist-lenet": Network(
            "learning is fastest at 21.1 %, and at 3.6 % about as fast as dense",
            "paper",
            TICKETS["mnist-lenet"],
            why={
                "short": "how fast is told by the mean error over a quarter of training, not from the curves; the "
                "paper's pixels are not known"
            },
        ),
        SMOKE: Network("", source="", protocols=TICKETS[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
