"""Training several networks of one task as one batched network, where they do not fill a processor alone.

A cohort's members share the iteration and nothing else: each has its weights, its noise and its mask. A member's states
differ from those of training it alone by rounding, which may depend on who trains beside it; so the name of a state
that a cohort reached says which cohort.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modeconn.data import DataSet
from modeconn.errors import NetworkError
from modeconn.evaluation.compute import computing
from modeconn.tasks import Task
from modeconn.training.cohort.stacked import Stacked, StackedDropout, stack
from modeconn.training.noise import Epochs, Noise
from modeconn.training.optimizer import Optimizer
from modeconn.training.state import State, capture
from modeconn.training.step_inputs import StepInputs, choose_inputs
from modeconn.training.trainer import (
    TrainingLoop,
    TrainResult,
    build_task_network,
    by_autograd,
    evaluated,
    first_divergence,
    last_finite_state,
    next_end,
    with_test_error,
)
from modeconn.weights.masks import check_mask


@dataclass(frozen=True, eq=False)
class Member:
    """One network of a cohort.

    Attributes:
        init_seed: of its initialisation.
        noise: its SGD noise.
        mask: which of its weights remain, by parameter name; empty if all.
        epochs: permutations and uniform numbers of its noise that were computed already.
    """

    init_seed: int
    noise: Noise
    mask: Mapping[str, Tensor] = field(default_factory=dict)
    epochs: Epochs = field(default_factory=Epochs, repr=False)


def train_cohort_until(
    members: Sequence[Member],
    progress: Sequence[TrainResult | None],
    stop: int,
    *,
    task: Task,
    data: DataSet,
    device: torch.device,
    precision: str = "float32",
    on_chunk: Callable[[list[TrainResult]], None] = lambda progress: None,
) -> list[TrainResult]:
    """Train every member from its state to iteration `stop`; one that is ahead joins when the others reach it.

    Args:
        members: the networks.
        progress: each one's state so far; None for its initialisation. One that diverged stays as it is.
        stop: the iteration of the states that are returned.
        task: what is trained.
        data: the task's data set.
        device: where to compute.
        precision: `"float32"`, `"bfloat16"` for autocast, or `"tf32"` on a GPU.
        on_chunk: called after every chunk of iterations with what there is so far.

    Returns:
        For each member what `modeconn.training.trainer.train_until` returns. The others go on when one diverges.

    Raises:
        NetworkError: networks of this architecture, or from such different states, cannot be trained together.
    """
    with computing(device, precision):
        alone = build_task_network(task, data, init_seed=0).to(device)
        data = data.to(device)
        now = [known or _initial(task, data, member) for known, member in zip(progress, members, strict=True)]
        group: _Group | None = None
        while pending := [i for i, one in enumerate(now) if one.diverged_at is None and one.state.iteration < stop]:
            # Those furthest behind train, until their chunk ends or they reach a member that is ahead.
            start = min(now[i].state.iteration for i in pending)
            active = [i for i in pending if now[i].state.iteration == start]
            ahead = [now[i].state.iteration for i in pending if i not in active]
            end = min([next_end(task, start, stop), *ahead])
            begin = [now[i].state for i in active]
            # As long as nobody joins or leaves, the same group goes on; else another is built from the states.
            if group is None or group.active != active:
                group = _Group(active, members, begin, task, alone, data, precision)
            losses = group.loop.run(start, end)  # [iterations, active]
            states = group.states(end)
            for place, (i, finite) in enumerate(zip(active, losses.isfinite().T.tolist(), strict=True)):
                diverged_at = first_divergence(start, finite, states[place].model)
                if diverged_at is None:
                    alone.load_state_dict(states[place].model)
                    now[i] = evaluated(replace(now[i], state=states[place]), task, alone, data, precision)
                else:  # it leaves with its last good state, which all that were active go through once more
                    again = _Group(active, members, begin, task, alone, data, precision)
                    last = again.last_finite_state(place, diverged_at)
                    ended = replace(now[i], state=last, diverged_at=diverged_at)
                    now[i] = with_test_error(ended, alone, data, precision)
            on_chunk(now)
        return now


class _Group:
    """The members that train at present, side by side in one network with one optimizer.

    Attributes:
        active: their places in the cohort.
        loop: their steps.
    """

    def __init__(
        self,
        active: list[int],
        members: Sequence[Member],
        states: list[State],
        task: Task,
        alone: nn.Module,
        data: DataSet,
        precision: str,
    ) -> None:
        self.active = active
        self._begin = states
        self._stacked = stack(alone, len(active))
        self._stacked.load([state.model for state in states])
        network = self._stacked.network.train()
        self._optimizer = Optimizer(task, network)
        self._restore_optimizer(states)
        training = [members[i] for i in active]
        device = next(network.parameters()).device
        generators = [torch.Generator(device) for _ in active]
        for layer in network.modules():
            if isinstance(layer, StackedDropout):
                layer.generators = generators
        self.loop = TrainingLoop(
            network,
            self._optimizer,
            differentiate=by_autograd(functools.partial(_losses, self._stacked), device, precision),
            choose=lambda iteration: _choose_together(training, task, data, iteration),
            generators=generators,
            mask=_stacked_mask(self._stacked, [member.mask for member in training], alone),
            task=task,
            data=data,
        )

    def states(self, iteration: int) -> list[State]:
        """Copies of the members' states."""
        return [self._state(place, iteration) for place in range(len(self.active))]

    def last_finite_state(self, place: int, diverged_at: int) -> State:
        """The last state of a member whose weights were finite; in a group that has not trained yet."""
        return last_finite_state(self.loop, lambda t: self._state(place, t), self._begin[place], diverged_at)

    def _state(self, place: int, iteration: int) -> State:
        slots = {}
        for name, of_parameter in self._optimizer.slots.items():
            for slot, value in of_parameter.items():
                own = self._stacked.part(name, value, place) if value.ndim else value
                slots[f"{name}/{slot}"] = own.clone()
        return State(iteration, self._stacked.state(place), slots)

    def _restore_optimizer(self, states: list[State]) -> None:
        for key in sorted({key for state in states for key in state.optimizer}):
            name, _, slot = key.rpartition("/")
            if name in self._optimizer.parameters:
                found = [state.optimizer.get(key) for state in states]
                self._optimizer.slots.setdefault(name, {})[slot] = self._joined(name, slot, found)

    def _joined(self, name: str, slot: str, found: list[Tensor | None]) -> Tensor:
        """One slot of the optimizer from the members'; who has no momentum yet has one of zero."""
        value = self._optimizer.empty(name, slot).zero_()
        if not value.ndim:  # Adam's count, which is one number
            first = found[0]
            if first is None or any(other is None or not torch.equal(other, first) for other in found):
                raise NetworkError("networks whose optimizers took different numbers of steps cannot train together")
            return value.copy_(first)
        for place, own in enumerate(found):
            if own is not None:
                self._stacked.part(name, value, place).copy_(own)
        return value


