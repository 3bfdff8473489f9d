"""Drivers of one small study on a Dask cluster, as processes that can be killed.

Run as a script, with JSON of the arguments of `main`, it imports everything once and forks a driver from itself as
often as one is needed; its last line of output is a JSON list of the folders of finished studies.
"""

import itertools
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


def main(folder: str, data_dir: str, scheduler_file: str, kills: int) -> None:
    """Drive studies in new folders until so many drivers were killed at random moments, and one with two at once."""
    prepare(TASK, data_dir=data_dir)  # PyTorch imports much when it is first used
    places = (Path(folder) / f"study-{number}" for number in itertools.count())
    moments, finished = random.Random(0), []
    while kills or not finished:
        place = next(places)
        kills -= _drive_through(place, data_dir, scheduler_file, moments, kills)
        finished.append(str(place))
    place = next(places)
    both = [_fork(place, data_dir, scheduler_file) for _ in range(2)]
    assert [os.waitpid(driver, 0)[1] for driver in both] == [0, 0]
    print(json.dumps([*finished, str(place)]))


def _drive_through(place: Path, data_dir: str, scheduler_file: str, moments: random.Random, kills: int) -> int:
    """Finish a study, whose first drivers are killed; how many were."""
    for killed in itertools.count():
        driver = _fork(place, data_dir, scheduler_file)
        end = time.monotonic() + moments.uniform(0, 1.2)
        process = status = 0
        while not process and (killed == kills or time.monotonic() < end):
            process, status = os.waitpid(driver, os.WNOHANG)
            time.sleep(0.005)
        if process:
            assert status == 0
            return killed
        os.kill(driver, signal.SIGKILL)
        os.waitpid(driver, 0)
    raise AssertionError


def _fork(place: Path, data_dir: str, scheduler_file: str) -> int:
    place.mkdir(exist_ok=True)
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
