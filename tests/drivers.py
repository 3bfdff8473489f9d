"""Drivers of one small study on a Dask cluster, as processes that can be killed.

Run as a script, with JSON of the arguments of `main`, it imports everything once and forks a driver from itself as
often as one is needed; what it did is one line of JSON.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from modeconn.analysis.instability import instability
from modeconn.execution.dask_engine import Dask
from modeconn.tasks import get_task
from modeconn.training.setting import prepare

STUDY = {"iterations": 120, "rewind_iters": "0,40", "replicates": 1, "alphas": 3, "seed": 3}
TASK = get_task("digits-conv", evaluate_every=40)


def study(folder: Path, data_dir: Path, **machine: object) -> None:
    """Conduct the study, in a store in the folder, and write its tables there."""
    machine |= {"store": folder / "store", "data_dir": data_dir, "checkpoint_every": 0.0}
    instability(TASK, **STUDY, device="cpu", **machine).save(folder)


def main(folder: str, data_dir: str, scheduler_file: str, kills: int = 0, at_once: int = 1) -> None:
    """Drive studies in new folders until so many drivers were killed at random moments and the last study is done.

    With several at once, each study has so many drivers.
    """
    prepare(TASK, data_dir=data_dir)  # PyTorch imports much when it is first used
    pick, killed, folders = random.Random(0), 0, []
    while killed < kills or not folders:
        place = Path(folder) / f"study-{len(folders)}"
        place.mkdir(exist_ok=True)
        drivers = [_fork(place, data_dir, scheduler_file) for _ in range(at_once)]
        if killed < kills and not _ends(drivers[0], within=pick.uniform(0, 1.5)):
            os.kill(drivers[0], signal.SIGKILL)
            os.waitpid(drivers[0], 0)
            killed += 1
            continue
        statuses = [_ended.pop(driver, None) or os.waitpid(driver, 0)[1] for driver in drivers]
        assert statuses == [0] * at_once
        folders.append(str(place))
    print(json.dumps({"killed": killed, "folders": folders}))


_ended: dict[int, int] = {}  # status by driver


def _ends(driver: int, within: float) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        process, status = os.waitpid(driver, os.WNOHANG)
        if process:
            _ended[driver] = status
            return True
        time.sleep(0.005)
    return False


def _fork(place: Path, data_dir: str, scheduler_file: str) -> int:
    driver = os.fork()
    if driver:
        return driver
    try:
        study(place, Path(data_dir), executor=Dask(scheduler_file=scheduler_file))
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
