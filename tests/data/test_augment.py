import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import v2

from modeconn.data.augment import augment, draws_per_example, resized_crop_box
from modeconn.errors import OptionError
from modeconn.tasks import AUGMENTATIONS

BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))  # the largest number that a generator can draw
IN_MEMORY = ("none", "flip", "crop-flip")


def random_images(n, channels=3, height=7, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, channels, height, width), dtype=np.uint8)


def uniform(n, columns, seed=0):
    return torch.rand(n, columns, generator=torch.Generator().manual_seed(seed))


def flipped_one_by_one(images, flips):
    pairs = zip(images, flips, strict=True)
    return np.stack([image[:, :, ::-1] if flip < 0.5 else image for image, flip in pairs])


def cropped_one_by_one(images, tops, lefts):
    crops = np.zeros_like(images)  # black, where the crop reaches beyond the image
    _, _, height, width = images.shape
    for crop, image, top, left in zip(crops, images, tops, lefts, strict=True):
        for row in range(height):
            for column in range(width):
                y, x = row + math.floor(9 * top) - 4, column + math.floor(9 * left) - 4
                if 0 <= y < height and 0 <= x < width:
                    crop[:, row, column] = image[:, y, x]
    return crops


@pytest.mark.parametrize("channels", [1, 3])
def test_crop_and_flip_are_those_of_a_plain_loop(channels):
    images, draws = random_images(60, channels), uniform(60, 3)
    expected = cropped_one_by_one(images, *draws[:, :2].T.double().numpy())
    expected = flipped_one_by_one(expected, draws[:, 2].numpy())
    assert np.array_equal(augment(torch.from_numpy(images), draws, "crop-flip").numpy(), expected)


def test_flip_is_that_of_a_plain_loop():
    images, draws = random_images(60), uniform(60, 1)
    expected = flipped_one_by_one(images, draws[:, 0].numpy())
    assert np.array_equal(augment(torch.from_numpy(images), draws, "flip").numpy(), expected)


def test_a_crop_is_one_that_torchvision_can_draw():
    image = torch.from_numpy(random_images(1))
    padded = v2.functional.pad(image, 4)
    for top in range(9):
        draws = torch.tensor([[(top + 0.5) / 9, 1.5 / 9, 0.9]])
        assert torch.equal(augment(image, draws, "crop-flip"), v2.functional.crop(padded, top, 1, 7, 9))


def test_the_middle_draw_without_a_flip_leaves_the_image():
    images = torch.from_numpy(random_images(5))
    assert torch.equal(augment(images, torch.full((5, 3), 0.5), "crop-flip"), images)


def test_the_ends_of_the_draws_are_the_corners():
    image = torch.from_numpy(random_images(1))
    lowest = augment(image, torch.tensor([[0.0, 0.0, 0.9]]), "crop-flip")
    assert torch.equal(lowest[..., 4:, 4:], image[..., :-4, :-4])
    assert not lowest[..., :4, :].any()
    highest = augment(image, torch.tensor([[BELOW_ONE, BELOW_ONE, 0.9]]), "crop-flip")
    assert torch.equal(highest[..., :-4, :-4], image[..., 4:, 4:])


