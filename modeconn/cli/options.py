"""Options of the command line: generated from dataclass fields, and those that commands share. Imports no torch."""

import argparse
import dataclasses
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

RESULTS = Path("modeconn-results")  # where results are written to if no other folder is given


class Kind(NamedTuple):
    """How an option's value is read, and what stands for it in help."""

    parse: Callable[[str], Any]
    metavar: str


def add_fields(
    group: Any,
    options: Any,
    *,
    prefix: str = "",
    besides: Collection[str] = (),
    kinds: Mapping[str, Kind] = MappingProxyType({}),
    defaults: Mapping[str, Any] = MappingProxyType({}),
    switches: tuple[str, str] | None = None,
    choices: bool = False,
) -> None:
    """Add an option for each field of a dataclass; `given_fields` reads them.

    Args:
        group: an argparse group.
        options: the dataclass, or an instance of it; help shows the values of its fields as defaults.
        prefix: of the options' names.
        besides: names of fields that get no option.
        kinds: by a field's name, where its kind is another than that of its type in `KINDS`.
        defaults: by a field's name, what help shows in place of its value.
        switches: words for a switch that is off, and on, by default; if None, help does not say it.
        choices: whether help lists the values of options that take one of several.
    """
    for field in dataclasses.fields(options):
        if field.name in besides:
            continue
        default = defaults.get(field.name, getattr(options, field.name))
        flag = f"--{prefix}{field.name.replace('_', '-')}"
        common = {
            "dest": prefix + field.name,
            "default": argparse.SUPPRESS,
            "help": _help(field, default, switches, choices),
        }
        if field.type is bool:
            # An instance may have been switched on, so all of its switches can be switched off.
            both = default or not isinstance(options, type)
            group.add_argument(flag, action=argparse.BooleanOptionalAction if both else "store_true", **common)
        else:
            kind = kinds.get(field.name) or KINDS[field.type]
            group.add_argument(flag, type=kind.parse, metavar=kind.metavar, **common)


def given_fields(given: argparse.Namespace, kind: type[Any], prefix: str = "") -> dict[str, Any]:
    """The fields of a dataclass that options were given for, in the dataclass's units."""
    present = [field.name for field in dataclasses.fields(kind) if hasattr(given, prefix + field.name)]
    found = {name: getattr(given, prefix + name) for name in present}
    return {name: value / 100 if name in POINTS else value for name, value in found.items()}


def as_options(message: str, flags: Mapping[str, str]) -> str:
    """Say by a command's options what a message says by Python's arguments.

    Args:
        message: in which arguments are followed by `=`, or have an underscore in their name, or begin it and must be
            something.
        flags: of the command; see `flags_of`.

    >>> flags = {"model": "--model", "batchnorm": "--batchnorm", "last": "--last", "batch_size": "--batch-size"}
    >>> as_options('give model= a module, or batchnorm="repair"', flags)
    'give --model a module, or --batchnorm repair'
    >>> as_options("last=20 of 10, and batch_size must be at least 1", flags)
    '--last 20 of 10, and --batch-size must be at least 1'
    """
    known = "|".join(map(re.escape, sorted(flags, key=len, reverse=True)))
    # Some messages name both.
    given = re.compile(rf"""(?<![\w./-])({known})=(?:True\b|["']?([\w.:%/-]*[\w%])["']?)?(?: or --[\w-]+)?""")
    message = given.sub(lambda found: " ".join(filter(None, (flags[found[1]], _value(found[2])))), message)
    message = re.sub(rf"^({known})(?= must )", lambda found: flags[found[1]], message)
    identifiers = re.compile(rf"(?<![\w./'-])({known})(?![\w./'-])")
    return identifiers.sub(lambda found: flags[found[1]] if "_" in found[1] else found[1], message)


def show(result: object, options: argparse.Namespace) -> None:
    """Print a result, whose notes speak of Python's arguments."""
    print(as_options(str(result), flags_of(options.parser)))


def _value(text: str | None) -> str | None:
    return "none" if text in ("False", "None") else text


def flags_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The option that an argument of Python has at the command line, by the argument's name: `batch_size`."""
    actions = [action for action in parser._actions if action.option_strings]
    flags = {action.dest: action.option_strings[0] for action in actions}
    # A field of the task is called by its name alone, unless that is an option of the study.
    return {dest.removeprefix("task."): flag for dest, flag in flags.items()} | flags


