"""Data augmentation of whole batches, as a pure function of random numbers that the caller draws.

Every training example has `draws_per_example` uniform numbers per epoch. The caller draws them, so that augmentation
is a source of SGD noise that can be held or varied alone.
"""

import math

import torch
from torch import Tensor

from modeconn.errors import OptionError

PADDING = 4  # pixels, the crop of the CIFAR experiments
_DRAWS = {"none": 0, "flip": 1, "crop-flip": 3, "resized-crop-flip": 5}


def draws_per_example(augmentation: str) -> int:
    """Number of uniform numbers in [0, 1) that augmenting one example takes."""
    return _DRAWS[augmentation]


def augment(images: Tensor, draws: Tensor, augmentation: str) -> Tensor:
    """Augment images in memory; the input is left unchanged.

    `"crop-flip"` pads with black by 4 pixels, crops at a uniform position and flips half of the images, as
    torchvision's `RandomCrop(size, padding=4)` and `RandomHorizontalFlip()` do one image at a time.

    Args:
        images: uint8 [batch, channels, height, width].
        draws: float32 [batch, draws_per_example(augmentation)] in [0, 1).
        augmentation: `"none"`, `"flip"` or `"crop-flip"`.

    Raises:
        OptionError: `"resized-crop-flip"`, which needs an ImageNet-style folder.
    """
    if augmentation == "none":
        return images
    if augmentation == "flip":
        return _flip(images, draws[:, 0] < 0.5)
    if augmentation == "crop-flip":
        # Padding 4 leaves 9 positions along each axis: floor(9 u), uniform in 0, ..., 8.
        tops, lefts = (draws[:, :2] * (2 * PADDING + 1)).long().unbind(1)
        return _flip(_crop(images, tops, lefts), draws[:, 2] < 0.5)
    raise OptionError(f"augmentation {augmentation!r} needs an ImageNet-style folder, not images in memory")


def resized_crop_box(height: int, width: int, draws: Tensor) -> tuple[int, int, int, int, bool]:
    """Turn five uniform numbers into the box of a random resized crop: (top, left, height, width, flip).

    Area 8 % to 100 % and aspect ratio 3/4 to 4/3 (log-uniform), as torchvision's `RandomResizedCrop`, which draws
    again up to ten times where a box does not fit; here its longer side is cut to the image instead, so that the
    number of draws is fixed.
    """
    area, ratio, top, left, flip = draws.tolist()
    area = (0.08 + 0.92 * area) * height * width  # pixels
    ratio = math.exp((2 * ratio - 1) * math.log(4 / 3))  # width / height
    box_height = min(height, max(1, round(math.sqrt(area / ratio))))
    box_width = min(width, max(1, round(math.sqrt(area * ratio))))
    # Every position in which the box is inside the image is equally likely.
    top = int(top * (height - box_height + 1))
    left = int(left * (width - box_width + 1))
    return top, left, box_height, box_width, flip < 0.5


def _crop(images: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
    height, width = images.shape[2:]
    padded = torch.nn.functional.pad(images, [PADDING] * 4)
    # A view of all 81 crops of each image; indexing copies the one that each image needs, for the whole batch at once.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [batch, channels, tops, lefts, height, width]
    return windows.permute(0, 2, 3, 1, 4, 5)[torch.arange(len(images), device=images.device), tops, lefts]


def _flip(images: Tensor, which: Tensor) -> Tensor:
    return torch.where(which[:, None, None, None], images.flip(3), images)
