"""Masks as jobs: found by a criterion on a trained network, or drawn as a control of another mask."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from modeconn.execution import Artifact, Job, Store
from modeconn.execution.names import job_name
from modeconn.pruning.allocation import SHARES, allocated_mask
from modeconn.pruning.controls import inverted_mask, lowest_mask, random_mask, shuffled_mask
from modeconn.pruning.criteria import needs_data, score
from modeconn.pruning.prunable import everything
from modeconn.pruning.prune import Pruning, find_mask
from modeconn.tickets.scoring import scoring_of, scoring_spec
from modeconn.training.jobs import TrainJob, load_state
from modeconn.weights.masks import MASK, mask_from_bytes, mask_to_bytes

_OF_NETWORKS = ("invert", "lowest")  # controls that a network decides, and not a seed


@dataclass(frozen=True, eq=False, repr=False)
class MaskJob:
    """The mask that a criterion finds on a network. Its artifact holds `mask.safetensors`.

    Its facts say at which iteration the network's training diverged, if it did; then there is no mask.

    Attributes:
        source: the network whose weights are scored.
        before: the mask that it goes on from.
        how: the criterion.
        fraction: of the remaining weights, that is pruned.
        per_class: training examples of each class that are scored with, by criteria that need data.
        levels: how many levels of pruning that fraction it replaces.
    """

    source: TrainJob
    before: "MaskJob | None"
    how: Pruning
    fraction: float
    per_class: int
    levels: int = 1
    label: str = ""

    kind = "mask"

    @property
    def inputs(self) -> tuple[Job, ...]:
        """The network and the earlier mask."""
        return tuple(job for job in (self.source, self.before) if job is not None)

    @property
    def cost(self) -> float:
        """Little, beside a training."""
        return 1000.0

    @cached_property
    def _spec(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "source": job_name(self.source),
            "before": self.before and job_name(self.before),
            **self.how.spec(),
            "fraction": self.fraction,
            **({"levels": self.levels} if self.levels > 1 else {}),
            **({"per_class": self.per_class} if needs_data(self.how.criterion) else {}),
            **scoring_spec(self.source.training, self.how.criterion),
            **({"norms": "scale"} if self.how.criterion == "synflow" and self._may_have_norms else {}),
        }

    @property
    def _may_have_norms(self) -> bool:
        """Whether the network may have norms of each example, which SynFlow once took as they are."""
        task = self.source.training.spec().get("task", {})
        return task.get("norm") in ("layer", "group") or ":" in task.get("model", "")

    def spec(self) -> dict[str, Any]:
        """The network that is pruned, and how."""
        return self._spec

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "source": replace(self.source, start=None)}

    def run(self, store: Store) -> None:
        """Score the weights and keep the highest."""
        artifact = store.require(self.source)
        if artifact.facts["diverged_at"] is not None:
            _write(store, self, None, artifact.facts["diverged_at"])
            return
        before = None if self.before is None else mask_from_bytes(store.require(self.before).read(MASK))
        training: Any = self.source.training
        with training.computing():
            network = training.network()
            network.load_state_dict(load_state(artifact).model)
            mask = find_mask(
                network,
                self.how,
                self.fraction,
                levels=self.levels,
                mask=before,
                **scoring_of(training, self.how.criterion, self.per_class),
            )
        _write(store, self, mask)


@dataclass(frozen=True, eq=False, repr=False)
class ControlJob:
    """A mask with the layerwise or overall density of another. Its artifact is like a `MaskJob`'s.

    Attributes:
        control: `"random"`, `"shuffle"`, one of `modeconn.pruning.allocation.SHARES`, `"invert"`, or `"lowest"`: the
            lowest scores by the criterion of the other mask, on the whole network.
        like: the other mask.
        seed: of what is drawn.
        source: the network whose smallest weights an inverted mask keeps; or the one that the other mask was found on.
    """

    control: str
    like: MaskJob
    seed: int
    source: TrainJob
    label: str = ""

    kind = "mask"
    cost = 1000.0

    @property
    def inputs(self) -> tuple[Job, ...]:
        """The other mask, and the network if it matters."""
        return (self.like, self.source) if self.control in _OF_NETWORKS else (self.like,)

    @cached_property
    def _spec(self) -> dict[str, Any]:
        decided_by = {"source": job_name(self.source)} if self.control in _OF_NETWORKS else {"seed": self.seed}
        return {"kind": self.kind, "control": self.control, "like": job_name(self.like), **decided_by}

    def spec(self) -> dict[str, Any]:
        """The kind of control, the other mask, and the seed or the network that decides it."""
        return self._spec

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "source": replace(self.source, start=None)}

    def run(self, store: Store) -> None:
        """Draw the mask."""
        artifacts = [store.require(job) for job in self.inputs]
        diverged = [a.facts["diverged_at"] for a in artifacts if a.facts["diverged_at"] is not None]
        if diverged:
            _write(store, self, None, diverged[0])
            return
        like = mask_from_bytes(artifacts[0].read(MASK))
        if self.control == "invert":
            mask = inverted_mask(like, load_state(artifacts[1]).model)
        elif self.control == "lowest":
            mask = lowest_mask(like, _scores(self.like, artifacts[1]))
        elif self.control in SHARES:
            whole = [name for name, rate in self.like.how.rates if rate == 0]
            mask = allocated_mask(self.control, like, self.seed, whole)
        else:
            mask = {"random": random_mask, "shuffle": shuffled_mask}[self.control](like, self.seed)
        _write(store, self, mask)


def _scores(job: MaskJob, artifact: Artifact) -> dict[str, Tensor]:
    """The scores of all weights that a mask's criterion gives on the network that it was found on."""
    training: Any = job.source.training
    with training.computing():
        network = training.network()
        network.load_state_dict(load_state(artifact).model)
        return score(
            network,
            job.how.criterion,
            mask=everything(network),
            seed=job.how.seed,
            **scoring_of(training, job.how.criterion, job.per_class),
        )


def _write(store: Store, job: MaskJob | ControlJob, mask: Mapping[str, Tensor] | None, diverged_at: Any = None) -> None:
    facts = {"label": job.label, "torch": torch.__version__, "diverged_at": diverged_at}
    files = {} if mask is None else {MASK: mask_to_bytes(mask)}
    store.write(job, files, facts, done=True)
