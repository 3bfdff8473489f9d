"""A state: a point of a trajectory, and how it is taken from and put back into a network and its optimizer."""

from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from modeconn.tasks import Task


@dataclass(frozen=True, eq=False)
class State:
    """A point of a trajectory.

    Attributes:
        iteration: how many optimizer steps led here.
        model: weights and buffers by name, as in a state dict.
        optimizer: `"<parameter>/<slot>"` to tensor, for instance `"fc.weight/momentum_buffer"`.
    """

    iteration: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def make_optimizer(task: Task, network: nn.Module) -> torch.optim.Optimizer:
    """The task's optimizer. Its learning rate is set before every step."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rate, decay = task.learning_rate, task.weight_decay
    if task.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, rate, momentum=task.momentum, nesterov=task.nesterov, weight_decay=decay, fused=True
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[task.optimizer]
    return kind(parameters, rate, weight_decay=decay, fused=True)


def capture(iteration: int, network: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """A copy of where a network and its optimizer are."""
    slots = {}
    for name, parameter in _named(network):
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                slots[f"{name}/{slot}"] = value.detach().clone()
    return State(iteration, {name: value.detach().clone() for name, value in network.state_dict().items()}, slots)


def restore(state: State, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a network and a fresh optimizer where `capture` found them, in place, to the last bit."""
    network.load_state_dict(state.model)
    for name, parameter in _named(network):
        slots: dict[str, Any] = {}
        for key, value in state.optimizer.items():
            owner, _, slot = key.rpartition("/")
            if owner == name:
                # Moments have their parameter's layout in memory; Adam's step count is a scalar.
                like = torch.empty((), device=parameter.device) if slot == "step" else torch.empty_like(parameter)
                slots[slot] = like.copy_(value)
        if slots:
            optimizer.state[parameter] = slots


def state_to_bytes(state: State) -> dict[str, bytes]:
    """A state as files: `weights.safetensors`, which any PyTorch code loads, and `optimizer.safetensors`, if any."""
    meta = {"iteration": str(state.iteration)}
    files = {"weights.safetensors": _to_bytes(state.model, meta)}
    return files | ({"optimizer.safetensors": _to_bytes(state.optimizer, meta)} if state.optimizer else {})


def state_from_bytes(weights: bytes, optimizer: bytes | None, iteration: int) -> State:
    """The state that `state_to_bytes` wrote; without the optimizer's part if that was not kept."""
    slots = safetensors.torch.load(optimizer) if optimizer else {}
    return State(iteration, safetensors.torch.load(weights), slots)


def _named(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]


def _to_bytes(tensors: dict[str, Tensor], meta: dict[str, str]) -> bytes:
    # Tied weights share memory, which safetensors refuses; a copy of each loads into both places.
    separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(separate, meta)
