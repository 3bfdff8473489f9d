"""The command line: one subcommand per job of the user. Parses, calls, prints; imports torch only to work."""

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from modeconn.analysis.instability.options import StudyOptions
from modeconn.cli import networks as cli_networks
from modeconn.cli import runs as cli_runs
from modeconn.cli import studies as cli_lottery
from modeconn.errors import ModeconnError
from modeconn.execution.memory import keep_freed_memory
from modeconn.tasks import PRESETS, Task, get_task
from modeconn.tickets.options import LotteryOptions
from modeconn.versions import __version__

_DEFAULT_TASK = "digits-conv"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. 1: an error, said in one line. 2: unknown options. 130: interrupted."""
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
    except KeyboardInterrupt:
        print("\nmodeconn: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _instability(options: argparse.Namespace) -> None:
    task = _task(options)
    _start_workers_early(options)
    from modeconn.analysis.instability.instability import instability
    from modeconn.cli.progress import progress_bar
    from modeconn.report import describe_study

    study = {field.name: getattr(options, field.name) for field in dataclasses.fields(StudyOptions)}
    study["threshold"] = options.threshold / 100
    out = options.out or Path("modeconn-results") / _folder_name("instability", task, StudyOptions, study)
    with progress_bar() as report:
        result = instability(
            task,
            **study,
            **_machine(options),
            **_workers(options),
            out=out,
            command=options.command,
            log=_log(options, out, task),
            report=report,
        )
    print(describe_study(result))


def _lottery(options: argparse.Namespace) -> None:
    task = _task(options)
    study = cli_lottery.asked(options)
    out = options.out or Path("modeconn-results") / _folder_name("lottery", task, LotteryOptions, study)
    _start_workers_early(options)
    cli_lottery.lottery(options, task, _machine(options) | _workers(options), out, _log(options, out, task))


def _train(options: argparse.Namespace) -> None:
    task = _task(options)
    if not task.evaluate_every:
        task = dataclasses.replace(task, evaluate_every=max(1, task.iterations // 10))
    _start_workers_early(options)
    from modeconn.cli.progress import progress_bar
    from modeconn.training.fork import train

    log = _log(options, Path("modeconn-results") / f"train-{task.name}", task)
    with progress_bar() as report:
        run = train(
            task,
            save_at=options.save_at,
            seed=options.seed,
            **_machine(options),
            command=options.command,
            log=log,
            report=report,
        )
    print(f"{'iteration':>10}{'split':>12}{'loss':>10}{'error %':>10}")
    for row in run.metrics:
        print(f"{row['iteration']:>10}{row['split']:>12}{row['loss']:>10.4f}{100 * row['error']:>10.2f}")
    if run.diverged_at is not None:
        print(f"Diverged: the loss was not finite at iteration {run.diverged_at}; the last state is the last good one.")
    for iteration, folder in run.folders.items():
        print(f"State at iteration {iteration}: {folder}")


def _tasks(_: argparse.Namespace) -> None:
    columns = (
        "task",
        "data",
        "model",
        "optimizer",
        "rate",
        "schedule",
        "warmup",
        "batch",
        "iterations",
        "source",
    )
    rows = [columns]
    for task in PRESETS.values():
        schedule = task.schedule + (f" at {', '.join(map(str, task.milestones))}" if task.milestones else "")
        rate = f"{task.learning_rate:g}"
        times = (str(task.warmup), str(task.batch_size), str(task.iterations))
        rows.append((task.name, task.data, task.model, task.optimizer, rate, schedule, *times, task.source))
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _plot(options: argparse.Namespace) -> None:
    from modeconn import load_result
    from modeconn.analysis.instability.result import InstabilityResult
    from modeconn.plots import save_figures, save_lottery_figures

    result = load_result(options.folder)
    for path in save_figures(result) if isinstance(result, InstabilityResult) else save_lottery_figures(result):
        print(path)


def _task(options: argparse.Namespace) -> Task:
    """The task with the options that were given, shortened first, so that they have the last word."""
    task = get_task(options.task)
    if options.iterations is not None:
        task = task.shortened(options.iterations)
    return get_task(task, **{name[5:]: value for name, value in vars(options).items() if name.startswith("task.")})


def _folder_name(kind: str, task: Task, options: type[Any], study: dict[str, Any]) -> str:
    """A folder for each study: a short hash follows the task's name where anything differs from the defaults."""
    defaults = dataclasses.asdict(options())
    asked = dataclasses.asdict(options(**study))
    different = {key: value for key, value in asked.items() if value != defaults[key]}
    if not different and task == PRESETS.get(task.name):
        return f"{kind}-{task.name}"
    text = json.dumps([task.spec(), task.data, different], sort_keys=True)
    return f"{kind}-{task.name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    names = ("device", "precision", "store", "data_dir", "checkpoint_every")
    return {name: getattr(options, name) for name in names}


