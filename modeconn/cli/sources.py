"""The networks and data that a command is given, and the files of what it found. Imports torch only to work."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modeconn.cli.options import import_path, show
from modeconn.errors import DataError, OptionError
from modeconn.reading import is_file

_DATA = "a data set (digits, mnist, ...), a prepared .npz, an .npz with inputs and targets, or package.module:function"
_LONGEST = 24  # letters of a network's name in a folder's
_MODEL = (
    "the architecture: package.module:function, whose code is run, or a name such as resnet-20; of a stored run only "
    "needed where it is such code, as your word that you trust it"
)


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the networks, and how they are read."""
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="a file (.safetensors, .pt, .pth, .ckpt), a Hugging Face folder, the folder of a LoRA adapter, or that of "
        "a stored run's state",
    )
    parser.add_argument("--model", type=import_path, help=_MODEL)
    parser.add_argument(
        "--checkpoint-key",
        metavar="KEY",
        help="of files with several state dicts, the one to read: state_dict_ema, model_ema, ... (default: weights)",
    )


def add_data(parser: argparse.ArgumentParser, what: str, split: str) -> None:
    """Add the data, what they are for, and the split that is taken by default."""
    without = "; not needed for stored runs" if split == "test" else ""
    parser.add_argument("--data", type=import_path, help=f"{what}: {_DATA}{without}")
    parser.add_argument(
        "--normalize",
        metavar="none|MEAN,STD|imagenet",
        help="how images of a data set or a prepared .npz reach the networks: pixel / 255, minus MEAN, over STD "
        "(default: the mean and standard deviation of the training images); other data are taken as they are",
    )
    of = "a data set or a stored run" if split == "test" else "a data set"
    parser.add_argument("--split", default=split, help=f"of {of}: test or train (default: {split})")


def model_of(
    options: argparse.Namespace, shape: tuple[int, int, int] | None, classes: int | None
) -> Callable[[], Any] | str | None:
    """The architecture, of an input's shape and so many classes where it is given by a name."""
    from modeconn.models import build_network, import_function

    text: str | None = options.model
    if text is None or has_stored_run(options):
        return text  # of a stored run it is no more than the user's word
    if shape is not None and classes is not None:
        return lambda: build_network(text, shape, classes, seed=0)
    if ":" not in text:
        raise OptionError(f"the shape of network {text} follows from a data set's name or prepared file in --data")
    return import_function(text)


def has_stored_run(options: argparse.Namespace) -> bool:
    """Whether one of the networks is the folder of a stored state."""
    return any(is_file(Path(network) / "spec.json") for network in options.networks)


def data_of(
    options: argparse.Namespace, needed: bool = True
) -> tuple[Any, Any, tuple[int, int, int] | None, int | None]:
    """The data, training data to calibrate on, and an input's shape and the number of classes, where known.

    Raises:
        OptionError: no data were given though they are needed, and no stored run knows its own.
    """
    from modeconn.models import import_function

    calibration = None if options.calibration is None else load_given(options.calibration)
    text = options.data
    if options.normalize is not None and (
        text is None or ":" in text or (text.endswith(".npz") and not _is_prepared(text))
    ):
        raise OptionError(
            "--normalize is for images of a data set or a prepared .npz in --data; stored runs know theirs, and other "
            "data are taken as they are"
        )
    if text is None and not needed and not has_stored_run(options):
        return None, calibration, None, None
    if text is None and not has_stored_run(options):
        raise OptionError(f"give --data: {_DATA}; only stored runs know their own")
    if text is None:
        return options.split, calibration, None, None
    if ":" in text:
        return import_function(text)(), calibration, None, None
    if not text.endswith(".npz") or _is_prepared(text):
        from modeconn.data import load_data, normalized_by
        from modeconn.training.splits import SplitBatches

        data = load_data(text, options.data_dir)
        data = data if options.normalize is None else normalized_by(data, options.normalize)
        if options.split not in ("test", "train"):
            raise OptionError(f"--split is test or train; got {options.split!r}")
        calibration = SplitBatches(data, "train") if calibration is None else calibration
        return SplitBatches(data, options.split), calibration, data.shape, data.classes
    return load_given(text), calibration, None, None


def load_given(text: str) -> Any:
    """Data from an import path, or from an .npz with inputs and targets."""
    from modeconn.data.npz import names_in_npz, read_npz
    from modeconn.models import import_function

    if ":" in text:
        return import_function(text)()
    found = names_in_npz(text)
    inputs = next((name for name in ("inputs", "x", "images") if name in found), None)
    targets = next((name for name in ("targets", "y", "labels") if name in found), None)
    if inputs is None or targets is None:
        raise DataError(
            f"{text} holds {', '.join(found) or 'nothing'}; it should hold inputs (or x, images), as the network takes "
            "them, and targets (or y, labels)"
        )
    arrays = read_npz(text, (inputs, targets))
    for name, kinds in ((inputs, "biufc"), (targets, "biuf")):
        kind = arrays[name].dtype
        if kind.kind not in kinds or kind.name in ("longdouble", "clongdouble", "float128", "complex256"):
            raise DataError(f"{text}: {name} is of {kind}; it should hold numbers that PyTorch has, such as float32")
    return arrays[inputs], arrays[targets]


def named_after(networks: Sequence[str]) -> str:
    """What a folder of results is called after the networks that it compares.

    >>> named_after(["runs/mlp0.pt", "mlp1.safetensors"])
    'mlp0-mlp1'
    >>> named_after(["a/model.safetensors", "b/model.safetensors", "c/model.safetensors", "d/model.safetensors"])
    'a-model-b-model-and-2-more'
    """
    paths = [Path(network).absolute() for network in networks]
    stems = [path.stem for path in paths]
    if len(set(stems)) < len(stems):  # checkpoints of one name are told apart by their folders
        stems = [f"{path.parent.name}-{path.stem}" for path in paths]
    short = [re.sub(r"[^\w.-]+", "_", stem)[:_LONGEST] for stem in stems]
    return "-".join(short[:2]) + (f"-and-{len(short) - 2}-more" if len(short) > 2 else "")


def save_result(result: Any, folder: Path, name: str, options: argparse.Namespace) -> None:
    """Print a result, whose notes name options of the command, and write it as JSON and CSV with its figure."""
    from modeconn.files import writing
    from modeconn.result import write_csv

    show(result, options)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    result.to_json(folder / f"{name}.json")
    write_csv(folder / f"{name}.csv", result.rows())
    save_axes(result.plot(), folder, name)
    print(f"\nFiles: {folder}/{name}.json, .csv, .png, .pdf\n")


def save_axes(axes: Any, folder: Path, name: str) -> None:
    """Write the figure of some axes as PNG and PDF."""
    from modeconn.style import save_figure

    save_figure(axes.figure, folder / name)


def _is_prepared(file: str) -> bool:
    from modeconn.data.npz import names_in_npz

    return "test_images" in names_in_npz(file)
