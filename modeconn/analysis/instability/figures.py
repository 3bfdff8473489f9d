"""Figures of an instability study."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from modeconn.errors import unknown
from modeconn.style import BATCHNORM, COLORS, STYLE, save_figure

if TYPE_CHECKING:
    from modeconn.analysis.instability.result import InstabilityResult


def plot_instability(
    result: InstabilityResult,
    ax: Axes | None = None,
    batchnorm: str | None = None,
    threshold: float | None = None,
) -> Axes:
    """Instability over the rewinding iteration: mean, band of one standard deviation, and the line of stability.

    Args:
        result: of `modeconn.instability`.
        ax: where to draw; a new figure if None.
        batchnorm: which BatchNorm choice; the study's first if None.
        threshold: where to draw the line, as a fraction of error; that of the study if None.

    Raises:
        OptionError: the study has no such BatchNorm choice.
    """
    batchnorm = _choice(result, batchnorm)
    threshold = result.summary["threshold"] if threshold is None else threshold
    with matplotlib.rc_context(STYLE):
        ax = Figure(figsize=(4, 3), layout="constrained").subplots() if ax is None else ax
        ks = result.rewind_iters
        lowest = 0.0
        for split in _splits(result):
            mean, std = 100 * result.mean[split][batchnorm], np.nan_to_num(100 * result.std[split][batchnorm])
            ax.plot(ks, mean, marker="o", markersize=3.5, color=COLORS[split], label=split)
            ax.fill_between(ks, mean - std, mean + std, color=COLORS[split], alpha=0.18, linewidth=0)
            if len(ks) == 1:  # a band over one k has no width
                ax.errorbar(ks, mean, std, color=COLORS[split], capsize=4)
            lowest = min(lowest, np.nanmin([*(mean - std), lowest]))
        ax.axhline(100 * threshold, color="black", linewidth=0.8, linestyle="--", label=f"{100 * threshold:g} points")
        ax.set(
            xlabel="rewinding iteration k",
            ylabel="instability (points of error)",
            title=BATCHNORM[batchnorm],
        )
        ax.set_ylim(bottom=1.05 * lowest)
        positive = ks[ks > 0]
        if len(positive) > 1:
            ax.set_xscale("symlog", linthresh=int(positive[0]), linscale=0.5)
            ax.set_xlim(left=-0.2 * positive[0] if ks[0] == 0 else 0.8 * positive[0])
        ax.xaxis.set_major_locator(FixedLocator(ks.tolist()))
        ax.xaxis.set_major_formatter(lambda k, _: f"{k:g}" if k < 10_000 else f"{k / 1000:g}K")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.legend(loc="upper right")
        return ax


def plot_path(
    result: InstabilityResult,
    rewind_iter: int,
    ax: Axes | None = None,
    batchnorm: str | None = None,
) -> Axes:
    """Error along the path between copies forked at one k: mean over replicates and pairs, band of one deviation.

    Where adaptive alphas differ between pairs, each pair's curve is continued straight between its own.

    Args:
        result: of `modeconn.instability`.
        rewind_iter: the k.
        ax: where to draw; a new figure if None.
        batchnorm: which BatchNorm choice; the study's first if None.

    Raises:
        OptionError: the study has no such BatchNorm choice or k.
    """
    batchnorm = _choice(result, batchnorm)
    if rewind_iter not in result.rewind_iters:
        raise unknown("rewinding iteration", str(rewind_iter), [str(k) for k in result.rewind_iters])
    with matplotlib.rc_context(STYLE):
        ax = Figure(figsize=(3, 2.4), layout="constrained").subplots() if ax is None else ax
        for split in _splits(result):
            alphas, errors = _curves(result, rewind_iter, split, batchnorm)  # [alphas], [pairs, alphas]
            if not errors.size:
                continue
            mean, std = 100 * errors.mean(0), 100 * errors.std(0, ddof=min(1, len(errors) - 1))
            ax.plot(alphas, mean, color=COLORS[split], label=split)
            ax.fill_between(alphas, mean - std, mean + std, color=COLORS[split], alpha=0.18, linewidth=0)
        if not ax.lines:
            ax.text(0.5, 0.5, "every pair diverged", ha="center", va="center", transform=ax.transAxes)
        ax.set(xlim=(0, 1), ylim=(0, None), xlabel="alpha", ylabel="error (%)", title=f"k = {rewind_iter}")
        return ax


def instability_figure(result: InstabilityResult) -> Figure:
    """Instability over k, one panel for each BatchNorm choice, on one scale."""
    choices = _choices(result)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(choices), 3.2), layout="constrained")
        axes = figure.subplots(1, len(choices), sharey=True, squeeze=False)[0]
        for ax, choice in zip(axes, choices, strict=True):
            plot_instability(result, ax, choice)
            ax.label_outer()
        _describe(figure, result)
        return figure


def paths_figure(result: InstabilityResult) -> Figure:
    """Error along the path: a column for each k, a row for each BatchNorm choice, on one scale."""
    choices, ks = _choices(result), result.rewind_iters
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.7 * len(ks) + 0.8, 2.1 * len(choices) + 0.6), layout="constrained")
        axes = figure.subplots(len(choices), len(ks), sharex=True, sharey=True, squeeze=False)
        for row, choice in zip(axes, choices, strict=True):
            for ax, k in zip(row, ks, strict=True):
                plot_path(result, int(k), ax, choice)
                ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
                ax.set_title(f"k = {k}" if choice == choices[0] else "")
                ax.label_outer()
            row[0].set_ylabel("\n".join(filter(None, (BATCHNORM[choice], "error (%)"))))
        axes[0, -1].legend(loc="upper right", fontsize=7)  # where curves are lowest
        _describe(figure, result)
        return figure


def save_figures(result: InstabilityResult) -> list[Path]:
    """Write `instability` and `paths` as PNG and PDF into the result's folder; the files' paths.

    Raises:
        StoreError: the folder cannot be written.
    """
    if result.folder is None:
        raise ValueError("the result was not saved, so it has no folder for figures")
    written = []
    for name, figure in (("instability", instability_figure(result)), ("paths", paths_figure(result))):
        written += save_figure(figure, result.folder / name)
    return written


def _describe(figure: Figure, result: InstabilityResult) -> None:
    """Above, what was studied; below, what a reader must know to trust it."""
    summary = result.summary
    figure.suptitle(f"{result.title}\n{result.samples}", fontsize=9)
    below = [summary["data_note"]]
    diverged = summary["diverged"]
    if diverged:
        ks = sorted({where["rewind_iter"] for where in diverged})
        copies = "1 copy" if len(diverged) == 1 else f"{len(diverged)} copies"
        below.append(f"{copies} diverged, left out (k = {', '.join(map(str, ks))})")
    text = "; ".join(filter(None, below))
    if text:
        figure.supxlabel(text, fontsize=7, color="#444444")


def _curves(result: InstabilityResult, k: int, split: str, batchnorm: str) -> tuple[np.ndarray, np.ndarray]:
    pairs: dict[tuple[int, ...], list[tuple[float, float]]] = {}
    for row in result.paths:
        if (row["rewind_iter"], row["split"], row["batchnorm"]) == (k, split, batchnorm):
            pair = row["replicate"], row["copy_a"], row["copy_b"]
            pairs.setdefault(pair, []).append((row["alpha"], row["error"]))
    curves = [np.array(points).T for points in pairs.values()]  # each [2, alphas]
    alphas = np.unique([alpha for own, _ in curves for alpha in own])
    return alphas, np.array([np.interp(alphas, own, errors) for own, errors in curves])


def _choice(result: InstabilityResult, batchnorm: str | None) -> str:
    known = _choices(result)
    if batchnorm is not None and batchnorm not in known:
        raise unknown("BatchNorm choice of this study", batchnorm, known)
    return batchnorm or known[0]


def _choices(result: InstabilityResult) -> list[str]:
    return _unique(choice for _, choice in result.choices)


def _splits(result: InstabilityResult) -> list[str]:
    return _unique(split for split, _ in result.choices)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
