"""The commands on networks that exist: barrier, soup. Imports torch only to work."""

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import modeconn
from modeconn.cli.options import (
    RESULTS,
    add_data_dir,
    add_device,
    alphas,
    import_path,
    names,
    names_or_false,
    points_or_none,
    show,
)
from modeconn.errors import DataError, OptionError
from modeconn.progress import progress_bar
from modeconn.reading import is_file

_DATA = "a data set (digits, mnist, ...), a prepared .npz, an .npz with inputs and targets, or package.module:function"
_LONGEST = 24  # letters of a network's name in a folder's
_MODEL = (
    "the architecture: package.module:function, whose code is run, or a name such as resnet-20; of a stored run only "
    "needed where it is such code, as your word that you trust it"
)


def add_barrier(parser: argparse.ArgumentParser) -> None:
    """Add the options of measuring barriers."""
    _add_networks(parser)
    parser.add_argument(
        "--alphas",
        type=alphas,
        default=31,
        metavar="N|A,B",
        help="points on a path: how many, which (0,0.5,1), paper (30), or adaptive, only those near the maximum "
        "(default: 31)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.001,
        metavar="X",
        help="to which adaptive alphas find the highest point, as a fraction of error (default: 0.001)",
    )
    parser.add_argument("--extrapolate", action="store_true", help="allow alphas outside [0, 1]")
    parser.add_argument(
        "--decide",
        type=float,
        metavar="X",
        help="only decide whether the error barrier is above so many percentage points, from as few examples as needed",
    )
    parser.add_argument(
        "--error-probability",
        type=float,
        default=0.001,
        metavar="P",
        help="maximum probability of a wrong decision (default: 0.001)",
    )
    parser.add_argument(
        "--predictions",
        action="store_true",
        help="also calibration, divergence and disagreement from the ends, and their ensemble, at every alpha",
    )
    parser.add_argument(
        "--align",
        metavar="METHOD|FILE",
        help="also between networks whose units are permuted to fit: weights, activations, straight-through, or what "
        "modeconn align --save wrote (of two networks)",
    )
    parser.add_argument(
        "--adapter",
        metavar="products|factors",
        help="what is interpolated between LoRA adapters: products, as merged networks, or factors, A and B apart "
        "(default: products)",
    )
    parser.add_argument("--layerwise", action="store_true", help="also one layer at a time (Adilova et al. 2024)")
    parser.add_argument("--features", action="store_true", help="also the linearity of features (Zhou et al. 2023)")
    parser.add_argument("--out", type=Path, help="folder of results (default: in modeconn-results)")


def barrier(options: argparse.Namespace) -> None:
    """Measure the path between two networks, or the barriers between all pairs of more."""
    common, data = _common(options)
    better = {"higher_is_better": options.higher_is_better}
    path = {"alphas": options.alphas, "tolerance": options.tolerance, **better, **common}
    path["adapter"] = options.adapter or "products"
    folder = options.out or RESULTS / _folder_name("barrier", options)
    if len(options.networks) < 2:
        raise OptionError("give at least two networks")
    if options.align is not None and (options.layerwise or options.features):
        raise OptionError(
            "--layerwise and --features compare networks as they are; write the aligned one with modeconn align, and "
            "give that"
        )
    align = _align(options.align)
    if len(options.networks) > 2:
        if options.layerwise or options.features or options.predictions or options.decide is not None:
            raise OptionError("--layerwise, --features, --predictions and --decide compare two networks")
        with progress_bar() as report:
            matrix = modeconn.barrier_matrix(options.networks, data, align=align, report=report, **path)
        save_result(matrix, folder, "matrix", options)
        if matrix.unaligned:
            _save_figure(matrix.unaligned.plot(), folder, "matrix-unaligned")
        return
    a, b = options.networks
    with progress_bar() as report:
        result = modeconn.error_barrier(
            a,
            b,
            data,
            extrapolate=options.extrapolate,
            decide=_fraction(options.decide),
            error_probability=options.error_probability,
            predictions=options.predictions,
            align=align,
            report=report,
            **path,
        )
    save_result(result, folder, "barrier", options)
    if options.predictions:
        _save_figure(result.plot_predictions(), folder, "predictions")
    if options.layerwise:
        with progress_bar() as report:
            layers = modeconn.layerwise_barrier(a, b, data, report=report, **better, **common)
        save_result(layers, folder, "layerwise", options)
    if options.features:
        with progress_bar() as report:
            features = modeconn.feature_connectivity(a, b, data, report=report, **common)
        save_result(features, folder, "features", options)


