"""Copies of one trunk that were forked at several k, and the plane through three of them, as one study."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modeconn.analysis.connectivity.error_barrier import error_barrier
from modeconn.analysis.landscape.planes.plane import plane
from modeconn.analysis.landscape.planes.plane_result import Plane
from modeconn.execution import Job, Store
from modeconn.progress import Report, silent
from modeconn.reproduce.summary import summary_of
from modeconn.result import Result, Row
from modeconn.tasks import Task, parse_iterations
from modeconn.training.fork import fork, trunk
from modeconn.training.jobs import TrainJob
from modeconn.training.runner import open_runner
from modeconn.training.task_training import Prepared, prepare
from modeconn.training.trajectory import weights_file

COPIES = 3  # that a plane goes through
TRUNK = "trunk"


@dataclass(frozen=True, eq=False)
class PlaneStudy(Result):
    """The plane through three copies of one trunk, for each k at which they were forked.

    Attributes:
        rows: one for each k and point of the grid, with error (a fraction) and loss (nats), and for each network and
            state of a trajectory, with its distance from the plane.
        summary: task, barriers between the copies, and how it was computed; JSON.
        planes: k to the plane.
    """

    rows: list[Row]
    summary: dict[str, Any]
    planes: dict[int, Plane]

    @property
    def samples(self) -> str:
        """How many networks there are, in words."""
        return f"{COPIES} copies of one trunk, forked at each of k = {', '.join(map(str, self.planes))},"


def fork_planes(
    task: Task,
    *,
    rewind_iters: str,
    states: int = 10,
    points: int = 21,
    alphas: int = 11,
    batchnorm: str = "recalibrate",
    calibration_batches: int | None = None,
    precision: str = "float32",
    device: str = "auto",
    store: str | Path = "modeconn-store",
    data_dir: str | Path | None = None,
    workers: int | None = None,
    command: str = "",
    report: Report = silent,
) -> PlaneStudy:
    """Fork three copies of one trunk at each k, and measure the plane through their ends on test data.

    Args:
        task: what is trained.
        rewind_iters: the k.
        states: of each copy's way from k to the end, and as many of the trunk's from 0 to k, that are drawn.
        points: along each axis.
        alphas: of the barriers between the copies.
        batchnorm: what is done to running statistics.
        calibration_batches: for these, at most.
        precision, device, store, data_dir, workers, command, report: as of `modeconn.instability`.
    """
    where: dict[str, Any] = {"precision": precision, "device": device, "data_dir": data_dir}
    prepared = prepare(task, **where, checkpoint_every=60.0)
    forks = _forks(prepared, rewind_iters, states)
    asked = {"rewind_iters": list(forks), "copies": COPIES, "states": states, "seed": 0}
    runner = open_runner("train", prepared, asked, store=store, workers=workers, command=command, report=report)
    runner.compute(_jobs(forks))
    kept, how = Store(store), {**where, "batchnorm": batchnorm, "calibration_batches": calibration_batches}
    rows: list[Row] = []
    planes: dict[int, Plane] = {}
    about: dict[str, Any] = {}
    for k, paths in forks.items():
        folders = {name: [kept.folder(job) for job in jobs] for name, jobs in paths.items()}
        ends = [of[-1] for name, of in folders.items() if name != TRUNK]
        also = {name: [weights_file(folder) for folder in of] for name, of in folders.items() if len(of) > 1}
        names = [f"end {number}" for number in range(1, COPIES + 1)]
        a, b, c = ends
        found = plane(
            a, b, c, "test", points=points, also=also, names=names, checkpoint=kept.root, report=report, **how
        )
        planes[k] = found
        rows += [{"k": k, **row} for row in _rows(found)]
        about[str(k)] = _barriers(ends, alphas, how) | {
            "farthest": {name: max(one.distance for one in of) for name, of in found.paths().items()},
            "notes": list(found.notes),
        }
    summary = summary_of(
        task, {}, precision=precision, device=device, data_dir=data_dir, command=command,
        planes=about, states=states, points=points, alphas=alphas, batchnorm=found.batchnorm,
        calibration_batches=calibration_batches,
    )  # fmt: skip
    return PlaneStudy(rows, summary, planes)


def planned_forks(task: Task, options: Mapping[str, Any], where: Mapping[str, Any]) -> list[Job]:
    """The trainings of such a study, none of which is computed."""
    prepared = prepare(task, precision=options.get("precision", "float32"), checkpoint_every=60.0, **where)
    return _jobs(_forks(prepared, options["rewind_iters"], options.get("states", 10)))


def _forks(prepared: Prepared, rewind_iters: str, states: int) -> dict[int, dict[str, list[TrainJob]]]:
    """For each k, the states of the trunk up to it and of each copy from it, by name."""
    training = prepared.training
    last = training.iterations
    found: dict[int, dict[str, list[TrainJob]]] = {}
    ks = parse_iterations(rewind_iters, last, prepared.per_epoch)
    saved = sorted({0, *ks, *(k * part // states for k in ks for part in range(states))})
    of_trunk = {job.iteration: job for job in trunk(training, saved, seed=0, replicate=0)}
    for k in ks:
        at = sorted({k * part // states for part in range(states + 1)})
        found[k] = {TRUNK: [of_trunk[iteration] for iteration in at]}
        for number, end in enumerate(fork(of_trunk[k], COPIES, seed=0, replicate=0), start=1):
            path = [of_trunk[k]]
            for part in range(1, states):
                iteration = k + (last - k) * part // states
                if path[-1].iteration < iteration < last:
                    path.append(replace(end, iteration=iteration, start=path[-1]))
            found[k][f"copy {number}"] = [*path, replace(end, start=path[-1])]
    return found


def _jobs(forks: Mapping[int, Mapping[str, Iterable[TrainJob]]]) -> list[Job]:
    return [job for paths in forks.values() for jobs in paths.values() for job in jobs]


def _rows(found: Plane) -> list[Row]:
    """A row for each point and each network; of points there is no distance, of states no error."""
    on_grid = [row | {"distance": 0.0} for row in found.rows() if row["point"] in ("grid", "refined")]
    networks = [row for row in found.rows() if row["point"] not in ("grid", "refined")]
    return on_grid + [row | {"distance": place.distance} for row, place in zip(networks, found.places, strict=True)]


def _barriers(ends: list[Path], alphas: int, how: Mapping[str, Any]) -> dict[str, list[float]]:
    """The error barrier and the distance of each pair of copies."""
    pairs = [error_barrier(a, b, "test", alphas=alphas, **how) for a, b in itertools.combinations(ends, 2)]
    return {"barriers": [pair.barrier for pair in pairs], "distances": [pair.distance for pair in pairs]}
