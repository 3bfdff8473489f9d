"""Two networks of other initialisations, and the curves of low loss between them, as one study."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.analysis.landscape.curves.curve import Curve
from modeconn.analysis.landscape.curves.curve_fit import fit_curve
from modeconn.analysis.landscape.curves.neb import neb
from modeconn.execution import Job
from modeconn.progress import Report, silent
from modeconn.reproduce.summary import summary_of
from modeconn.result import Result, Row
from modeconn.tasks import Task
from modeconn.training.fork import train, trunk
from modeconn.training.stored import Run
from modeconn.training.task_training import prepare

SEGMENT = "segment"
_SEEDS = (0, 1)
_FITS = {"fit": fit_curve, "neb": neb}


@dataclass(frozen=True, eq=False)
class CurveStudy(Result):
    """Errors and losses along curves between two networks, and along the segment.

    Attributes:
        rows: one for each path, split and t, with error (a fraction) and loss (nats); `length` is that of the path over
            the segment's.
        summary: task, curves, their barriers and how it was computed; JSON.
    """

    rows: list[Row]
    summary: dict[str, Any]

    @property
    def samples(self) -> str:
        """How many networks there are, in words."""
        return "2 networks of other initialisations"


def connect_initialisations(
    task: Task,
    *,
    curves: Mapping[str, Mapping[str, Any]],
    alphas: int = 31,
    splits: tuple[str, ...] = ("train", "test"),
    batchnorm: str = "recalibrate",
    calibration_batches: int | None = None,
    precision: str = "float32",
    device: str = "auto",
    store: str | Path = "modeconn-store",
    data_dir: str | Path | None = None,
    workers: int | None = None,
    command: str = "",
    report: Report = silent,
) -> CurveStudy:
    """Train two networks from other initialisations, fit curves between them, and measure them and the segment.

    Args:
        task: what is trained.
        curves: of each, by its name, `method` (`"fit"` or `"neb"`) and the options of `modeconn.fit_curve` or
            `modeconn.neb`.
        alphas: points of each path.
        splits: of the data, on which they are measured.
        batchnorm: what is done to running statistics.
        calibration_batches: for these, at most.
        precision, device, store, data_dir, workers, command, report: as of `modeconn.train`; a training is one process.
    """
    where: dict[str, Any] = {"precision": precision, "device": device, "data_dir": data_dir}
    own_process = 1 if workers is None else min(workers, 1)
    stored: dict[str, Any] = {"store": store, "workers": own_process, "command": command, "report": report}
    a, b = (train(task, seed=seed, **stored, **where) for seed in _SEEDS)
    how: dict[str, Any] = {
        "alphas": alphas,
        "batchnorm": batchnorm,
        "calibration_batches": calibration_batches,
        "report": report,
    }
    rows: list[Row] = []
    about: dict[str, Any] = {}
    for title, given in curves.items():
        curve = _fitted(a, b, given, where | {"report": report})
        about[title] = {**curve.settings, "bends": curve.bends, "length_ratio": curve.length_ratio, "barriers": {}}
        about[title]["training_losses"] = list(curve.losses)
        for split in splits:
            found = curve.barrier(split, device=device, precision=precision, data_dir=data_dir, **how)
            paths = {title: (found.curve, curve.length_ratio)}
            paths |= {} if any(row["path"] == SEGMENT and row["split"] == split for row in rows) else {
                SEGMENT: (found.segment, 1.0)
            }  # fmt: skip
            for path, (barrier, length) in paths.items():
                rows += _rows(path, split, length, barrier)
                about.setdefault(path, {"barriers": {}})["barriers"][split] = _heights(barrier)
    summary = summary_of(
        task, {}, precision=precision, device=device, data_dir=data_dir, command=command,
        curves=about, alphas=alphas, batchnorm=found.curve.batchnorm, calibration_batches=calibration_batches,
    )  # fmt: skip
    return CurveStudy(rows, summary)


def planned_ends(task: Task, options: Mapping[str, Any], where: Mapping[str, Any]) -> list[Job]:
    """The trainings of such a study, none of which is computed; curves are not kept in a store."""
    prepared = prepare(task, precision=options.get("precision", "float32"), checkpoint_every=60.0, **where)
    return [job for seed in _SEEDS for job in trunk(prepared.training, [task.iterations], seed, replicate=0)]


def _fitted(a: Run, b: Run, given: Mapping[str, Any], how: Mapping[str, Any]) -> Curve:
    options = {name: value for name, value in given.items() if name != "method"}
    return _FITS[given["method"]](a, b, "train", **options, **how)  # type: ignore[operator]


def _rows(path: str, split: str, length: float, barrier: Barrier) -> list[Row]:
    return [{"path": path, "split": split, "length": length, "t": row.pop("alpha"), **row} for row in barrier.rows()]


def _heights(barrier: Barrier) -> dict[str, float]:
    """Barriers and the highest values of error and loss, and where on the path that is."""
    found: dict[str, float] = {}
    for name in ("error", "loss"):
        heights = barrier.heights(name)
        found |= {f"{name}_barrier": heights.barrier, f"{name}_worst": barrier.worst(name)}
        found |= {f"{name}_t": heights.alpha_at_max, f"{name}_ends": sum(barrier.end_values(name)) / 2}
    return found
