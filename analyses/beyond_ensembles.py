"""Ensembles: averaged predictions beside averaged weights, of seeds, of one run's checkpoints, of points on a curve.

    modeconn reproduce beyond-ensembles --network mnist-lenet --protocol short
    python analyses/beyond_ensembles.py --network mnist-lenet --protocol short

Fort et al. (2019) find networks of other seeds more diverse than those around one of them at the same error, and so
their ensembles better. Averages of the weights of one run (Izmailov et al. 2018) cost one forward pass.
"""

import sys
from typing import Any

from matplotlib.figure import Figure as Drawing

from modeconn.analysis.landscape.ensembles_result import Ensembles, Member, Prefix
from modeconn.cli.main import main
from modeconn.reproduce.drawing import select
from modeconn.reproduce.figure import SMOKE, Figure, Network, Results, Study, Verdict
from modeconn.reproduce.scripts import figure_of
from modeconn.result import Row


def _groups(task: str, options: dict[str, Any]) -> dict[str, Study]:
    return {"groups": Study("ensemble", task, options)}


GROUPS = {
    "mnist-lenet": {
        "short": _groups("mnist-lenet", {"iterations": 2400, "curve": {"epochs": 10, "learning_rate": 0.05}})
    },
    SMOKE: {
        "paper": _groups(SMOKE, {"curve": {"epochs": 30, "learning_rate": 0.05}}),
        "smoke": _groups(SMOKE, {"iterations": 40, "task.width": 0.25, "members": 2, "curve": {"steps": 5}}),
    },
}


def draw(results: Results) -> Drawing:
    """Error over the number of networks, and diversity over error."""
    return _found(results).plot()


def rows(results: Results) -> list[Row]:
    """A row for each network, and for its group up to it."""
    return [dict(row) for row in results["groups"].rows]


def judge(results: Results) -> Verdict:
    """For each group the mean error of its networks, that of their ensemble and of their average, and the diversity."""
    found, said = _found(results), []
    for group in found.groups:
        of = select(rows(results), group=group)
        single = sum(row["error"] for row in of) / len(of)
        diverse = [row["diversity"] for row in of if row["disagreement"] > 0]  # the first of each is the reference
        whole = found.whole(group)
        said.append(
            f"{group}: {100 * single:.2f}, ensemble {100 * whole.ensemble_error:.2f}, average "
            f"{100 * whole.averaged_error:.2f} (diversity {sum(diverse) / max(len(diverse), 1):.2f})"
        )
    return Verdict("new", f"test error in % of {whole.members} networks, mean: {'; '.join(said)}")


def _found(results: Results) -> Ensembles:
    """The result that the study's rows are of."""
    study = results["groups"]
    members = tuple(Member(**{name: row[name] for name in Member.__dataclass_fields__}) for row in study.rows)
    prefixes = tuple(Prefix(**{name: row[name] for name in Prefix.__dataclass_fields__}) for row in study.rows)
    return Ensembles(members, prefixes, study.summary["reference"], study.summary["batchnorm"])


FIGURE = Figure(
    paper="beyond",
    item="Ensembles",
    shows="error of averaged predictions and of averaged weights over the number of networks, and their diversity",
    networks={
        "mnist-lenet": Network("", source="", protocols=GROUPS["mnist-lenet"]),
        SMOKE: Network("", source="", protocols=GROUPS[SMOKE]),
    },
    draw=draw,
    rows=rows,
    judge=judge,
)

if __name__ == "__main__":
    sys.exit(main(["reproduce", figure_of(__file__), *sys.argv[1:]]))
