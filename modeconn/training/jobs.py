"""Training as jobs: the state of a trajectory at an iteration, named by what it is and not by how it was reached."""

import json
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from modeconn.execution import Artifact, Store
from modeconn.training.noise import Noise
from modeconn.training.protocol import Training
from modeconn.training.state import OPTIMIZER, REST, STATE_FILES, State, state_from_bytes, state_to_bytes
from modeconn.training.trainer import Advanced

_HEARTBEAT = 1.0  # seconds between two words of how far a job is


@dataclass(frozen=True)
class TrainJob:
    """The state at `iteration` of the trajectory from an initialisation under a noise.

    Its artifact holds `weights.safetensors`, `metrics.jsonl` and, before the last iteration, `optimizer.safetensors`.

    Attributes:
        start: an earlier state of the same trajectory to go on from; not part of the name.
        label: for people.
    """

    training: Training
    init_seed: int
    noise: Noise
    iteration: int
    start: "TrainJob | None" = None
    label: str = ""

    kind = "state"

    @property
    def inputs(self) -> tuple["TrainJob", ...]:
        """The earlier state."""
        return () if self.start is None else (self.start,)

    @property
    def cost(self) -> float:
        """Images passed forward, or backward at twice the price."""
        begin = self.start.iteration if self.start else 0
        return self.training.cost(max(1, self.iteration - begin))

    @cached_property
    def _spec(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            **self.training.spec(),
            "init_seed": self.init_seed,
            "mask": None,
            "noise": self.noise.until(self.iteration).spec(),
            "iteration": self.iteration,
        }

    def spec(self) -> dict[str, Any]:
        """What the state is."""
        return self._spec

    def __getstate__(self) -> dict[str, Any]:
        # Who runs a job needs the state before it, and not the whole trunk that led there.
        start = self.start and replace(self.start, start=None)
        return {**self.__dict__, "start": start}

    def run(self, store: Store) -> None:
        """Train from the latest state there is, saving at an interval."""
        begin = store.partial(self) or (store.require(self.start) if self.start else None)
        if begin and begin.facts["diverged_at"] is not None:
            files = {name: begin.read(name) for name in begin.hashes}  # the last good state remains
            store.write(self, files, begin.facts | {"label": self.label}, done=True)
            return
        started = saved = spoken = time.monotonic()

        def watch(so_far: Advanced) -> None:
            nonlocal saved, spoken
            now = time.monotonic()
            at = so_far.state.iteration
            # New metrics are saved at once, so that whoever follows the run sees them.
            fresh = bool(so_far.metrics) and so_far.metrics[-1]["iteration"] == at
            if at < self.iteration and (fresh or now - saved >= self.training.checkpoint_every):
                self._save(store, so_far, prefix=f"{at}.")
                saved = now
            if now - spoken >= _HEARTBEAT:
                first = self.start.iteration if self.start else 0
                store.say_running(self, (at - first) / (self.iteration - first))
                spoken = now

        state, metrics = (load_state(begin), _metrics(begin)) if begin else (None, [])
        result = self.training.advance(
            state, self.iteration, noise=self.noise, init_seed=self.init_seed, metrics=metrics, watch=watch
        )
        self._save(store, result, done=True, seconds=time.monotonic() - started)

    def _save(self, store: Store, result: Advanced, prefix: str = "", done: bool = False, seconds: float = 0.0) -> None:
        files = state_to_bytes(result.state)
        if result.state.iteration == self.training.iterations:
            for part in (OPTIMIZER, REST):
                files.pop(part, None)  # nothing goes on from the last iteration
        files["metrics.jsonl"] = "".join(json.dumps(row) + "\n" for row in result.metrics).encode()
        facts = {
            "iteration": result.state.iteration,
            "diverged_at": result.diverged_at,
            "prefix": prefix,
            **self.training.facts(),
            "label": self.label,
            "torch": torch.__version__,
            **({"seconds": round(seconds, 3)} if done else {}),
        }
        store.write(self, {prefix + name: content for name, content in files.items()}, facts, done=done)


def load_state(artifact: Artifact) -> State:
    """The state in a job's artifact, finished or partial.

    Raises:
        CorruptArtifact: its bytes are not those that were written.
    """
    prefix = artifact.facts["prefix"]
    files = {name: artifact.read(prefix + name) for name in STATE_FILES if prefix + name in artifact.hashes}
    return state_from_bytes(files, artifact.facts["iteration"])


def read_metrics(store: Store, job: TrainJob) -> list[dict[str, Any]]:
    """The rows that a job has recorded so far, finished or not.

    Raises:
        CorruptArtifact: they are not those that were written.
    """
    artifact = store.latest(job)
    return _metrics(artifact) if artifact and artifact.hashes else []


def _metrics(artifact: Artifact) -> list[dict[str, Any]]:
    lines = artifact.read(f"{artifact.facts['prefix']}metrics.jsonl").splitlines()
    return [json.loads(line) for line in lines]
