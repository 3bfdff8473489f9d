"""Figures of a lottery-ticket study with several panels, over density as the papers draw them, and their files."""

from pathlib import Path

from matplotlib.figure import Figure

from modeconn.result import count
from modeconn.style import caption, panels, save_figure
from modeconn.tickets.options import DENSE
from modeconn.tickets.result import LotteryResult
from modeconn.tickets.tables import FIXED, barrier_column, measured


def lottery_figure(result: LotteryResult) -> Figure:
    """Test error, early stopping, instability and layerwise density, over density."""
    drawn = ["test_error", *_measured(result, ["early_stop_iter", "instability_test"])]
    width = len(drawn) + bool(result.layers)
    with panels(1, width, 3.6 * width, 3.4) as (figure, axes):
        for ax, column in zip(axes[0], drawn, strict=False):
            result.plot(ax, column)
        if result.layers:
            result.plot_layers(axes[0, -1])
        _caption(figure, result)
        return figure


def barriers_figure(result: LotteryResult) -> Figure | None:
    """Chord barriers to the previous level and the dense network, plain and with a statistics fix; None without any."""
    names = [barrier_column(result.rows, other) for other in ("previous", "dense")]
    columns = _measured(result, [f"{name}{way}" for name in names for way in ("", FIXED)])
    if not columns:
        return None
    with panels(1, len(columns), 3.2 * len(columns), 3.2, sharey=True) as (figure, axes):
        for ax, column in zip(axes[0], columns, strict=True):
            result.plot(ax, column)
        _caption(figure, result)
        return figure


def save_lottery_figures(result: LotteryResult) -> list[Path]:
    """Write `lottery` and, if measured, `barriers` as PNG and PDF into the result's folder; the files' paths.

    Raises:
        StoreError: the folder cannot be written.
    """
    if result.folder is None:
        raise ValueError("the result was not saved, so it has no folder for figures")
    written = save_figure(lottery_figure(result), result.folder / "lottery")
    barriers = barriers_figure(result)
    if barriers is None:  # one of an earlier study in this folder would be taken for ours
        for ending in ("png", "pdf"):
            (result.folder / f"barriers.{ending}").unlink(missing_ok=True)
        return written
    return written + save_figure(barriers, result.folder / "barriers")


def _measured(result: LotteryResult, columns: list[str]) -> list[str]:
    """Those columns that have a value for any subnetwork but the dense one."""
    rows = [row for row in result.rows if row["condition"] != DENSE]
    return [column for column in columns if measured(rows, column)]


def _caption(figure: Figure, result: LotteryResult) -> None:
    summary, diverged = result.summary, len(result.summary["diverged"])
    above = f"{result.title}, rewound to iteration {summary['rewind_iter']}\n{result.samples}"
    caption(
        figure, above, [summary["data_note"], f"{count(diverged, 'training')} diverged, left out" if diverged else ""]
    )
