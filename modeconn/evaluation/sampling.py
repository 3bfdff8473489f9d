"""Random subsets of examples, drawn without replacement: a part of the data stands for all."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from modeconn.evaluation.batches import BATCH, seed_all
from modeconn.evaluation.structures import map_tensors, tensors_of

_MOST = 1 << 30  # bytes of data that are concatenated
_ORDER = 0  # seed of the random order


@runtime_checkable
class RandomAccess(Protocol):
    """Data whose examples can be read by index, in any order."""

    def __len__(self) -> int:
        """The number of examples."""

    def take(self, indices: Tensor) -> Iterator[Any]:
        """Read the examples at indices, int64 [n], in batches in that order, on the device of the data."""


@dataclass(frozen=True, eq=False)
class RandomSubset:
    """The examples from place `start` to `stop` of the random order; can be iterated over again and again.

    Parts that do not overlap are disjoint random samples.

    >>> data = Concatenated((torch.arange(1000),), 1000, torch.device("cpu"))
    >>> one, other = RandomSubset(data, 0, 400), RandomSubset(data, 400, 1000)
    >>> sorted(torch.cat([batch for part in (one, other) for (batch,) in part]).tolist()) == list(range(1000))
    True
    """

    data: RandomAccess
    start: int
    stop: int

    def __iter__(self) -> Iterator[Any]:
        """Read the subset in batches."""
        return self.data.take(order(len(self.data))[self.start : self.stop])


@dataclass(frozen=True, eq=False)
class Concatenated:
    """All batches concatenated to one, whose tensors have an entry for each example.

    Attributes:
        whole: that batch.
        examples: the number of examples.
        device: where the tensors are.
    """

    whole: Any
    examples: int
    device: torch.device

    def __len__(self) -> int:
        """The number of examples."""
        return self.examples

    def take(self, indices: Tensor) -> Iterator[Any]:
        """Read examples by index. Random generators are seeded first, so dropout is the same in each pass."""
        seed_all(self.device)
        for chosen in indices.split(BATCH):
            here = chosen.to(self.device)
            yield map_tensors(lambda tensor, at=here: tensor[at], self.whole)  # type: ignore[misc]


def order(examples: int) -> Tensor:
    """The random order, int64 [examples]: one permutation for each number of examples, in every run."""
    return torch.randperm(examples, generator=torch.Generator().manual_seed(_ORDER))


def random_access(batches: Iterable[Any], examples: int | None = None) -> RandomAccess | None:
    """Give random access to the examples of batches; None where batches cannot be taken apart.

    They can where every tensor of every batch has an entry for each example (its first dimension), with the same
    structure, types and shapes in all batches, and all fit into memory (1 GB).

    Args:
        batches: on their device.
        examples: how many were measured; None if that was not counted.
    """
    if isinstance(batches, RandomAccess):
        return batches
    kept: list[Any] = []
    found = size = 0
    for batch in batches:
        # One length for all means that the first dimension counts examples; a scalar has none.
        lengths = {len(tensor) if tensor.ndim else 0 for tensor in tensors_of(batch)}
        if len(lengths) != 1 or not _plain(batch):
            return None
        size += sum(tensor.nbytes for tensor in tensors_of(batch))
        if size > _MOST:
            return None
        if kept and not _alike(batch, kept[0]):
            return None
        found += lengths.pop()
        kept.append(batch)
    # Tensors whose first dimension is something else show in its sum, which is then not the number of examples.
    if not kept or found != (examples or found):
        return None
    leaves = iter([torch.cat(parts) for parts in zip(*(tensors_of(batch) for batch in kept), strict=True)])
    whole = map_tensors(lambda tensor: next(leaves), kept[0])
    return Concatenated(whole, found, tensors_of(whole)[0].device)


def every_nth_batch(batches: Iterable[Any], every: int) -> list[Any]:
    """List one of every so many batches, from the middle of each such run: they are spread evenly."""
    return list(itertools.islice(batches, every // 2, None, every))


def _plain(batch: Any) -> bool:
    """Whether a batch is nothing but tensors, in tuples, lists and mappings."""
    if isinstance(batch, Mapping):
        return all(_plain(value) for value in batch.values())
    if isinstance(batch, list | tuple):
        return all(_plain(value) for value in batch)
    return isinstance(batch, Tensor) and batch.layout == torch.strided  # rows of a sparse one are not taken


def _alike(one: Any, other: Any) -> bool:
    """Whether two batches have the same structure, types and shapes, whatever their numbers of examples."""
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(_alike(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_alike(a, b) for a, b in zip(one, other, strict=True))
    return one.dtype == other.dtype and one.shape[1:] == other.shape[1:]
