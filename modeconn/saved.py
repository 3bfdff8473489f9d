"""Results that a study wrote into a folder, whichever kind of study it was."""

from pathlib import Path

from modeconn.analysis.instability.result import InstabilityResult, load_instability
from modeconn.reading import is_file
from modeconn.tickets.result import LotteryResult, load_lottery
from modeconn.tickets.sweep_result import SweepResult, load_sweep


def load_result(folder: str | Path) -> InstabilityResult | LotteryResult | SweepResult:
    """The result of an instability study, a lottery-ticket study or a sweep over density that was saved in a folder.

    Raises:
        DataError: it is not there, or its files are not those of a study.
    """
    if is_file(Path(folder) / "sweep.csv"):
        return load_sweep(folder)
    return load_lottery(folder) if is_file(Path(folder) / "lottery.csv") else load_instability(folder)
