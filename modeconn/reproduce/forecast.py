"""What a study will take: how many trainings, which of them the store has, and how long the others would be."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from modeconn.execution import Job, Store
from modeconn.execution.names import job_name
from modeconn.training.fork import trunk
from modeconn.training.jobs import TrainJob
from modeconn.training.protocol import Training

_TIMED, _MORE = 5, 20  # iterations, and how many times as many where these take less than
_ENOUGH = 0.5  # seconds


@dataclass(frozen=True)
class Forecast:
    """The work that a study is.

    Attributes:
        trainings: how many there are to the end; states on their way, as of a trunk, are none of their own.
        stored: how many of them the store has.
        seconds: how long everything that it does not have would take, with so many workers; measured by a few
            iterations of this network on this machine.
        workers: how many processes.
    """

    trainings: int
    stored: int
    seconds: float
    workers: int

    def __str__(self) -> str:
        there = f", {self.stored} of them in the store" if self.stored else ""
        if self.seconds < 1:
            return f"{self.trainings} trainings{there}; nothing is left to compute"
        processes = "1 process" if self.workers == 1 else f"{self.workers} processes"
        return f"{self.trainings} trainings{there}; about {_duration(self.seconds)} in {processes}"


def forecast(jobs: Iterable[Job], store: Store, workers: int) -> Forecast:
    """Look at the store, and train a few iterations to see how fast this machine is.

    Args:
        jobs: of the study; their inputs come with them.
        store: where artifacts are kept.
        workers: how many processes will compute, each as fast as this one.
    """
    every = every_job(jobs)
    ends = [job for job in every if isinstance(job, TrainJob) and job.iteration >= job.training.iterations]
    missing = [job for job in every if not store.done(job)]
    work = sum(job.cost for job in missing)
    seconds = work * _seconds_of_work(ends[0].training) / workers if missing else 0.0
    return Forecast(len(ends), sum(store.done(job) is not None for job in ends), seconds, workers)


def has_states(jobs: Iterable[Job], store: Store) -> bool:
    """Whether the store has any state of the trainings among these jobs and their inputs."""
    return any(isinstance(job, TrainJob) and store.done(job) is not None for job in every_job(jobs))


def every_job(jobs: Iterable[Job]) -> list[Job]:
    """The jobs and all that they need, each once."""
    found: dict[str, Job] = {}
    waiting = list(jobs)
    while waiting:
        job = waiting.pop()
        if (name := job_name(job)) not in found:
            found[name] = job
            waiting += job.inputs
    return list(found.values())


def _seconds_of_work(training: Training) -> float:
    """Seconds that this process takes for one image passed forward, in training."""
    (start,) = trunk(training, [0], seed=0, replicate=0)
    how: Mapping[str, Any] = {"noise": start.noise, "init_seed": 0, "metrics": [], "on_chunk": lambda progress: None}

    def seconds(iterations: int) -> float:
        began = time.perf_counter()
        training.train_until(None, iterations, **how)
        if torch.device(training.device).type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    with training.computing():
        seconds(1)  # loads the data, warms the caches
        few, more = seconds(1), seconds(1 + _TIMED)
        if more - few < _ENOUGH:  # so quick that building the network, which both did, hides it
            few, more = seconds(1), seconds(1 + _MORE * _TIMED)
            return (more - few) / training.cost(_MORE * _TIMED)
        return (more - few) / training.cost(_TIMED)


def _duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> _duration(42), _duration(600), _duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
