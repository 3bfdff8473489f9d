"""Networks that are perturbed once, as jobs; all SGD noise is that of the unperturbed one (Altintas et al. 2025)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from modeconn.execution import Store
from modeconn.execution.names import job_name
from modeconn.training.jobs import TrainJob, load_state, pass_on, write_start
from modeconn.training.noise import Noise, gaussian_numbers, whole_below
from modeconn.training.perturbation import Perturbation
from modeconn.training.protocol import Training
from modeconn.training.state import State


@dataclass(frozen=True, eq=False, repr=False)
class PerturbJob:
    """A trunk's state whose weights were perturbed once. Its artifact holds the same files as a `TrainJob`'s.

    One weight, of a tensor of two dimensions at least, takes the value that it has in another initialisation. Or
    Gaussian noise over all trained parameters is added, `theta + NORM |theta_0| e / |e|` with e ~ N(0, 1) for each
    parameter: at NORM 1 it is as long as the initialisation theta_0. Buffers and the optimizer's state stay.

    Attributes:
        source: whose state.
        reference: the initialisation: another one for a weight, the trunk's own for noise.
        how: which perturbation; not another batch, which is noise of training.
        seed: of which weight, or of the noise.
    """

    source: TrainJob
    reference: TrainJob
    how: Perturbation
    seed: int
    label: str = ""

    kind = "state"
    cost = 0.0
    mask = None

    @property
    def inputs(self) -> tuple[TrainJob, TrainJob]:
        """The state and the initialisation."""
        return self.source, self.reference

    @property
    def training(self) -> Training:
        """The source's."""
        return self.source.training

    @property
    def iteration(self) -> int:
        """The source's."""
        return self.source.iteration

    @property
    def init_seed(self) -> int:
        """The source's."""
        return self.source.init_seed

    @property
    def noise(self) -> Noise:
        """The source's."""
        return self.source.noise

    @property
    def origin(self) -> "PerturbJob":
        """Where the trajectories that go on from here begin."""
        return self

    @cached_property
    def _spec(self) -> dict[str, Any]:
        amount = {"norm": self.how.norm} if self.how.kind == "gaussian" else {}
        return {
            "kind": self.kind,
            **self.training.spec(),
            "source": job_name(self.source),
            "reference": job_name(self.reference),
            "perturbation": {"kind": self.how.kind, **amount, "seed": self.seed},
            "iteration": self.iteration,
        }

    def spec(self) -> dict[str, Any]:
        """The state, the initialisation, and what is changed."""
        return self._spec

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "source": replace(self.source, start=None)}

    def run(self, store: Store) -> None:
        """Perturb the weights and write them."""
        artifact = store.require(self.source)
        if artifact.facts["diverged_at"] is not None:
            pass_on(store, self, artifact)
            return
        state, reference = load_state(artifact), load_state(store.require(self.reference))
        with self.training.computing(), torch.no_grad():
            network = self.training.network()
            network.load_state_dict(reference.model)
            trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
            before = {name: weight.cpu().clone() for name, weight in trained.items()}
            network.load_state_dict(state.model)
            if self.how.kind == "weight":
                _set_weight(trained, before, self.seed)
            else:
                _add_noise(trained, self.how.norm * _norm(before.values()), self.seed)
        write_start(store, self, State(state.iteration, network.state_dict(), state.optimizer, state.rest))


def _set_weight(weights: Mapping[str, Tensor], other: Mapping[str, Tensor], seed: int) -> None:
    """Give one weight the value that it has in another network, in place."""
    names = [name for name, weight in weights.items() if weight.ndim > 1]
    position = whole_below(sum(weights[name].numel() for name in names), seed)
    for name in names:
        if position < weights[name].numel():
            at = torch.unravel_index(torch.tensor(position), weights[name].shape)
            weights[name][at] = other[name][at].to(weights[name])
            return
        position -= weights[name].numel()


def _add_noise(weights: Mapping[str, Tensor], norm: float, seed: int) -> None:
    """Add Gaussian noise of an L2 norm to all weights together, in place."""
    drawn = gaussian_numbers(seed, sum(weight.numel() for weight in weights.values()))
    pieces = (drawn * (norm / drawn.norm())).split([weight.numel() for weight in weights.values()])
    for weight, piece in zip(weights.values(), pieces, strict=True):
        weight.copy_(weight.double() + piece.view(weight.shape).to(weight.device))


def _norm(weights: Iterable[Tensor]) -> float:
    return float(torch.stack([weight.double().square().sum() for weight in weights]).sum().sqrt())