def add_soup(parser: argparse.ArgumentParser) -> None:
    """Add the options of averaging networks."""
    _add_networks(parser)
    parser.add_argument("--kind", default="greedy", help="greedy or uniform (default: greedy)")
    parser.add_argument(
        "--gate",
        type=points_or_none,
        default=2.0,
        metavar="X|none",
        help="leave out networks separated by a barrier of more percentage points (default: 2)",
    )
    parser.add_argument(
        "--align", metavar="METHOD", help="align all to the first: weights, activations or straight-through"
    )
    parser.add_argument("--out", type=Path, default=Path("soup.safetensors"), help="file (default: soup.safetensors)")


def soup(options: argparse.Namespace) -> None:
    """Average the weights of networks, skipping those separated by a barrier, and write them."""
    common, data = _common(options)
    with progress_bar() as report:
        result = modeconn.soup(
            options.networks,
            data,
            options.kind,
            gate=_fraction(options.gate),
            align=options.align,
            higher_is_better=options.higher_is_better,
            report=report,
            **common,
        )
    show(result, options)
    if options.kind == "greedy" and options.split == "test" and ":" not in (options.data or ""):
        print("Note: members were chosen on the test split, so the soup's error there is too low for an estimate.")
    result.save(options.out)
    print(f"Weights: {options.out}")


def _align(text: str | None) -> Any:
    """The alignment in a file, or else a method."""
    if text is None or not text.endswith(".safetensors"):
        return text
    return modeconn.load_alignment(text)


def _add_networks(parser: argparse.ArgumentParser) -> None:
    add_sources(parser)
    add_data(parser, "what errors are measured on", "test")
    parser.add_argument(
        "--evaluate",
        type=import_path,
        default="auto",
        help="auto, classification, multi-label, probabilities, regression, tokens, next-token, one of these of an "
        "entry of the output such as classification[1], or package.module:function (default: auto)",
    )
    parser.add_argument(
        "--higher-is-better",
        type=names_or_false,
        default=(),
        metavar="A,B|none",
        help="metrics of yours for which higher is better (default: those called accuracy, F1, AUC and the like)",
    )
    parser.add_argument(
        "--batchnorm",
        help="BatchNorm's running statistics on the path: interpolate, recalibrate or repair",
    )
    parser.add_argument(
        "--calibration",
        type=import_path,
        metavar="DATA",
        help="training data for that (default: the training images of a data set or a prepared .npz in --data)",
    )
    parser.add_argument("--calibration-batches", type=int, default=20, metavar="N", help="at most (default: 20)")
    parser.add_argument(
        "--repair-layers",
        type=names,
        metavar="A,B",
        help="what repair rescales: layers, blocks (residual), output (default: as its authors, by kind of network)",
    )
    parser.add_argument("--batch-size", type=int, default=250, metavar="N", help="examples (default: 250)")
    add_device(parser)
    add_data_dir(parser)


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


def _common(options: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """The options of every measurement between networks, and the data."""
    from modeconn.models import import_function

    data, calibration, shape, classes = data_of(options)
    evaluate = import_function(options.evaluate) if ":" in options.evaluate else options.evaluate
    common = {
        "model": model_of(options, shape, classes),
        "evaluate": evaluate,
        "calibration": calibration,
        "calibration_batches": options.calibration_batches,
        "repair_layers": options.repair_layers or "auto",
        "checkpoint_key": options.checkpoint_key,
        "device": options.device,
        "precision": options.precision,
        "batch_size": options.batch_size,
        "data_dir": options.data_dir,
    }
    return common | ({"batchnorm": options.batchnorm} if options.batchnorm else {}), data


def _fraction(points: float | None) -> float | None:
    """Points of error as a fraction."""
    return None if points is None else points / 100


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


def _is_prepared(file: str) -> bool:
    from modeconn.data.npz import names_in_npz

    return "test_images" in names_in_npz(file)


def _folder_name(what: str, options: argparse.Namespace) -> str:
    # A measurement without an option is named as it was before there was that option.
    besides = ["run", "parser", "command", "out", *(["decide", "error_probability"] if options.decide is None else [])]
    later = ("repair_layers", "normalize", "checkpoint_key", "align", "predictions", "adapter")
    besides += [name for name in later if getattr(options, name) in (None, False)]
    given = {name: str(value) for name, value in vars(options).items() if name not in besides}
    text = json.dumps([str(Path(network).absolute()) for network in options.networks] + [given], sort_keys=True)
    return f"{what}-{named_after(options.networks)}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


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
    _save_figure(result.plot(), folder, name)
    print(f"\nFiles: {folder}/{name}.json, .csv, .png, .pdf\n")


def _save_figure(axes: Any, folder: Path, name: str) -> None:
    from modeconn.style import save_figure

    save_figure(axes.figure, folder / name)
