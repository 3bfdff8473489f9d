"""Curvature and stability: does the largest eigenvalue of the Hessian settle at the k from which a network is stable?

    modeconn reproduce beyond-curvature --network digits-conv --protocol paper
    python analyses/beyond_curvature.py --network digits-conv --protocol paper

The largest eigenvalue of the Hessian of the training loss, and its trace, at the network at k and at the copies that
are forked there, when they are trained; beside the instability of these copies.
"""

import sys
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing
from scipy.stats import spearmanr

from modeconn.analysis.instability.curvature_words import curvature_at_k
from modeconn.analysis.instability.figures import draw_curvature
from modeconn.analysis.instability.result import InstabilityResult
from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Study, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.result import Row
from modeconn.style import panels


def _study(task: str, options: dict[str, Any]) -> dict[str, Study]:
    return {"dense": Study("instability", task, {"curvature": True, **options})}


CURVATURE = {
    SMOKE: {
        "paper": _study(
            SMOKE,
            {"replicates": 2, "alphas": 11, "batchnorm": ("recalibrate",), "splits": ("test",)}
            | {"curvature_examples": 300},
        ),
        "smoke": _study(
            SMOKE,
            {"iterations": 40, "task.width": 0.25, "alphas": 3, "calibration": 100, "replicates": 1}
            | {"batchnorm": ("interpolate",), "rewind_iters": "0,8", "curvature_examples": 50},
        ),
    },
    "mnist-lenet": {
        "short": _study(
            "mnist-lenet",
            {"iterations": 2400, "rewind_iters": "0,20,100,400,1200", "replicates": 2, "alphas": 11}
            | {"curvature_examples": 1000},
        )
    },
}


def draw(results: Results) -> Drawing:
    """Instability over k; the largest eigenvalue at k and at the copies; and the trace likewise."""
    result = results["dense"]
    columns = {"eigenvalue": "largest eigenvalue of the Hessian", "trace": "trace of the Hessian"}
    with panels(1, 3, 10.2, 3.4) as (figure, axes):
        result.plot(axes[0, 0], result.batchnorm[-1])
        for ax, (column, title) in zip(axes[0, 1:], columns.items(), strict=True):
            draw_curvature(ax, result, column)
            ax.set_title(title)
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each k: the mean instability, and the means of the curvature at k and at the copies' ends."""
    result = results["dense"]
    split, batchnorm = result.splits[0], result.batchnorm[-1]
    found = []
    for index, k in enumerate(map(int, result.rewind_iters)):
        row: Row = {"rewind_iter": k, "instability": float(result.mean[split][batchnorm][index])}
        for name in ("eigenvalue", "trace"):
            for copies, where in ((False, "at_k"), (True, "of_copies")):
                of_k = curvature_at_k(result.curvature, name, copies)
                row[f"{name}_{where}"] = of_k[k][0] if k in of_k else np.nan
        found.append(row)
    return found


def judge(results: Results) -> Verdict:
    """The curvature at k, and whether it goes with the instability of copies from there."""
    result: InstabilityResult = results["dense"]
    found = rows(results)
    stable = result.stable_from()[result.splits[0]][result.batchnorm[-1]]
    said = "stable at no measured k" if stable is None else f"stable from k = {stable}"
    eigenvalues = ", ".join(f"{row['eigenvalue_at_k']:.3g} at {row['rewind_iter']}" for row in found)
    copies = ", ".join(f"{row['eigenvalue_of_copies']:.3g}" for row in found)
    text = f"{said}; largest eigenvalue of the network at k: {eigenvalues}; of its copies at the end: {copies}"
    if len(found) > 2:
        rank = spearmanr([row["instability"] for row in found], [row["eigenvalue_at_k"] for row in found])[0]
        text += f"; rank correlation of instability and eigenvalue at k over {len(found)} k: {rank:.2f}"
    return Verdict("new", text)


FIGURE = Figure(
    paper="beyond",
    item="Curvature",
    shows="instability, largest eigenvalue and trace of the Hessian over k",
    networks={
        SMOKE: Network("", source="", protocols=CURVATURE[SMOKE]),
        "mnist-lenet": Network("", source="", protocols=CURVATURE["mnist-lenet"]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
