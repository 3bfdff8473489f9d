"""Figures of an instability study with several panels, and their files."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modeconn.analysis.instability.curvature_words import curvature_at_k
from modeconn.analysis.instability.result import InstabilityResult
from modeconn.style import (
    AS_USUAL,
    BATCHNORM,
    COLORS,
    PALETTE,
    Files,
    caption,
    draw_legend,
    draw_mean,
    draw_threshold,
    mark_iterations,
    panels,
    reach_zero,
    save_figure,
)


def instability_figure(result: InstabilityResult) -> Figure:
    """Instability over k, one panel for each BatchNorm choice, on one scale."""
    choices = result.batchnorm
    with panels(1, len(choices), 3.6 * len(choices), 3.2, sharey=True) as (figure, axes):
        for ax, choice in zip(axes[0], choices, strict=True):
            result.plot(ax, choice)
            ax.label_outer()
        _caption(figure, result)
        return figure


def paths_figure(result: InstabilityResult) -> Figure:
    """Error along the path: a column for each k, a row for each BatchNorm choice, on one scale."""
    choices, ks = result.batchnorm, result.rewind_iters
    width, height = 1.7 * len(ks) + 0.8, 2.1 * len(choices) + 0.6
    with panels(len(choices), len(ks), width, height, sharex=True, sharey=True) as (figure, axes):
        for row, choice in zip(axes, choices, strict=True):
            for ax, k in zip(row, ks, strict=True):
                result.plot_path(int(k), ax, choice)
                ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
                ax.set_title(f"k = {k}" if choice == choices[0] else "")
                if ax is not axes[0, -1] and (legend := ax.get_legend()) is not None:
                    legend.remove()  # one is enough, where curves are lowest
                ax.label_outer()
            row[0].set_ylabel("\n".join(filter(None, (BATCHNORM[choice], "error (%)"))))
        _caption(figure, result)
        return figure


def training_figure(result: InstabilityResult) -> Figure:
    """Mean instability over the iteration of measurement: a line for each k, a row for each split, on one scale."""
    choices, splits, ks = result.batchnorm, result.splits, result.rewind_iters
    colors = colormaps["viridis"](np.linspace(0, 0.9, len(ks)))
    curves: dict[tuple[str, str, int], list[tuple[int, float]]] = {}
    for iteration in result.measured_at:
        for row in result.at(iteration).by_iteration():
            curve = curves.setdefault((row["split"], row["batchnorm"], row["rewind_iter"]), [])
            curve.append((iteration, 100 * row["mean"]))
    width, height = 3.6 * len(choices), 2.4 * len(splits) + 0.6
    with panels(len(splits), len(choices), width, height, sharex=True, sharey=True) as (figure, axes):
        for line, split in zip(axes, splits, strict=True):
            for ax, choice in zip(line, choices, strict=True):
                for k, color in zip(ks, colors, strict=True):
                    at, means = zip(*curves[split, choice, int(k)], strict=True)
                    ax.plot(at, means, color=color, marker="o", markersize=3.5, label=f"k = {k}")
                draw_threshold(ax, result.summary["threshold"])
                ax.set(xlabel="iteration of measurement", ylabel=f"instability on {split} (points)")
                ax.set_title(BATCHNORM[choice] if split == splits[0] else "")
                ax.set_xlim(left=0)
                reach_zero(ax)
                ax.label_outer()
        draw_legend(axes[0, -1])
        _caption(figure, result)
        return figure


def measures_figure(result: InstabilityResult) -> Figure:
    """Means of what else was measured, over k: how copies differ, how far they went, and the network at k."""
    choice, ks = result.batchnorm[0], result.rewind_iters
    distances = {"copies": ("l2_distance",), "copies to initialisation": ("l2_from_init_a", "l2_from_init_b")}
    with panels(2, 3, 9.6, 5.2) as (figure, axes):
        weights, angle, at_k, labels, losses, error = axes.flat
        for (label, columns), color in zip(distances.items(), PALETTE, strict=False):
            weights.plot(ks, result.mean_of(*columns)[result.splits[0]][choice], "o-", color=color, label=label)
        angle.plot(ks, result.mean_of("cosine_distance")[result.splits[0]][choice], "o-", color=PALETTE[0])
        at_k.plot(ks, _trunk_mean(result, "l2_from_init", result.splits[0]), "o-", color=PALETTE[0])
        for split in result.splits:
            color = COLORS[split]
            for column, style in (("disagreement", "o-"), ("possible_disagreement", ":")):
                label = split if column == "disagreement" else f"{split}, most possible"
                labels.plot(ks, 100 * result.mean_of(column)[split][choice], style, color=color, label=label)
            losses.plot(ks, result.mean_of("loss_l2")[split][choice], "o-", color=color, label=split)
            error.plot(ks, 100 * _trunk_mean(result, "error", split), "o-", color=color, label=split)
        for ax, title in (
            (weights, "L2 distance of weights"),
            (angle, "cosine distance of copies"),
            (at_k, "network at k: L2 distance to initialisation"),
            (labels, "disagreement of copies (%)"),
            (losses, "L2 distance of losses"),
            (error, "network at k: error (%)"),
        ):
            ax.set(title=title, xlabel="rewinding iteration k")
            reach_zero(ax)
            draw_legend(ax)
        _caption(figure, result)
        return figure


def curvature_figure(result: InstabilityResult) -> Figure:
    """Instability over k, and beside it the largest eigenvalue and the trace at k and at the copies' ends."""
    columns = {"eigenvalue": "largest eigenvalue of the Hessian", "trace": "trace of the Hessian"}
    with panels(1, 3, 10.2, 3.2) as (figure, axes):
        result.plot(axes[0, 0])
        for ax, (column, title) in zip(axes[0, 1:], columns.items(), strict=True):
            draw_curvature(ax, result, column)
            ax.set_title(title)
        _caption(figure, result)
        return figure


