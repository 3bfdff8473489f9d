"""Tensors that are one in memory though they are not equal: a transposed tie, parts of another, expanded ones."""

from collections.abc import Mapping

import torch
from torch import Tensor

from modeconn.errors import NetworkError
from modeconn.weights.state_dicts import identity_of


def shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """Find tensors whose numbers are all those of an earlier one, in another shape or order.

    Equal tensors over one memory, the usual ties, are not among them.

    Returns:
        By name the earlier one's name, and for each entry its place in that one, flattened: int64, in its shape.

    Raises:
        NetworkError: two that share some of their numbers and not all.

    >>> weight = torch.randn(2, 3)
    >>> shared_memory({"a": weight, "b": weight.t(), "c": weight.clone()})
    {'b': ('a', tensor([[0, 3],
            [1, 4],
            [2, 5]]))}
    """
    found: dict[str, tuple[str, Tensor]] = {}
    earlier: dict[object, list[str]] = {}  # by memory, with at least one number of their own
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.layout != torch.strided or not tensor.numel() or any(repeated_dims(tensor)):
            continue
        memory = tensor.device, tensor.untyped_storage().data_ptr(), tensor.dtype
        others = earlier.setdefault(memory, [])
        for other in others:
            if identity_of(tensor) == identity_of(tensors[other]):
                break
            if (places := _places_in(tensor, tensors[other])) is None:
                continue
            if (places < 0).any():
                raise NetworkError(
                    f"{other} and {name} share some of their numbers in memory and not all, so that neither "
                    "is a number of its own; make them one tensor, or two"
                )
            found[name] = other, places
            break
        else:
            others.append(name)
    return found


def overlaps(tensors: Mapping[str, Tensor]) -> set[str]:
    """The tensors that reach into the memory of others, whether they share numbers there or not.

    >>> weight = torch.randn(2, 3)
    >>> sorted(overlaps({"a": weight, "b": weight.t(), "c": weight.clone()}))
    ['a', 'b']
    """
    found: set[str] = set()
    by_memory: dict[object, list[tuple[int, int, str]]] = {}
    for name, tensor in tensors.items():
        if not tensor.is_meta and tensor.layout == torch.strided and tensor.numel():
            size = tensor.element_size()
            start, stop = _extent(tensor)
            memory = tensor.device, tensor.untyped_storage().data_ptr()
            by_memory.setdefault(memory, []).append((start * size, (stop + 1) * size, name))
    for spans in by_memory.values():
        reached, before = -1, ""
        for start, stop, name in sorted(spans):
            if start < reached:
                found |= {before, name}
            if stop > reached:
                reached, before = stop, name
    return found


def refuse_expanded(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that repeat numbers, which cannot be pruned apart.

    Raises:
        NetworkError: naming the first.
    """
    for name, tensor in tensors.items():
        if any(repeated_dims(tensor)):
            raise NetworkError(
                f"{name} is an expanded tensor, of which several entries are one number in memory and cannot be pruned "
                "apart; give the network a clone of it"
            )


def _places_in(tensor: Tensor, other: Tensor) -> Tensor | None:
    """Where the numbers of a tensor are in another, flattened; -1 where they are not; None if none of them is."""
    (start, stop), (first, last) = _extent(tensor), _extent(other)
    if stop < first or last < start:
        return None
    mine, theirs = _addresses(tensor), _addresses(other)
    places = torch.full((max(stop, last) + 1,), -1)
    places[theirs.flatten()] = torch.arange(theirs.numel())
    found = places[mine]
    return None if bool((found < 0).all()) else found


def repeated_dims(tensor: Tensor) -> list[bool]:
    """Along which dims a tensor repeats what it has in memory once."""
    if tensor.layout != torch.strided:
        return []
    return [step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)]


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The first and the last place in memory."""
    start = int(tensor.storage_offset())
    return start, start + sum(step * (size - 1) for step, size in zip(tensor.stride(), tensor.shape, strict=True))


def _addresses(tensor: Tensor) -> Tensor:
    return torch.arange(_extent(tensor)[1] + 1).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
