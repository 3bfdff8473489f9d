"""Frankle et al. 2020 (LMC), Figure 9: from which iteration on sparse networks are stable, and match, over density.

    modeconn reproduce lmc2020-figure-9 --network digits-conv --protocol paper
    python analyses/lmc2020_figure_9.py --network digits-conv --protocol paper

The paper plots, over the part of weights that remains, the median over replicates of the smallest rewinding iteration
from which subnetworks are stable, and from which they match the full network: by iterative magnitude pruning and with
random masks. Here both are found by bisection over k at each density.
"""

import sys

import numpy as np
from matplotlib.figure import Figure as Drawing

from modeconn.cli.main import main
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.reproduce.studies import SWEEP
from modeconn.reproduce.verdicts import judged
from modeconn.result import Row
from modeconn.style import panels

_RANGES = {"cifar10-resnet20": (0.8, 0.134), "cifar10-vgg16": (0.168, 0.012)}  # densities between the paper's ranges


def draw(results: Results) -> Drawing:
    """Median k over density, stable and matching, a colour for each condition."""
    with panels(1, 1, 5.2, 3.6) as (figure, axes):
        results["sweep"].plot(axes[0, 0])
        return figure


def rows(results: Results) -> list[Row]:
    """A row for each condition, level, replicate and property."""
    return results["sweep"].rows


def judge(results: Results) -> Verdict:
    """Whether, at the measured densities of each range of the paper's, those match that do so there, and are stable.

    The paper's three ranges are parted by two densities, at which themselves (to a hundredth) nothing is claimed.
    """
    result = results["sweep"]
    shown, stable, matching = [], {}, {}
    for condition in result.conditions:
        density, stable[condition] = result.medians(condition, "stable")
        matching[condition] = result.medians(condition, "matching")[1]
        pairs = zip(density, stable[condition], matching[condition], strict=True)
        shown.append(f"{condition} {', '.join(f'{100 * d:.3g} %: {s:g} and {m:g}' for d, s, m in pairs)}")
    found = f"median k from which they are stable and match ('inf' at none measured): {'; '.join(shown)}"
    if result.summary["task"] not in _RANGES:
        return Verdict("new", found)
    trivial, extreme = _RANGES[result.summary["task"]]
    imp, random = (np.isfinite(matching[condition]) for condition in ("imp", "random"))
    expected = [(density > 1.01 * trivial, True, True), (density < 0.99 * extreme, False, False)]
    expected += [((density < 0.99 * trivial) & (density > 1.01 * extreme), True, False)]
    ranges = [((imp == of_imp) & (random == of_random))[range_] for range_, of_imp, of_random in expected]
    connected = (stable["imp"] <= matching["imp"])[imp]
    return judged(found, *(bool(one) for claims in (*ranges, connected) for one in claims))


_CLAIM = "trivial above {} %, only IMP matches from {} to {} %, nothing below; where IMP matches, it is stable"
FIGURE = Figure(
    paper="lmc2020",
    item="Figure 9",
    shows="rewinding iteration of stability and of matching over density",
    networks={
        "cifar10-resnet20": Network(
            _CLAIM.format("80", "80", "13.4"),
            protocols=SWEEP["cifar10-resnet20"],
            why={
                "short": "one replicate, and after 600 iterations at the first learning rate sparse networks err "
                "no more than the dense one, so that all match"
            },
        ),
        "cifar10-vgg16": Network(_CLAIM.format("16.8", "16.8", "1.2"), cost="22 h a training on two cores"),
        SMOKE: Network("", source="", protocols=SWEEP[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
