"""Results that a study wrote into a folder, whichever kind of study it was."""

from pathlib import Path

from modeconn.analysis.averaging.durations_result import Durations
from modeconn.analysis.compare.pair_report import PairReport
from modeconn.analysis.instability.result import InstabilityResult, load_instability
from modeconn.reading import is_file
from modeconn.tickets.result import LotteryResult, load_lottery
from modeconn.tickets.sweep_result import SweepResult, load_sweep


def load_result(folder: str | Path) -> InstabilityResult | LotteryResult | SweepResult | Durations | PairReport:
    """The result that was saved in a folder.

    It is that of an instability study, a lottery-ticket study, a sweep over density, or one over the duration of an
    average; or the report of `modeconn compare`.

    Raises:
        DataError: it is not there, or its files are not those of a study.
    """
    if is_file(Path(folder) / "durations.json"):
        return Durations.from_json(Path(folder) / "durations.json")
    if is_file(Path(folder) / "compare.json"):
        return PairReport.from_json(Path(folder) / "compare.json")
    if is_file(Path(folder) / "sweep.csv"):
        return load_sweep(folder)
    return load_lottery(folder) if is_file(Path(folder) / "lottery.csv") else load_instability(folder)
