"""The commands of studies: instability, lottery, sweep, export, train, tasks, plot. Imports torch only to work."""

import argparse
import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import modeconn
from modeconn.analysis.instability.options import StudyOptions
from modeconn.cli.options import (
    RESULTS,
    Kind,
    add_fields,
    add_machine,
    add_store,
    alphas,
    given_fields,
    import_path,
    names,
    names_or_none,
    show,
)
from modeconn.errors import OptionError
from modeconn.progress import progress_bar
from modeconn.reading import is_file
from modeconn.tasks import PRESETS, Task, get_task
from modeconn.tickets.options import LotteryOptions, pruning_of
from modeconn.tickets.sweep_options import SweepOptions

DEFAULT_TASK = "digits-conv"


def add_instability(parser: argparse.ArgumentParser, task: Task) -> None:
    """Add the options of an instability study; help shows the defaults of this task."""
    _add_task(parser)
    kinds = {"measures": Kind(names_or_none, "A,B")}
    add_fields(parser.add_argument_group("study"), StudyOptions, kinds=kinds)
    machine = parser.add_argument_group("machine and files")
    add_machine(machine, workers=True)
    machine.add_argument("--fresh", action="store_true", help="compute all anew, and replace what the store has of it")
    parser.add_argument("--out", type=Path, help="folder of results (default: modeconn-results/instability-TASK)")
    _add_hyperparameters(parser, task)


def instability(options: argparse.Namespace) -> None:
    """Run an instability study and print what it found."""
    task, study = _prepare("instability", StudyOptions, options)

    with progress_bar() as report:
        result = modeconn.instability(task, **study, fresh=options.fresh, report=report)
    show(result, options)


def add_lottery(parser: argparse.ArgumentParser, task: Task) -> None:
    """Add the options of a lottery-ticket study; help shows the defaults of this task."""
    _add_task(parser)
    several = Kind(names_or_none, "A,B")
    kinds = {"barriers": several, "barriers_of": several, "measures": several, "alphas": Kind(alphas, "A,B")}
    group = parser.add_argument_group("study")
    add_fields(group, LotteryOptions, kinds=kinds, defaults=_pruning(task), switches=("off", "on"))
    add_machine(parser.add_argument_group("machine and files"), workers=True)
    parser.add_argument("--out", type=Path, help="folder of results (default: modeconn-results/lottery-TASK)")
    _add_hyperparameters(parser, task, besides=("validation",))  # the study has an option of that name


def lottery(options: argparse.Namespace) -> None:
    """Run a lottery-ticket study and print what it found."""
    task, study = _prepare("lottery", LotteryOptions, options)
    with progress_bar() as report:
        result = modeconn.lottery(task, **study, report=report, say=_say)
    show(result, options)


def add_sweep(parser: argparse.ArgumentParser, task: Task) -> None:
    """Add the options of a sweep over density; help shows the defaults of this task."""
    _add_task(parser)
    group = parser.add_argument_group("study")
    kinds = {"alphas": Kind(alphas, "A,B")}
    add_fields(group, SweepOptions, kinds=kinds, defaults=_pruning(task), switches=("off", "on"))
    add_machine(parser.add_argument_group("machine and files"), workers=True)
    parser.add_argument("--out", type=Path, help="folder of results (default: modeconn-results/sweep-TASK)")
    _add_hyperparameters(parser, task, besides=("validation",))  # the study has an option of that name


