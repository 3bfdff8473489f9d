"""Training as jobs: the state of a trajectory at an iteration, named by what it is and not by how it was reached."""

import json
import math
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from modeconn.execution import Artifact, Heartbeat, Job, Store
from modeconn.execution.names import Reference, job_name
from modeconn.training.noise import Noise
from modeconn.training.protocol import Training
from modeconn.training.state import (
    OPTIMIZER,
    REST,
    STATE_FILES,
    WEIGHTS,
    Metrics,
    State,
    iteration_to_test,
    state_from_bytes,
    state_to_bytes,
)
from modeconn.training.trainer import TrainResult
from modeconn.weights.masks import MASK, mask_enforcer, mask_from_bytes

METRICS = "metrics.jsonl"
BEST = "best.safetensors"
_FOLLOW_EVERY = 2.0  # seconds, at least, between two saves whose reason is that there are new metrics


class Origin(Job, Protocol):
    """A job whose artifact is a state that trajectories begin at, other than an initialisation.

    Attributes:
        iteration: of the state.
        training: that goes on from it.
        mask: a job whose artifact holds a mask that training goes on under; None if all weights remain.
    """

    @property
    def iteration(self) -> int: ...  # noqa: D102
    @property
    def training(self) -> Training: ...  # noqa: D102
    @property
    def mask(self) -> Job | None: ...  # noqa: D102


# Compared by identity, and named by `job_name`: through masks, a job reaches every level above it many times over.
@dataclass(frozen=True, eq=False, repr=False)
class TrainJob:
    """The state at `iteration` of the trajectory from an initialisation under a noise.

    Its artifact holds `weights.safetensors`, `metrics.jsonl` and, before the last iteration, `optimizer.safetensors`
    and, if the validation loss was lower before, the weights there in `best.safetensors`.

    Attributes:
        start: an earlier state of the same trajectory to go on from; not part of the name.
        label: for people.
        origin: where the trajectory begins, with the mask it is under, if any, if that is not the initialisation.
        cohort: the job that trains it together with others; None if it trains alone.
    """

    training: Training
    init_seed: int
    noise: Noise
    iteration: int
    start: "TrainJob | Origin | None" = None
    label: str = ""
    origin: "Origin | None" = None
    cohort: Job | None = None

    kind = "state"

    @property
    def inputs(self) -> tuple[Job, ...]:
        """The earlier state, and the mask; or the cohort."""
        if self.cohort:
            return (self.cohort,)
        return tuple(job for job in (self.start, self.origin and self.origin.mask) if job is not None)

    @property
    def cost(self) -> float:
        """Images passed forward, or backward at twice the price."""
        if self.cohort:
            return 0.0
        begin = self.start.iteration if self.start else 0
        return self.training.cost(max(1, self.iteration - begin))

    @cached_property
    def _spec(self) -> dict[str, Any]:
        mask = self.origin and self.origin.mask
        begun = {} if self.origin is None else _names(origin=self.origin)
        return {
            "kind": self.kind,
            **self.training.spec(),
            "init_seed": self.init_seed,
            "mask": mask and job_name(mask),
            **begun,
            "noise": self.noise.until(self.iteration).spec(),
            "iteration": self.iteration,
            **(_names(cohort=self.cohort) if self.cohort else {}),
        }

    def spec(self) -> dict[str, Any]:
        """The training, the initialisation, the noise so far, the mask and the iteration."""
        return self._spec

    def __getstate__(self) -> dict[str, Any]:
        # Who runs a job needs the state before it, and not the whole trunk that led there; of a cohort, which holds all
        # members with what they go on from, the artifact.
        start = replace(self.start, start=None) if isinstance(self.start, TrainJob) else self.start
        return {**self.__dict__, "start": start, "cohort": self.cohort and Reference(job_name(self.cohort))}

    def run(self, store: Store) -> None:
        """Train from the latest state there is, saving at an interval; or copy the state from the cohort."""
        if self.cohort:
            _copy_from_cohort(store, self, store.require(self.cohort))
            return
        begin = store.partial(self) or (store.require(self.start) if self.start else None)
        if begin and begin.facts["diverged_at"] is not None:
            pass_on(store, self, begin)
            return
        there = load_train_result(begin) if begin else None
        first = self.start.iteration if self.start else 0
        heartbeat = Heartbeat(store, self)
        started = saved = time.monotonic()
        rows = len(there.metrics) if there else 0

        def on_chunk(progress: TrainResult) -> None:
            nonlocal saved, rows
            now = time.monotonic()
            at = progress.state.iteration
            # New metrics are saved sooner, so that whoever follows the run sees them.
            follow = _FOLLOW_EVERY if len(progress.metrics) > rows else math.inf
            if at < self.iteration and now - saved >= min(follow, self.training.checkpoint_every):
                self._save(store, progress, prefix=f"{at}.")
                saved, rows = now, len(progress.metrics)
            heartbeat((at - first) / (self.iteration - first))

        result = self.training.train_until(
            there.state if there else None,
            self.iteration,
            noise=self.noise,
            init_seed=self.init_seed,
            metrics=there.metrics if there else [],
            best=there.best if there else None,
            on_chunk=on_chunk,
            mask=mask_of(store, self),
        )
        self._save(store, result, done=True, seconds=time.monotonic() - started)

    def _save(
        self, store: Store, result: TrainResult, prefix: str = "", done: bool = False, seconds: float = 0.0
    ) -> None:
        files = files_of(result, self.training.iterations)
        facts = _facts(self, result.state.iteration) | {"diverged_at": result.diverged_at, "prefix": prefix}
        facts |= {"seconds": round(seconds, 3)} if done else {}
        store.write(self, {prefix + name: content for name, content in files.items()}, facts, done=done)


