"""The commands on networks that exist: barrier, soup. Imports torch only to work."""

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeconn.errors import DataError, OptionError

_DATA = "a data set (digits, mnist, ...), a prepared .npz, an .npz with inputs and targets, or package.module:function"
_MODEL = "the architecture: package.module:function, or a name such as resnet-20; not needed for stored runs"


def barrier(options: argparse.Namespace) -> None:
    """Walk the path between two networks, or between all pairs of more."""
    from modeconn.cli.progress import progress_bar

    how, data = _how(options)
    better = {"higher_is_better": options.higher_is_better}
    path = {"alphas": options.alphas, "tolerance": options.tolerance, **better}
    folder = options.out or Path("modeconn-results") / _folder_name("barrier", options)
    if len(options.networks) < 2:
        raise OptionError("give at least two networks")
    if len(options.networks) > 2:
        if options.layerwise or options.features or options.decide is not None:
            raise OptionError("--layerwise, --features and --decide compare two networks")
        from modeconn.analysis.connectivity.matrix import barrier_matrix

        with progress_bar() as report:
            matrix = barrier_matrix(options.networks, data, report=report, **path, **how)
        _save(matrix, folder, "matrix")
        return
    a, b = options.networks
    from modeconn.analysis.connectivity.error_barrier import error_barrier

    asked = {"extrapolate": options.extrapolate, "error_probability": options.error_probability}
    asked["decide"] = None if options.decide is None else options.decide / 100
    with progress_bar() as report:
        result = error_barrier(a, b, data, report=report, **asked, **path, **how)
    _save(result, folder, "barrier")
    if options.layerwise:
        from modeconn.analysis.connectivity.layerwise import layerwise_barrier

        with progress_bar() as report:
            layers = layerwise_barrier(a, b, data, report=report, **better, **how)
        _save(layers, folder, "layerwise")
    if options.features:
        from modeconn.analysis.connectivity.features import feature_connectivity

        with progress_bar() as report:
            features = feature_connectivity(a, b, data, report=report, **how)
        _save(features, folder, "features")


def soup(options: argparse.Namespace) -> None:
    """Average networks, if that is any good."""
    from modeconn.analysis.connectivity.soup import soup as make_soup
    from modeconn.cli.progress import progress_bar

    how, data = _how(options)
    with progress_bar() as report:
        result = make_soup(
            options.networks,
            data,
            options.kind,
            gate=None if options.gate is None else options.gate / 100,
            higher_is_better=options.higher_is_better,
            report=report,
            **how,
        )
    print(result)
    if options.kind == "greedy" and options.split == "test" and ":" not in (options.data or ""):
        print("Note: members were chosen on the test split, so the soup's error there is too low for an estimate.")
    result.save(options.out)
    print(f"Weights: {options.out}")


def add_commands(
    commands: Any, add: Callable[..., argparse.ArgumentParser], parse: dict[str, Callable[[str], Any]]
) -> None:
    """Add the commands to the parser.

    Args:
        commands: argparse's subparsers.
        add: makes the parser of one.
        parse: types of options that are shared with other commands: `names` and `alphas`.
    """
    path = add(commands, barrier, "how high the path between two trained networks rises; of more, between all pairs")
    _add_networks(path, parse)
    path.add_argument(
        "--alphas",
        type=parse["alphas"],
        default=31,
        metavar="N|A,B",
        help="points on a path: how many, which (0,0.5,1), paper (30), or adaptive (default: 31)",
    )
    path.add_argument(
        "--tolerance",
        type=float,
        default=0.001,
        metavar="X",
        help="to which adaptive alphas find the highest point, as a fraction of error (default: 0.001)",
    )
    path.add_argument("--extrapolate", action="store_true", help="allow alphas outside [0, 1]")
    path.add_argument(
        "--decide",
        type=float,
        metavar="X",
        help="only decide whether the error barrier is above so many points, from as few examples as it takes",
    )
    path.add_argument(
        "--error-probability",
        type=float,
        default=0.001,
        metavar="P",
        help="with which the full count may say otherwise, at most (default: 0.001)",
    )
    path.add_argument("--layerwise", action="store_true", help="also one layer at a time (Adilova et al. 2024)")
    path.add_argument("--features", action="store_true", help="also the linearity of features (Zhou et al. 2023)")
    path.add_argument("--out", type=Path, help="folder of results (default: in modeconn-results)")

    mixed = add(commands, soup, "average networks, uniformly or greedily, where no barrier is between them")
    _add_networks(mixed, parse)
    mixed.add_argument("--kind", default="greedy", help="greedy or uniform (default: greedy)")
    mixed.add_argument(
        "--gate",
        type=lambda text: None if text == "none" else float(text),
        default=2.0,
        metavar="X|none",
        help="leave out networks behind a barrier of so many points of error (default: 2)",
    )
    mixed.add_argument("--out", type=Path, default=Path("soup.safetensors"), help="file (default: soup.safetensors)")


