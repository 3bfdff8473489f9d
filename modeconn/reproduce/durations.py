"""One training of each of several variants of a task, and the averages of its last checkpoints, as one study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeconn.analysis.averaging.durations import sweep_durations
from modeconn.analysis.averaging.durations_result import Durations
from modeconn.execution import Job
from modeconn.options import require
from modeconn.progress import Report, silent
from modeconn.reproduce.summary import summary_of
from modeconn.result import Result, Row, count
from modeconn.tasks import Task, get_task, parse_iterations
from modeconn.training.fork import train, trunk
from modeconn.training.stored import Run
from modeconn.training.task_training import prepare

NEWEST = "newest"  # the last checkpoint as it is, among the durations


@dataclass(frozen=True, eq=False)
class DurationStudy(Result):
    """Averages of the last checkpoints of a run, over how much of it is averaged.

    Attributes:
        rows: one for each variant, choice of weights and BatchNorm, and duration, with error (a fraction) and loss
            (nats) on validation and test data; `best` is the duration with the lowest validation error. Of the last
            checkpoint as it is, `last` is "newest".
        summary: task, variants and how it was computed; JSON.
    """

    rows: list[Row]
    summary: dict[str, Any]

    @property
    def samples(self) -> str:
        """How many runs there are, in words."""
        return f"{count(len(self.summary['variants']), 'run')}, {self.summary['checkpoints']} checkpoints of each,"


def average_durations(
    task: Task,
    *,
    variants: Mapping[str, Mapping[str, Any]],
    checkpoints: int = 20,
    lasts: Sequence[str] = ("5%", "10%", "20%", "30%", "50%", "75%", "100%"),
    choices: Sequence[tuple[str, str]] = (("uniform", "recalibrate"),),
    calibration_batches: int = 20,
    precision: str = "float32",
    device: str = "auto",
    store: str | Path = "modeconn-store",
    data_dir: str | Path | None = None,
    workers: int | None = None,
    command: str = "",
    report: Report = silent,
) -> DurationStudy:
    """Train a network of each variant, save it regularly, and measure averages of its last checkpoints.

    The duration is chosen on validation data, which the task must hold out, so that the test error is unbiased.

    Args:
        task: what is trained.
        variants: fields of the task that differ, by the variant's name.
        checkpoints: how many are saved, evenly.
        lasts: the durations.
        choices: pairs of weights and what is done to BatchNorm's statistics.
        calibration_batches: for these statistics, at most.
        precision, device, store, data_dir, workers, command, report: as of `modeconn.train`; a training is one process.

    Raises:
        OptionError: no validation data are held out.
    """
    require(task.validation > 0, "durations are chosen on validation data: set the task's validation")
    how: dict[str, Any] = {"precision": precision, "device": device, "data_dir": data_dir}
    rows: list[Row] = []
    for title, fields in variants.items():
        run = train(
            get_task(task, **fields),
            save_at=_saved(checkpoints),
            workers=1 if workers is None else min(workers, 1),
            **how,
            store=store,
            command=command,
            report=report,
        )
        for weights, batchnorm in choices:
            asked = {**how, "batchnorm": batchnorm, "calibration_batches": calibration_batches}
            rows += [{"variant": title, **row} for row in _rows(run, lasts, weights, asked)]
    summary = summary_of(
        task, variants, precision=precision, device=device, data_dir=data_dir, command=command,
        checkpoints=checkpoints, validation=task.validation, calibration_batches=calibration_batches,
    )  # fmt: skip
    return DurationStudy(rows, summary)


def planned_runs(task: Task, options: Mapping[str, Any], where: Mapping[str, Any]) -> list[Job]:
    """The trainings of such a study, none of which is computed."""
    jobs: list[Job] = []
    for fields in options["variants"].values():
        of = get_task(task, **fields)
        prepared = prepare(of, precision=options.get("precision", "float32"), checkpoint_every=60.0, **where)
        saved = parse_iterations(_saved(options.get("checkpoints", 20)), of.iterations, prepared.per_epoch)
        jobs += trunk(prepared.training, saved, seed=0, replicate=0)
    return jobs


def _saved(checkpoints: int) -> list[str]:
    """So many checkpoints, evenly, the last at the end."""
    return [f"{100 * place / checkpoints:g}%" for place in range(1, checkpoints + 1)]


def _rows(run: Run, lasts: Sequence[str], weights: str, how: Mapping[str, Any]) -> list[Row]:
    """A row for each duration, and the first for the last checkpoint as it is."""
    held_out, test = (
        sweep_durations(run, run.training.batches(split), lasts, weights, **how) for split in ("validation", "test")
    )
    of = {"weights": weights, "batchnorm": held_out.batchnorm}
    newest = {"last": NEWEST, "checkpoints": 1, **_values(held_out.newest, test.newest), "best": False}
    return [of | row for row in (newest, *(_row(held_out, test, place) for place in range(len(held_out.points))))]


def _row(held_out: Durations, test: Durations, place: int) -> Row:
    point = held_out.points[place]
    return {
        "last": point.last,
        "checkpoints": point.checkpoints,
        **_values(point.value, test.points[place].value),
        "best": place == held_out.best,
    }


def _values(held_out: Mapping[str, float], test: Mapping[str, float]) -> Row:
    return {f"{split}_{name}": of[name] for split, of in (("validation", held_out), ("test", test)) for name in of}
