"""Examples of data in a fixed random order, so that a part of them stands for all."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from modeconn.evaluation.batches import BATCH, map_tensors, seed_all, tensors_of

_MOST = 1 << 30  # bytes to join
_ORDER = 0  # seed of the order, which is a function of the number of examples alone


@runtime_checkable
class RandomAccess(Protocol):
    """Data whose examples can be had in any order."""

    def __len__(self) -> int:
        """How many examples there are."""

    def take(self, indices: Tensor) -> Iterator[Any]:
        """The examples int64 [n] in that order, in batches, on the device of the data."""


@dataclass(frozen=True, eq=False)
class RandomSubset:
    """The examples from `start` to `stop` of the random order, gone through any number of times.

    >>> data = Concatenated((torch.arange(1000),), 1000, torch.device("cpu"))
    >>> one, other = RandomSubset(data, 0, 400), RandomSubset(data, 400, 1000)
    >>> sorted(torch.cat([batch for part in (one, other) for (batch,) in part]).tolist()) == list(range(1000))
    True
    """

    data: RandomAccess
    start: int
    stop: int

    def __iter__(self) -> Iterator[Any]:
        """Batches of the data's size at most."""
        return self.data.take(order(len(self.data))[self.start : self.stop])


@dataclass(frozen=True, eq=False)
class Concatenated:
    """Batches joined to one, whose tensors have an entry for each example.

    Attributes:
        whole: the batch of all examples.
        examples: how many.
        device: where the tensors are.
    """

    whole: Any
    examples: int
    device: torch.device

    def __len__(self) -> int:
        """How many examples there are."""
        return self.examples

    def take(self, indices: Tensor) -> Iterator[Any]:
        """The examples in that order. Whatever is random in the network sees the same in each pass."""
        seed_all(self.device)
        for chosen in indices.split(BATCH):
            here = chosen.to(self.device)
            yield map_tensors(lambda tensor, at=here: tensor[at], self.whole)  # type: ignore[misc]


def order(examples: int) -> Tensor:
    """The order in which examples are drawn, int64 [examples]: a permutation, a function of their number alone."""
    return torch.randperm(examples, generator=torch.Generator().manual_seed(_ORDER))


def indexed(batches: Iterable[Any], examples: int | None = None) -> RandomAccess | None:
    """The same data with their examples in any order; None where batches cannot be taken apart.

    They can where every tensor of every batch has an entry for each example, alike in all batches, and all fit into
    memory (1 GB).

    Args:
        batches: on their device.
        examples: how many there are, as they were measured; None if that was not counted.
    """
    if isinstance(batches, RandomAccess):
        return batches
    kept: list[Any] = []
    found = size = 0
    for batch in batches:
        lengths = {len(tensor) if tensor.ndim else 0 for tensor in tensors_of(batch)}
        size += sum(tensor.nbytes for tensor in tensors_of(batch))
        if len(lengths) != 1 or not _plain(batch) or size > _MOST:
            return None
        if kept and not _alike(batch, kept[0]):
            return None
        found += lengths.pop()
        kept.append(batch)
    if not kept or found != (examples or found):
        return None
    leaves = iter([torch.cat(parts) for parts in zip(*(tensors_of(batch) for batch in kept), strict=True)])
    whole = map_tensors(lambda tensor: next(leaves), kept[0])
    return Concatenated(whole, found, tensors_of(whole)[0].device)


def few_batches(batches: Iterable[Any], every: int) -> list[Any]:
    """One of so many batches, evenly over all of them."""
    return list(itertools.islice(batches, every // 2, None, every))


def _plain(batch: Any) -> bool:
    """Whether all of a batch is tensors in tuples, lists and mappings."""
    if isinstance(batch, Mapping):
        return all(_plain(value) for value in batch.values())
    if isinstance(batch, list | tuple):
        return all(_plain(value) for value in batch)
    return isinstance(batch, Tensor)


def _alike(one: Any, other: Any) -> bool:
    """Whether two batches have the same structure, types and shapes, but for the number of examples."""
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(_alike(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_alike(a, b) for a, b in zip(one, other, strict=True))
    return one.dtype == other.dtype and one.shape[1:] == other.shape[1:]
