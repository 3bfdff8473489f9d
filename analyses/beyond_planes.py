"""Instability at one look: the plane through three copies of one trunk, forked at 0 and where the network is stable.

    modeconn reproduce beyond-planes --network digits-conv --protocol paper
    python analyses/beyond_planes.py --network digits-conv --protocol paper

Copies that are forked early end in valleys of their own, with a barrier between them; copies that are forked late end
in one (Frankle et al. 2020, Figure 1, draw this as a sketch). Here it is measured: the planes of Garipov et al. (2018),
with the way of each copy projected on them.
"""

import sys
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Study, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.result import Row
from modeconn.style import panels


def _planes(task: str, options: dict[str, Any]) -> dict[str, Study]:
    return {"planes": Study("plane", task, options)}


PLANES = {
    SMOKE: {
        "paper": _planes(SMOKE, {"rewind_iters": "0,10%", "points": 31}),
        "smoke": _planes(
            SMOKE,
            {"iterations": 40, "task.width": 0.25, "rewind_iters": "0,8", "states": 2, "points": 3, "alphas": 3},
        ),
    },
    "mnist-lenet": {
        "short": _planes(
            "mnist-lenet", {"iterations": 600, "rewind_iters": "0,10%", "states": 6, "points": 11, "alphas": 7}
        )
    },
    "cifar10-resnet20": {
        "short": _planes(
            "cifar10-resnet20",
            {"iterations": 600, "rewind_iters": "0,30%", "states": 6, "points": 11, "alphas": 7}
            | {"calibration_batches": 4, "precision": "bfloat16"},
        )
    },
}


def draw(results: Results) -> Drawing:
    """The error over each plane on one scale of colours, a panel for each k, with the copies and their ways."""
    planes = results["planes"].planes
    values = np.concatenate([plane.everywhere("error")[2] for plane in planes.values()])
    levels = np.linspace(np.nanmin(values), np.nanmax(values), 16).tolist()
    with panels(1, len(planes), 4.6 * len(planes), 4.6) as (figure, axes):
        for ax, (k, plane) in zip(axes[0], planes.items(), strict=True):
            plane.plot(metric="error", levels=levels, colorbar=ax is axes[0, -1], ax=ax)
            ax.set_title(f"forked at k = {k}; {ax.get_title()}")
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each k and point, each network, and each state on the way."""
    return [dict(row) for row in results["planes"].rows]


def judge(results: Results) -> Verdict:
    """The barriers and distances between the copies at each k, and how far from the plane they were on their way."""
    said = []
    for k, of in results["planes"].summary["planes"].items():
        barriers = ", ".join(f"{100 * barrier:.2f}" for barrier in of["barriers"])
        apart = ", ".join(f"{distance:.3g}" for distance in of["distances"])
        farthest = max(of["farthest"].values())
        said.append(
            f"k = {k}: barriers {barriers} points between copies that are {apart} apart, on their way up to "
            f"{farthest:.3g} from the plane"
        )
    return Verdict("new", "; ".join(said))


FIGURE = Figure(
    paper="beyond",
    item="Planes through copies",
    shows="test error on the plane through three copies of one trunk, and their ways from the fork",
    networks={
        SMOKE: Network("", source="", protocols=PLANES[SMOKE]),
        "mnist-lenet": Network("", source="", protocols=PLANES["mnist-lenet"]),
        "cifar10-resnet20": Network("", source="", protocols=PLANES["cifar10-resnet20"]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