def _add_networks(parser: argparse.ArgumentParser, parse: dict[str, Callable[[str], Any]]) -> None:
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="a file (.safetensors, .pt, .pth, .ckpt), a Hugging Face folder, or the folder of a stored run's state",
    )
    parser.add_argument("--model", help=_MODEL)
    parser.add_argument("--data", help=f"what errors are measured on: {_DATA}; not needed for stored runs")
    parser.add_argument("--split", default="test", help="of a data set or a stored run: test or train (default: test)")
    parser.add_argument(
        "--evaluate",
        default="auto",
        help="auto, classification, regression, tokens, next-token, or package.module:function (default: auto)",
    )
    parser.add_argument(
        "--higher-is-better",
        type=parse["names"],
        default=(),
        metavar="A,B",
        help="metrics of yours that fall on a barrier",
    )
    parser.add_argument(
        "--batchnorm",
        help="BatchNorm's running statistics on the path: interpolate, recalibrate or repair",
    )
    parser.add_argument("--calibration", metavar="DATA", help="training data for that (default: those of --data)")
    parser.add_argument("--calibration-batches", type=int, default=20, metavar="N", help="at most (default: 20)")
    parser.add_argument("--batch-size", type=int, default=250, metavar="N", help="examples (default: 250)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16, or tf32 on a GPU (default: float32)")
    parser.add_argument("--data-dir", type=Path, help="folder of data sets (default: $MODECONN_DATA or a cache)")


def _how(options: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """Options of all measurements between networks, and the data."""
    from modeconn.models import import_function

    data, calibration, shape, classes = _data(options)
    evaluate = import_function(options.evaluate) if ":" in options.evaluate else options.evaluate
    how = {
        "model": _model(options.model, shape, classes),
        "evaluate": evaluate,
        "calibration": calibration,
        "calibration_batches": options.calibration_batches,
        "device": options.device,
        "precision": options.precision,
        "batch_size": options.batch_size,
        "data_dir": options.data_dir,
    }
    return how | ({"batchnorm": options.batchnorm} if options.batchnorm else {}), data


def _model(text: str | None, shape: tuple[int, int, int] | None, classes: int | None) -> Callable[[], Any] | None:
    from modeconn.models import build_network, import_function

    if text is None:
        return None
    if shape is not None and classes is not None:
        return lambda: build_network(text, shape, classes, seed=0)
    if ":" not in text:
        raise OptionError(f"the shape of network {text} follows from a data set's name or prepared file in --data")
    return import_function(text)


def _data(options: argparse.Namespace) -> tuple[Any, Any, tuple[int, int, int] | None, int | None]:
    """The data, training data to calibrate on, and what is known of inputs and classes."""
    from modeconn.models import import_function

    calibration = None if options.calibration is None else _load(options.calibration)
    text = options.data
    if text is None:
        return options.split, calibration, None, None  # stored runs know theirs
    if ":" in text:
        return import_function(text)(), calibration, None, None
    if not text.endswith(".npz") or _is_prepared(text):
        from modeconn.data import load_data
        from modeconn.training.splits import SplitBatches

        data = load_data(text, options.data_dir)
        if options.split not in ("test", "train"):
            raise OptionError(f"--split is test or train; got {options.split!r}")
        calibration = SplitBatches(data, "train") if calibration is None else calibration
        return SplitBatches(data, options.split), calibration, data.shape, data.classes
    return _load(text), calibration, None, None


def _load(text: str) -> Any:
    """Data from an import path, or from an .npz with inputs and targets."""
    import numpy as np

    from modeconn.models import import_function

    if ":" in text:
        return import_function(text)()
    try:
        with np.load(text, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise DataError(f"{text} cannot be read as .npz: {error}") from error
    inputs = next((found[name] for name in ("inputs", "x", "images") if name in found), None)
    targets = next((found[name] for name in ("targets", "y", "labels") if name in found), None)
    if inputs is None or targets is None:
        raise DataError(
            f"{text} holds {', '.join(found) or 'nothing'}; it should hold inputs (or x, images), as the network takes "
            "them, and targets (or y, labels)"
        )
    return inputs, targets


def _is_prepared(file: str) -> bool:
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as arrays:
            return "test_images" in arrays.files
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as .npz: {error}") from error


def _folder_name(what: str, options: argparse.Namespace) -> str:
    # A full count is named as it was before there was another.
    besides = ["run", "command", "out", *(["decide", "error_probability"] if options.decide is None else [])]
    given = {name: str(value) for name, value in vars(options).items() if name not in besides}
    text = json.dumps([str(Path(network).absolute()) for network in options.networks] + [given], sort_keys=True)
    return f"{what}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _save(result: Any, folder: Path, name: str) -> None:
    """Print a result, and write it as JSON and CSV with its figure."""
    from modeconn.files import writing
    from modeconn.result import write_csv
    from modeconn.style import save_figure

    print(result)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    result.to_json(folder / f"{name}.json")
    write_csv(folder / f"{name}.csv", result.rows())
    save_figure(result.plot().figure, folder / name)
    print(f"\nFiles: {folder}/{name}.json, .csv, .png, .pdf\n")
