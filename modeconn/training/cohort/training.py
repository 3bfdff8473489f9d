"""Training several networks of one task as one program, for networks that do not fill a processor alone.

A cohort's members share the iteration and nothing else: each has its weights, its noise and its mask. What becomes of
a member differs from what training it alone gives by rounding, and that may depend on who trains beside it; so the
name of a state that a cohort reached says which cohort.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modeconn.data import DataSet, MemoryImages
from modeconn.errors import NetworkError
from modeconn.evaluation.compute import autocast, computing
from modeconn.tasks import Task
from modeconn.training.cohort.stacked import StackedDropout, stack
from modeconn.training.cuda_graphs import StepInputs, TrainingSteps
from modeconn.training.noise import Epochs, Noise, dropout_seed
from modeconn.training.optimizer import Optimizer
from modeconn.training.schedule import learning_rate
from modeconn.training.state import State, capture
from modeconn.training.trainer import (
    TrainResult,
    build_task_network,
    choose_batch,
    evaluations,
    is_finite,
    next_end,
    read_batch,
)
from modeconn.weights.masks import check_mask, mask_enforcer


@dataclass(frozen=True, eq=False)
class Member:
    """One network of a cohort.

    Attributes:
        init_seed: of its initialisation.
        noise: its SGD noise.
        mask: which of its weights remain, by parameter name; empty if all.
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
    """Train every member from where it is to iteration `stop`; one that is ahead joins when the others reach it.

    Args:
        members: the networks.
        so_far: where each is; None for its initialisation. One that diverged stays as it is.
        stop: the iteration of the states that are returned.
        task: what is trained.
        data: the task's data set.
        device: where to compute.
        precision: `"float32"`, `"bfloat16"` for autocast, or `"tf32"` on a GPU.
        watch: called after every chunk of iterations with what there is so far.

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
            start = min(now[i].state.iteration for i in pending)
            active = [i for i in pending if now[i].state.iteration == start]
            end = min(next_end(task, start, stop), *(now[i].state.iteration for i in pending if i not in active), stop)
            if group is None or group.active != active:
                group = _Group(active, members, [now[i].state for i in active], task, alone, data, precision)
            begin = [now[i].state for i in active]
            losses = group.steps(start, end)  # [iterations, active]
            states = group.states(end)
            for i, state, finite in zip(active, states, losses.isfinite().T.tolist(), strict=True):
                finite.append(is_finite(state.model))
                if all(finite):
                    alone.load_state_dict(state.model)
                    rows = evaluations(task, end, alone, data, precision, now[i].metrics)
                    now[i] = replace(now[i], state=state, metrics=now[i].metrics + rows)
                else:
                    at = start + finite.index(False)
                    again = _Group(active, members, begin, task, alone, data, precision)
                    last = again.last_good(active.index(i), at)
                    now[i] = replace(now[i], state=last, diverged_at=at)
            on_chunk(now)
        return now


class _Group:
    """The members that train at present, side by side in one network with one optimizer."""

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
        self._members = [members[i] for i in active]
        self._begin = states
        self._task, self._data, self._precision = task, data, precision
        self._stacked = stack(alone, len(active))
        self._network = self._stacked.network.train()
        self._stacked.load([state.model for state in states])
        self._optimizer = Optimizer(task, self._network)
        self._restore_optimizer(states)
        self._hold = mask_enforcer(self._network, self._masks(alone))
        self._hold()
        device = next(self._network.parameters()).device
        self._generators = [torch.Generator(device) for _ in active]
        for layer in self._network.modules():
            if isinstance(layer, StackedDropout):
                layer.generators = self._generators
        resident = isinstance(data.train.images, MemoryImages)
        self.steps = TrainingSteps(
            self._network, self._optimizer, self._generators, self._choose, self._update, resident=resident
        )

    def _choose(self, iteration: int) -> StepInputs:
        """The examples of all members, one member's after the other's."""
        task, chosen, dropout = self._task, [], []
        for member in self._members:
            seeds = member.noise.at(iteration)
            dropout.append(dropout_seed(seeds.dropout, iteration))
            chosen.append(choose_batch(task, self._data, seeds, iteration, member.epochs))
        indices, draws = (torch.cat(parts) for parts in zip(*chosen, strict=True))
        return StepInputs(indices, draws, learning_rate(task, iteration), dropout)

    def _update(self, indices: Tensor, draws: Tensor) -> Tensor:
        """One optimizer step of all. Returns their losses before it, [members]."""
        images, labels = read_batch(indices, draws, self._task, self._data)
        members = len(self.active)
        with autocast(images.device, self._precision):
            logits = self._stacked(images.view(members, -1, *images.shape[1:]))  # [members, batch, classes]
            losses = cross_entropy(logits.flatten(0, 1), labels, reduction="none").view(members, -1).mean(1)
        losses.sum().backward()
        self._optimizer.step()
        self._hold()
        return losses.detach()

    def states(self, iteration: int) -> list[State]:
        """Copies of where the members are."""
        return [self._state(place, iteration) for place in range(len(self.active))]

    def last_good(self, place: int, diverged_at: int) -> State:
        """The last state of a member whose weights were finite, found by going there again from the beginning."""
        last = self._begin[place]
        for t in range(last.iteration, diverged_at):
            self.steps(t, t + 1)
            if t + 1 >= diverged_at - 1 and is_finite((state := self._state(place, t + 1)).model):
                last = state
        return last

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

    def _masks(self, alone: nn.Module) -> dict[str, Tensor]:
        masks = {}
        for member in self._members:
            check_mask(member.mask, alone)
        parameters = dict(self._network.named_parameters())
        for name in {name for member in self._members for name in member.mask}:
            masks[name] = torch.ones_like(parameters[name], dtype=torch.bool)
            for place, member in enumerate(self._members):
                if name in member.mask:
                    self._stacked.part(name, masks[name], place).copy_(member.mask[name])
        return masks


def _initial(task: Task, data: DataSet, member: Member) -> TrainResult:
    network = build_task_network(task, data, member.init_seed)
    return TrainResult(capture(0, network, Optimizer(task, network)))
