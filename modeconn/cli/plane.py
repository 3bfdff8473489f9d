"""The command that draws the landscape around networks. Imports torch only to work."""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeconn.cli.options import RESULTS, add_data_dir, add_device
from modeconn.cli.sources import add_data, add_sources, data_of, model_of, save_result
from modeconn.errors import OptionError
from modeconn.progress import progress_bar

if TYPE_CHECKING:
    from modeconn.analysis.landscape.planes.plane_result import Plane
    from modeconn.analysis.landscape.planes.surface import Given

_OPENED = (
    *("networks", "model", "checkpoint_key", "data", "normalize", "split", "evaluate", "batchnorm", "calibration"),
    *("calibration_batches", "batch_size", "device", "precision", "data_dir"),
)


def add_plane(parser: argparse.ArgumentParser) -> None:
    """Add the options of drawing landscapes."""
    add_sources(parser)
    kinds = parser.add_argument_group("another landscape than the plane through three networks")
    kinds.add_argument(
        "--directions", type=int, metavar="1|2", help="around one network, along so many random directions"
    )
    kinds.add_argument(
        "--normalization",
        help="of random directions: filter (Li et al. 2018), layer or none (default: filter)",
    )
    kinds.add_argument("--extent", type=float, metavar="X", help="of directions, from -X to X (default: 1)")
    kinds.add_argument("--seed", type=int, metavar="N", help="of random directions (default: 0)")
    kinds.add_argument(
        "--pca",
        action="store_true",
        help="the plane in which a training moved most: give the folder of its last stored state, or its states",
    )
    kinds.add_argument("--around", help="with --pca: the plane goes through the last state or the mean (default: last)")
    parser.add_argument(
        "--points",
        type=points,
        metavar="N|NxM",
        help="along each axis, or along x and y (default: 21, along a line 51)",
    )
    parser.add_argument(
        "--margin", type=float, metavar="X", help="around the networks, of the longer side (default: 0.2)"
    )
    parser.add_argument(
        "--also",
        nargs="+",
        default=(),
        metavar="NETWORK",
        help="networks to project on the plane; the folder of a stored state stands for all states that led to it",
    )
    parser.add_argument(
        "--refine", type=int, default=0, metavar="N", help="measure so many further points where the surface bends"
    )
    parser.add_argument("--surface", action="store_true", help="draw it in three dimensions, too")
    add_data(parser, "what is measured on", "test")
    parser.add_argument("--evaluate", default="auto", help="as of modeconn barrier (default: auto)")
    parser.add_argument(
        "--batchnorm", help="BatchNorm's running statistics: interpolate, or recalibrate at every point"
    )
    parser.add_argument("--calibration", metavar="DATA", help="training data for that (default: those of --data)")
    parser.add_argument("--calibration-batches", type=int, default=20, metavar="N", help="at most (default: 20)")
    parser.add_argument("--batch-size", type=int, default=250, metavar="N", help="examples (default: 250)")
    add_device(parser)
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: this one alone)")
    add_data_dir(parser)
    parser.add_argument("--out", type=Path, help="folder of results (default: in modeconn-results)")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help="what is measured, so that the same command goes on after a stop (default: points in the folder of "
        "results)",
    )


def plane(options: argparse.Namespace) -> None:
    """Draw loss and error on a plane through three networks, around one, or where a training moved most."""
    measure = _chosen(options)
    folder = options.out or RESULTS / _folder_name(options)
    with progress_bar() as report:
        result = measure(options, {**_shared(options, folder), "report": report})
    save_result(result, folder, "plane", options)
    for metric in result.metrics:
        if metric != result.metric:
            _draw(result, folder / f"plane-{metric}", "contour", metric)
        if options.surface:
            _draw(result, folder / f"plane-{metric}-surface", "surface", metric)


def points(text: str) -> int | tuple[int, int]:
    """Parse how many points there are along each axis.

    >>> points("21"), points("31x21")
    (21, (31, 21))
    """
    parts = text.split("x")
    try:
        if len(parts) == 2:
            return int(parts[0]), int(parts[1])
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a count nor two such as 31x21") from error