def add_command(commands: Any, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    """Add a command to argparse's subparsers, named like the function that runs it.

    Args:
        commands: argparse's subparsers.
        run: called with the parsed options.
        text: help in one line.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        run.__name__, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_machine(group: Any, workers: bool) -> None:
    """Add where and how a study is computed and kept."""
    if workers:
        group.add_argument(
            "--workers",
            type=int,
            metavar="N",
            help="processes (default: one per core, or per GPU); with Dask, jobs at a time (default: one per worker)",
        )
        cluster = group.add_mutually_exclusive_group()
        cluster.add_argument("--dask", metavar="ADDRESS", help="compute on the workers of this Dask scheduler")
        cluster.add_argument("--dask-scheduler-file", type=Path, metavar="FILE", help="or of the one that wrote this")
    add_device(group)
    add_store(group)
    add_data_dir(group)
    group.add_argument(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds between saves (default: 60)",
    )
    group.add_argument("--track", metavar="TRACKER", help="copy metrics to tensorboard, wandb or trackio")


def add_device(group: Any) -> None:
    """Add the device that computes, and in which precision."""
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument("--precision", default="float32", help="float32, bfloat16, or tf32 on a GPU (default: float32)")


def add_store(group: Any, default: Any = None) -> None:
    """Add the folder of the store; by default `$MODECONN_STORE`, or `modeconn-store` here."""
    group.add_argument(
        "--store",
        type=Path,
        default=default or Path(os.environ.get("MODECONN_STORE", "modeconn-store")),
        help="folder of all that is computed (default: $MODECONN_STORE or modeconn-store)",
    )


def add_data_dir(group: Any) -> None:
    """Add the folder of data sets."""
    group.add_argument("--data-dir", type=Path, help="folder of data sets (default: $MODECONN_DATA or a cache)")


def names(text: str) -> tuple[str, ...]:
    """Parse names with commas between them.

    >>> names("test, train")
    ('test', 'train')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def names_or_none(text: str) -> tuple[str, ...]:
    """Parse names with commas between them; `none` stands for no name."""
    return () if text == "none" else names(text)


def import_path(text: str) -> str:
    """Parse `package.module:function`, whose last dot may stand for the colon; anything else is left as it is.

    >>> import_path("mynets.MLP"), import_path("mynets:MLP"), import_path("resnet-20"), import_path("test.npz")
    ('mynets:MLP', 'mynets:MLP', 'resnet-20', 'test.npz')
    """
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", text) or text.endswith(".npz"):
        return text
    return ":".join(text.rsplit(".", 1))


def names_or_false(text: str) -> tuple[str, ...] | bool:
    """Parse names with commas between them; `none` says that there is none."""
    return False if text == "none" else names(text)


def points_or_none(text: str) -> float | None:
    """Parse percentage points, or `none`.

    >>> points_or_none("2"), points_or_none("none")
    (2.0, None)
    """
    try:
        return None if text == "none" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of percentage points nor none") from error


def integers(text: str) -> tuple[int, ...]:
    """Parse whole numbers with commas between them."""
    try:
        return tuple(int(part) for part in names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 10,20") from error


def alphas(text: str) -> int | str | tuple[float, ...]:
    """Parse points on a path: how many, which, or the name of a rule.

    >>> alphas("11"), alphas("0,0.5,1"), alphas("adaptive")
    (11, (0.0, 0.5, 1.0), 'adaptive')
    """
    if text in ("paper", "adaptive"):
        return text
    try:
        return int(text) if "," not in text and "." not in text else tuple(float(part) for part in names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a count, a list such as 0,0.5,1, nor paper or adaptive"
        ) from error


def rates(text: str) -> tuple[tuple[str, float], ...]:
    """Parse layers and their rates.

    >>> rates("output=0.5,4.weight=0"), rates("none")
    ((('output', 0.5), ('4.weight', 0.0)), ())
    """
    if text == "none":
        return ()
    found = []
    for part in filter(None, text.split(",")):
        name, _, rate = part.rpartition("=")
        try:
            found.append((name.strip(), float(rate)))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{part!r} is not a layer and its rate, such as 4.weight=0.5") from error
    return tuple(found)


KINDS: dict[Any, Kind] = {  # by the type that a field is declared with
    int: Kind(int, "N"),
    int | None: Kind(int, "N"),
    float: Kind(float, "X"),
    str: Kind(str, "TEXT"),
    str | None: Kind(str, "TEXT"),
    str | int: Kind(str, "TEXT"),  # an iteration: 500, 2ep, 3%
    str | int | Iterable[str | int]: Kind(str, "TEXT"),
    Sequence[str]: Kind(names, "A,B"),
    Sequence[tuple[str, float]] | None: Kind(rates, "A,B"),
    tuple[int, ...]: Kind(integers, "N,M"),
    int | str | Sequence[float]: Kind(alphas, "N|A,B"),
}
POINTS = frozenset({"threshold"})  # fields that are fractions of error, which users give in points: 2 for 0.02


def _help(field: Any, default: Any, switches: tuple[str, str] | None, choices: bool) -> str:
    text, known = field.metadata["help"], ", ".join(field.metadata["choices"])
    if field.name in POINTS:
        text, default = f"{text}, in percentage points", 100 * default
    if known and isinstance(default, tuple):
        text += f"; of {known}"
    elif known and choices:
        text += f": {known}"
    if default is None or (isinstance(default, bool) and switches is None):
        return str(text)
    return f"{text} (default: {_shown(default, switches)})"


def _shown(default: Any, switches: tuple[str, str] | None) -> str:
    if isinstance(default, bool) and switches:
        return switches[default]
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "none"
    return f"{default}".replace("%", "%%")  # argparse formats help
