"""Loss and error of a network on a split of a task's data."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modeconn.data import DataSet, MemoryImages, normalize
from modeconn.evaluation.batches import BATCH
from modeconn.evaluation.measure import MetricSums, measure
from modeconn.evaluation.meters import CLASSIFICATION

_NUMBERS = 1 << 17  # a batch of small images holds so many, as an operator costs something whatever its size
_LARGEST = 2000  # images in a batch


@dataclass(frozen=True)
class SplitSums:
    """Sums over the examples of a split."""

    examples: int
    errors: int
    loss_sum: float

    @staticmethod
    def of(measured: MetricSums) -> "SplitSums":
        """The sums of a measurement by the classification meter."""
        return SplitSums(len(measured.sums["error"]), int(measured.total("error")), measured.total("loss"))

    @property
    def error(self) -> float:
        """Fraction of examples that are classified wrongly."""
        return self.errors / self.examples

    @property
    def loss(self) -> float:
        """Mean cross-entropy per example, in nats."""
        return self.loss_sum / self.examples


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
        size = max(BATCH, min(_LARGEST, _NUMBERS // math.prod(self.data.shape)))
        there = indices.to(part.labels.device)  # once, as a GPU is waited for
        if isinstance(part.images, MemoryImages):
            indices = there
        for chosen, at in zip(indices.split(size), there.split(size), strict=True):
            yield normalize(part.images.read(chosen), self.data), part.labels[at]


def evaluate(network: nn.Module, data: DataSet, split: str, precision: str = "float32") -> SplitSums:
    """Classify a whole split, without augmentation. The network is left unchanged, its training mode included.

    An output that is not finite counts as an error.
    """
    return SplitSums.of(measure(network, SplitBatches(data, split), CLASSIFICATION, precision))
