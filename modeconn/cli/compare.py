"""The command that says whether two networks may be averaged. Imports torch only to work."""

import argparse
from pathlib import Path

import modeconn
from modeconn.cli.options import add_data_dir, add_device, import_path, names_or_false, show
from modeconn.cli.sources import add_data, add_sources, data_of, model_of, save_result
from modeconn.errors import OptionError
from modeconn.progress import progress_bar


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Add the options of comparing two networks."""
    add_sources(parser)
    parser.add_argument("--ancestor", metavar="NETWORK", help="what both were trained from, for task vectors")
    add_data(parser, "what errors are measured on (without, only files are compared)", "test")
    parser.add_argument("--evaluate", type=import_path, default="auto", help="as of modeconn barrier (default: auto)")
    parser.add_argument(
        "--higher-is-better",
        type=names_or_false,
        default=(),
        metavar="A,B|none",
        help="metrics of yours for which higher is better (default: those called accuracy, F1, AUC and the like)",
    )
    parser.add_argument(
        "--calibration",
        type=import_path,
        metavar="DATA",
        help="training data, for recalibration of BatchNorm and for REPAIR (default: the training images of a data set "
        "or a prepared .npz in --data)",
    )
    parser.add_argument("--calibration-batches", type=int, default=20, metavar="N", help="at most (default: 20)")
    parser.add_argument(
        "--threshold",
        type=float,
        default=2.0,
        metavar="X",
        help="barrier at the midpoint from which on the two are not averaged, in percentage points (default: 2)",
    )
    parser.add_argument(
        "--error-probability",
        type=float,
        default=0.001,
        metavar="P",
        help="maximum probability that the full count says otherwise (default: 0.001)",
    )
    parser.add_argument(
        "--try-all", action="store_true", help="try all that may remove a barrier, not only until one does"
    )
    parser.add_argument("--batch-size", type=int, default=250, metavar="N", help="examples (default: 250)")
    add_device(parser)
    add_data_dir(parser)
    parser.add_argument("--out", type=Path, help="folder for compare.json, .csv, .png and .pdf (default: only print)")


def compare(options: argparse.Namespace) -> None:
    """Say whether two networks may be averaged, and what has to be done first."""
    if len(options.networks) != 2:
        raise OptionError(f"give two networks; got {len(options.networks)}")
    if not 0 < options.threshold < 100:
        raise OptionError(f"--threshold is in percentage points, between 0 and 100; got {options.threshold:g}")
    from modeconn.models import import_function

    a, b = options.networks
    data, calibration, shape, classes = data_of(options, needed=False)
    same = ("higher_is_better", "calibration_batches", "error_probability", "try_all", "device", "precision")
    with progress_bar() as report:
        result = modeconn.compare(
            a,
            b,
            data,
            ancestor=options.ancestor,
            model=None if data is None else model_of(options, shape, classes),
            evaluate=import_function(options.evaluate) if ":" in options.evaluate else options.evaluate,
            calibration=calibration,
            threshold=options.threshold / 100,
            **{name: getattr(options, name) for name in (*same, "batch_size", "data_dir", "checkpoint_key")},
            report=report,
        )
    if options.out is None:
        show(result, options)
    else:
        save_result(result, options.out, "compare", options)