def draw_curvature(ax: Axes, result: InstabilityResult, column: str) -> None:
    """Draw a column of the curvature over k: of the network at k, and the mean over copies at their end."""
    for copies, label, color in ((False, "network at k", PALETTE[2]), (True, "copies at the end", PALETTE[3])):
        if found := curvature_at_k(result.curvature, column, copies):
            mean, std = np.array(list(found.values())).T
            draw_mean(
                ax, np.array(list(found)), mean, np.nan_to_num(std), color, marker="o", markersize=3.5, label=label
            )
    ax.set_xlabel("rewinding iteration k")
    mark_iterations(ax, result.rewind_iters)
    reach_zero(ax)
    draw_legend(ax)


def _trunk_mean(result: InstabilityResult, column: str, split: str) -> np.ndarray:
    """The mean over replicates at each k, float64 [n]."""
    of_k = [
        [row[column] for row in result.trunk if (row["rewind_iter"], row["split"]) == (k, split)]
        for k in result.rewind_iters
    ]
    return np.array([np.mean(values) if values else np.nan for values in of_k])


def save_figures(result: InstabilityResult, files: Files = AS_USUAL) -> list[Path]:
    """Write a result's figures into its folder, as PNG and PDF if not otherwise; the files' paths.

    These are `instability` and `paths`, `training` where copies were measured at several iterations, and `measures`
    where it was measured at several k how they differ, and `curvature` where that was measured.

    Raises:
        StoreError: the folder cannot be written.
    """
    if result.folder is None:
        raise ValueError("the result was not saved, so it has no folder for figures")
    figures = {"instability": instability_figure, "paths": paths_figure}
    more = {"training": training_figure, "measures": measures_figure, "curvature": curvature_figure}
    figures |= {name: more[name] for name, drawn in result.more_figures.items() if drawn}
    written = []
    for name, draw in figures.items():
        written += save_figure(draw(result), result.folder / name, files)
    return written


def _caption(figure: Figure, result: InstabilityResult) -> None:
    below, diverged = [result.summary["data_note"]], result.summary["diverged"]
    if diverged:
        ks = sorted({where["rewind_iter"] for where in diverged})
        copies = "1 copy" if len(diverged) == 1 else f"{len(diverged)} copies"
        below.append(f"{copies} diverged, left out (k = {', '.join(map(str, ks))})")
    caption(figure, f"{result.title}\n{result.samples}", below)
