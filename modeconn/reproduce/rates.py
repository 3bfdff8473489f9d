"""Figures 7 and 8 of Frankle & Carbin (2019): tickets at three learning rates, of two networks."""

from matplotlib.figure import Figure as Drawing

from modeconn.reproduce.figure import Results, Verdict
from modeconn.reproduce.tickets import columns, mean_at
from modeconn.reproduce.verdicts import more
from modeconn.result import Row
from modeconn.style import panels


def draw(results: Results) -> Drawing:
    """Test error at the end over density, a panel for each learning rate; lines from minimum to maximum."""
    with panels(1, len(results), 3.6 * len(results), 3.2, sharey=True) as (figure, axes):
        for ax, (title, result) in zip(axes[0], results.items(), strict=True):
            result.plot(ax, "test_error", ("imp", "reinit"), bars="minmax")
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
    shown = ", ".join(f"{title} {more(gap, 'points better', 'points worse')}" for title, gap in gaps.items())
    return Verdict("new", f"tickets of 20 % against reinitialised: {shown}")
