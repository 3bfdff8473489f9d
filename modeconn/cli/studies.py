"""The commands on lottery tickets: lottery, export. Imports torch only to work."""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeconn.tasks import Task
from modeconn.tickets.options import LotteryOptions


def lottery(options: argparse.Namespace, task: Task, machine: dict[str, Any], out: Path, log: Any) -> None:
    """Run a lottery-ticket study and print what it found."""
    from modeconn.cli.progress import progress_bar
    from modeconn.tickets.lottery import lottery as find_tickets

    with progress_bar() as report:
        result = find_tickets(
            task,
            **asked(options),
            **machine,
            out=out,
            command=options.command,
            log=log,
            report=report,
            say=lambda text: print(f"modeconn: {text}", file=sys.stderr),
        )
    print(result)


def export(options: argparse.Namespace) -> None:
    """Write a ticket: its weights at k, its mask, and what it is."""
    from modeconn.tickets.export import export_ticket

    ticket = export_ticket(
        options.folder,
        options.out,
        level=options.level,
        replicate=options.replicate,
        condition=options.condition,
        store=options.store,
        torch_prune=options.torch_prune,
    )
    print(ticket)


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a study as they were given; thresholds are points of error there and fractions here."""
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(LotteryOptions)}
    return given | {"threshold": options.threshold / 100}


def add_study(group: Any, parse: dict[str, Callable[[str], Any]]) -> None:
    """Add the options of a lottery-ticket study.

    Args:
        group: an argparse group.
        parse: types of options that are shared with other commands: `names` and `alphas`.
    """
    names = parse["names"]
    kinds = {"alphas": parse["alphas"], "rates": _rates, "rewind_iter": str, "rewind_iters": str, "prune_iter": str}
    kinds |= dict.fromkeys(("barriers", "barriers_of"), lambda text: () if text == "none" else names(text))
    for field in dataclasses.fields(LotteryOptions):
        default: Any = field.default
        flag = f"--{field.name.replace('_', '-')}"
        text = field.metadata["help"]
        if field.metadata["choices"] and isinstance(default, tuple):
            text += f"; of {', '.join(field.metadata['choices'])}"
        if isinstance(default, bool):
            kind: Any = argparse.BooleanOptionalAction if default else "store_true"
            shown = "on" if default else "off"
            group.add_argument(flag, action=kind, default=default, help=f"{text} (default: {shown})")
            continue
        kind = kinds.get(field.name, names if isinstance(default, tuple) else type(default))
        if field.name == "threshold":
            default, text = 100 * default, f"{text}, in points of error"
        if default is None:
            group.add_argument(flag, type=int, metavar="N", help=text)
            continue
        shown = (",".join(default) or "none") if isinstance(default, tuple) else f"{default}".replace("%", "%%")
        group.add_argument(
            flag, type=kind, default=default, metavar=_METAVARS.get(kind, "A,B"), help=f"{text} (default: {shown})"
        )


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the options of the export command."""
    parser.add_argument("folder", type=Path, help="the folder of results of a lottery-ticket study")
    parser.add_argument("--level", type=int, help="of pruning (default: the sparsest that matches, or the last)")
    parser.add_argument("--replicate", type=int, default=0, help="which (default: 0)")
    parser.add_argument("--condition", default="imp", help="which (default: imp)")
    parser.add_argument("--out", type=Path, default=Path("ticket"), help="folder to write (default: ticket)")
    parser.add_argument(
        "--torch-prune", action="store_true", help="also a state dict in the form of torch.nn.utils.prune"
    )


_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}


def _rates(text: str) -> tuple[tuple[str, float], ...]:
    found = []
    for part in filter(None, text.split(",")):
        name, _, rate = part.rpartition("=")
        try:
            found.append((name.strip(), float(rate)))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{part!r} is not a layer and its rate, such as 4.weight=0.5") from error
    return tuple(found)