def _workers(options: argparse.Namespace) -> dict[str, Any]:
    """How many processes on this machine, or which Dask cluster in their place."""
    if not _on_dask(options):
        return {"workers": options.workers}
    from modeconn.evaluation.compute import resolve_device
    from modeconn.execution.dask_engine import Dask

    gpus = int(resolve_device(options.device).type == "cuda")
    executor = Dask(options.dask, options.dask_scheduler_file, gpus)
    return {"workers": options.workers, "executor": executor}


def _on_dask(options: argparse.Namespace) -> bool:
    return getattr(options, "dask", None) is not None or getattr(options, "dask_scheduler_file", None) is not None


def _log(options: argparse.Namespace, folder: Path, task: Task) -> Any:
    if options.track is None:
        return None
    from modeconn.training.trackers import tracker

    project = str(folder / "tensorboard") if options.track == "tensorboard" else "modeconn"
    return tracker(options.track, project, task.spec())


def _start_workers_early(options: argparse.Namespace) -> None:
    if options.workers != 0 and not _on_dask(options):
        from modeconn.execution.pool import start_server

        start_server()


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
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
    # Help shows the defaults of the task that was named.
    task = next((PRESETS[word] for word in arguments if word in PRESETS), PRESETS[_DEFAULT_TASK])

    study = _command(commands, _instability, "train, fork, measure barriers, and say from where on it is stable")
    _add_task(study)
    _add_study(study.add_argument_group("study"))
    _add_machine(study.add_argument_group("machine and files"), workers=True)
    study.add_argument("--out", type=Path, help="folder of results (default: modeconn-results/instability-TASK)")
    _add_hyperparameters(study.add_argument_group(f"hyperparameters of the task (defaults: {task.name})"), task)

    tickets = _command(commands, _lottery, "prune, rewind to where the network is stable, and see what matches it")
    _add_task(tickets)
    cli_lottery.add_study(tickets.add_argument_group("study"), {"names": _names, "alphas": _alphas})
    _add_machine(tickets.add_argument_group("machine and files"), workers=True)
    tickets.add_argument("--out", type=Path, help="folder of results (default: modeconn-results/lottery-TASK)")
    hyperparameters = tickets.add_argument_group(f"hyperparameters of the task (defaults: {task.name})")
    _add_hyperparameters(hyperparameters, task, besides={"validation"})
    ticket = _command(commands, cli_lottery.export, "write a lottery ticket: its weights at k, its mask, what it is")
    cli_lottery.add_export(ticket)
    _add_store(ticket)

    training = _command(commands, _train, "train one network and save its states")
    _add_task(training)
    training.add_argument(
        "--save-at", type=_names, default=(), help="iterations to save at, besides the last (0,2ep,3%%)"
    )
    training.add_argument("--seed", type=int, default=0, help="seed of initialisation and noise (default: 0)")
    _add_machine(training.add_argument_group("machine and files"), workers=False)
    _add_hyperparameters(training.add_argument_group(f"hyperparameters of the task (defaults: {task.name})"), task)

    cli_networks.add_commands(commands, _command, {"names": _names, "alphas": _alphas})
    _command(commands, _tasks, "list the tasks and their hyperparameters")
    runs = _command(commands, cli_runs.runs, "list the studies and runs of a store; show, verify or clean them")
    cli_runs.add_commands(runs, _add_store)
    plot = _command(commands, _plot, "draw a study's figures again from its files")
    plot.add_argument("folder", type=Path, help="the folder of results of a study")
    return parser


