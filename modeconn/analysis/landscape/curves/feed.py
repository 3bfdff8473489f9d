"""Training batches whose order is new in every epoch, and a function of a seed."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from modeconn.errors import DataError
from modeconn.evaluation.batches import Batches, even_stretches
from modeconn.evaluation.compute import generator_of
from modeconn.evaluation.structures import map_tensors, tensors_of
from modeconn.seeds import mix


class Feed:
    """Training batches on a device; which examples step s sees is a function of the seed and s.

    Examples of whole tensors, of a `Dataset` and of a stored run's data are drawn in a new order in every epoch, each
    once. A `DataLoader` is read again in every epoch under a new seed, so that its own order and augmentation are new.
    Of other iterables the batches are as they are, in a new order.

    Args:
        data: as `modeconn.evaluation.batches.Batches` takes them, or already such batches.
        read: the same data as `Batches`, or as an iterable of batches of our own.
        device: where batches go.
        batch_size: of data that are not batches yet.
        seed: of the orders.

    Attributes:
        per_epoch: batches in an epoch.

    >>> inputs, labels = torch.arange(4.0), torch.arange(4)
    >>> cpu = torch.device("cpu")
    >>> batches = Feed((inputs, labels), Batches((inputs, labels), cpu), cpu, 2, seed=0).batches(0)
    >>> sorted(label for _ in range(2) for label in next(batches)[1].tolist())
    [0, 1, 2, 3]
    """

    def __init__(self, data: Any, read: Any, device: torch.device, batch_size: int, seed: int) -> None:
        self.device, self._seed, self._batch_size = device, seed, batch_size
        self._data = data
        self._examples: int | None = None  # of data whose examples are drawn
        self._kept: list[Any] = []
        if type(data) is tuple or isinstance(data, Mapping):
            self._examples = len(tensors_of(data)[0])
        elif _is_split(data) or (_has_length(data) and isinstance(data, Dataset)):
            self._examples = len(data)
        elif not isinstance(data, DataLoader):
            self._kept = list(read)
        if self._examples is not None:
            self.per_epoch = len(even_stretches(self._examples, batch_size))
        elif self._kept:
            self.per_epoch = len(self._kept)
        else:
            self.per_epoch = len(data) if _has_length(data) else sum(1 for _ in read)

    def batches(self, start: int) -> Iterator[Any]:
        """The batches of all steps from `start` on, without end; each may be written to.

        Raises:
            DataError: a loader has fewer batches in an epoch than it had.
        """
        epoch, skipped = divmod(start, self.per_epoch)
        while True:
            for batch in self._epoch(epoch, skipped):
                yield map_tensors(lambda tensor: tensor.to(self.device, copy=True), batch)
            epoch, skipped = epoch + 1, 0

    def _epoch(self, epoch: int, skipped: int) -> Iterator[Any]:
        order = torch.Generator().manual_seed(mix(self._seed, "order", epoch))
        if self._examples is not None:
            places = torch.randperm(self._examples, generator=order)
            for number, part in enumerate(even_stretches(self._examples, self._batch_size)):
                if number >= skipped:
                    seed_everything(mix(self._seed, "examples", epoch, number), self.device)
                    yield self._examples_at(places[part.start : part.stop])
        elif self._kept:
            yield from (self._kept[place] for place in torch.randperm(self.per_epoch, generator=order)[skipped:])
        else:
            yield from self._read(epoch, skipped)

    def _examples_at(self, places: Tensor) -> Any:
        """One batch of the examples at these places."""
        if _is_split(self._data):
            parts = list(self._data.take(places))
            return tuple(torch.cat(column) for column in zip(*parts, strict=True))
        if isinstance(self._data, Dataset):
            return default_collate([self._data[place] for place in places.tolist()])
        return map_tensors(lambda tensor: tensor[places.to(tensor.device)], self._data)

    def _read(self, epoch: int, skipped: int) -> Iterator[Any]:
        """A loader's batches, under a seed for each, as the networks draw random numbers between two of them."""
        for number, generator in enumerate(Batches(self._data, self.device).generators):
            generator.manual_seed(mix(self._seed, "loader", epoch, number))
        source = None
        for place in range(self.per_epoch):
            seed_everything(mix(self._seed, "read", epoch, place), self.device)
            source = iter(self._data) if source is None else source
            try:
                batch = next(source)
            except StopIteration:
                raise DataError(
                    f"the loader of training data ended after {place} of {self.per_epoch} batches"
                ) from None
            if place >= skipped:
                yield batch


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed the global random generators, which whoever calls this has put aside."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        generator_of(device).manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _is_split(data: Any) -> bool:
    """Whether data are a split of a data set of ours, which gives the images at any places."""
    return hasattr(data, "take") and hasattr(data, "scaling")


def _has_length(data: Any) -> bool:
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        return False
    try:
        return len(data) > 0
    except TypeError:  # a loader of an iterable
        return False
