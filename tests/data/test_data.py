import resource
import shutil
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits

from modeconn.data import default_data_dir, load_data, normalize
from modeconn.errors import DataError, OptionError

CPU, META = torch.device("cpu"), torch.device("meta")
RNG = np.random.default_rng(0)
GREY = {
    "train_images": RNG.integers(0, 256, (12, 5, 7), dtype=np.uint8),
    "train_labels": np.arange(12) % 3,
    "test_images": RNG.integers(0, 256, (6, 5, 7), dtype=np.uint8),
    "test_labels": np.arange(6) % 3,
}
RGB = GREY | {
    "train_images": RNG.integers(0, 256, (12, 5, 7, 3), dtype=np.uint8),
    "test_images": RNG.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8),
}


def load(path, save=np.savez, **arrays):
    save(path, **arrays)
    return load_data(str(path), path.parent)


def pixels(split):
    return split.images.read(torch.arange(len(split))).numpy()


def test_digits_are_those_of_scikit_learn(tmp_path):
    data, original = load_data("digits", tmp_path), load_digits()
    assert (len(data.train), len(data.test), data.shape, data.classes) == (1437, 360, (1, 8, 8), 10)
    ours = np.concatenate([pixels(data.train), pixels(data.test)])
    ours = np.round(ours.reshape(1797, 64) * (16 / 255)).astype(int)
    labels = np.concatenate([data.train.labels, data.test.labels])
    pairs = {(*image, label) for image, label in zip(ours.tolist(), labels.tolist(), strict=True)}
    # All 1,797 are there and no two are the same, so no test image is a training image.
    assert len(pairs) == 1797
    expected = zip(original.data.astype(int).tolist(), original.target, strict=True)
    assert pairs == {(*image, label) for image, label in expected}
    assert set(data.train.labels.tolist()) == set(data.test.labels.tolist()) == set(range(10))


