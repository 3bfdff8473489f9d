"""The command line: one subcommand per job of the user. Parses, calls, prints; imports torch only to work."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial

from modeconn.cli import networks, runs, studies
from modeconn.cli.options import add_command
from modeconn.cli.signals import Terminated, end_on_signals
from modeconn.errors import ModeconnError
from modeconn.execution.memory import keep_freed_memory
from modeconn.tasks import PRESETS, Task
from modeconn.versions import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status. 0: done; 1: an error, said in one line; 130: interrupted; 143: terminated.

    Raises:
        SystemExit: after help, with status 0; options that cannot be parsed, with 2.
    """
    if arguments is None:  # this process is the command's
        end_on_signals()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="modeconn: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        options = _parser(arguments).parse_args(arguments)
        options.command = shlex.join(["modeconn", *arguments])
        keep_freed_memory()
        options.run(options)
    except ModeconnError as error:
        print(f"modeconn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        word, status = ("terminated", 143) if isinstance(error, Terminated) else ("interrupted", 130)
        print(f"\nmodeconn: {word}; the same command goes on from here", file=sys.stderr)
        return status
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands; help shows the defaults of the task that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="modeconn",
        description="Instability analysis: from which iteration on do copies of a network, trained with different SGD "
        "noise, end in the same linearly connected minimum? And lottery tickets, rewound to that iteration.",
        epilog="Start with: modeconn instability, or modeconn lottery. Two networks of yours: modeconn barrier A B "
        "--model ... --data ...",
        allow_abbrev=False,
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
            "train, fork, measure barriers, and say from where on it is stable",
        ),
        (
            studies.lottery,
            partial(studies.add_lottery, task=task),
            "prune, rewind to where the network is stable, and see what matches it",
        ),
        (studies.export, studies.add_export, "write a lottery ticket: its weights at k, its mask, what it is"),
        (studies.train, partial(studies.add_train, task=task), "train one network and save its states"),
        (
            networks.barrier,
            networks.add_barrier,
            "how high the path between two trained networks rises; of more, between all pairs",
        ),
        (
            networks.soup,
            networks.add_soup,
            "average networks, uniformly or greedily, where no barrier is between them",
        ),
        (studies.tasks, lambda parser: None, "list the tasks and their hyperparameters"),
        (runs.runs, runs.add_runs, "list the studies and runs of a store; show, verify or clean them"),
        (studies.plot, studies.add_plot, "draw a study's figures again from its files"),
    ]


if __name__ == "__main__":
    sys.exit(main())
