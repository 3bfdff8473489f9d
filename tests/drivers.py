"""Drivers of one small study on a Dask cluster, as processes that can be killed.

Run as a script, with JSON of the arguments of `main`, it imports everything once and forks a driver from itself as
often as one is needed; its last line of output is JSON: the folders of finished studies, and how many kills there were
while a training was under way.
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


def main(folder: str, data_dir: str, scheduler_file: str, kills: int) -> None:
    """Drive studies in new folders until so many drivers were killed at random moments, and one with two at once."""
    prepare(TASK, data_dir=data_dir)  # PyTorch imports much when it is first used
    places = (Path(folder) / f"study-{number}" for number in itertools.count())
    fork = partial(_fork, data_dir=data_dir, scheduler_file=scheduler_file)
    finished, usual = [], 0.0
    for _ in range(2):  # the workers' first study takes longer, as they import PyTorch
        finished.append(next(places))
        began = time.monotonic()
        _wait_for(fork(finished[-1]))
        usual = time.monotonic() - began  # seconds; a moment is random within what a driver takes on this machine now
    moments, hits = random.Random(0), []
    while len(hits) < kills:
        finished.append(next(places))
        while len(hits) < kills:
            driver = fork(finished[-1])
            if _ends_within(moments.uniform(0, usual), driver):
                break
            os.kill(driver, signal.SIGKILL)
            hits.append(_is_training(finished[-1]))
            os.waitpid(driver, 0)
        else:
            _wait_for(fork(finished[-1]))
    finished.append(next(places))
    for driver in [fork(finished[-1]) for _ in range(2)]:
        _wait_for(driver)
    print(json.dumps({"studies": list(map(str, finished)), "kills": len(hits), "in_trainings": sum(hits)}))


def _ends_within(seconds: float, driver: int) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        process, status = os.waitpid(driver, os.WNOHANG)
        if process:
            assert status == 0
            return True
        time.sleep(0.005)
    return False


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
