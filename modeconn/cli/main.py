"""The command line: one subcommand per job of the user. Parses, calls, prints; imports torch only to work."""

import argparse
import atexit
import gc
import io
import logging
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from functools import partial

from modeconn.cli import align, average, compare, curve, networks, plane, reproduce, runs, sharpness, studies
from modeconn.cli.options import add_command, as_options, flags_of
from modeconn.cli.parser import Parser
from modeconn.cli.signals import Terminated, end_on_signals
from modeconn.errors import ModeconnError, OptionError
from modeconn.execution.memory import keep_freed_memory
from modeconn.tasks import PRESETS, Task
from modeconn.versions import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status. 0: done; 1: an error or fault, said in a sentence; 2: the same, of options that cannot be used;
        130: interrupted; 143: terminated.

    Raises:
        SystemExit: after help, with status 0.
    """
    if arguments is None:  # this process is the command's
        end_on_signals()
        atexit.register(gc.freeze)  # at its end Python would look through all of PyTorch for cycles, for a second
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _write_any_text()
    logging.basicConfig(format="modeconn: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        options = _parser(arguments).parse_args(arguments)
        options.command = shlex.join(["modeconn", *arguments])
        keep_freed_memory()
        _run(options)
    except ModeconnError as error:
        print(f"modeconn: {error}", file=sys.stderr)
        return 2 if isinstance(error, OptionError) else 1
    except MemoryError:
        print("modeconn: there is not enough memory for this; use a smaller batch, or fewer workers", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        word, status = ("terminated", 143) if isinstance(error, Terminated) else ("interrupted", 130)
        print(f"\nmodeconn: {word}; the same command goes on from here", file=sys.stderr)
        return status
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # nothing should come here
        print(_last_resort(error, arguments), file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    try:
        options.run(options)
    except ModeconnError as error:
        kind = OptionError if isinstance(error, OptionError) else ModeconnError
        raise kind(as_options(str(error), flags_of(options.parser))) from error
    except SystemExit as error:  # of somebody's function: nothing is done, whatever status it has
        raise ModeconnError(
            f"what was called for this command ended Python (SystemExit {error.code}); name a function that returns"
        ) from error


def _write_any_text() -> None:
    """Write what a terminal cannot show, such as a Greek name on an ASCII one, by its number instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _last_resort(error: Exception, arguments: Sequence[str]) -> str:
    """One sentence on a fault of our own, whose traceback is in a file."""
    what = (
        f"modeconn: a fault of modeconn's own stopped it ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    )
    command = shlex.join(["modeconn", *arguments])
    told = f"{command}\nmodeconn {__version__}, Python {sys.version}\n\n{''.join(traceback.format_exception(error))}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="modeconn-", suffix=".txt", delete=False, errors="replace"
        ) as file:
            file.write(told)
    except OSError:  # nowhere to write
        return f"{told}\n{what}; please report it to the modeconn developers, with the traceback above"
    return f"{what}; please report it to the modeconn developers, with {file.name}, where the traceback is"


def _parser(arguments: Sequence[str]) -> Parser:
    """The parser of all commands; help shows the defaults of the task that the arguments name."""
    parser = Parser(
        prog="modeconn",
        description="Instability analysis: from which iteration on do copies of a network, trained with different SGD "
        "noise, end in the same linearly connected minimum? And lottery tickets, rewound to that iteration.",
        epilog="Start with: modeconn instability, or modeconn lottery. Two networks of yours: modeconn barrier A B "
        "--model ... --data ...",
    )
    parser.add_argument("--version", action="version", version=f"modeconn {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    task = PRESETS[next((word for word in arguments if word in PRESETS), studies.DEFAULT_TASK)]
    for run, add_options, text in _commands(task):
        add_options(add_command(commands, run, text))
    return parser


def _commands(task: Task) -> list[tuple[Callable[..., None], Callable[..., None], str]]:
    """Of every command: the function that runs it, the one that adds its options to a parser, and its help."""
    return [
        (
            studies.instability,
            partial(studies.add_instability, task=task),
            "train, fork, measure error barriers, and report the earliest stable iteration",
        ),
        (
            studies.lottery,
            partial(studies.add_lottery, task=task),
            "prune, rewind to the earliest stable iteration, and see which tickets match the dense network",
        ),
        (
            studies.sweep,
            partial(studies.add_sweep, task=task),
            "find the k from which subnetworks are stable, and match, at each density",
        ),
        (studies.export, studies.add_export, "write a lottery ticket: its weights at k, its mask, what it is"),
        (studies.train, partial(studies.add_train, task=task), "train one network and save its states"),
        (
            networks.barrier,
            networks.add_barrier,
            "measure the error barrier on the linear path between two networks, or between all pairs of more",
        ),
        (
            compare.compare,
            compare.add_compare,
            "whether two networks may be averaged, and what has to be done first",
        ),
        (
            align.align,
            align.add_align,
            "permute the units of a network so that it is most like another one",
        ),
        (
            average.average,
            average.add_average,
            "average networks, or the last checkpoints of one run, and recalibrate BatchNorm's statistics",
        ),
        (
            networks.soup,
            networks.add_soup,
            "average weights (model soups), skipping networks separated by a barrier",
        ),
        (
            curve.curve,
            curve.add_curve,
            "fit a curve of low loss between two networks, and measure it beside the straight path",
        ),
        (
            plane.plane,
            plane.add_plane,
            "draw the plane through three networks, the landscape around one, or where a training moved most",
        ),
        (
            sharpness.sharpness,
            sharpness.add_sharpness,
            "measure the curvature of the training loss: eigenvalues of its Hessian, trace, density, flatness",
        ),
        (
            reproduce.reproduce,
            reproduce.add_reproduce,
            "compute a figure or table of the papers, or the ledger of what agrees",
        ),
        (studies.tasks, lambda parser: None, "list the tasks and their hyperparameters"),
        (runs.runs, runs.add_runs, "list the studies and runs of a store; show, verify or clean them"),
        (studies.plot, studies.add_plot, "draw a study's figures again from its files"),
    ]


if __name__ == "__main__":
    sys.exit(main())