def _losses(stacked: Stacked, images: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of each member on its own examples, [members]."""
    members = stacked.members
    logits = stacked(images.view(members, -1, *images.shape[1:]))  # [members, batch, classes]
    return cross_entropy(logits.flatten(0, 1), labels, reduction="none").view(members, -1).mean(1)


def _choose_together(members: Sequence[Member], task: Task, data: DataSet, iteration: int) -> StepInputs:
    """The inputs of all members, one member's after the other's: indices [members * batch]."""
    own = [choose_inputs(task, data, member.noise, iteration, member.epochs) for member in members]
    return StepInputs(
        indices=torch.cat([inputs.indices for inputs in own]),
        draws=torch.cat([inputs.draws for inputs in own]),
        rate=own[0].rate,
        seeds=[seed for inputs in own for seed in inputs.seeds],
    )


def _stacked_mask(stacked: Stacked, masks: Sequence[Mapping[str, Tensor]], alone: nn.Module) -> dict[str, Tensor]:
    """One mask of the stacked network from the members'; who has none for a weight keeps all of it."""
    for mask in masks:
        check_mask(mask, alone)
    parameters = dict(stacked.network.named_parameters())
    joined = {}
    for name in {name for mask in masks for name in mask}:
        joined[name] = torch.ones_like(parameters[name], dtype=torch.bool)
        for place, mask in enumerate(masks):
            if name in mask:
                stacked.part(name, joined[name], place).copy_(mask[name])
    return joined


def _initial(task: Task, data: DataSet, member: Member) -> TrainResult:
    network = build_task_network(task, data, member.init_seed)
    return TrainResult(capture(0, network, Optimizer(task, network)))
