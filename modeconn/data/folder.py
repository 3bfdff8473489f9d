"""An ImageNet-style folder: `train/CLASS/*` and `val/CLASS/*`, decoded when they are read."""

import contextlib
import hashlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeconn.data.augment import resized_crop_box
from modeconn.data.dataset import IMAGENET_MEAN, IMAGENET_STD, DataSet, Split
from modeconn.errors import DataError, OptionError
from modeconn.reading import open_file

# Named, as Pillow hands PostScript under any file's name to Ghostscript, which runs it.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
_PIXELS = 89_478_485  # of one image, at which Pillow begins to warn of bombs: 256 MB when it is decoded
_MANY = 1 << 24  # pixels
_LARGE = threading.Lock()
_RESIZE = 256 / 224  # the shorter side before the central crop, relative to the crop


@dataclass(frozen=True, eq=False, repr=False)
class FolderImages:
    """Images in files, decoded by threads (Pillow releases the interpreter lock)."""

    paths: tuple[str, ...]
    size: int
    device: str | torch.device = "cpu"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return 3, self.size, self.size

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"{len(self):,} images of 3 x {self.size} x {self.size} in files"

    def read(self, indices: Tensor) -> Tensor:
        """Read central crops, after the shorter side is resized to 256/224 of them."""
        return self._decode([(self.paths[i], None) for i in indices.tolist()])

    def read_augmented(self, indices: Tensor, draws: Tensor, augmentation: str) -> Tensor:
        """Read random resized crops, flipped half of the time; or central crops under `"none"`."""
        if augmentation == "none":
            return self.read(indices)
        if augmentation != "resized-crop-flip":
            raise OptionError(f"augmentation {augmentation!r} is for images in memory; use resized-crop-flip here")
        return self._decode([(self.paths[i], draw) for i, draw in zip(indices.tolist(), draws.cpu(), strict=True)])

    def to(self, device: torch.device) -> "FolderImages":
        """Read the same files to another device."""
        return replace(self, device=device)

    def take(self, indices: Tensor) -> "FolderImages":
        """Select files by index, in that order."""
        return replace(self, paths=tuple(self.paths[i] for i in indices.tolist()))

    def _decode(self, items: list[tuple[str, Tensor | None]]) -> Tensor:
        with ThreadPoolExecutor() as threads:
            images = list(threads.map(lambda item: _decode(item[0], item[1], self.size), items))
        return torch.stack(images).to(self.device)


def load_folder(root: Path, name: str, image_size: int) -> DataSet:
    """Load a data set from `root/train/CLASS/*` and `root/val/CLASS/*` (or `test`), through torchvision.

    The fingerprint is over the files' relative paths and sizes, not their content, which may be 150 GB.

    Raises:
        DataError: no such folder, no images in it, classes that differ, or no image size.
    """
    from torchvision.datasets import ImageFolder

    if image_size < 1:
        raise DataError(f"images from the folder {root} need a size; set image_size=, for instance to 224")
    if image_size**2 > _PIXELS:
        raise DataError(f"images of {image_size} by {image_size} pixels have over {_PIXELS:,}; choose a smaller size")
    splits = {}
    held_out = "val" if (root / "val").is_dir() else "test"
    for split, folder in (("train", root / "train"), ("test", root / held_out)):
        if not folder.is_dir():
            raise DataError(f"no folder {folder}; an ImageNet-style folder has train/CLASS/* and val/CLASS/*")
        try:
            splits[split] = ImageFolder(str(folder))
        except (OSError, RuntimeError) as error:  # a folder that cannot be entered, too
            raise DataError(f"{folder}: {error}") from error
    if splits["train"].classes != splits["test"].classes:
        different = sorted(set(splits["train"].classes) ^ set(splits["test"].classes))
        raise DataError(f"{root}: train and {held_out} have different classes: {', '.join(different[:5])}")
    digest = hashlib.sha256(str(image_size).encode())
    for split, listing in splits.items():
        for path, label in listing.samples:
            try:
                size = Path(path).stat().st_size
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error.strerror}); repair or remove it") from error
            # A file's name need not be UTF-8.
            entry = f"{split} {Path(path).relative_to(root)} {size} {label}\n"
            digest.update(entry.encode("utf-8", "surrogateescape"))

    def as_split(listing: ImageFolder) -> Split:
        paths = tuple(path for path, _ in listing.samples)
        return Split(FolderImages(paths, image_size), torch.tensor([label for _, label in listing.samples]))

    return DataSet(
        name=name,
        train=as_split(splits["train"]),
        test=as_split(splits["test"]),
        classes=len(splits["train"].classes),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        note="",
        fingerprint=digest.hexdigest(),
    )


def _decode(path: str, draws: Tensor | None, size: int) -> Tensor:
    """Read one image as uint8 [3, size, size]: randomly cropped by `draws`, or centrally without."""
    from PIL import Image

    with contextlib.ExitStack() as held:
        try:
            file = held.enter_context(Image.open(held.enter_context(open_file(path)), formats=_FORMATS))
            pixels = math.prod(file.size)
            if file.mode.startswith(("I", "F")):
                raise DataError(f"{path}: has more than 8 bits per channel; convert it to 8")
            # A narrow one is resized until its shorter side has the size.
            resized = 0 if draws is not None else (size * _RESIZE) ** 2 * max(file.size) / min(file.size)
            if max(pixels, resized) > _PIXELS:
                shape = " by ".join(map(str, file.size))
                raise DataError(f"{path}: has {shape} pixels, at size {size} over {_PIXELS:,}; cut it or remove it")
            if pixels > _MANY:  # threads decode many photographs at once, but of those that fill memory one at a time
                held.enter_context(_LARGE)
            picture = file.convert("RGB")
        except DataError:
            raise
        except Exception as error:  # decoders raise a dozen kinds on what is damaged
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise DataError(f"{path}: cannot be decoded ({reason}); repair or remove it") from error
        return _crop(picture, draws, size)


def _crop(picture: Any, draws: Tensor | None, size: int) -> Tensor:
    from torchvision.transforms.v2 import functional as transforms

    image = transforms.pil_to_tensor(picture)
    if draws is None:
        image = transforms.resize(image, [round(size * _RESIZE)], antialias=True)
        return transforms.center_crop(image, [size, size])
    top, left, height, width, flip = resized_crop_box(image.shape[1], image.shape[2], draws)
    image = transforms.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    return transforms.horizontal_flip(image) if flip else image
