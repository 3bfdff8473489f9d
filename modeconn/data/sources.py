"""Sources of data sets: scikit-learn, torchvision, a prepared `.npz`, or an ImageNet-style folder.

Whatever comes from elsewhere is kept as one prepared `.npz` in the data folder and read from there:

    train_images  uint8 [N, H, W] or [N, H, W, C]      test_images  likewise
    train_labels  integers [N]                         test_labels  likewise
    note          str, how these pixels differ from the published data set (optional)
"""

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from modeconn.data.dataset import DataSet, MemoryImages, Split, fingerprint, hold_out, normalized_by, pixel_statistics
from modeconn.data.folder import load_folder
from modeconn.data.npz import read_npz
from modeconn.errors import DataError, unknown
from modeconn.files import replacing
from modeconn.reading import is_file, is_folder

# A file names as many classes as it has training images at most, or so many: one stray label would be a layer of them.
_CLASSES = 1000
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def default_data_dir() -> Path:
    """The folder of prepared data sets: `$MODECONN_DATA`, or one in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MODECONN_DATA") or Path(cache) / "modeconn")


def load_data(
    name: str | os.PathLike[str],
    data_dir: str | Path | None = None,
    image_size: int = 0,
    validation: int = 0,
    normalize: str = "",
) -> DataSet:
    """Load a data set by name, by the path of a prepared `.npz`, or by the path of an ImageNet-style folder.

    Args:
        name: `digits`, `mnist`, `fashion-mnist` (or `fashion_mnist`), `cifar10`, `cifar100`, `imagenet`, or a path.
        data_dir: where prepared files are looked for and kept; must exist if given.
        image_size: side of the square images that are cut from a folder; 0 for images in memory.
        validation: how many training examples to hold out; see `modeconn.data.dataset.hold_out`.
        normalize: how pixels reach networks; see `modeconn.data.dataset.normalized_by`. Empty: by mean and deviation of
            the training images, or those of ImageNet for a folder.

    Raises:
        OptionError: unknown name, too many examples held out, or no such scaling.
        DataError: missing, empty, truncated, of the wrong shape, or with labels out of range.
    """
    data = _load(os.fspath(name), data_dir, image_size)
    data = _normalized_by(data, normalize) if normalize else data
    return _hold_out(data, validation) if validation else data


# All jobs of a study hold out the same examples, so the last results are kept.
_hold_out = functools.lru_cache(maxsize=2)(hold_out)
_normalized_by = functools.lru_cache(maxsize=2)(normalized_by)


def _load(name: str, data_dir: str | Path | None, image_size: int) -> DataSet:
    if data_dir is not None and not is_folder(data_dir):
        wrong = "is no folder; " if os.path.exists(data_dir) else "does not exist; create it, or "
        raise DataError(f"the data folder {data_dir} {wrong}point data_dir= elsewhere")
    folder = Path(data_dir).absolute() if data_dir is not None else default_data_dir().absolute()
    if name.replace("_", "-") in _SOURCES:
        name = name.replace("_", "-")
    if name.endswith(".npz"):
        path, classes = Path(name).absolute(), None
    elif name in _SOURCES:
        file, classes, fetch = _SOURCES[name]
        path = folder / file
        if not path.exists():
            _write_prepared(path, fetch(folder))
    elif name == "imagenet" or os.sep in name:
        path = folder / name if name == "imagenet" else Path(name).absolute()
        return _load_folder(path, path.name, image_size)
    else:
        raise unknown("data set", name, [*_SOURCES, "imagenet", "path/to/prepared.npz", "path/to/folder"])
    if not is_file(path):
        raise DataError(f"no data file {path}")
    status = path.stat()
    return _load_prepared(path, Path(name).stem, classes, (status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=2)
def _load_prepared(path: Path, name: str, classes: int | None, version: tuple[int, int]) -> DataSet:
    """Read a file, and keep it in memory for the next job; one with another time or size (`version`) is read again."""
    return read_prepared(path, name, classes)


# A folder's listing is kept for the life of the process: to list a million files again for every job takes longer.
_load_folder = functools.lru_cache(maxsize=2)(load_folder)


def read_prepared(path: Path, name: str, classes: int | None = None) -> DataSet:
    """Read and check the data set in a prepared `.npz`.

    Args:
        path: the file.
        name: how to call the data set.
        classes: number of classes; one more than the largest training label if None.

    Raises:
        DataError: names the file, the array and what is wrong with it.
    """
    arrays = _read_arrays(path)
    for split in ("train", "test"):
        _check_split(path, split, arrays[f"{split}_images"], arrays[f"{split}_labels"])
    if arrays["train_images"].shape[1:] != arrays["test_images"].shape[1:]:
        shapes = [list(arrays[f"{split}_images"].shape[1:]) for split in ("train", "test")]
        raise DataError(f"{path}: train and test images differ in shape: {shapes[0]} and {shapes[1]}")
    if classes is None:
        classes, images = int(arrays["train_labels"].max()) + 1, len(arrays["train_images"])
        if classes > max(images, _CLASSES):
            raise DataError(
                f"{path}: train_labels go up to {classes - 1:,}, with {images:,} images; number the classes from 0"
            )
    for split in ("train", "test"):
        low, high = int(arrays[f"{split}_labels"].min()), int(arrays[f"{split}_labels"].max())
        if low < 0 or high >= classes:
            known = f"the classes are 0 to {classes - 1}"
            raise DataError(f"{path}: {split}_labels out of range: {low} to {high}, where {known}")
    pixels = {split: _channels_first(arrays[f"{split}_images"]) for split in ("train", "test")}
    labels = {split: torch.from_numpy(arrays[f"{split}_labels"].astype(np.int64)) for split in ("train", "test")}
    mean, std = pixel_statistics(pixels["train"])
    return DataSet(
        name=name,
        train=Split(MemoryImages(pixels["train"]), labels["train"]),
        test=Split(MemoryImages(pixels["test"]), labels["test"]),
        classes=classes,
        mean=mean,
        std=std,
        note=str(arrays["note"]),
        fingerprint=fingerprint(pixels["train"], labels["train"], pixels["test"], labels["test"]),
    )


def _check_split(path: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape or images.shape[3:] > (4,):
        found = f"{images.dtype} {list(images.shape)}"
        raise DataError(f"{path}: {split}_images must be uint8 [N, H, W] or [N, H, W, C], C up to 4; it is {found}")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        found = f"{labels.dtype} {list(labels.shape)} for {len(images)} images"
        raise DataError(f"{path}: {split}_labels must be one whole number per image; it is {found}")


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    found = read_npz(path, (*_ARRAYS, "note"))
    if missing := [name for name in _ARRAYS if name not in found]:
        raise DataError(f"{path}: lacks {', '.join(missing)}; a prepared file holds {', '.join(_ARRAYS)}")
    return {"note": np.array("")} | found


def _channels_first(images: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    return tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2).contiguous()


def _write_prepared(path: Path, arrays: dict[str, np.ndarray]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # By an open file: NumPy would append ".npz" to a temporary name.
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise DataError(f"cannot keep {path} ({error}); point data_dir= to a folder with room") from error


def _fetch_digits(_: Path) -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # 17 grey levels, each kept distinct
    # The file has no split of its own. Every fifth image is a test image, so that all writers are in both.
    test = np.arange(len(images)) % 5 == 0
    return {
        "train_images": images[~test],
        "train_labels": digits.target[~test],
        "test_images": images[test],
        "test_labels": digits.target[test],
    }


def _from_torchvision(class_name: str) -> Callable[[Path], dict[str, np.ndarray]]:
    def fetch(data_dir: Path) -> dict[str, np.ndarray]:
        import torchvision

        arrays = {}
        with tempfile.TemporaryDirectory() as downloads:
            for split in ("train", "test"):
                try:
                    data_set = getattr(torchvision.datasets, class_name)(
                        downloads, train=split == "train", download=True
                    )
                except (OSError, RuntimeError) as error:
                    reason = " ".join(str(error).split())
                    raise DataError(
                        f"{class_name} is not in {data_dir} and could not be downloaded ({reason}); "
                        "connect to the internet once, or point data_dir= to a folder with the prepared .npz"
                    ) from error
                arrays[f"{split}_images"] = np.asarray(data_set.data)
                arrays[f"{split}_labels"] = np.asarray(data_set.targets)
        return arrays

    return fetch


# name: prepared file, number of classes, function that gets it
_SOURCES: dict[str, tuple[str, int, Callable[[Path], dict[str, np.ndarray]]]] = {
    "digits": ("digits.npz", 10, _fetch_digits),
    "mnist": ("mnist.npz", 10, _from_torchvision("MNIST")),
    "fashion-mnist": ("fashion_mnist.npz", 10, _from_torchvision("FashionMNIST")),
    "cifar10": ("cifar10.npz", 10, _from_torchvision("CIFAR10")),
    "cifar100": ("cifar100.npz", 100, _from_torchvision("CIFAR100")),
}
