"""Curves of low loss: error and loss along a Bezier curve, an elastic band and the segment between two initialisations.

    modeconn reproduce beyond-curves --network mnist-lenet --protocol short
    python analyses/beyond_curves.py --network mnist-lenet --protocol short

Garipov et al. (2018) find curves between any two networks on which the error hardly rises: from 90 to 7 % at the worst
point between two VGG-16 on CIFAR-10, which themselves err about 7 %. Draxler et al. (2018) find the same by elastic
bands.
"""

import sys
from typing import Any

from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.curves import SEGMENT
from modeconn.reproduce.drawing import select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Study, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.result import Row
from modeconn.style import BATCHNORM, PALETTE, panels, share_legend


def _curves(task: str, fit: dict[str, Any], band: dict[str, Any], options: dict[str, Any]) -> dict[str, Study]:
    curves = {"Bezier curve": {"method": "fit", **fit}} | ({"elastic band": {"method": "neb", **band}} if band else {})
    return {"curves": Study("curve", task, {"curves": curves, **options})}


CURVES = {
    "mnist-lenet": {
        "short": _curves(
            "mnist-lenet",
            {"epochs": 30, "learning_rate": 0.05},
            {"cycles": ((200, 0.1), (200, 0.1), (200, 0.1), (200, 0.01))},
            {"iterations": 2400},
        )
    },
    "cifar10-resnet20": {
        "short": _curves(
            "cifar10-resnet20",
            {"steps": 600, "learning_rate": 0.05, "weight_decay": 1e-4},
            {},
            {"iterations": 600, "precision": "bfloat16", "alphas": 11, "calibration_batches": 8, "splits": ("test",)},
        )
    },
    SMOKE: {
        "smoke": _curves(
            SMOKE,
            {"steps": 10},
            {"cycles": ((2, 0.1), (2, 0.01)), "pivots": 1},
            {"iterations": 40, "task.width": 0.25, "alphas": 3},
        )
    },
}


def draw(results: Results) -> Drawing:
    """Error and loss over t, a line for each path; training data dashed."""
    found = rows(results)
    paths = [SEGMENT, *(path for path in dict.fromkeys(row["path"] for row in found) if path != SEGMENT)]
    with panels(1, 2, 8, 3.4) as (figure, axes):
        for ax, name, factor, unit in ((axes[0, 0], "error", 100, "%"), (axes[0, 1], "loss", 1, "nats")):
            for path, color in zip(paths, ("grey", *PALETTE), strict=False):
                for split, line in (("test", "-"), ("train", "--")):
                    of = select(found, path=path, split=split)
                    if not of:
                        continue
                    times = "" if path == SEGMENT else f", {of[0]['length']:.2f} x as long"
                    label = f"{path}{times}" if split == "test" else f"{path}, training data"
                    style = {"linestyle": line, "color": color, "marker": "o", "markersize": 2}
                    ax.plot([row["t"] for row in of], [factor * row[name] for row in of], label=label, **style)
            values = [row[name] for row in found]
            if 0 < 10 * min(values) < max(values):
                ax.set_yscale("log")
            ax.set(xlabel="t", ylabel=f"{name} ({unit}, log scale)" if ax.get_yscale() == "log" else f"{name} ({unit})")
        axes[0, 0].set_title(BATCHNORM[results["curves"].summary["batchnorm"]])
        share_legend(figure, axes[0])
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each path, split and t."""
    return [dict(row) for row in results["curves"].rows]


def judge(results: Results) -> Verdict:
    """The highest test error and loss on each path, and the length of the curves."""
    curves = results["curves"].summary["curves"]
    said = []
    for path, about in curves.items():
        test = about["barriers"]["test"]
        text = f"{path}: highest test error {100 * test['error_worst']:.2f} % at t = {test['error_t']:.2f}"
        text += f" (barrier {100 * test['error_barrier']:.2f} points), loss {test['loss_worst']:.3f}"
        if "train" in about["barriers"]:
            text += f", training loss {about['barriers']['train']['loss_worst']:.3f}"
        said.append(text + (f", {about['length_ratio']:.2f} x as long" if path != SEGMENT else ""))
    ends = curves[SEGMENT]["barriers"]["test"]
    single = f"the networks err {100 * ends['error_ends']:.2f} %, loss {ends['loss_ends']:.3f}"
    return Verdict("new", f"{'; '.join(said)}; {single}")


FIGURE = Figure(
    paper="beyond",
    item="Curves of low loss",
    shows="error and loss along curves and the segment between two initialisations",
    networks={
        "mnist-lenet": Network("", source="", protocols=CURVES["mnist-lenet"]),
        "cifar10-resnet20": Network("", source="", protocols=CURVES["cifar10-resnet20"]),
        SMOKE: Network("", source="", protocols=CURVES[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