@dataclass(frozen=True)
class FromCommand:
    """Makes networks, data and options of a command's options, in any process.

    Attributes:
        options: those that networks and data are opened by.
    """

    options: dict[str, Any]

    def __call__(self) -> "Given":
        """Networks, data and options.

        Raises:
            ModeconnError: data or code that are not there.
        """
        from modeconn.analysis.landscape.planes.plane import checked
        from modeconn.analysis.landscape.planes.surface import Given
        from modeconn.models import import_function

        options = argparse.Namespace(**self.options)
        data, calibration, shape, classes = data_of(options)
        same = ("calibration_batches", "checkpoint_key", "device", "precision", "batch_size", "data_dir")
        how: Any = {
            "model": model_of(options, shape, classes),
            "evaluate": import_function(options.evaluate) if ":" in options.evaluate else options.evaluate,
            "calibration": calibration,
            **{name: getattr(options, name) for name in same},
            **({"batchnorm": options.batchnorm} if options.batchnorm else {}),
        }
        return Given(options.networks, data, checked(how))


def _chosen(options: argparse.Namespace) -> Any:
    """The function for the landscape that is asked for, once its networks are seen to be as many as it takes.

    Raises:
        OptionError: they are not.
    """
    given = len(options.networks)
    if options.directions is not None and options.pca:
        raise OptionError("--directions and --pca are two landscapes: give one of the two")
    _refuse_others(options)
    if options.directions is not None:
        if given != 1:
            raise OptionError(f"--directions are around one network; got {given}")
        if options.also:
            raise OptionError("--also is projected on a plane through networks, not on random directions")
        return _around
    if options.pca:
        return _of_trajectory
    if given != 3:
        raise OptionError(
            f"a plane goes through three networks; got {given}. Around one network, take --directions 2; of one "
            "training, --pca"
        )
    return _through


def _refuse_others(options: argparse.Namespace) -> None:
    """Refuse options of another landscape than the one that is asked for, which would do nothing."""
    chosen = "--directions" if options.directions is not None else "--pca" if options.pca else ""
    for names, of in ((("normalization", "extent", "seed"), "--directions"), (("around",), "--pca")):
        for name in names:
            if getattr(options, name) is not None and of != chosen:
                raise OptionError(f"--{name} is for {of}: give that, or leave it out")
    if options.margin is not None and chosen == "--directions":
        raise OptionError("--margin is around several networks; around one, give --extent")
    if options.surface and options.directions == 1:
        raise OptionError("--surface is for planes; along one direction there is a curve: give --directions 2")


def _through(options: argparse.Namespace, how: dict[str, Any]) -> "Plane":
    from modeconn.analysis.landscape.planes.build import Points
    from modeconn.analysis.landscape.planes.plane import measure_plane

    asked = Points(_or(options.points, 21), 2, _or(options.margin, 0.2), options.refine, **how)
    return measure_plane(_given(options), list(options.also), asked)


def _around(options: argparse.Namespace, how: dict[str, Any]) -> "Plane":
    from modeconn.analysis.landscape.planes.directions import ask_directions, measure_directions

    basis, extent, asked = ask_directions(
        options.directions,
        None,
        options.normalization,
        _or(options.extent, 1.0),
        options.points,
        _or(options.seed, 0),
        refine=options.refine,
        **how,
    )
    return measure_directions(_given(options), basis, extent, asked)


def _of_trajectory(options: argparse.Namespace, how: dict[str, Any]) -> "Plane":
    from modeconn.analysis.landscape.planes.build import Points
    from modeconn.analysis.landscape.planes.trajectory_plane import check_around, measure_trajectory

    asked = Points(_or(options.points, 21), 2, _or(options.margin, 0.2), options.refine, **how)
    return measure_trajectory(_given(options), check_around(_or(options.around, "last")), list(options.also), asked)


def _or(value: Any, default: Any) -> Any:
    """What was given, which may be 0, else the default."""
    return default if value is None else value


def _shared(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    return {"checkpoint": options.checkpoint or folder / "points", "workers": options.workers}


def _given(options: argparse.Namespace) -> FromCommand:
    return FromCommand({name: getattr(options, name) for name in _OPENED})


def _draw(result: "Plane", path: Path, kind: str, metric: str) -> None:
    from modeconn.style import save_figure

    save_figure(result.plot(kind, metric).figure, path)  # type: ignore[arg-type]


def _folder_name(options: argparse.Namespace) -> str:
    """A name of its own for each landscape: where it is measured does not count."""
    besides = ("run", "parser", "command", "out", "checkpoint", "workers", "surface")
    given = {name: str(value) for name, value in vars(options).items() if name not in besides}
    text = json.dumps([str(Path(network).absolute()) for network in options.networks] + [given], sort_keys=True)
    return f"plane-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
