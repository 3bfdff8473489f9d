"""Figures of an instability study with several panels, and their files."""

from pathlib import Path

from matplotlib.figure import Figure

from modeconn.analysis.instability.result import InstabilityResult
from modeconn.style import BATCHNORM, caption, panels, save_figure


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
                ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
                ax.set_title(f"k = {k}" if choice == choices[0] else "")
                ax.label_outer()
            row[0].set_ylabel("\n".join(filter(None, (BATCHNORM[choice], "error (%)"))))
        axes[0, -1].legend(loc="upper right", fontsize=7)  # where curves are lowest
        _caption(figure, result)
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


def _caption(figure: Figure, result: InstabilityResult) -> None:
    below, diverged = [result.summary["data_note"]], result.summary["diverged"]
    if diverged:
        ks = sorted({where["rewind_iter"] for where in diverged})
        copies = "1 copy" if len(diverged) == 1 else f"{len(diverged)} copies"
        below.append(f"{copies} diverged, left out (k = {', '.join(map(str, ks))})")
    caption(figure, f"{result.title}\n{result.samples}", below)