def sweep(options: argparse.Namespace) -> None:
    """Run a sweep over density and print what it found."""
    task, study = _prepare("sweep", SweepOptions, options)
    with progress_bar() as report:
        result = modeconn.sweep(task, **study, report=report)
    show(result, options)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the options of the export of a ticket."""
    parser.add_argument("folder", type=Path, help="the folder of results of a lottery-ticket study")
    parser.add_argument("--level", type=int, help="of pruning (default: the sparsest that matches, or the last)")
    parser.add_argument("--replicate", type=int, default=0, help="which (default: 0)")
    parser.add_argument("--condition", default="imp", help="which (default: imp)")
    parser.add_argument("--rewind-iter", type=int, help="which k, of a study with several")
    parser.add_argument("--out", type=Path, default=Path("ticket"), help="folder to write (default: ticket)")
    parser.add_argument(
        "--torch-prune", action="store_true", help="also a state dict in the form of torch.nn.utils.prune"
    )
    add_store(parser)


def export(options: argparse.Namespace) -> None:
    """Write a ticket: its weights at k, its mask, and what it is."""
    from modeconn.tickets.export import export_ticket

    ticket = export_ticket(
        options.folder,
        options.out,
        level=options.level,
        replicate=options.replicate,
        condition=options.condition,
        rewind_iter=options.rewind_iter,
        store=options.store,
        torch_prune=options.torch_prune,
    )
    print(ticket)


def add_train(parser: argparse.ArgumentParser, task: Task) -> None:
    """Add the options of one training; help shows the defaults of this task."""
    _add_task(parser)
    parser.add_argument("--save-at", type=names, default=(), help="iterations to save at, besides the last (0,2ep,3%%)")
    parser.add_argument("--seed", type=int, default=0, help="seed of initialisation and noise (default: 0)")
    add_machine(parser.add_argument_group("machine and files"), workers=False)
    _add_hyperparameters(parser, task)


def train(options: argparse.Namespace) -> None:
    """Train one network, and print its metrics and the folders of its states."""
    task = _task(options)
    if not task.evaluate_every:
        task = dataclasses.replace(task, evaluate_every=max(1, task.iterations // 10))
    _start_workers_early()
    shared = _shared(options, task, RESULTS / f"train-{task.name}")
    with progress_bar() as report:
        run = modeconn.train(task, save_at=options.save_at, seed=options.seed, **shared, report=report)
    print(f"{'iteration':>10}{'split':>12}{'loss':>10}{'error %':>10}")
    for row in run.metrics:
        print(f"{row['iteration']:>10}{row['split']:>12}{row['loss']:>10.4f}{100 * row['error']:>10.2f}")
    if run.diverged_at is not None:
        print(f"Diverged: the loss was not finite at iteration {run.diverged_at}; the last state is the last good one.")
    for iteration, folder in run.folders.items():
        print(f"State at iteration {iteration}: {folder}")


def tasks(_: argparse.Namespace) -> None:
    """List the tasks and their hyperparameters."""
    titles = "task data model optimizer rate schedule warmup batch iterations source"
    rows = [titles.split(), *map(_task_row, PRESETS.values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def add_plot(parser: argparse.ArgumentParser) -> None:
    """Add the options of drawing again."""
    parser.add_argument("folder", type=Path, help="a folder of results, or one of its JSON files")
    group = parser.add_argument_group("figures")
    group.add_argument("--format", type=names, default=("png", "pdf"), help="png, pdf, svg (default: png,pdf)")
    group.add_argument("--width", type=float, metavar="INCHES", help="scale to this width; text keeps its size")
    group.add_argument("--log", action="store_true", help="logarithmic y axes")
    tickets = parser.add_argument_group("of lottery tickets")
    tickets.add_argument("--level", type=int, help="of pruning, that the figure over several k shows besides the last")
    tickets.add_argument("--bars", help="std for a band of one deviation, minmax for the range (default: std)")


def plot(options: argparse.Namespace) -> None:
    """Draw a result's figures again from its files."""
    from modeconn.analysis.instability.figures import save_figures
    from modeconn.saved import load_measurements
    from modeconn.style import Files
    from modeconn.tickets.figures import save_lottery_figures, save_sweep_figure
    from modeconn.tickets.result import LotteryResult
    from modeconn.tickets.sweep_result import SweepResult

    files = Files(options.format, options.width, options.log)
    result = modeconn.load_result(options.folder)
    given = {name: getattr(options, name) for name in ("level", "bars") if getattr(options, name) is not None}
    if isinstance(result, LotteryResult):
        written = save_lottery_figures(result, **given, files=files)
    elif given:
        raise OptionError(f"--{next(iter(given))} is for lottery tickets, and {options.folder} holds none")
    elif isinstance(result, modeconn.InstabilityResult):
        written = save_figures(result, files)
    elif isinstance(result, SweepResult):
        written = save_sweep_figure(result, files)
    else:
        alone = is_file(options.folder)
        folder = options.folder.parent if alone else options.folder
        found = {options.folder.stem: result} if alone else load_measurements(folder)
        written = [path for name, one in found.items() for path in _save_figures_of(one, folder / name, files)]
    for path in written:
        print(path)


def _save_figures_of(result: Any, path: Path, files: Any) -> list[Path]:
    """Write the figures that the command of a measurement writes beside its JSON."""
    from modeconn.style import save_figure

    figures = {path.name: result.plot}
    if isinstance(result, modeconn.Barrier) and result.predictions:
        figures["predictions"] = result.plot_predictions
    if path.name == "matrix" and result.unaligned:
        figures["matrix-unaligned"] = result.unaligned.plot
    drawn = {name: draw() for name, draw in figures.items()}
    each = {name: one if hasattr(one, "savefig") else one.figure for name, one in drawn.items()}
    return [file for name, figure in each.items() for file in save_figure(figure, path.with_name(name), files)]


