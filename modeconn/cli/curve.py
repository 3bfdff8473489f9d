"""The command that fits a curve of low loss between two networks. Imports torch only to work."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import modeconn
from modeconn.cli.options import RESULTS, add_data_dir, add_device, alphas
from modeconn.cli.sources import add_data, add_sources, data_of, has_stored_run, model_of, save_result
from modeconn.errors import OptionError
from modeconn.progress import progress_bar

_FIT = {"kind": "bezier", "bends": 1, "epochs": 30, "steps": None, "learning_rate": 0.01}
_BAND = {"pivots": 3, "cycles": None}
_PLACES = ("run", "command", "out", "networks", "checkpoint", "device", "data_dir")


def add_curve(parser: argparse.ArgumentParser) -> None:
    """Add the options of fitting curves."""
    add_sources(parser)
    add_data(parser, "training data", "train")
    parser.add_argument(
        "--test",
        metavar="DATA",
        help="what the curve is measured on, in the form of --data (default: the test split of a data set or a stored "
        "run)",
    )
    fit = parser.add_argument_group("the curve")
    fit.add_argument("--kind", metavar="KIND", help="bezier or polychain (default: bezier)")
    fit.add_argument("--bends", type=int, metavar="N", help="control points between the networks (default: 1)")
    fit.add_argument("--epochs", type=int, metavar="N", help="passes over the training data (default: 30)")
    fit.add_argument("--steps", type=int, metavar="N", help="steps, in place of epochs")
    fit.add_argument(
        "--learning-rate", type=float, metavar="X", help="of SGD, which falls to a hundredth (default: 0.01)"
    )
    fit.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="the training, so that the same command goes on after a stop (default: in the folder of results)",
    )
    band = parser.add_argument_group("a nudged elastic band in its place (Draxler et al. 2018)")
    band.add_argument("--neb", action="store_true", help="find an elastic band")
    band.add_argument("--pivots", type=int, metavar="N", help="between the networks, to begin with (default: 3)")
    band.add_argument(
        "--cycles",
        type=cycles,
        metavar="N:X,...",
        help="steps and learning rate of each cycle (default: 300:0.1,300:0.1,300:0.1,300:0.01)",
    )
    both = parser.add_argument_group("training")
    both.add_argument("--momentum", type=float, default=0.9, metavar="X", help="of the steps (default: 0.9)")
    both.add_argument(
        "--weight-decay", type=float, default=5e-4, metavar="X", help="of the weights on the curve (default: 0.0005)"
    )
    both.add_argument(
        "--loss",
        metavar="FUNCTION",
        help="package.module:function of (network, batch), whose code is run (default: what the target suggests)",
    )
    both.add_argument("--seed", type=int, default=0, metavar="N", help="of t, order and dropout (default: 0)")
    both.add_argument("--batch-size", type=int, default=128, metavar="N", help="examples in training (default: 128)")
    measured = parser.add_argument_group("measurement")
    measured.add_argument(
        "--alphas",
        type=alphas,
        default=31,
        metavar="N|A,B",
        help="points on the curve: how many, or which (default: 31)",
    )
    measured.add_argument("--evaluate", default="auto", help="as of modeconn barrier (default: auto)")
    measured.add_argument(
        "--batchnorm",
        default="recalibrate",
        metavar="CHOICE",
        help="BatchNorm's running statistics: recalibrate (at every point) or interpolate (default: recalibrate)",
    )
    measured.add_argument("--calibration", metavar="DATA", help="training data for that (default: --data)")
    measured.add_argument("--calibration-batches", type=int, default=20, metavar="N", help="at most (default: 20)")
    add_device(parser)
    add_data_dir(parser)
    parser.add_argument("--out", type=Path, help="folder of results (default: in modeconn-results)")


def curve(options: argparse.Namespace) -> None:
    """Fit a curve of low loss between two networks, and measure it beside the segment."""
    from modeconn.files import writing
    from modeconn.models import import_function

    if len(options.networks) != 2:
        raise OptionError(f"a curve is between two networks; got {len(options.networks)}")
    a, b = options.networks
    if options.batchnorm not in ("recalibrate", "interpolate"):
        raise OptionError(f"--batchnorm of a curve is recalibrate or interpolate; got {options.batchnorm}")
    asked = _asked(options)
    train, calibration, shape, classes = data_of(options)
    test = _test_data(options, shape is not None)
    evaluate = import_function(options.evaluate) if ":" in options.evaluate else options.evaluate
    how: dict[str, Any] = {
        **{name: getattr(options, name) for name in ("checkpoint_key", "device", "precision", "data_dir")},
        "model": model_of(options, shape, classes),
        "evaluate": evaluate,
    }
    asked |= {name: getattr(options, name) for name in ("momentum", "weight_decay", "seed", "batch_size")}
    asked["loss"] = None if options.loss is None else import_function(options.loss)
    folder = options.out or RESULTS / _folder_name(options)
    with progress_bar() as report:
        if options.neb:
            found = modeconn.neb(a, b, train, report=report, **asked, **how)
        else:
            checkpoint = options.checkpoint or folder / "training.pt"
            with writing(checkpoint.parent):
                checkpoint.parent.mkdir(parents=True, exist_ok=True)
            found = modeconn.fit_curve(a, b, train, checkpoint=checkpoint, report=report, **asked, **how)
    with progress_bar() as report:
        result = found.barrier(
            test,
            alphas=options.alphas,
            batchnorm=options.batchnorm,
            calibration=None if options.calibration is None else calibration,
            calibration_batches=options.calibration_batches,
            report=report,
            **how,
        )
    save_result(result, folder, "curve", options)
    found.save(folder / "curve.safetensors")
    print(f"Weights: {folder}/curve.safetensors")


def cycles(text: str) -> tuple[tuple[int, float], ...]:
    """Parse cycles of an elastic band.

    >>> cycles("300:0.1,300:0.01")
    ((300, 0.1), (300, 0.01))
    """
    try:
        return tuple((int(steps), float(rate)) for steps, rate in (part.split(":") for part in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} are no steps and learning rates such as 300:0.1,300:0.01"
        ) from error


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the one method, once those of the other are seen not to be given."""
    own, others = (_BAND, {**_FIT, "checkpoint": None}) if options.neb else (_FIT, _BAND)
    if options.steps is not None and options.epochs is not None:
        raise OptionError("--steps are in place of --epochs: give one of the two")
    for name in others:
        if getattr(options, name) is not None:
            kind = "of a fitted curve; leave out --neb" if options.neb else "of an elastic band; give --neb"
            raise OptionError(f"--{name.replace('_', '-')} is {kind}, or leave it out")
    given = {name: getattr(options, name) for name in own}
    found = {name: own[name] if value is None else value for name, value in given.items()}
    return {name: value for name, value in found.items() if value is not None}


def _test_data(options: argparse.Namespace, of_data_set: bool) -> Any:
    """What the curve is measured on.

    Raises:
        OptionError: it is not given, and follows from nothing.
    """
    given = vars(options) | {"split": "test"}
    if options.test is not None:
        return data_of(argparse.Namespace(**given | {"data": options.test}))[0]
    if of_data_set:
        return data_of(argparse.Namespace(**given))[0]
    if options.data is None and has_stored_run(options):
        return "test"
    raise OptionError("give --test: what the curve is measured on; --data are what it is trained on")


def _folder_name(options: argparse.Namespace) -> str:
    given = {name: str(value) for name, value in vars(options).items() if name not in _PLACES}
    paths = [str(Path(network).absolute()) for network in options.networks]
    return f"curve-{hashlib.sha256(json.dumps([paths, given], sort_keys=True).encode()).hexdigest()[:6]}"
