"""Weights that are one in memory though they are not equal tensors: a transposed tie, or a part of another weight."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from modeconn.errors import NetworkError
from modeconn.weights.effective import effective_reads, unwrap
from modeconn.weights.plain_copy import plain_copy
from modeconn.weights.state_dicts import identity_of, qualified_name, state_tensors


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
        if tensor.is_meta or tensor.layout != torch.strided or not tensor.numel() or any(_repeated(tensor)):
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
                    f"{other} and {name} share some of their numbers in memory and not all, so that one cannot be "
                    "pruned without the other; make them one tensor, or two"
                )
            found[name] = other, places
            break
        else:
            others.append(name)
    return found


def refuse_expanded(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that repeat numbers, which cannot be pruned apart.

    Raises:
        NetworkError: naming the first.
    """
    for name, tensor in tensors.items():
        if any(_repeated(tensor)):
            raise NetworkError(
                f"{name} is an expanded tensor, of which several entries are one number in memory and cannot be pruned "
                "apart; give the network a clone of it"
            )


def plain_copy_sharing(network: nn.Module, device: torch.device | None = None) -> nn.Module:
    """Copy a network as `plain_copy` does, on a device, with its weights sharing memory as they do in the original.

    Raises:
        NetworkError: as `plain_copy` and `shared_memory`.
    """
    replica = plain_copy(network)
    replica = replica if device is None else replica.to(device)
    network = unwrap(network)
    copies = dict(replica.named_parameters(remove_duplicate=False))
    stored, _ = effective_reads(network, state_tensors(network).__getitem__)
    originals = {name: give() for name, give in stored.items() if name in copies}
    for name, (first, _) in shared_memory(originals).items():
        one, base, copied = originals[name], originals[first], copies[first]
        offset = copied.storage_offset() + one.storage_offset() - base.storage_offset()
        if copied.stride() != base.stride():
            raise NetworkError(f"{first} and {name} share memory of which they are parts; make them two tensors")
        copies[name].data = copied.data.as_strided(one.shape, one.stride(), offset)
    for name, one in originals.items():
        if any(repeated := _repeated(one)):
            first_of = tuple(slice(0, 1) if again else slice(None) for again in repeated)
            copies[name].data = copies[name].data[first_of].expand(one.shape)
    return replica


def tie(network: nn.Module, shared: Mapping[str, tuple[str, Tensor]]) -> None:
    """Compute weights of a network from others, in place: so these get the gradients of all their places."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    for prefix, module in list(network.named_modules()):
        for own, _ in list(module.named_parameters(recurse=False)):
            if (name := qualified_name(prefix, own)) in shared:
                first, places = shared[name]
                parametrize.register_parametrization(module, own, _Tied(parameters[first], places), unsafe=True)


class _Tied(nn.Module):
    def __init__(self, first: Tensor, places: Tensor) -> None:
        super().__init__()
        self._first = [first]  # in a list, so that it is no parameter of this module too
        self._places = places.to(first.device)

    def forward(self, _: Tensor) -> Tensor:
        return self._first[0].flatten()[self._places]


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


def _repeated(tensor: Tensor) -> list[bool]:
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
