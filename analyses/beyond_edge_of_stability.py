"""Edge of stability: the largest eigenvalue of the Hessian along full-batch gradient descent, at several rates.

    modeconn reproduce beyond-edge-of-stability --network digits-conv --protocol paper
    python analyses/beyond_edge_of_stability.py --network digits-conv --protocol paper

Cohen et al. (2021, 2103.00065) found that the sharpness rises until it is 2 / rate, at which gradient descent on a
quadratic loss would diverge, and then stays just above. They show it on 5,000 images of CIFAR-10; here it is on the
digits, which takes minutes on one core: the network of `digits-conv` is not used, but a tanh network on its data.
"""

import sys
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Study, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.verdicts import judged
from modeconn.result import Row
from modeconn.style import PALETTE, panels


def _descent(options: dict[str, Any]) -> dict[str, Study]:
    return {"descent": Study("descent", SMOKE, options)}


DESCENTS = {
    "paper": _descent({"rates": (0.15, 0.1, 0.05), "steps": 3000, "every": 100}),
    "smoke": _descent({"rates": (0.05, 0.02), "widths": (8,), "steps": 20, "every": 5, "examples": 60}),
}


def draw(results: Results) -> Drawing:
    """The largest eigenvalue and the loss over iterations, a line for each rate; dashed is 2 / rate."""
    found = rows(results)
    with panels(1, 2, 8.0, 3.4) as (figure, axes):
        for rate, color in zip(_rates(found), PALETTE, strict=False):
            of_rate = select(found, rate=rate)
            x = [row["iteration"] for row in of_rate]
            axes[0, 0].plot(x, [row["eigenvalue"] for row in of_rate], color=color, label=f"rate {rate:g}")
            axes[0, 0].axhline(
                2 / rate, color=color, linewidth=1, linestyle="--", label=f"2 / {rate:g} = {2 / rate:.3g}"
            )
            axes[0, 1].plot(x, [row["loss"] for row in of_rate], color=color, label=f"rate {rate:g}")
        axes[0, 0].set(xlabel="iteration", ylabel="largest eigenvalue of the Hessian", ylim=(0, None))
        axes[0, 1].set(xlabel="iteration", ylabel="training loss", yscale="log")
        axes[0, 0].legend(fontsize=7)
        axes[0, 1].legend(fontsize=7)
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each rate and measured iteration."""
    return [dict(row) for row in results["descent"].rows]


def judge(results: Results) -> Verdict:
    """Where the largest eigenvalue begins, when it first passes 2 / rate, and its mean after that over 2 / rate."""
    found, said, stays = rows(results), [], []
    for rate in _rates(found):
        of_rate = select(found, rate=rate)
        values = np.array([row["eigenvalue"] for row in of_rate])
        above = np.flatnonzero(values > 2 / rate)
        begins = f"rate {rate:g}: from {values[0]:.3g}"
        if len(above) == 0 or above[0] == 0:
            said.append(f"{begins}, at most {values.max():.3g}, and 2 / rate = {2 / rate:.4g}")
            continue
        after = values[above[0] :] * rate / 2
        stays.append(bool(0.9 < after.mean() < 1.25))
        first = of_rate[above[0]]["iteration"]
        said.append(
            f"{begins} it passes 2 / rate = {2 / rate:.4g} by iteration {first}, and is then "
            f"{after.mean():.3f} times that in the mean ({after.min():.3f} to {after.max():.3f})"
        )
    return judged(f"largest eigenvalue: {'; '.join(said)}", *stays)


def _rates(found: list[Row]) -> list[float]:
    return list(dict.fromkeys(row["rate"] for row in found))


FIGURE = Figure(
    paper="beyond",
    item="Edge of stability",
    shows="the largest eigenvalue of the Hessian along full-batch gradient descent",
    networks={
        SMOKE: Network(
            "Cohen et al. 2021: sharpness rises to 2 / rate and stays just above",
            source="notes",
            protocols=DESCENTS,
        ),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
