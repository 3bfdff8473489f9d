"""How many networks a study trains to the end, counted from its options alone, where its data are not at hand."""

from typing import Any

from modeconn.analysis.instability.options import StudyOptions
from modeconn.reproduce.figure import Study
from modeconn.reproduce.planes import COPIES
from modeconn.tasks import get_task, parse_iterations
from modeconn.tickets.options import DENSE, LotteryOptions
from modeconn.tickets.sweep_options import SweepOptions


def lottery_options(study: Study) -> dict[str, Any]:
    """The options of the lottery that a study is; of a sweep those of all k that it may ask for."""
    kind: Any = SweepOptions if study.kind == "sweep" else LotteryOptions
    options = {name: value for name, value in study.options.items() if name in kind.__dataclass_fields__}
    if study.kind == "sweep":
        asked = SweepOptions(**options)
        return asked.lottery(asked.levels, asked.ks)
    return options


def trainings_of(study: Study) -> int:
    """How many copies and subnetworks a study trains at most: conditions may share some, and a sweep asks for fewer.

    >>> trainings_of(Study("instability", "digits-conv", {"rewind_iters": "0,10%", "replicates": 3, "copies": 2}))
    12
    """
    total = study.options.get("iterations", get_task(study.task).iterations)
    if study.kind == "alignment":
        return len(study.options["variants"]) * study.options.get("seeds", 2)
    if study.kind == "curve":
        return 2  # what they are between
    if study.kind == "plane":
        return COPIES * len(parse_iterations(study.options["rewind_iters"], total, None))
    if study.kind == "ensemble":
        return study.options.get("members", 5)
    if study.kind == "average":
        return len(study.options["variants"])
    if study.kind == "descent":
        return len(study.options["rates"])
    if study.kind == "instability":
        asked = {name: value for name, value in study.options.items() if name in StudyOptions.__dataclass_fields__}
        dense = StudyOptions(**asked)
        return dense.replicates * dense.copies * len(parse_iterations(dense.rewind_iters, total, None))
    options = LotteryOptions(**lottery_options(study))

    def copies(condition: str) -> int:
        measured = "instability" in options.barriers and condition in (DENSE, *options.barriers_of)
        return options.copies if measured else 1

    levels = options.at_levels or range(1, options.levels + 1)
    others = sum(options.draws(name) * copies(name) for name in options.conditions if name != "imp")
    tickets = options.levels + len(levels) * (copies("imp") - 1 if "imp" in options.conditions else 0)
    of_one = copies(DENSE) + tickets + len(levels) * others
    return options.replicates * len(parse_iterations(options.rewind_iter, total, None)) * of_one
