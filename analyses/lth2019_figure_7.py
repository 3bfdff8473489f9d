"""Frankle & Carbin 2019, Figure 7: tickets of VGG-19 at three learning rates.

    modeconn reproduce lth2019-figure-7 --network digits-conv --protocol smoke
    python analyses/lth2019_figure_7.py --network digits-conv --protocol smoke

The paper plots test accuracy of VGG-19 at fixed iterations over the part of weights that remains, for a high and a low
learning rate and a high one with warmup.
"""

import sys

from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import RATES
from modeconn.reproduce.tickets import columns, mean_at
from modeconn.result import Row
from modeconn.style import panels


def draw(results: Results) -> Drawing:
    """Test error at the end over density, a panel for each learning rate."""
    with panels(1, len(results), 3.6 * len(results), 3.2, sharey=True) as (figure, axes):
        for ax, (title, result) in zip(axes[0], results.items(), strict=True):
            result.plot(ax, "test_error", ("imp", "reinit"))
            ax.set_title(title)
            ax.label_outer()
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each replicate, level and condition of each study."""
    return [{"study": title} | row for title, result in results.items() for row in columns(result, ("test_error",))]


def judge(results: Results) -> Verdict:
    """The gap between tickets and reinitialised networks at about 20 % of the weights under each learning rate."""
    gaps = {
        title: 100 * (mean_at(result, "test_error", "reinit", 0.2) - mean_at(result, "test_error", "imp", 0.2))
        for title, result in results.items()
    }
    shown = ", ".join(f"{title} {gap:.2f} points" for title, gap in gaps.items())
    return Verdict("new", f"tickets of 20 % are better than reinitialised: {shown}")


FIGURE = Figure(
    paper="lth2019",
    item="Figure 7",
    shows="tickets of VGG-19 at three learning rates",
    networks={
        "VGG-19": Network(
            "at learning rate 0.1 no tickets; at 0.01 within 1 point to 3.5 %; with warmup tickets to 1.5 %",
            "paper",
            cost="25 h a training on two cores",
        ),
        SMOKE: Network("", source="", protocols=RATES[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
