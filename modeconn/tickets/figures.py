"""Figures of a lottery-ticket study with several panels, over density as the papers draw them, and their files."""

import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from modeconn.errors import OptionError
from modeconn.result import count
from modeconn.style import AS_USUAL, Files, caption, panels, save_figure, share_legend
from modeconn.tickets.options import DENSE
from modeconn.tickets.result import LotteryResult
from modeconn.tickets.sweep_result import SweepResult
from modeconn.tickets.tables import FIXED, barrier_column, measured

_OURS = re.compile(r"(rewinding|(lottery|barriers)(-\d+)?)\.(png|pdf|svg)")  # files of figures


def lottery_figure(result: LotteryResult, bars: str = "std") -> Figure:
    """Test error, early stopping, instability and layerwise density, over density."""
    drawn = ["test_error", *_measured(result, ["early_stop_iter", "instability_test", "sign_flips"])]
    width = len(drawn) + bool(result.layers)
    with panels(1, width, 3.6 * width, 3.4) as (figure, axes):
        for ax, column in zip(axes[0], drawn, strict=False):
            result.plot(ax, column, bars=bars)
        share_legend(figure, axes[0, : len(drawn)])
        if result.layers:
            result.plot_layers(axes[0, -1])
        _caption(figure, result)
        return figure


def barriers_figure(result: LotteryResult, bars: str = "std") -> Figure | None:
    """Chord barriers to the previous level and the dense network, plain and with a statistics fix; None without any."""
    names = [barrier_column(result.rows, other) for other in ("previous", "dense")]
    columns = _measured(result, [f"{name}{way}" for name in names for way in ("", FIXED)])
    if not columns:
        return None
    with panels(1, len(columns), 3.2 * len(columns), 3.2, sharey=True) as (figure, axes):
        for ax, column in zip(axes[0], columns, strict=True):
            result.plot(ax, column, bars=bars)
        share_legend(figure, axes[0])
        _caption(figure, result)
        return figure


def rewinding_figure(result: LotteryResult, level: int | None = None, bars: str = "std") -> Figure:
    """Test error and instability over the rewinding iteration at the last level, above them at another if asked.

    Figures 6 and 7 of Frankle et al. (2020).

    Raises:
        OptionError: no such level.
    """
    columns = ["test_error", *_measured(result, ["instability_test"])]
    levels = [None] if level is None else [level, None]
    width, height = 3.8 * len(columns), 3.2 * len(levels) + 0.2
    with panels(len(levels), len(columns), width, height) as (figure, axes):
        for row, shown in zip(axes, levels, strict=True):
            for ax, column in zip(row, columns, strict=True):
                result.plot_rewinding(ax, column, level=shown, bars=bars)
        share_legend(figure, axes.flat)
        _caption(figure, result)
        return figure


def save_lottery_figures(
    result: LotteryResult, level: int | None = None, bars: str = "std", files: Files = AS_USUAL
) -> list[Path]:
    """Write `lottery` and, if measured, `barriers` into the result's folder; the files' paths.

    With several rewinding iterations, `rewinding` is over these, and those of each are `lottery-K` and `barriers-K`.

    Args:
        result: that was saved.
        level: of pruning that `rewinding` shows, besides the last.
        bars: `"std"` or `"minmax"`; see `LotteryResult.plot`.
        files: how they are written; as PNG and PDF if not otherwise.

    Raises:
        OptionError: no such level or bars, or one rewinding iteration alone.
        StoreError: the folder cannot be written.
    """
    if result.folder is None:
        raise ValueError("the result was not saved, so it has no folder for figures")
    ks = result.rewind_iters
    if len(ks) > 1:
        figures = {"rewinding": rewinding_figure(result, level, bars)}
        figures |= {f"lottery-{k}": lottery_figure(result.at(k), bars) for k in ks}
        barriers = {f"barriers-{k}": barriers_figure(result.at(k), bars) for k in ks}
    elif level is not None:
        raise OptionError("a level is for the figure over several rewinding iterations, of which the study has one")
    else:
        figures, barriers = {"lottery": lottery_figure(result, bars)}, {"barriers": barriers_figure(result, bars)}
    figures |= {name: figure for name, figure in barriers.items() if figure}
    written = [path for name, figure in figures.items() for path in save_figure(figure, result.folder / name, files)]
    # Those of an earlier study in this folder would be taken for ours.
    for old in result.folder.iterdir():
        if _OURS.fullmatch(old.name) and old.stem not in figures:
            old.unlink()
    return written


def save_sweep_figure(result: SweepResult, files: Files = AS_USUAL) -> list[Path]:
    """Write `sweep` into the result's folder, as PNG and PDF if not otherwise; the files' paths.

    Raises:
        StoreError: the folder cannot be written.
    """
    if result.folder is None:
        raise ValueError("the result was not saved, so it has no folder for figures")
    figure: Any = result.plot().figure
    caption(figure, f"{result.title}\n{result.samples}", [result.summary["data_note"]])
    return save_figure(figure, result.folder / "sweep", files)


def _measured(result: LotteryResult, columns: list[str]) -> list[str]:
    """Those columns that have a value for any subnetwork but the dense one."""
    rows = [row for row in result.rows if row["condition"] != DENSE]
    return [column for column in columns if measured(rows, column)]


def _caption(figure: Figure, result: LotteryResult) -> None:
    summary, diverged = result.summary, len(result.summary["diverged"])
    ks = result.rewind_iters
    to = f"iteration {ks[0]}" if len(ks) == 1 else f"{len(ks)} iterations"
    above = f"{result.title}, rewound to {to}\n{result.samples}"
    caption(
        figure, above, [summary["data_note"], f"{count(diverged, 'training')} diverged, left out" if diverged else ""]
    )
