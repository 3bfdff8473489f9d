"""States of a training: captured from a network and its optimizer, restored into them, and written as files."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from modeconn.training.optimizer import Optimizer
from modeconn.weights.tensor_files import in_order

WEIGHTS, OPTIMIZER, REST = STATE_FILES = ("weights.safetensors", "optimizer.safetensors", "rest.pt")
Metrics: TypeAlias = list[dict[str, Any]]  # rows of iteration, split, loss, error


@dataclass(frozen=True, eq=False)
class State:
    """A point of a trajectory.

    Attributes:
        iteration: how many optimizer steps led here.
        model: weights and buffers by name, as in a state dict.
        optimizer: `"<parameter>/<slot>"` to tensor, for instance `"fc.weight/momentum_buffer"`.
        rest: whatever else a training loop of somebody's own carries on: tensors, numbers, strings, and lists, tuples
            and dicts of them.
    """

    iteration: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)


def early_stop(metrics: Metrics) -> dict[str, Any] | None:
    """The row of the lowest validation loss, the first of equal ones; None if none was recorded."""
    watched = (row for row in metrics if row["split"] == "validation")
    return min(watched, key=lambda row: float(row["loss"]), default=None)


def iteration_to_test(metrics: Metrics) -> int | None:
    """The iteration of the lowest validation loss, if that is finite and the test error there was not recorded."""
    lowest = early_stop(metrics)
    if lowest is None or not math.isfinite(lowest["loss"]):
        return None
    at = int(lowest["iteration"])
    tested = any(row["split"] == "test" and row["iteration"] == at for row in metrics)
    return None if tested else at


def capture(iteration: int, network: nn.Module, optimizer: Optimizer) -> State:
    """A copy of a network's weights and buffers and of its optimizer's state."""
    slots = {
        f"{name}/{slot}": value.clone() for name, slots in optimizer.slots.items() for slot, value in slots.items()
    }
    return State(iteration, {name: value.detach().clone() for name, value in network.state_dict().items()}, slots)


def restore(state: State, network: nn.Module, optimizer: Optimizer) -> None:
    """Put a network and a fresh optimizer where `capture` found them, in place, to the last bit."""
    network.load_state_dict(state.model)
    for key, value in state.optimizer.items():
        name, _, slot = key.rpartition("/")
        if name in optimizer.parameters:  # not of one that was frozen since
            optimizer.slots.setdefault(name, {})[slot] = optimizer.empty(name, slot).copy_(value)


def state_to_bytes(state: State) -> dict[str, bytes]:
    """A state as files: `weights.safetensors`, which any PyTorch code loads, and what else there is of it."""
    meta = {"iteration": str(state.iteration)}
    files = {WEIGHTS: _to_bytes(state.model, meta)}
    if state.optimizer:
        files[OPTIMIZER] = _to_bytes(state.optimizer, meta)
    if state.rest:
        buffer = io.BytesIO()
        torch.save(state.rest, buffer)
        files[REST] = buffer.getvalue()
    return files


def state_from_bytes(files: Mapping[str, bytes], iteration: int) -> State:
    """The state that `state_to_bytes` wrote; without the parts that were not kept. Nothing is unpickled."""
    model = safetensors.torch.load(files[WEIGHTS])
    return State(
        iteration=iteration,
        model={name: model[name] for name in in_order(model)},
        optimizer=safetensors.torch.load(files[OPTIMIZER]) if OPTIMIZER in files else {},
        rest=_load_rest(files[REST]) if REST in files else {},
    )


def _load_rest(content: bytes) -> dict[str, Any]:
    """Tensors, numbers, arrays and scalars of NumPy, such as its random state, and containers of them."""
    numbers = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"]
    made_by = [np._core.multiarray._reconstruct, np._core.multiarray.scalar, np.ndarray, np.dtype]  # type: ignore[attr-defined]
    with torch.serialization.safe_globals([*made_by, *numbers]):
        loaded: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return loaded


def _to_bytes(tensors: dict[str, Tensor], meta: dict[str, str]) -> bytes:
    # Tied weights share memory, which safetensors refuses; a copy of each loads into both places.
    separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(separate, meta)