def test_crops_and_flips_are_uniform_and_independent():
    n = 40_000
    image = torch.zeros(1, 1, 9, 10, dtype=torch.uint8)
    image[0, 0, 4, 4], image[0, 0, 4, 5] = (
        200,
        100,
    )  # in view wherever the crop is, and their order tells a flip
    seen = augment(image.expand(n, -1, -1, -1), uniform(n, 3), "crop-flip").flatten(1)
    bright, dim = (seen == 200).int().argmax(1).numpy(), (seen == 100).int().argmax(1).numpy()
    flips = dim < bright
    rows, columns = 8 - bright // 10, np.where(flips, 9 - bright % 10, bright % 10)
    counts = np.zeros((9, 9, 2))
    np.add.at(counts, (rows, 8 - columns, flips.astype(int)), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3  # 162 equally likely cells
    assert stats.chisquare(counts.sum((0, 1))).pvalue > 1e-3
    assert stats.chi2_contingency(counts.reshape(81, 2)).pvalue > 1e-3


def test_half_of_the_images_are_flipped():
    images = torch.arange(2, dtype=torch.uint8).expand(10_000, 1, 1, 2)
    flips = int(augment(images, uniform(10_000, 1), "flip")[:, 0, 0, 0].sum())
    assert stats.binomtest(flips, 10_000).pvalue > 1e-3


@pytest.mark.parametrize("name", IN_MEMORY)
def test_images_and_draws_are_left_unchanged(name):
    images, draws = torch.from_numpy(random_images(20)), uniform(20, draws_per_example(name))
    before = images.clone(), draws.clone()
    augmented = augment(images, draws, name)
    assert torch.equal(images, before[0])
    assert torch.equal(draws, before[1])
    assert (augmented.shape, augmented.dtype) == (images.shape, torch.uint8)
    assert torch.equal(augmented, images) == (name == "none")


@pytest.mark.parametrize("name", IN_MEMORY)
def test_an_image_is_augmented_the_same_alone_or_in_a_batch(name):
    images, draws = torch.from_numpy(random_images(20)), uniform(20, draws_per_example(name))
    alone = [augment(images[i : i + 1], draws[i : i + 1], name) for i in range(20)]
    assert torch.equal(torch.cat(alone), augment(images, draws, name))


def test_an_empty_batch_stays_empty():
    images = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    assert augment(images, torch.zeros(0, 3), "crop-flip").shape == images.shape


def test_every_augmentation_of_a_task_says_how_many_draws_it_needs():
    assert [draws_per_example(name) for name in AUGMENTATIONS] == [0, 1, 3, 5]


@pytest.mark.parametrize("name", ["resized-crop-flip", "crop"])
def test_what_images_in_memory_cannot_have_is_named(name):
    with pytest.raises(OptionError, match=name):
        augment(torch.from_numpy(random_images(2)), uniform(2, 5), name)


draw = st.floats(0, BELOW_ONE, width=32)
draws_of_a_box = st.lists(draw, min_size=5, max_size=5)
side = st.integers(1, 3000)


@given(side, side, draws_of_a_box)
def test_a_resized_crop_is_inside_the_image(height, width, draws):
    top, left, box_height, box_width, flip = resized_crop_box(height, width, torch.tensor(draws))
    assert 0 <= top < top + box_height <= height
    assert 0 <= left < left + box_width <= width
    assert flip == (draws[4] < 0.5)


@given(draws_of_a_box)
def test_a_resized_crop_that_fits_has_the_area_and_ratio_of_its_draws(draws):
    side = 10**6  # so that whole pixels do not matter
    _, _, height, width, _ = resized_crop_box(side, side, torch.tensor(draws))
    area, ratio = height * width / side**2, width / height
    # A box that is too long for the image is cut, so area is lost and the ratio comes nearer to 1.
    fits = max(height, width) < side
    assert area <= 0.08 + 0.92 * draws[0] + 1e-4
    assert 3 / 4 - 1e-4 <= ratio <= 4 / 3 + 1e-4
    if fits:
        assert area == pytest.approx(0.08 + 0.92 * draws[0], rel=1e-4)
        assert math.log(ratio) == pytest.approx((2 * draws[1] - 1) * math.log(4 / 3), abs=1e-4)


@given(side, side, draws_of_a_box)
def test_a_resized_crop_reaches_every_edge(height, width, draws):
    area, ratio = draws[:2]
    assert resized_crop_box(height, width, torch.tensor([area, ratio, 0, 0, 0]))[:2] == (0, 0)
    box = resized_crop_box(height, width, torch.tensor([area, ratio, BELOW_ONE, BELOW_ONE, 0]))
    assert (box[0] + box[2], box[1] + box[3]) == (height, width)


def test_the_places_of_a_resized_crop_are_uniform():
    draws = [torch.tensor([0.2, 0.5, *place, 0.5]) for place in uniform(3000, 2).tolist()]
    boxes = [resized_crop_box(20, 20, five) for five in draws]
    places = 20 - boxes[0][2] + 1
    counts = np.zeros((places, places))
    for top, left, *_ in boxes:
        counts[top, left] += 1
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
