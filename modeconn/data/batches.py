"""A split of a data set as the batches that networks are measured on, and data by name or as `load_data` gives them."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeconn.data.dataset import DataSet, MemoryImages, Split, normalize
from modeconn.data.sources import load_data
from modeconn.errors import DataError

_BATCH = 250  # images at least: fits a core's cache, and being fixed keeps sums the same wherever they are computed
_NUMBERS = 1 << 17  # a batch of small images holds so many, as an operator costs something whatever its size
_LARGEST = 2000  # images in a batch


@dataclass(frozen=True, eq=False)
class SplitBatches:
    """A split as normalised images and labels, without augmentation, in order, gone through any number of times."""

    data: DataSet
    split: str

    @property
    def scaling(self) -> str:
        """How pixels reach a network, in words."""
        return self.data.scaling

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of 250, of small images more: float32 [batch, channels, height, width] and int64 [batch]."""
        return self.take(torch.arange(len(self)))

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.data.split(self.split))

    def take(self, indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The images int64 [n] in that order, in batches of the same size at most."""
        part = self.data.split(self.split)
        size = max(_BATCH, min(_LARGEST, _NUMBERS // math.prod(self.data.shape)))
        there = indices.to(part.labels.device)  # once, as a GPU is waited for
        if isinstance(part.images, MemoryImages):
            indices = there
        for chosen, at in zip(indices.split(size), there.split(size), strict=True):
            yield normalize(part.images.read(chosen), self.data), part.labels[at]


def as_batches(data: Any, split: str, data_dir: str | Path | None = None) -> Any:
    """Batches of a data set, of one of its splits, or of a data set by its name; anything else as it is.

    Args:
        data: a `DataSet`, of which `split` is taken; a `Split`, which is taken itself; a name or path as `load_data`
            takes them, of which `split` is taken; or other data.
        split: `"test"` or `"train"`.
        data_dir: where data sets are looked for by name.

    Raises:
        OptionError, DataError: no such data set; a split that no data set scales.

    >>> from modeconn.data import load_data
    >>> batches = as_batches(load_data("digits"), "test")
    >>> len(batches), next(iter(batches))[0].shape
    (360, torch.Size([360, 1, 8, 8]))
    """
    if isinstance(data, str | os.PathLike):
        data = load_data(data, data_dir)
    if isinstance(data, Split):
        data = _alone(data)
    return SplitBatches(data, split) if isinstance(data, DataSet) else data


def knows_its_training_data(data: Any) -> bool:
    """Whether data are a whole data set, or its name, so that statistics can be taken on its training split."""
    return isinstance(data, DataSet | str | os.PathLike)


def _alone(part: Split) -> DataSet:
    """A data set that has a split for all its splits."""
    if not part.mean:
        raise DataError("a Split says how its pixels are scaled when a DataSet has it; give load_data(...).test")
    return DataSet("", part, part, 0, part.mean, part.std, "", "")
