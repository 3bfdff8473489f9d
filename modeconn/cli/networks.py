"""The commands on networks that exist: barrier, soup. Imports torch only to work."""

import argparse
import hashlib
import json
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
from modeconn.cli.sources import add_data, add_sources, data_of, model_of, named_after, save_axes, save_result
from modeconn.errors import OptionError
from modeconn.progress import progress_bar


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
            save_axes(matrix.unaligned.plot(), folder, "matrix-unaligned")
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
        save_axes(result.plot_predictions(), folder, "predictions")
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


def _folder_name(what: str, options: argparse.Namespace) -> str:
    # A measurement without an option is named as it was before there was that option.
    besides = ["run", "parser", "command", "out", *(["decide", "error_probability"] if options.decide is None else [])]
    later = ("repair_layers", "normalize", "checkpoint_key", "align", "predictions", "adapter")
    besides += [name for name in later if getattr(options, name) in (None, False)]
    given = {name: str(value) for name, value in vars(options).items() if name not in besides}
    text = json.dumps([str(Path(network).absolute()) for network in options.networks] + [given], sort_keys=True)
    return f"{what}-{named_after(options.networks)}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
