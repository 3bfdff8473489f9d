"""Drivers of one small study on a Dask cluster, as processes that can be killed.

Run as a script, with JSON of the arguments of `main`, it imports everything once and forks a driver from itself as
often as one is needed; its last line of output is JSON: the folders of finished studies, and how many drivers were
killed while a training was under way.
"""

import itertools
import json
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

from modeconn.analysis.instability.instability import instability
from modeconn.execution.dask_engine import Dask
from modeconn.tasks import get_task
from modeconn.training.task_training import prepare

STUDY = {"iterations": 120, "rewind_iters": "0,40", "replicates": 1, "alphas": 3, "seed": 3, "together": "no"}
TASK = get_task("digits-conv", evaluate_every=40)


def study(folder: Path, data_dir: Path, **machine: object) -> None:
    """Conduct the study, in a store in the folder, and write its tables there."""
    machine |= {"store": folder / "store", "data_dir": data_dir, "checkpoint_every": 0.0}
    instability(TASK, **STUDY, device="cpu", **machine).save(folder)


def main(folder: str, data_dir: str, scheduler_file: str, moments: list[str]) -> None:
    """Drive studies whose drivers are killed, one at each moment, and one study with two drivers at once.

    A moment is a pattern of files: a random while after the store has another one of them.
    """
    prepare(TASK, data_dir=data_dir)  # PyTorch imports much when it is first used
    places = (Path(folder) / f"study-{number}" for number in itertools.count())
    fork = partial(_fork, data_dir=data_dir, scheduler_file=scheduler_file)
    studies, in_trainings, pick = [next(places)], 0, random.Random(0)
    for moment in moments:
        while not _kill(fork(studies[-1]), studies[-1] / "store" / "runs", moment, pick.uniform(0, 0.1)):
            studies.append(next(places))
        in_trainings += _is_training(studies[-1])
    _wait_for(fork(studies[-1]))
    studies.append(next(places))
    for driver in [fork(studies[-1]) for _ in range(2)]:
        _wait_for(driver)
    print(json.dumps({"studies": list(map(str, studies)), "in_trainings": in_trainings}))


def _kill(driver: int, runs: Path, moment: str, seconds: float) -> bool:
    """Kill a driver some seconds after a moment; False if it ended before."""
    before = len(list(runs.glob(moment)))
    while len(list(runs.glob(moment))) <= before:
        process, status = os.waitpid(driver, os.WNOHANG)
        if process:
            assert status == 0
            return False
        time.sleep(0.005)
    time.sleep(seconds)
    os.kill(driver, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(driver, 0)[1])


def _wait_for(driver: int) -> None:
    assert os.waitpid(driver, 0)[1] == 0


def _is_training(place: Path) -> bool:
    """Whether a training of the study is saved and not finished."""
    saved = (place / "store" / "runs").glob("state-*/partial.json")
    return any(not listing.with_name("done.json").exists() for listing in saved)


def _fork(place: Path, *, data_dir: str, scheduler_file: str) -> int:
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