@dataclass(frozen=True, eq=False, repr=False)
class RewindJob:
    """A state that training goes on from: weights of another state, pruned if there is a mask, at an iteration.

    A lottery ticket is the trunk's state at k under a mask. Its artifact holds the same files as a `TrainJob`'s.

    Attributes:
        source: whose weights, and buffers.
        mask: a job whose artifact holds a mask; None to go on with all weights.
        training: that goes on from here.
        iteration: where training goes on; that of the source, unless the schedule alone is rewound.
        carry_optimizer: take the source's optimizer state along; else the optimizer starts anew, as in the authors'
            framework.
        label: for people.
    """

    source: TrainJob
    mask: Job | None
    training: Training
    iteration: int
    carry_optimizer: bool = False
    label: str = ""

    kind = "state"
    cost = 0.0

    @property
    def inputs(self) -> tuple[Job, ...]:
        """The other state and the mask."""
        return (self.source, self.mask) if self.mask else (self.source,)

    @property
    def init_seed(self) -> int:
        """The source's."""
        return self.source.init_seed

    @property
    def noise(self) -> Noise:
        """The source's."""
        return self.source.noise

    @property
    def origin(self) -> "RewindJob":
        """Where the trajectories that go on from here begin."""
        return self

    @cached_property
    def _spec(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            **self.training.spec(),
            **(_names(mask=self.mask) if self.mask else {}),
            **_names(source=self.source),
            "carry_optimizer": self.carry_optimizer,
            "iteration": self.iteration,
        }

    def spec(self) -> dict[str, Any]:
        """The training that goes on, the pruned state, its mask and the iteration."""
        return self._spec

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "source": replace(self.source, start=None)}

    def run(self, store: Store) -> None:
        """Prune the weights, if there is a mask, and write them."""
        artifact, mask = store.require(self.source), self.mask and store.require(self.mask)
        for begin in (artifact, mask):
            if begin and begin.facts["diverged_at"] is not None:
                pass_on(store, self, artifact, diverged_at=begin.facts["diverged_at"])
                return
        state = load_state(artifact)
        model = state.model
        if mask:
            with self.training.computing():
                network = self.training.network()
                network.load_state_dict(model)
                mask_enforcer(network, mask_from_bytes(mask.read(MASK)))()
                model = network.state_dict()
        optimizer, rest = (state.optimizer, state.rest) if self.carry_optimizer else ({}, {})
        write_start(store, self, State(self.iteration, model, optimizer, rest))


