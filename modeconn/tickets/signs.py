"""Signs of weights as jobs: given to a new initialisation, and how many turn over while a subnetwork is trained."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from modeconn.execution import Job, Store
from modeconn.execution.names import job_name
from modeconn.pruning.prunable import everything
from modeconn.tickets.jobs import ControlJob, MaskJob
from modeconn.training.jobs import METRICS, RewindJob, TrainJob, load_state
from modeconn.training.noise import Noise
from modeconn.training.state import State, state_to_bytes
from modeconn.weights.masks import MASK, mask_from_bytes

_FLIPS = "sign_flips.json"  # of an artifact that holds counts


@dataclass(frozen=True, eq=False, repr=False)
class SignJob:
    """A state with the signs of one network and the magnitudes of another, a new initialisation.

    Its artifact holds the same files as a `TrainJob`'s, and a `RewindJob` takes it for one. Signs are those of the
    weights that can be pruned; all else is of the initialisation.

    Attributes:
        anew: whose magnitudes, and all else.
        signs: whose signs; where a weight is zero, it counts as positive.
        start: of a state that was trained from another.
    """

    anew: TrainJob
    signs: TrainJob
    label: str = ""
    start: None = None

    kind = "state"
    cost = 0.0

    @property
    def inputs(self) -> tuple[Job, ...]:
        """Both networks."""
        return self.anew, self.signs

    @property
    def init_seed(self) -> int:
        """The initialisation's."""
        return self.anew.init_seed

    @property
    def iteration(self) -> int:
        """The initialisation's."""
        return self.anew.iteration

    @property
    def noise(self) -> Noise:
        """The initialisation's."""
        return self.anew.noise

    def spec(self) -> dict[str, Any]:
        """The training and both networks."""
        names = {"source": job_name(self.anew), "signs": job_name(self.signs)}
        return {"kind": self.kind, **self.anew.training.spec(), **names, "iteration": self.anew.iteration}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "anew": replace(self.anew, start=None), "signs": replace(self.signs, start=None)}

    def run(self, store: Store) -> None:
        """Give the magnitudes their signs."""
        artifacts = [store.require(job) for job in self.inputs]
        state, signs = (load_state(artifact) for artifact in artifacts)
        training: Any = self.anew.training
        with training.computing():
            names = everything(training.network())
        signed = {
            name: torch.where(signs.model[name] < 0, -value.abs(), value.abs()) if name in names else value
            for name, value in state.model.items()
        }
        diverged = [a.facts["diverged_at"] for a in artifacts if a.facts["diverged_at"] is not None]
        facts = {"iteration": state.iteration, "diverged_at": diverged[0] if diverged else None, "prefix": ""}
        facts |= {**training.facts(), "label": self.label, "torch": torch.__version__}
        files = state_to_bytes(State(state.iteration, signed)) | {METRICS: b""}
        store.write(self, files, facts, done=True)


@dataclass(frozen=True, eq=False, repr=False)
class SignFlipsJob:
    """How many weights of a subnetwork have another sign at the end of its training than at its start.

    Its artifact holds `sign_flips.json`, if nothing diverged.

    Attributes:
        start: the state that training goes on from.
        end: the trained network.
        mask: whose weights are counted; None for all that can be pruned.
    """

    start: TrainJob | RewindJob
    end: TrainJob
    mask: MaskJob | ControlJob | None
    label: str = ""

    kind = "signs"
    cost = 1000.0

    @property
    def inputs(self) -> tuple[Job, ...]:
        """Both states and the mask."""
        return tuple(job for job in (self.start, self.end, self.mask) if job is not None)

    def spec(self) -> dict[str, Any]:
        """The two states and the mask."""
        names = {"start": job_name(self.start), "end": job_name(self.end)}
        return {"kind": self.kind, **names, "mask": self.mask and job_name(self.mask)}

    def run(self, store: Store) -> None:
        """Count, unless a training diverged."""
        artifacts = [store.require(job) for job in self.inputs]
        facts = {"label": self.label, "torch": torch.__version__}
        if any(artifact.facts["diverged_at"] is not None for artifact in artifacts):
            store.write(self, {}, facts, done=True)
            return
        if self.mask:
            mask = mask_from_bytes(artifacts[2].read(MASK))
        else:
            training: Any = self.end.training
            with training.computing():
                mask = {name: kept.cpu() for name, kept in everything(training.network()).items()}
        start, end = (load_state(artifact).model for artifact in artifacts[:2])
        flipped = sum(int((start[name].sign() != end[name].sign())[kept].sum()) for name, kept in mask.items())
        counts = {"weights": sum(int(kept.sum()) for kept in mask.values()), "flipped": flipped}
        store.write(self, {_FLIPS: json.dumps(counts).encode()}, facts, done=True)


def read_sign_flips(store: Store, job: SignFlipsJob | None) -> float:
    """The fraction of weights whose sign turned over; NaN if it was not asked for, or nothing was left or trained."""
    artifact = job and store.require(job)
    if not artifact or _FLIPS not in artifact.hashes:
        return math.nan
    counts = artifact.json(_FLIPS)
    return counts["flipped"] / counts["weights"] if counts["weights"] else math.nan
