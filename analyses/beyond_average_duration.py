"""Averages over a run: the error of the average of its last checkpoints, over how much of the run is averaged.

    modeconn reproduce beyond-average-duration --network cifar10-resnet20 --protocol short
    python analyses/beyond_average_duration.py --network cifar10-resnet20 --protocol short

Averages of checkpoints stand in for the decay of the learning rate, and the duration is said to matter most (WSM,
2507.17634). Here it is chosen on validation data, beside the last checkpoint as it is.
"""

import sys
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.drawing import select
from modeconn.reproduce.durations import NEWEST
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Study, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.result import Row
from modeconn.style import BATCHNORM, PALETTE, panels

# One run, saved regularly, whose last checkpoints are averaged; under the task's schedule and at a constant rate.
_RATES: dict[str, dict[str, Any]] = {"rate falls in steps": {}, "constant rate": {"schedule": "constant"}}
_BOTH_STATISTICS = (("uniform", "recalibrate"), ("uniform", "interpolate"))


def _durations(task: str, options: dict[str, Any]) -> dict[str, Study]:
    return {"durations": Study("average", task, options)}


DURATIONS = {
    "mnist-lenet": {
        "short": _durations(
            "mnist-lenet",
            {"variants": {"constant rate": {}, "rate falls linearly to 0": {"schedule": "linear"}}}
            | {"task.validation": 5000, "task.evaluate_every": 2400}
            | {"choices": (("uniform", "recalibrate"), ("linear", "recalibrate"), ("1-sqrt", "recalibrate"))},
        )
    },
    "cifar10-resnet20": {
        "short": _durations(
            "cifar10-resnet20",
            {"iterations": 1500, "variants": _RATES, "task.validation": 5000, "task.evaluate_every": 150}
            | {"choices": _BOTH_STATISTICS, "lasts": ("5%", "10%", "20%", "30%", "50%"), "calibration_batches": 8}
            | {"precision": "bfloat16"},
        )
    },
    SMOKE: {
        "smoke": _durations(
            SMOKE,
            {"iterations": 40, "variants": {name: {**of, "width": 0.25} for name, of in _RATES.items()}}
            | {"task.validation": 100, "checkpoints": 4, "lasts": ("25%", "50%", "100%"), "choices": _BOTH_STATISTICS},
        )
    },
}


def draw(results: Results) -> Drawing:
    """Test error over the number of checkpoints, a panel for each variant; circled is what validation data choose."""
    found = rows(results)
    variants = list(dict.fromkeys(row["variant"] for row in found))
    with panels(1, len(variants), 3.8 * len(variants), 3.4) as (figure, axes):
        for ax, variant in zip(axes[0], variants, strict=True):
            of_variant = select(found, variant=variant)
            newest = 100 * select(of_variant, last=NEWEST)[0]["test_error"]
            ax.axhline(newest, color="black", linewidth=1, linestyle="--", label="last checkpoint")
            for (weights, batchnorm), color in zip(_choices(of_variant), PALETTE, strict=False):
                of = [row for row in select(of_variant, weights=weights, batchnorm=batchnorm) if row["last"] != NEWEST]
                x = np.array([row["checkpoints"] for row in of])
                y = 100 * np.array([row["test_error"] for row in of])
                label = ", ".join(filter(None, (weights, BATCHNORM[batchnorm])))
                ax.plot(x, y, "o-", color=color, markersize=3, label=label)
                best = np.array([row["best"] for row in of])
                ax.plot(x[best], y[best], "o", color=color, markersize=9, markerfacecolor="none")
            ax.set(title=variant, xlabel="checkpoints in the average, counted from the last", ylabel="test error (%)")
            ax.legend(fontsize=6)
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each variant, weights, BatchNorm choice and duration."""
    return [dict(row) for row in results["durations"].rows]


def judge(results: Results) -> Verdict:
    """The duration that validation data choose, and the test error there, of each variant and choice."""
    found, said = rows(results), []
    for variant in dict.fromkeys(row["variant"] for row in found):
        of_variant = select(found, variant=variant)
        shown = []
        for weights, batchnorm in _choices(of_variant):
            (best,) = select(of_variant, weights=weights, batchnorm=batchnorm, best=True)
            how = weights if batchnorm == "none" else f"{weights}, {batchnorm}"
            shown.append(f"{how}: {100 * best['test_error']:.2f} (last {best['last']})")
        newest = 100 * select(of_variant, last=NEWEST)[0]["test_error"]
        said.append(f"{variant}: last checkpoint {newest:.2f}; {'; '.join(shown)}")
    return Verdict("new", f"test error in %, of the duration that validation data choose: {'. '.join(said)}")


def _choices(found: list[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["weights"], row["batchnorm"]) for row in found))


FIGURE = Figure(
    paper="beyond",
    item="Averages over a run",
    shows="error of the average of a run's last checkpoints over how many they are",
    networks={
        "mnist-lenet": Network("", source="", protocols=DURATIONS["mnist-lenet"]),
        "cifar10-resnet20": Network("", source="", protocols=DURATIONS["cifar10-resnet20"]),
        SMOKE: Network("", source="", protocols=DURATIONS[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