def test_digits_are_kept_as_one_file_that_reads_the_same(tmp_path):
    data = load_data("digits", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["digits.npz"]
    again = load_data(str(tmp_path / "digits.npz"))
    assert (again.fingerprint, again.name, again.classes) == (data.fingerprint, "digits", 10)


@pytest.mark.parametrize("arrays", [GREY, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_prepared_file_is_read_as_it_was_written(tmp_path, arrays, save):
    data = load(tmp_path / "mine.npz", save, **arrays)
    channels = 3 if arrays is RGB else 1
    assert (data.name, data.shape, data.classes, data.note) == ("mine", (channels, 5, 7), 3, "")
    for name, split in (("train", data.train), ("test", data.test)):
        image, label = arrays[f"{name}_images"], arrays[f"{name}_labels"]
        image = image.transpose(0, 3, 1, 2) if arrays is RGB else image[:, None]
        assert np.array_equal(pixels(split), image)
        assert np.array_equal(split.labels, label)
        assert (split.labels.dtype, split.images.read(torch.tensor([0])).dtype) == (torch.int64, torch.uint8)
        assert np.array_equal(split.images.read(torch.tensor([3, 0, 3])), image[[3, 0, 3]])
        assert data.split(name) is split


def test_a_note_is_read(tmp_path):
    assert load(tmp_path / "mine.npz", note="halved in size", **GREY).note == "halved in size"


def test_only_the_content_of_a_file_makes_its_fingerprint(tmp_path):
    fingerprint = load(tmp_path / "a.npz", **GREY).fingerprint
    assert fingerprint == load(tmp_path / "b.npz", np.savez_compressed, note="moved", **GREY).fingerprint
    # The same bytes as images of another shape.
    turned = {name: GREY[name].reshape(-1, 7, 5) for name in ("train_images", "test_images")}
    assert fingerprint != load(tmp_path / "c.npz", **GREY | turned).fingerprint


@pytest.mark.parametrize("name", GREY)
def test_the_fingerprint_changes_with_any_pixel_or_label(tmp_path, name):
    fingerprints = {load(tmp_path / "a.npz", **GREY).fingerprint}
    places = [0, GREY[name].size // 2, GREY[name].size - 1]
    for place in places:
        changed = GREY[name].copy()
        value = changed.flat[place]
        changed.flat[place] = (value + 1) % 3 if "labels" in name else value ^ 1
        fingerprints.add(load(tmp_path / f"{place}.npz", **GREY | {name: changed}).fingerprint)
    assert len(fingerprints) == 1 + len(places)


def test_a_file_that_has_changed_is_read_again(tmp_path):
    before = load(tmp_path / "a.npz", **GREY)
    after = load(tmp_path / "a.npz", **GREY | {"train_images": 255 - GREY["train_images"]})
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize("arrays", [GREY, RGB], ids=["grey", "rgb"])
def test_networks_see_what_numpy_normalizes(tmp_path, arrays):
    data = load(tmp_path / "a.npz", **arrays)
    train = pixels(data.train) / 255
    assert data.mean == pytest.approx(train.mean((0, 2, 3)), rel=1e-12)
    assert data.std == pytest.approx(train.std((0, 2, 3)), rel=1e-12)
    mean, std = train.mean((0, 2, 3), keepdims=True), train.std((0, 2, 3), keepdims=True)
    images = data.test.images.read(torch.arange(6))
    before = images.clone()
    seen = normalize(images, data)
    assert torch.equal(images, before)
    assert seen.dtype == torch.float32
    assert np.allclose(seen, (pixels(data.test) / 255 - mean) / std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0, 77, 200, 255])
@pytest.mark.parametrize("n", [1, 21, 45])
def test_a_channel_that_never_changes_becomes_zero(tmp_path, value, n):
    same = {"train_images": np.full((n, 1, 1), value, np.uint8), "train_labels": np.arange(n)}
    data = load(tmp_path / "a.npz", test_images=same["train_images"], test_labels=np.zeros(n, int), **same)
    assert data.std == (1.0,)
    assert normalize(data.train.images.read(torch.arange(n)), data).abs().max() < 1e-6


def test_moving_a_data_set_leaves_it_where_it_was(tmp_path):
    data = load(tmp_path / "a.npz", **RGB)
    for device in (META, CPU):
        moved = data.to(device)
        for split in (moved.train, moved.test):
            images = split.images.read(torch.arange(2))
            assert images.device == split.labels.device == normalize(images, moved).device == device
        assert data.train.labels.device == data.train.images.read(torch.arange(2)).device == CPU
    assert np.array_equal(pixels(moved.train), pixels(data.train))
    assert (moved.fingerprint, moved.classes) == (data.fingerprint, data.classes)


DOWNLOADED = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}


def downloads(monkeypatch, name, get):
    monkeypatch.setattr(torchvision.datasets, DOWNLOADED[name], get)


def failing(error):
    def get(*_, **__):
        raise error

    return get


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_downloaded_data_set_is_kept(tmp_path, monkeypatch, name):
    arrays = RGB if "cifar" in name else GREY

    def get(root, train, download):
        assert download
        images, labels = (arrays[f"{'train' if train else 'test'}_{kind}"] for kind in ("images", "labels"))
        # Like torchvision: arrays and lists for CIFAR, tensors for MNIST.
        as_given = (images, labels.tolist()) if "cifar" in name else map(torch.from_numpy, (images, labels))
        return SimpleNamespace(**dict(zip(("data", "targets"), as_given, strict=True)))

    downloads(monkeypatch, name, get)
    data = load_data(name, tmp_path)
    assert data.classes == (100 if name == "cifar100" else 10)
    assert data.fingerprint == load(tmp_path / "same.npz", **arrays).fingerprint
    (tmp_path / "same.npz").unlink()
    moved = shutil.copytree(tmp_path, tmp_path / "moved")
    downloads(monkeypatch, name, failing(URLError("no internet")))
    assert len(list(moved.iterdir())) == 1
    assert load_data(name, moved).fingerprint == data.fingerprint


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("file not found or corrupted")])
def test_a_failed_download_says_what_to_do_and_leaves_nothing(tmp_path, monkeypatch, error):
    downloads(monkeypatch, "mnist", failing(error))
    with pytest.raises(DataError, match=f"MNIST is not in {tmp_path}.*could not be downloaded.*data_dir="):
        load_data("mnist", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # bytes that a file can have
    try:
        with pytest.raises(DataError, match=r"cannot keep .*digits\.npz .*File too large.*data_dir="):
            load_data("digits", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_the_default_folder_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MODECONN_DATA", raising=False)
    assert default_data_dir() == tmp_path / "modeconn"
    monkeypatch.setenv("MODECONN_DATA", str(tmp_path / "here"))
    assert default_data_dir() == tmp_path / "here"


def test_a_missing_data_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path / 'none'} does not exist.*data_dir="):
        load_data("digits", tmp_path / "none")


def test_a_data_folder_that_is_a_file_is_said_to_be_none(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f"{tmp_path / 'file'} is no folder; point data_dir="):
        load_data("digits", tmp_path / "file")


def test_an_unknown_data_set_gets_near_names(tmp_path):
    with pytest.raises(OptionError, match="unknown data set 'cifar-10'; did you mean 'cifar10'"):
        load_data("cifar-10", tmp_path)


def images(*shape):
    return np.ones(shape, np.uint8)


NONE = np.zeros(0, int)
BAD = {
    "missing": ({"test_labels": None}, "lacks test_labels"),
    "float pixels": ({"train_images": images(12, 5, 7).astype("f4")}, "train_images must be uint8.*float32"),
    "wide pixels": ({"test_images": images(6, 5, 7).astype("i8")}, "test_images must be uint8.*int64"),
    "flat images": ({"train_images": images(12, 35)}, r"train_images.*\[12, 35\]"),
    "too many axes": ({"test_images": images(6, 1, 5, 7, 1)}, r"test_images.*\[6, 1, 5, 7, 1\]"),
    "no training images": ({"train_images": images(0, 5, 7), "train_labels": NONE}, "train_images.*0, 5, 7"),
    "no test images": ({"test_images": images(0, 5, 7), "test_labels": NONE}, "test_images.*0, 5, 7"),
    "no pixels": ({"train_images": images(12, 5, 0), "test_images": images(6, 5, 0)}, "train_images.*5, 0"),
    "two sizes": ({"test_images": images(6, 7, 5)}, r"differ in shape: \[5, 7\] and \[7, 5\]"),
    "grey and rgb": ({"test_images": images(6, 5, 7, 3)}, r"differ in shape: \[5, 7\] and \[5, 7, 3\]"),
    "too few labels": ({"train_labels": np.arange(11)}, "train_labels.*11.*12 images"),
    "too many labels": ({"test_labels": np.arange(7) % 3}, "test_labels.*7.*6 images"),
    "one-hot labels": ({"train_labels": np.eye(12, dtype=int)}, "train_labels must be one whole number"),
    "float labels": ({"test_labels": np.arange(6) / 2}, "test_labels must be one whole number.*float64"),
    "text labels": ({"train_labels": np.array(["cat"] * 12)}, "train_labels must be one whole number"),
    "pickled labels": ({"train_labels": np.array([0] * 12, dtype=object)}, "cannot be read"),
    "negative label": ({"train_labels": np.arange(12) - 1}, "train_labels out of range: -1 to 10"),
    "only negative": ({"train_labels": np.full(12, -1)}, "train_labels out of range"),
    "unknown class": ({"test_labels": np.full(6, 3)}, "test_labels out of range: 3 to 3.*0 to 2"),
}


@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD)
def test_a_wrong_array_is_named(tmp_path, changes, words):
    arrays = {name: array for name, array in (GREY | changes).items() if array is not None}
    with pytest.raises(DataError, match=f"{tmp_path / 'bad.npz'}: .*{words}"):
        load(tmp_path / "bad.npz", **arrays)


