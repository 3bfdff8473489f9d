"""The command that averages networks, or the checkpoints of one run. Imports torch only to work."""

import argparse
import warnings
from pathlib import Path
from typing import Any

import modeconn
from modeconn.cli.options import add_data_dir, import_path, names, show
from modeconn.cli.sources import add_data, add_sources, data_of, has_stored_run, load_given, model_of, save_result
from modeconn.errors import OptionError
from modeconn.progress import progress_bar
from modeconn.reading import is_folder


def add_average(parser: argparse.ArgumentParser) -> None:
    """Add the options of averaging networks."""
    add_sources(parser)
    run = parser.add_argument_group("of one run, given by its folder of checkpoints or its last stored state")
    run.add_argument(
        "--last",
        type=count_or_part,
        metavar="N|P%",
        help="how many checkpoints, counted from the last, or those of the last part of training (default: all)",
    )
    run.add_argument(
        "--every", type=int, default=1, metavar="N", help="of these, the last and each n-th before it (default: 1)"
    )
    run.add_argument(
        "--sweep",
        type=names,
        metavar="A,B",
        help="measure the averages of several durations (5%%,10%%,20%%,50%%) on --data, draw them, and write the best",
    )
    run.add_argument(
        "--test", type=import_path, metavar="DATA", help="further data, for an unbiased value of the best duration"
    )
    parser.add_argument(
        "--weights",
        type=_weights,
        default="uniform",
        metavar="KIND|A,B",
        help="uniform, linear (the newest most), exponential, 1-sqrt (the oldest most), or a number for each network "
        "(default: uniform)",
    )
    parser.add_argument(
        "--decay", type=float, metavar="X", help="of exponential weights, the share of the old average at each step"
    )
    add_data(parser, "what the average is measured on", "test")
    parser.add_argument(
        "--evaluate",
        type=import_path,
        default="auto",
        help="as of modeconn barrier (default: auto)",
    )
    parser.add_argument(
        "--batchnorm",
        default="recalibrate",
        help="BatchNorm's running statistics: recalibrate (measured anew, where there are calibration data) or "
        "interpolate (averaged like weights) (default: recalibrate)",
    )
    parser.add_argument(
        "--adapter",
        default="products",
        metavar="products|factors",
        help="what is averaged of LoRA adapters: products, which gives a merged network, or factors, which gives an "
        "adapter (default: products)",
    )
    parser.add_argument(
        "--calibration",
        type=import_path,
        metavar="DATA",
        help="training data for that (default: the training images of a data set or a prepared .npz in --data)",
    )
    parser.add_argument("--calibration-batches", type=int, default=20, metavar="N", help="at most (default: 20)")
    parser.add_argument("--batch-size", type=int, default=250, metavar="N", help="examples (default: 250)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add_data_dir(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("average.safetensors"), help="file (default: average.safetensors)"
    )


def average(options: argparse.Namespace) -> None:
    """Average networks, or the last checkpoints of a run, and write the average."""
    if options.batchnorm not in ("recalibrate", "interpolate"):
        raise OptionError(f"--batchnorm of an average is recalibrate or interpolate; got {options.batchnorm}")
    source = _source(options.networks)
    if options.sweep is None:
        if options.test is not None:
            raise OptionError("--test is measured at the best duration of a --sweep; without one, give it as --data")
        last = options.last
    else:
        last = _best_duration(source, options)
    how = {**_selected(options), **_measured(options), "adapter": options.adapter}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "integers are not averaged")  # which is a note in what is printed
        found = modeconn.average(source, options.weights, last=last, **how)
    show(found, options)
    found.save(options.out)
    print(f"Weights: {options.out}")


def count_or_part(text: str) -> int | str:
    """Parse how many of the last checkpoints, or which part of training.

    >>> count_or_part("5"), count_or_part("20%")
    (5, '20%')
    """
    return int(text) if text.strip().isdigit() else text


def _source(networks: list[str]) -> list[str] | str:
    """The networks, or the folder of one run."""
    if len(networks) == 1 and not is_folder(networks[0]):
        raise OptionError("give at least two networks, or the folder of one run's checkpoints")
    return networks if len(networks) > 1 else networks[0]


def _selected(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("every", "decay")}


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    """The network, the data, and how it is measured; data that may be gone through once are made anew."""
    from modeconn.models import import_function

    data, calibration, shape, classes = data_of(options, needed=False)
    if calibration is None and has_stored_run(options):
        calibration = "train"
    return {
        "model": model_of(options, shape, classes),
        "data": data,
        "calibration": calibration if options.batchnorm == "recalibrate" else None,
        "evaluate": import_function(options.evaluate) if ":" in options.evaluate else options.evaluate,
        **{name: getattr(options, name) for name in ("calibration_batches", "checkpoint_key", "device", "data_dir")},
        "batch_size": options.batch_size,
    }


def _best_duration(source: list[str] | str, options: argparse.Namespace) -> int | str:
    """Measure, print and draw the durations; which one is the best."""
    from modeconn.analysis.averaging.durations import sweep_durations

    if options.last is not None:
        raise OptionError("--sweep measures several durations, and --last is one: give one of the two")
    if options.test is not None and options.test == options.data:
        raise OptionError("--test are the data= that choose the duration, on which its error is too low; give others")
    measured = _measured(options)
    if measured["data"] is None:
        raise OptionError("--sweep measures averages: give held-out data by --data")
    own = measured["calibration"] == "train"  # of a stored run, which knows them
    calibrated = measured["calibration"] is not None
    with progress_bar() as report:
        result = sweep_durations(
            source,
            measured.pop("data"),
            [count_or_part(last) for last in options.sweep],
            options.weights,
            test=None if options.test is None else load_given(options.test),
            report=report,
            **_selected(options),
            **measured
            | {"calibration": None if own else measured["calibration"]}
            | {"batchnorm": "recalibrate" if calibrated else "interpolate"},
        )
    save_result(result, options.out.with_name(f"{options.out.stem}-durations"), "durations", options)
    return count_or_part(result.points[result.best].last)


def _weights(text: str) -> str | tuple[float, ...]:
    """Parse a kind of weights, or a number for each network."""
    try:
        return tuple(float(part) for part in names(text))
    except ValueError:
        return text
