"""A data set: uint8 images and labels as tensors, with a fingerprint of the content and a note for people."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from modeconn.data.augment import augment


class Images(Protocol):
    """Images that can be read by index: in memory, or from a folder."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""

    def __len__(self) -> int: ...

    def read(self, indices: Tensor) -> Tensor:
        """The plain images, uint8 [len(indices), *shape]."""

    def read_augmented(self, indices: Tensor, draws: Tensor, augmentation: str) -> Tensor:
        """The images under the augmentation that `draws` choose, uint8 [len(indices), *shape]."""

    def to(self, device: torch.device) -> "Images":
        """The same images, so that what is read is on `device`."""


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """Images held as one uint8 tensor [n, channels, height, width]."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, channels, height, width = self.tensor.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.tensor)

    def read(self, indices: Tensor) -> Tensor:
        """The images at these indices."""
        return self.tensor[indices.to(self.tensor.device)]

    def read_augmented(self, indices: Tensor, draws: Tensor, augmentation: str) -> Tensor:
        """The images at these indices, augmented."""
        return augment(self.read(indices), draws.to(self.tensor.device), augmentation)

    def to(self, device: torch.device) -> "MemoryImages":
        """The images on `device`."""
        return MemoryImages(self.tensor.to(device))


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, int64 [n]."""

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class DataSet:
    """A train and a test split.

    Attributes:
        mean, std: per channel over the training pixels, in units of the full range; networks see
            `(pixel / 255 - mean) / std`.
        note: how the pixels differ from the published data set; shown wherever results are. Empty if they do not.
        fingerprint: sha256 over shapes, pixels and labels; a run's name contains it.
    """

    name: str
    train: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str
    fingerprint: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.train.images.shape

    def split(self, name: str) -> Split:
        """The split called `"train"` or `"test"`."""
        return {"train": self.train, "test": self.test}[name]

    def to(self, device: torch.device) -> "DataSet":
        """The data set with images and labels on `device`."""
        train, test = (Split(part.images.to(device), part.labels.to(device)) for part in (self.train, self.test))
        return replace(self, train=train, test=test)

    @cached_property
    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        device = self.train.labels.device
        mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return 1 / (255 * std), -mean / std


def normalize(images: Tensor, data: DataSet) -> Tensor:
    """What a network sees of uint8 images: float32 `(pixel / 255 - mean) / std`, in channels-last layout."""
    scale, shift = data._scale_and_shift
    values = images.to(torch.float32, memory_format=torch.channels_last)
    return torch.addcmul(shift, values, scale)


def fingerprint(*tensors: Tensor) -> str:
    """sha256 over the shapes, types and bytes of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images, as fractions of the full range."""
    means, stds = [], []
    for channel in images.unbind(1):
        # 256 counts are exact and cheap where a float64 copy of every pixel would not be.
        counts = torch.bincount(channel.reshape(-1), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        means.append(mean)
        # A channel that never changes has a deviation of 0, or of a rounding error; it is not scaled.
        stds.append(variance**0.5 if (counts > 0).sum() > 1 else 1.0)
    return tuple(means), tuple(stds)