def test_a_label_beyond_the_classes_of_a_named_data_set_is_refused(tmp_path):
    np.savez(tmp_path / "mnist.npz", **GREY | {"train_labels": np.arange(12)})
    with pytest.raises(DataError, match="train_labels out of range: 0 to 11, where the classes are 0 to 9"):
        load_data("mnist", tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"no numbers here", "npy"], ids=str)
def test_a_file_that_is_no_npz_is_named(tmp_path, content):
    path = tmp_path / "bad.npz"
    if content == "npy":
        with path.open("wb") as file:
            np.save(file, GREY["train_images"])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        load_data(str(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_file_is_named(tmp_path, save):
    load(tmp_path / "whole.npz", save, **GREY)
    content = (tmp_path / "whole.npz").read_bytes()
    for length in range(0, len(content), 31):
        path = tmp_path / f"{length}.npz"
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=str(path)):
            load_data(str(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_byte_never_changes_the_data_unnoticed(tmp_path, save):
    data = load(tmp_path / "whole.npz", save, **GREY)
    content = (tmp_path / "whole.npz").read_bytes()
    for place in range(0, len(content), 11):
        path = tmp_path / f"{place}.npz"
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            read = load_data(str(path))
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:  # a byte that holds a date, say
            assert read.fingerprint == data.fingerprint