def files_of(result: TrainResult, last: int) -> dict[str, bytes]:
    """The files of a training; at iteration `last`, which nothing goes on from, without the optimizer's state."""
    files = state_to_bytes(result.state)
    if result.state.iteration == last:
        for part in (OPTIMIZER, REST):
            files.pop(part, None)
    if result.best and result.best.iteration != result.state.iteration:
        files[BEST] = state_to_bytes(result.best)[WEIGHTS]
    files[METRICS] = "".join(json.dumps(row) + "\n" for row in result.metrics).encode()
    return files


def load_train_result(artifact: Artifact) -> TrainResult:
    """The state, the metrics and the divergence that an artifact of a training holds, and the best weights so far.

    Raises:
        CorruptArtifact: its bytes are not those that were written.
    """
    state, metrics = load_state(artifact), _metrics(artifact)
    return TrainResult(state, metrics, artifact.facts["diverged_at"], _best(artifact, state, metrics))


def mask_of(store: Store, job: TrainJob) -> dict[str, Tensor] | None:
    """The mask that a job trains under, if any."""
    mask = job.origin and job.origin.mask
    return mask_from_bytes(store.require(mask).read(MASK)) if mask else None


def load_state(artifact: Artifact) -> State:
    """The state in a job's artifact, finished or partial.

    Raises:
        CorruptArtifact: its bytes are not those that were written.
    """
    prefix = artifact.facts["prefix"]
    files = {name: artifact.read(prefix + name) for name in STATE_FILES if prefix + name in artifact.hashes}
    return state_from_bytes(files, artifact.facts["iteration"])


def pass_on(store: Store, job: "TrainJob | Origin", begin: Artifact, **facts: Any) -> None:
    """Write the last good state of a training that diverged as that of a later job: nothing goes on from it."""
    files = {name: begin.read(name) for name in begin.hashes}
    store.write(job, files, begin.facts | {"label": job.label} | facts, done=True)


def write_start(store: Store, job: "Origin", state: State) -> None:
    """Write a state that training goes on from, with no metrics yet."""
    store.write(job, state_to_bytes(state) | {METRICS: b""}, _facts(job, state.iteration), done=True)


def read_metrics(store: Store, job: TrainJob) -> list[dict[str, Any]]:
    """The rows that a job has recorded so far, finished or not.

    Raises:
        CorruptArtifact: they are not those that were written.
    """
    artifact = store.latest(job)
    return _metrics(artifact) if artifact and artifact.hashes else []


def _best(artifact: Artifact, state: State, metrics: Metrics) -> State | None:
    at = iteration_to_test(metrics)
    if at is None or at == state.iteration:
        return None if at is None else State(at, state.model)
    return state_from_bytes({WEIGHTS: artifact.read(artifact.facts["prefix"] + BEST)}, at)


def _metrics(artifact: Artifact) -> list[dict[str, Any]]:
    lines = artifact.read(artifact.facts["prefix"] + METRICS).splitlines()
    return [json.loads(line) for line in lines]


def _names(**jobs: Job) -> dict[str, str]:
    return {part: job_name(job) for part, job in jobs.items()}


def _facts(job: "TrainJob | Origin", iteration: int) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "diverged_at": None,
        "prefix": "",
        **job.training.facts(),
        "label": job.label,
        "torch": torch.__version__,
    }


def _copy_from_cohort(store: Store, job: TrainJob, cohort: Artifact) -> None:
    """Copy one member's state from the cohort's artifact."""
    member = job_name(replace(job, cohort=None))
    prefix = f"{member}."
    files = {name.removeprefix(prefix): cohort.read(name) for name in cohort.hashes if name.startswith(prefix)}
    facts = cohort.facts["members"][member]
    store.write(job, files, _facts(job, facts["iteration"]) | {"diverged_at": facts["diverged_at"]}, done=True)
