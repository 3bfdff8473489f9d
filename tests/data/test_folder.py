import contextlib
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeconn.data import load_data
from modeconn.data.folder import load_folder
from modeconn.errors import DataError, ModeconnError

META = torch.device("meta")
RNG = np.random.default_rng(1)


def pixels(split):
    return split.images.read(torch.arange(len(split))).numpy()


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return array


@pytest.fixture
def folder(tmp_path):
    """Random images, 16 pixels high: so high are those made from which the middle 14 are cut."""
    for path in ("train/cat/0", "train/cat/1", "train/dog/0", "val/cat/0", "val/dog/0", "val/dog/1"):
        write(tmp_path / "pets" / f"{path}.png", RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8))
    return tmp_path / "pets"


def test_a_folder_is_read_by_class(folder):
    data = load_data(str(folder), image_size=14)
    assert (data.name, data.classes, data.shape, data.note) == ("pets", 2, (3, 14, 14), "")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 0, 1], [0, 1, 1])
    for split, place, path in ((data.train, 2, "train/dog/0.png"), (data.test, 1, "val/dog/0.png")):
        middle = np.asarray(Image.open(folder / path))[1:15, 5:19]
        assert np.array_equal(pixels(split)[place], middle.transpose(2, 0, 1))
    assert data.to(META).train.images.read(torch.tensor([0])).device == META


def test_imagenet_is_a_folder_of_that_name(folder):
    (folder / "val").rename(folder / "test")
    folder.rename(folder.parent / "imagenet")
    assert len(load_data("imagenet", folder.parent, 14).test) == 3


def added(folder, name, array):
    """An image of 16 x 16 pixels as it is read from a file, and the middle of what Pillow reads there."""
    write(folder / "train/cat" / name, array)
    images = load_data(str(folder), image_size=14).train.images
    read = images.read(torch.tensor([[Path(path).name for path in images.paths].index(name)]))
    assert read.dtype == torch.uint8
    return read[0].numpy().astype(int), np.asarray(Image.open(folder / "train/cat" / name))[1:15, 1:15]


def test_a_grey_image_has_three_equal_channels(folder):
    read, grey = added(folder, "grey.png", RNG.integers(0, 256, (16, 16), dtype=np.uint8))
    assert np.array_equal(read, [grey, grey, grey])


def test_a_jpeg_is_read_as_pillow_reads_it(folder):
    smooth = np.add.outer(np.arange(16), np.arange(16))[..., None] * np.array([4, 5, 6])
    read, there = added(folder, "smooth.jpeg", smooth.astype(np.uint8))
    assert np.abs(read - there.transpose(2, 0, 1)).max() <= 2  # decoders round differently


def test_an_image_of_16_bits_is_scaled_to_8_or_refused(folder):
    with contextlib.suppress(DataError):
        read, deep = added(folder, "deep.png", RNG.integers(0, 2**16, (16, 16), dtype=np.uint16))
        assert np.abs(read - deep / 257).max() <= 1


def test_a_resized_crop_is_where_its_draws_say(folder):
    # Named so that it comes first.
    quarters = np.kron([[10, 60], [120, 250]], np.ones((32, 32)))[..., None].repeat(3, 2).astype(np.uint8)
    write(folder / "train/cat/-1.png", quarters)
    images = load_data(str(folder), image_size=64).train.images

    def read(*draws):
        read = images.read_augmented(torch.tensor([0]), torch.tensor([draws]), "resized-crop-flip")
        return read[0, 0].numpy()

    assert np.array_equal(read(0.9999999, 0.5, 0, 0, 0.5), quarters[..., 0])
    assert np.array_equal(read(0.9999999, 0.5, 0, 0, 0.4), quarters[:, ::-1, 0])
    for top in (0, 0.999):
        for left in (0, 0.999):
            assert (read(0.1, 0.5, top, left, 0.5) == quarters[int(63 * top), int(63 * left), 0]).all()
            assert (read(0.1, 0.5, top, left, 0.4) == quarters[int(63 * top), int(63 * left), 0]).all()


def test_a_folder_without_augmentation_is_read_plainly(folder):
    images, which = load_data(str(folder), image_size=14).train.images, torch.tensor([2, 0])
    assert torch.equal(images.read_augmented(which, torch.rand(2, 0), "none"), images.read(which))
    with pytest.raises(ModeconnError, match="crop-flip"):
        images.read_augmented(which, torch.rand(2, 3), "crop-flip")