def _command(commands: Any, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    name = run.__name__.strip("_")
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    parser.set_defaults(run=run)
    return parser


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "task",
        nargs="?",
        default=_DEFAULT_TASK,
        help=f"what is trained; see modeconn tasks (default: {_DEFAULT_TASK})",
    )
    parser.add_argument("--iterations", type=int, help="shorten the task and its schedule in proportion")


def _add_study(group: Any) -> None:
    for field in dataclasses.fields(StudyOptions):
        default: Any = field.default
        if isinstance(default, bool):
            group.add_argument(_flag(field.name), action="store_true", help=field.metadata["help"])
            continue
        kind = {"alphas": _alphas}.get(field.name, _names if isinstance(default, tuple) else type(default))
        if field.name == "threshold":
            kind, default = float, 100 * default
        shown = ",".join(default) if isinstance(default, tuple) else f"{default}".replace("%", "%%")
        unit = ", in points of error" if field.name == "threshold" else ""
        text = f"{field.metadata['help']}{unit} (default: {shown})"
        group.add_argument(_flag(field.name), type=kind, default=default, metavar=_metavar(kind), help=text)


def _add_machine(group: Any, workers: bool) -> None:
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
    else:
        group.set_defaults(workers=1)
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument("--precision", default="float32", help="float32, bfloat16, or tf32 on a GPU (default: float32)")
    _add_store(group)
    group.add_argument("--data-dir", type=Path, help="folder of data sets (default: $MODECONN_DATA or a cache)")
    group.add_argument(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds between saves (default: 60)",
    )
    group.add_argument("--track", metavar="TRACKER", help="copy metrics to tensorboard, wandb or trackio")


def _add_store(group: Any, default: Any = None) -> None:
    default = default or Path(os.environ.get("MODECONN_STORE", "modeconn-store"))
    group.add_argument(
        "--store",
        type=Path,
        default=default,
        help="folder of all that is computed (default: $MODECONN_STORE or modeconn-store)",
    )


def _add_hyperparameters(group: Any, task: Task, besides: Collection[str] = ()) -> None:
    for field in dataclasses.fields(Task):
        if field.name in {"name", "source", "iterations", *besides}:
            continue
        default = getattr(task, field.name)
        shown = (",".join(map(str, default)) or "none") if isinstance(default, tuple) else f"{default}"
        choices = f": {', '.join(field.metadata['choices'])}" if field.metadata["choices"] else ""
        text = f"{field.metadata['help']}{choices} (default: {shown or 'none'})"
        flag, dest = f"--task.{field.name.replace('_', '-')}", f"task.{field.name}"
        common = {"dest": dest, "default": argparse.SUPPRESS, "help": text}
        if isinstance(default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        else:
            kind = _integers if isinstance(default, tuple) else type(default)
            group.add_argument(flag, type=kind, metavar=_metavar(kind), **common)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _metavar(kind: Any) -> str:
    return {int: "N", float: "X", str: "TEXT", _names: "A,B", _alphas: "N|A,B", _integers: "N,M"}[kind]


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 10,20") from error


def _alphas(text: str) -> int | str | tuple[float, ...]:
    if text in ("paper", "adaptive"):
        return text
    try:
        return int(text) if "," not in text and "." not in text else tuple(float(part) for part in _names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a count, a list such as 0,0.5,1, nor paper or adaptive"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
