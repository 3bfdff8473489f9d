"""The command that measures curvature: `modeconn sharpness`. Imports torch only to work."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import modeconn
from modeconn.cli.options import RESULTS, add_data_dir, alphas
from modeconn.cli.sources import add_data, add_sources, data_of, model_of, save_result
from modeconn.errors import OptionError
from modeconn.progress import progress_bar


def add_sharpness(parser: argparse.ArgumentParser) -> None:
    """Add the options of measuring curvature."""
    add_sources(parser)
    add_data(parser, "training data, whose loss is differentiated", "train")
    parser.add_argument("--k", type=int, default=10, metavar="N", help="eigenvalues (default: 10)")
    parser.add_argument(
        "--kind", default="hessian", metavar="hessian|gauss-newton", help="which matrix (default: hessian)"
    )
    parser.add_argument(
        "--which", default="largest", metavar="ORDER", help="largest, smallest or magnitude (default: largest)"
    )
    parser.add_argument("--trace", type=int, default=0, metavar="N", help="also the trace, from so many random vectors")
    parser.add_argument(
        "--loss",
        metavar="FUNCTION",
        help="package.module:function of (network, batch), whose code is run (default: what the target suggests)",
    )
    parser.add_argument("--examples", type=int, metavar="N", help="only the first so many of the data")
    parser.add_argument("--tolerance", type=float, default=1e-3, metavar="X", help="of residuals (default: 0.001)")
    parser.add_argument("--double", action="store_true", help="differentiate in float64")
    parser.add_argument("--density", action="store_true", help="also the density of all eigenvalues")
    parser.add_argument(
        "--adaptive", type=float, metavar="RHO", help="also the adaptive sharpness in a ball of this radius"
    )
    parser.add_argument(
        "--flatness", type=float, metavar="X", help="also error and loss under Gaussian noise of this relative norm"
    )
    parser.add_argument(
        "--relative-to",
        default="network",
        metavar="WHAT",
        help="that noise is relative to: network, filter, or nothing (default: network)",
    )
    parser.add_argument(
        "--alphas",
        type=alphas,
        default=5,
        metavar="N|A,B",
        help="of two networks, points of the path between them (default: 5)",
    )
    parser.add_argument("--over-training", action="store_true", help="of a stored run, at all of its saved states")
    parser.add_argument("--save-vectors", action="store_true", help="write the eigenvectors as .safetensors")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of random vectors (default: 0)")
    parser.add_argument("--evaluate", default="auto", help="of --flatness, as of modeconn barrier (default: auto)")
    parser.add_argument(
        "--batchnorm",
        default="interpolate",
        metavar="CHOICE",
        help="BatchNorm's running statistics: interpolate (as they are) or recalibrate (default: interpolate)",
    )
    parser.add_argument("--calibration", metavar="DATA", help="training data for that (default: those of --data)")
    parser.add_argument("--calibration-batches", type=int, default=20, metavar="N", help="at most (default: 20)")
    parser.add_argument(
        "--batch-size", type=int, default=250, metavar="N", help="examples differentiated at once (default: 250)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add_data_dir(parser)
    parser.add_argument("--out", type=Path, help="folder of results (default: in modeconn-results)")


def sharpness(options: argparse.Namespace) -> None:
    """Measure the curvature of a network's training loss, at one network, along a path, or over a training."""
    from modeconn.analysis.landscape.curvature.along import sharpness_along, sharpness_over
    from modeconn.models import import_function

    if options.save_vectors and (len(options.networks) > 1 or options.over_training):
        raise OptionError("--save-vectors is for one network")
    data, calibration, shape, classes = data_of(options)
    how: dict[str, Any] = {
        "model": model_of(options, shape, classes),
        "calibration": calibration,
        **{name: getattr(options, name) for name in ("batchnorm", "calibration_batches", "checkpoint_key")},
        **{name: getattr(options, name) for name in ("device", "batch_size", "data_dir")},
    }
    asked = {name: getattr(options, name) for name in ("kind", "which", "trace", "examples", "tolerance", "double")}
    _check_more(options)
    asked |= {"seed": options.seed, "loss": None if options.loss is None else import_function(options.loss)}
    folder = options.out or RESULTS / _folder_name(options)
    if len(options.networks) > 2:
        raise OptionError("give one network, or two for the path between them")
    if options.over_training or len(options.networks) == 2:
        if options.density or options.flatness is not None or options.adaptive is not None:
            raise OptionError("--density, --flatness and --adaptive are of one network")
        with progress_bar() as report:
            if options.over_training:
                if len(options.networks) == 2:
                    raise OptionError("--over-training takes one stored state, which knows those before it")
                series = sharpness_over(options.networks[0], data, options.k, report=report, **asked, **how)
            else:
                a, b = options.networks
                series = sharpness_along(a, b, data, options.k, alphas=options.alphas, report=report, **asked, **how)
        save_result(series, folder, "sharpness", options)
        return
    (network,) = options.networks
    with progress_bar() as report:
        found = modeconn.sharpness(network, data, options.k, report=report, **asked, **how)
    save_result(found, folder, "sharpness", options)
    if options.save_vectors:
        found.save_directions(folder)
    _more(options, network, data, asked, how, folder)


def _check_more(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured besides eigenvalues, before these are looked for."""
    from modeconn.analysis.landscape.curvature.adaptive import radius
    from modeconn.analysis.landscape.curvature.flatness import noise_of

    if options.adaptive is not None:
        radius(options.adaptive)
    noise_of(1.0 if options.flatness is None else options.flatness, options.relative_to)
    _evaluate(options)


def _evaluate(options: argparse.Namespace) -> Any:
    from modeconn.models import import_function

    return import_function(options.evaluate) if ":" in options.evaluate else options.evaluate


def _folder_name(options: argparse.Namespace) -> str:
    """A folder for each network and choice of options."""
    besides = ("run", "parser", "command", "out")
    given = {name: str(value) for name, value in vars(options).items() if name not in besides}
    text = json.dumps([str(Path(network).absolute()) for network in options.networks] + [given], sort_keys=True)
    return f"sharpness-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _more(
    options: argparse.Namespace, network: str, data: Any, asked: dict[str, Any], how: dict[str, Any], folder: Path
) -> None:
    """What else is asked of one network: the density of eigenvalues, the adaptive sharpness, the flatness."""
    from modeconn.analysis.landscape.curvature.adaptive import adaptive_sharpness
    from modeconn.analysis.landscape.curvature.flatness import flatness
    from modeconn.analysis.landscape.curvature.spectrum import spectral_density

    of_loss = {name: asked[name] for name in ("loss", "examples", "seed", "double")}
    with progress_bar() as report:
        if options.density:
            density = spectral_density(network, data, kind=options.kind, report=report, **of_loss, **how)
            save_result(density, folder, "density", options)
        if options.adaptive is not None:
            adaptive = adaptive_sharpness(network, data, options.adaptive, report=report, **of_loss, **how)
            save_result(adaptive, folder, "adaptive", options)
        if options.flatness is not None:
            found = flatness(
                network, data, options.flatness, relative_to=options.relative_to, seed=options.seed,
                evaluate=_evaluate(options), report=report, **how,
            )  # fmt: skip
            save_result(found, folder, "flatness", options)