def _pruning(task: Task) -> dict[str, Any]:
    """What help shows as defaults of where weights compete, and of the rates of layers."""
    scope, rates = pruning_of(task.model)
    return {"scope": scope, "rates": ",".join(f"{layer}={rate:g}" for layer, rate in rates) or "none"}


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "task", nargs="?", default=DEFAULT_TASK, help=f"what is trained; see modeconn tasks (default: {DEFAULT_TASK})"
    )
    parser.add_argument("--iterations", type=int, help="shorten the task and its schedule in proportion")


def _add_hyperparameters(parser: argparse.ArgumentParser, task: Task, besides: tuple[str, ...] = ()) -> None:
    group = parser.add_argument_group(f"hyperparameters of the task (defaults: {task.name})")
    besides, kinds = ("name", "source", "iterations", *besides), {"model": Kind(import_path, "TEXT")}
    add_fields(group, task, prefix="task.", besides=besides, kinds=kinds, switches=("False", "True"), choices=True)


def _prepare(kind: str, study: type[Any], options: argparse.Namespace) -> tuple[Task, dict[str, Any]]:
    """The task of a study, and all options that its function is called with; workers start meanwhile."""
    task = _task(options)
    given = given_fields(options, study)
    out = options.out or RESULTS / _folder_name(kind, task, study, given)
    on_dask = options.dask is not None or options.dask_scheduler_file is not None
    if options.workers != 0 and not on_dask:
        _start_workers_early()
    given |= _shared(options, task, out) | {"workers": options.workers, "out": out}
    return task, given | ({"executor": _dask(options)} if on_dask else {})


def _task(options: argparse.Namespace) -> Task:
    """The task with the options that were given, shortened first, so that they have the last word."""
    task = get_task(options.task)
    if options.iterations is not None:
        task = task.shortened(options.iterations)
    return get_task(task, **given_fields(options, Task, "task."))


def _folder_name(kind: str, task: Task, study: type[Any], given: dict[str, Any]) -> str:
    """A folder for each study: a short hash follows the task's name where anything differs from the defaults.

    >>> _folder_name("lottery", get_task("digits-conv"), LotteryOptions, {"levels": 8})
    'lottery-digits-conv'
    """
    defaults, asked = dataclasses.asdict(study()), dataclasses.asdict(study(**given))
    different = {key: value for key, value in asked.items() if value != defaults[key]}
    if not different and task == PRESETS.get(task.name):
        return f"{kind}-{task.name}"
    text = json.dumps([task.spec(), task.data, different], sort_keys=True)
    return f"{kind}-{task.name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _start_workers_early() -> None:
    """Start the process that workers come from, which imports torch while this one does."""
    from modeconn.execution.pool import start_server

    start_server()


def _shared(options: argparse.Namespace, task: Task, folder: Path) -> dict[str, Any]:
    """The options that studies and single trainings share."""
    machine = ("device", "precision", "store", "data_dir", "checkpoint_every", "command")
    return {name: getattr(options, name) for name in machine} | {"log": _log(options, task, folder)}


def _log(options: argparse.Namespace, task: Task, folder: Path) -> Any:
    if options.track is None:
        return None
    from modeconn.training.trackers import tracker

    project = str(folder / "tensorboard") if options.track == "tensorboard" else "modeconn"
    return tracker(options.track, project, task.spec())


def _dask(options: argparse.Namespace) -> Any:
    """The Dask cluster that computes in place of processes on this machine."""
    from modeconn.evaluation.compute import resolve_device
    from modeconn.execution.dask_engine import Dask

    gpus = int(resolve_device(options.device).type == "cuda")
    return Dask(options.dask, options.dask_scheduler_file, gpus)


def _say(text: str) -> None:
    print(f"modeconn: {text}", file=sys.stderr)


def _task_row(task: Task) -> list[str]:
    schedule = task.schedule + (f" at {', '.join(map(str, task.milestones))}" if task.milestones else "")
    sizes = [f"{task.learning_rate:g}", schedule, str(task.warmup), str(task.batch_size), str(task.iterations)]
    return [task.name, task.data, task.model, task.optimizer, *sizes, task.source]
