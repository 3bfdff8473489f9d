"""A data set: uint8 images and labels as tensors, with a fingerprint of the content and a note for people."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from modeconn.data.augment import augment
from modeconn.errors import OptionError

_VALIDATION_SEED = 0
# Per channel over ImageNet's training images, as torchvision's documentation gives them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Images(Protocol):
    """Images that can be read by index: in memory, or from a folder."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""

    def __len__(self) -> int: ...

    def read(self, indices: Tensor) -> Tensor:
        """Read images without augmentation, uint8 [len(indices), *shape]."""

    def read_augmented(self, indices: Tensor, draws: Tensor, augmentation: str) -> Tensor:
        """Read images, augmented as `draws` (see `augment`) say, uint8 [len(indices), *shape]."""

    def to(self, device: torch.device) -> "Images":
        """Move images to a device, or let them be read to it."""

    def take(self, indices: Tensor) -> "Images":
        """Select images by index, in that order."""


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        return f"{len(self):,} images of {' x '.join(map(str, self.shape))} in memory"

    def read(self, indices: Tensor) -> Tensor:
        """Read images by index."""
        return self.tensor.index_select(0, indices.to(self.tensor.device))  # whole rows are copied, not numbers

    def read_augmented(self, indices: Tensor, draws: Tensor, augmentation: str) -> Tensor:
        """Read images by index, and augment them."""
        return augment(self.read(indices), draws.to(self.tensor.device), augmentation)

    def to(self, device: torch.device) -> "MemoryImages":
        """Copy the images to a device, unless they are there."""
        return MemoryImages(self.tensor.to(device))

    def take(self, indices: Tensor) -> "MemoryImages":
        """Select images by index, in that order."""
        return MemoryImages(self.read(indices))


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and their labels, int64 [n].

    Attributes:
        mean, std: of the data set that it is a split of, by which its pixels are scaled; empty before it is in one.

    >>> images = MemoryImages(torch.zeros(100, 1, 8, 8, dtype=torch.uint8))
    >>> Split(images, torch.zeros(100, dtype=torch.int64))
    Split(100 images of 1 x 8 x 8)
    """

    images: Images
    labels: Tensor
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def to(self, device: torch.device) -> "Split":
        """Move the split to a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def take(self, indices: Tensor) -> "Split":
        """Select examples by index, in that order."""
        return replace(self, images=self.images.take(indices), labels=self.labels[indices.to(self.labels.device)])

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images of {' x '.join(map(str, self.images.shape))})"


@dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """A train and a test split, and a validation split if one is held out.

    Attributes:
        mean, std: per channel over the training pixels, in units of the full range; networks see
            `(pixel / 255 - mean) / std`.
        note: how the pixels differ from the published data set; shown wherever results are. Empty if they do not.
        fingerprint: SHA-256 over shapes, pixels and labels; a run's name contains it.
        validation: training examples that are held out; see `hold_out`.
    """

    name: str
    train: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str
    fingerprint: str
    validation: Split | None = None

    def __post_init__(self) -> None:
        for name in ("train", "test", "validation"):
            part: Split | None = getattr(self, name)
            if part is not None and (part.mean, part.std) != (self.mean, self.std):
                object.__setattr__(self, name, replace(part, mean=self.mean, std=self.std))

    def __repr__(self) -> str:
        held_out = "" if self.validation is None else f", {len(self.validation):,} validation"
        sizes = f"{len(self.train):,} train{held_out}, {len(self.test):,} test"
        return f"DataSet({self.name}: {sizes} images of {' x '.join(map(str, self.shape))}, {self.classes} classes)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.train.images.shape

    def split(self, name: str) -> Split:
        """Find a split by name: `"train"`, `"test"` or, if one is held out, `"validation"`."""
        parts = {"train": self.train, "test": self.test, "validation": self.validation}
        return {key: part for key, part in parts.items() if part is not None}[name]

    def to(self, device: torch.device) -> "DataSet":
        """Move images and labels to a device."""
        validation = self.validation and self.validation.to(device)
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)

    @property
    def scaling(self) -> str:
        """How pixels reach a network, in words.

        >>> one = torch.zeros(1, dtype=torch.int64)
        >>> images = MemoryImages(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
        >>> DataSet("d", Split(images, one), Split(images, one), 2, (0.5,), (0.25,), "", "").scaling
        '(pixel / 255 - 0.5) / 0.25'
        """
        mean, std = (
            f"{values[0]:.4g}" if len(set(values)) == 1 else f"[{', '.join(f'{value:.4g}' for value in values)}]"
            for values in (self.mean, self.std)
        )
        return f"(pixel / 255 - {mean}) / {std}"

    @cached_property
    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        device = self.train.labels.device
        mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return 1 / (255 * std), -mean / std


def hold_out(data: DataSet, examples: int) -> DataSet:
    """Split off a validation set: so many of the training examples, which are then not trained on.

    Which ones is the same for every run: the first of one fixed permutation. Mean, deviation and fingerprint stay
    those of the whole training split.

    Raises:
        OptionError: nothing would be left to train on.
    """
    if not 0 < examples < len(data.train):
        raise OptionError(
            f"{examples} of {len(data.train)} training examples cannot be held out for validation; hold out at least "
            "1 and leave at least 1"
        )
    # The order of random 64-bit keys is a random permutation; NumPy promises that these bits never change.
    keys = np.random.Philox(key=_VALIDATION_SEED).random_raw(len(data.train))
    order = torch.from_numpy(np.argsort(keys, kind="stable"))
    held_out, kept = (part.sort().values for part in (order[:examples], order[examples:]))
    return replace(data, train=data.train.take(kept), validation=data.train.take(held_out))


def normalized_by(data: DataSet, how: str) -> DataSet:
    """The same data set, whose images reach networks with another scaling than by the training split's statistics.

    Args:
        data: the data set.
        how: `"none"` for pixel / 255; `"imagenet"` for the mean and deviation that networks trained on ImageNet are
            commonly given; or `"MEAN,STD"`, two numbers in units of the full range, or as many of each as channels.

    Raises:
        OptionError: something else, or for another number of channels.
    """
    channels = data.shape[0]
    if how == "none":
        return replace(data, mean=(0.0,) * channels, std=(1.0,) * channels)
    try:
        numbers = (
            (*IMAGENET_MEAN, *IMAGENET_STD) if how == "imagenet" else tuple(float(number) for number in how.split(","))
        )
    except ValueError:
        numbers = ()
    half = len(numbers) // 2
    mean, std = ((part * channels if half == 1 else part) for part in (numbers[:half], numbers[half:]))
    fit = len(mean) == len(std) == channels
    if not fit or not all(np.isfinite([*mean, *std])) or min(std) <= 0:
        raise OptionError(
            f"images are normalized by none, imagenet (3 channels), or MEAN,STD: two numbers such as 0.5,0.5, or "
            f"{2 * channels} for {channels} channels, the means first; got {how!r}"
        )
    return replace(data, mean=mean, std=std)


def normalize(images: Tensor, data: DataSet) -> Tensor:
    """Normalize uint8 images as a network takes them: float32 `(pixel / 255 - mean) / std`, in channels-last layout."""
    scale, shift = data._scale_and_shift  # pixel * scale + shift in one operation
    values = images.to(torch.float32, memory_format=torch.channels_last)
    return torch.addcmul(shift, values, scale)


def fingerprint(*tensors: Tensor) -> str:
    """SHA-256 over the types, shapes and bytes of tensors."""
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