CHANGES = {
    "name": lambda folder: (folder / "train/cat/0.png").rename(folder / "train/cat/2.png"),
    "length": lambda folder: write(folder / "val/cat/0.png", np.zeros((30, 30), np.uint8)),
    "class": lambda folder: (folder / "train/cat/0.png").rename(folder / "train/dog/2.png"),
    "split": lambda folder: (folder / "train/cat/0.png").rename(folder / "val/cat/2.png"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_is_known_by_its_files(folder, change):
    other = shutil.copytree(folder, folder.parent / "copy")
    fingerprint = load_data(str(folder), image_size=14).fingerprint
    assert fingerprint == load_data(str(other), image_size=14).fingerprint
    assert fingerprint != load_data(str(other), image_size=15).fingerprint
    changed = shutil.copytree(folder, folder.parent / "changed")
    CHANGES[change](changed)
    assert fingerprint != load_data(str(changed), image_size=14).fingerprint


BAD_FOLDERS = {
    "no folder": (lambda folder: shutil.rmtree(folder), "no folder .*pets/train"),
    "no train": (lambda folder: shutil.rmtree(folder / "train"), "no folder .*pets/train"),
    "no val": (lambda folder: shutil.rmtree(folder / "val"), "no folder .*train/CLASS.*val/CLASS"),
    "no classes": (lambda folder: (shutil.rmtree(folder / "val"), (folder / "val").mkdir()), "pets/val: "),
    "an empty class": (lambda folder: (folder / "val/cat/0.png").unlink(), "pets/val: .*cat"),
    "another class": (lambda folder: (folder / "val/cat").rename(folder / "val/cow"), "classes: cat, cow"),
    "a class more": (lambda folder: shutil.copytree(folder / "val/cat", folder / "val/cow"), "classes: cow"),
}


@pytest.mark.parametrize(("damage", "words"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_bad_folder_is_named(folder, damage, words):
    damage(folder)
    with pytest.raises(DataError, match=words):
        load_data(str(folder), image_size=14)


@pytest.mark.parametrize("size", [0, -1])
def test_a_folder_needs_an_image_size(folder, size):
    with pytest.raises(DataError, match=f"{folder}.*image_size="):
        load_data(str(folder), image_size=size)


@pytest.mark.parametrize("length", [None, 0, 10, 600], ids=["gone", "empty", "a stub", "cut"])
def test_an_image_that_cannot_be_read_is_named(folder, length):
    path = folder / "train/cat/1.png"
    images = load_data(str(folder), image_size=14).train.images
    if length is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=str(path)):
        images.read(torch.tensor([0, 1]))


def _photos(root: Path, content: bytes, name: str = "0.png") -> Path:
    for split in ("train", "val"):
        (root / split / "a").mkdir(parents=True)
        (root / split / "a" / name).write_bytes(content)
    return root


def _png(*size: int, mode: str = "1") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_png(14_000, 14_000), "cannot be decoded|14000 by 14000 pixels"),
        (_png(9_500, 9_500), "9500 by 9500 pixels, at size 8 over 89,478,485"),
        (_png(1, 2_000_000), "1 by 2000000 pixels"),  # whose resized copy would be 9 by 18 million
        (_png(50, 50, mode="RGB")[:40], "cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "cannot be decoded"),  # for Ghostscript
        (b"", "cannot be decoded"),
    ],
    ids=["a bomb", "large", "narrow", "cut", "PostScript", "empty"],
)
def test_images_that_would_fill_memory_or_run_are_named(tmp_path, content, words):
    data = load_folder(_photos(tmp_path, content), "photos", 8)
    with pytest.raises(DataError, match=rf"0\.png: .*({words})"):
        data.train.images.read(torch.arange(1))


def test_names_that_are_not_utf8_and_pipes_and_broken_links(tmp_path):
    name = os.fsdecode(b"\xff.png")
    data = load_folder(_photos(tmp_path / "odd", _png(5, 5), name), "photos", 8)
    assert data.train.images.read(torch.arange(1)).shape == (1, 3, 8, 8)
    link = _photos(tmp_path / "link", _png(5, 5)) / "train" / "a" / "1.png"
    link.symlink_to("/nowhere/x.png")
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        load_folder(tmp_path / "link", "photos", 8)
    link.unlink()
    os.mkfifo(link)  # to open it would wait for a writer
    with pytest.raises(DataError, match="a pipe or a device"):
        load_folder(tmp_path / "link", "photos", 8).train.images.read(torch.arange(2))
