"""Networks of several initialisations, and the barriers between them with and without alignment, as one study."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeconn.analysis.connectivity.align_many import align_many
from modeconn.analysis.connectivity.error_barrier import error_barrier
from modeconn.execution import Job
from modeconn.progress import Report, silent
from modeconn.reproduce.summary import summary_of
from modeconn.result import Result, Row, count
from modeconn.tasks import Task, get_task
from modeconn.training.fork import train, trunk
from modeconn.training.stored import Run
from modeconn.training.task_training import prepare

PLAIN, MERGED = "none", "merged"
_CALIBRATION = 20  # batches of training images, on which units are matched and statistics measured anew


@dataclass(frozen=True, eq=False)
class AlignmentStudy(Result):
    """Barriers between independently trained networks of several variants of a task.

    Attributes:
        rows: one for each variant, pair, way of alignment and BatchNorm choice, with the barriers of error (a fraction)
            and of loss (nats) and the means of the ends; for the average of all networks after a common alignment,
            `align` is "merged" and the error and loss are its own.
        summary: task, variants and how it was computed; JSON.
    """

    rows: list[Row]
    summary: dict[str, Any]

    @property
    def samples(self) -> str:
        """How many networks there are, in words."""
        return count(self.summary["seeds"], "network") + " of each variant"


def compare_initialisations(
    task: Task,
    *,
    variants: Mapping[str, Mapping[str, Any]],
    seeds: int = 2,
    align: Sequence[str] = ("weights",),
    batchnorm: Sequence[str] = ("interpolate",),
    alphas: int = 11,
    merge: bool = False,
    precision: str = "float32",
    device: str = "auto",
    store: str | Path = "modeconn-store",
    data_dir: str | Path | None = None,
    workers: int | None = None,
    command: str = "",
    report: Report = silent,
) -> AlignmentStudy:
    """Train networks from several initialisations and measure the test barriers between all pairs, aligned and not.

    Args:
        task: what is trained.
        variants: fields of the task that differ, by the variant's name.
        seeds: networks of each variant, each from an initialisation and under noise of its own.
        align: methods of `modeconn.align` beside no alignment.
        batchnorm: choices for BatchNorm's statistics on the path.
        alphas: points of each path.
        merge: also align all networks to a common order, and measure their average.
        precision, device, store, data_dir, workers, command, report: as of `modeconn.train`; a training is one process.
    """
    own_process = 1 if workers is None else min(workers, 1)
    how: dict[str, Any] = {"precision": precision, "device": device, "data_dir": data_dir, "store": store}
    how |= {"command": command, "report": report, "workers": own_process}
    rows: list[Row] = []
    for title, fields in variants.items():
        of_variant = get_task(task, **fields)
        runs = [train(of_variant, seed=seed, **how) for seed in range(seeds)]
        for choice in batchnorm:
            of = {"variant": title, "batchnorm": choice}
            for (one, a), (other, b) in itertools.combinations(enumerate(runs), 2):
                rows += [
                    of | {"pair": f"{one}-{other}", **row}
                    for row in _pair(a, b, align, choice, alphas, precision, device)
                ]
            if merge:
                rows.append(of | {"pair": "all", **_merged(runs, choice, precision, device)})
    summary = summary_of(
        task, variants, precision=precision, device=device, data_dir=data_dir, command=command,
        seeds=seeds, alphas=alphas,
    )  # fmt: skip
    return AlignmentStudy(rows, summary)


def planned_trainings(task: Task, options: Mapping[str, Any], where: Mapping[str, Any]) -> list[Job]:
    """The trainings of such a study, none of which is computed."""
    jobs: list[Job] = []
    for fields in options["variants"].values():
        of = get_task(task, **fields)
        prepared = prepare(of, precision=options.get("precision", "float32"), checkpoint_every=60.0, **where)
        for seed in range(options.get("seeds", 2)):
            jobs += trunk(prepared.training, [of.iterations], seed, replicate=0)
    return jobs


def _pair(a: Run, b: Run, align: Sequence[str], batchnorm: str, alphas: int, precision: str, device: str) -> list[Row]:
    """A row without alignment, and one for each method."""
    rows: list[Row] = []
    for method in align:
        found = error_barrier(
            a, b, "test", align=method, batchnorm=batchnorm, alphas=alphas, precision=precision, device=device,
            calibration=a.training.batches("train"), calibration_batches=_CALIBRATION,
        )  # fmt: skip
        assert found.unaligned is not None
        both = ((PLAIN, found.unaligned), (method, found)) if not rows else ((method, found),)
        rows += [{"align": name, **_row(one)} for name, one in both]
    return rows


def _row(barrier: Any) -> Row:
    error, loss = (barrier.values(name) for name in ("error", "loss"))
    return {
        "barrier": barrier.heights("error").barrier,
        "loss_barrier": barrier.heights("loss").barrier,
        "error": float((error[0] + error[-1]) / 2),
        "loss": float((loss[0] + loss[-1]) / 2),
        "error_midpoint": float(error[len(error) // 2]),
        "l2_distance": barrier.distance,
    }


def _merged(runs: Sequence[Run], batchnorm: str, precision: str, device: str) -> Row:
    """The average of all networks in a common order, as the end of a path to itself."""
    merged = align_many(runs, reference="common", device=device).merged()
    found = error_barrier(
        merged, merged, runs[0].training.batches("test"), model=runs[0].training.network, alphas=3, precision=precision,
        batchnorm=batchnorm, calibration=runs[0].training.calibration(5000) if batchnorm != "interpolate" else None,
        device=device,
    )  # fmt: skip
    return {"align": MERGED, **_row(found)}
