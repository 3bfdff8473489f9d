"""Structures of batches: tensors in tuples, lists, mappings and dataclasses, in any depth."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Apply a function to each tensor and NumPy array in a batch; gives a new batch, with all else as it is."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "biufc":  # numbers; arrays of text stay as they are
        return function(torch.as_tensor(batch))
    if isinstance(batch, Mapping):
        items = {key: map_tensors(function, value) for key, value in batch.items()}
        try:
            return type(batch)(items)  # type: ignore[call-arg]
        except TypeError:  # such as a defaultdict, whose first argument is another
            return items
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a namedtuple
        return type(batch)(*(map_tensors(function, value) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(function, value) for value in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        # Fields that the constructor does not take are computed by it from the others.
        values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch) if field.init}
        return dataclasses.replace(batch, **{key: map_tensors(function, value) for key, value in values.items()})
    return batch


def tensors_of(batch: Any) -> list[Tensor]:
    """List the tensors in a batch, in order."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, batch)  # type: ignore[func-returns-value]
    return found


def strided_parts(tensor: Tensor) -> list[Tensor]:
    """The ordinary tensors that hold a tensor's content: itself, or the indices and values of a sparse one.

    >>> [part.tolist() for part in strided_parts(torch.tensor([[0.0, 2.0]]).to_sparse())]
    [[[0], [1]], [2.0]]
    """
    if tensor.layout == torch.strided:
        return [tensor]
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.detach().coalesce()
        return [tensor.indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]


def at_least_float32(tensor: Tensor) -> Tensor:
    """A tensor in its own type, or in float32 (complex64) if that is wider.

    >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype, at_least_float32(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def describe_batch(batch: Any) -> str:
    """Describe a batch's structure, types and shapes for a message.

    >>> describe_batch({"x": torch.zeros(2, 3), "labels": torch.tensor([0, 1])})
    '{x: float32[2, 3], labels: int64[2]}'
    """
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{key}: {describe_batch(value)}" for key, value in batch.items()) + "}"
    if isinstance(batch, list | tuple):
        parts = [describe_batch(value) for value in batch]
        return f"({len(parts)} x {parts[0]})" if len(parts) > 4 and len(set(parts)) == 1 else f"({', '.join(parts)})"
    return type(batch).__name__
