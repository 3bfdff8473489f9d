"""Instability analysis: from which iteration on do copies of a network reach the same linearly connected minimum?"""

import itertools
import logging
import math
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeconn.analysis.barrier import barrier_heights
from modeconn.analysis.jobs import EvaluateJob, Measurement, PathJob, read_counts
from modeconn.analysis.result import THRESHOLD, InstabilityResult, Row
from modeconn.errors import ModeconnError, OptionError, StoreError, unknown
from modeconn.execution import Job, Progress, Store, default_workers, job_name, process_pool, run_jobs
from modeconn.tasks import Task, get_task, parse_iterations
from modeconn.training.evaluation import Counts
from modeconn.training.jobs import TrainJob
from modeconn.training.noise import SOURCES, Noise, epoch_length, mix
from modeconn.training.setting import Prepared, prepare

log = logging.getLogger("modeconn")

SPLITS = ("test", "train")
BATCHNORM = ("interpolate", "recalibrate")
DEFAULT_REWIND_ITERS = "0,1%,2%,5%,10%,25%"
DEFAULT_ALPHAS = 31
DEFAULT_CALIBRATION = 5000


@dataclass(frozen=True)
class Study:
    """An instability study, checked and resolved: what `instability` was asked for."""

    prepared: Prepared
    rewind_iters: tuple[int, ...]
    replicates: int
    copies: int
    alphas: tuple[float, ...]
    batchnorm: tuple[str, ...]
    splits: tuple[str, ...]
    noise: tuple[str, ...]
    calibration: int
    seed: int


@dataclass(frozen=True)
class Pair:
    """Two copies, and for every BatchNorm choice the jobs that measure their ends and the path between."""

    replicate: int
    rewind_iter: int
    copies: tuple[int, int]
    measurements: dict[str, tuple[EvaluateJob, EvaluateJob, PathJob]]


def instability(
    task: str | Task = "digits-conv",
    rewind_iters: str | int | Iterable[str | int] = DEFAULT_REWIND_ITERS,
    *,
    replicates: int = 3,
    copies: int = 2,
    alphas: int | Sequence[float] = DEFAULT_ALPHAS,
    batchnorm: Sequence[str] = BATCHNORM,
    splits: Sequence[str] = SPLITS,
    noise: Sequence[str] = SOURCES,
    threshold: float = THRESHOLD,
    calibration: int = DEFAULT_CALIBRATION,
    iterations: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
    workers: int | None = None,
    store: str | Path = "modeconn-store",
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    checkpoint_every: float = 60.0,
    command: str = "",
    report: Callable[[Progress], None] = lambda progress: None,
) -> InstabilityResult:
    """Train to iteration k, fork copies that see different SGD noise, train them to the end, and measure barriers.

    Algorithm 1 of Frankle et al. 2020 for every k, on any number of replicates, with all pairs of copies. What the
    store holds is not computed again, and an interrupted study goes on with the same call.

    Args:
        task: a preset's name, or a `Task`.
        rewind_iters: the k: iterations, epochs (`"2ep"`) or percentages (`"3%"`), as a list or with commas.
        replicates: how many initialisations, each with its own trunk and copies.
        copies: how many copies to fork at each k; every pair of them is measured.
        alphas: how many points on a path, ends included, or the points themselves.
        batchnorm: what BatchNorm's running statistics are on the path: `"interpolate"`d like any weight, or
            `"recalibrate"`d on training data at every alpha, ends included. Without BatchNorm there is no choice.
        splits: among `"test"` and `"train"`.
        noise: the sources of SGD noise that differ between copies: `"order"`, `"augmentation"`, `"dropout"`.
        threshold: the instability, as a fraction of error, below which a network is stable; for `summary.json`.
        calibration: how many training examples to recalibrate on, at most.
        iterations: shortens (or lengthens) the task and its schedule in proportion.
        seed: of the whole study.
        device: `"auto"`, `"cpu"`, `"cuda"` or `"cuda:N"`.
        precision: `"float32"` or `"bfloat16"`, for training and measuring.
        workers: processes; 0 for none besides this one, None for one per core (one on a GPU). In a script, call
            this under `if __name__ == "__main__":`, as always with processes.
        store: folder of all that is computed.
        data_dir: folder of data sets.
        out: where to write `instability.csv`, `paths.csv`, `summary.json` and figures; nowhere if None.
        checkpoint_every: seconds between two saves of a running training.
        command: noted in `summary.json`.
        report: called about twice a second with how far the study is.

    Raises:
        ModeconnError: a bad option, data set or network, before anything is computed; or jobs that failed, when the
            rest of the study is done.
    """
    study = plan_study(
        task, rewind_iters, replicates, copies, alphas, batchnorm, splits, noise, threshold, calibration, iterations,
        seed, device, precision, data_dir, checkpoint_every,
    )  # fmt: skip
    workers = _workers(workers, study.prepared.setting.device)
    pairs = list(plan_pairs(study))
    opened = Store(store)
    _check_room(opened, study, pairs)
    targets: list[Job] = [job for pair in pairs for jobs in pair.measurements.values() for job in jobs]
    failures = run_jobs(targets, opened, lambda: process_pool(workers), workers or 1, report)
    if failures:
        first = next(iter(failures.values()))
        names = ", ".join(list(failures)[:3])
        raise ModeconnError(f"{len(failures)} jobs failed ({names}, ...); the rest is done. First: {first}") from first
    result = collect(study, pairs, opened, threshold, command)
    if out is None:
        return result
    from modeconn.plots import save_figures

    result = result.save(out)
    save_figures(result)
    return result


def plan_study(
    task: str | Task,
    rewind_iters: str | int | Iterable[str | int],
    replicates: int,
    copies: int,
    alphas: int | Sequence[float],
    batchnorm: Sequence[str],
    splits: Sequence[str],
    noise: Sequence[str],
    threshold: float,
    calibration: int,
    iterations: int | None,
    seed: int,
    device: str,
    precision: str,
    data_dir: str | Path | None,
    checkpoint_every: float,
) -> Study:
    """Check every option, then load the data and try the network.

    Raises:
        ModeconnError: the first thing that is wrong.
    """
    task = get_task(task)
    if iterations is not None:
        task = task.shortened(iterations)
    _require(replicates >= 1, f"there must be at least one replicate; got {replicates}")
    _require(copies >= 2, f"instability compares copies, so there must be at least 2; got {copies}")
    _require(calibration >= 2, f"recalibration needs at least 2 examples; got {calibration}")
    _require(0 < threshold < 1, f"the threshold is a fraction of error between 0 and 1; got {threshold}")
    _choices("split", splits, SPLITS)
    _choices("BatchNorm choice", batchnorm, BATCHNORM)
    _choices("source of noise", noise, SOURCES)
    points = _alphas(alphas)
    # Before the data are loaded, with an epoch's length that only "ep" needs.
    parse_iterations(rewind_iters, task.iterations, per_epoch=0)
    prepared = prepare(
        task, data_dir=data_dir, device=device, precision=precision, checkpoint_every=checkpoint_every
    )
    per_epoch = epoch_length(len(prepared.data.train), task.batch_size)
    return Study(
        prepared=prepared,
        rewind_iters=parse_iterations(rewind_iters, task.iterations, per_epoch),
        replicates=replicates,
        copies=copies,
        alphas=points,
        batchnorm=tuple(batchnorm) if prepared.has_batchnorm else ("none",),
        splits=tuple(splits),
        noise=tuple(noise),
        calibration=min(calibration, len(prepared.data.train)),
        seed=seed,
    )


def plan_pairs(study: Study) -> Iterator[Pair]:
    """Every pair of copies with the jobs that measure it. Trunks and ends that are shared are one job."""
    setting = study.prepared.setting
    total = setting.task.iterations
    for replicate in range(study.replicates):
        init_seed = mix(study.seed, "init", replicate)
        noise = Noise.of(mix(study.seed, "noise", replicate, 0))
        trunk: TrainJob | None = None
        for k in study.rewind_iters:
            trunk = TrainJob(setting, init_seed, noise, k, trunk, f"trunk to {k}")
            ends = []
            for copy in range(1, study.copies + 1):
                forked = noise.fork(k, mix(study.seed, "noise", replicate, copy), study.noise)
                label = f"copy {copy} from {k}"
                ends.append(trunk if k == total else TrainJob(setting, init_seed, forked, total, trunk, label))
            for a, b in itertools.combinations(range(study.copies), 2):
                jobs = {choice: _measure(study, choice, ends[a], ends[b]) for choice in study.batchnorm}
                yield Pair(replicate, k, (a + 1, b + 1), jobs)


def collect(study: Study, pairs: list[Pair], store: Store, threshold: float, command: str) -> InstabilityResult:
    """The result of a study whose jobs are all in the store."""
    rows: list[Row] = []
    paths: list[Row] = []
    diverged: dict[str, Row] = {}
    same: list[str] = []
    notes: dict[str, None] = {}
    for pair in pairs:
        place = {"replicate": pair.replicate, "rewind_iter": pair.rewind_iter}
        place |= {"copy_a": pair.copies[0], "copy_b": pair.copies[1]}
        for choice, (end_a, end_b, path_job) in pair.measurements.items():
            for copy, end in zip(pair.copies, (end_a, end_b), strict=True):
                at = store.require(end.end).facts["diverged_at"]
                if at is not None:
                    place_of = {"replicate": pair.replicate, "rewind_iter": pair.rewind_iter, "copy": copy}
                    diverged[job_name(end.end)] = place_of | {"iteration": at}
            artifact = store.require(path_job)
            if artifact.facts["diverged"]:
                rows += [place | _missing(split) | {"batchnorm": choice} for split in study.splits]
                continue
            content = artifact.json("path.json")
            notes |= dict.fromkeys(content["notes"])
            if content["l2_distance"] == 0 and pair.rewind_iter < study.prepared.setting.task.iterations:
                same.append(f"replicate {pair.replicate}, k = {pair.rewind_iter}, copies {pair.copies}")
            first, last = (read_counts(store.require(end).json("counts.json")) for end in (end_a, end_b))
            for split in study.splits:
                inner = [read_counts(point)[split] for point in content["points"]]
                curve = [first[split], *inner, last[split]]
                rows.append(place | _row(study.alphas, curve, split, content["l2_distance"]) | {"batchnorm": choice})
                paths += [
                    place | {"split": split, "batchnorm": choice, "alpha": a, "error": c.error, "loss": c.loss}
                    for a, c in zip(study.alphas, curve, strict=True)
                ]
    same = list(dict.fromkeys(same))
    if same:
        log.warning(
            "%d pairs of copies ended in the same weights (distance 0), so their barrier is 0 by construction: "
            "the noise that differed (%s) has no effect on this task. First: %s",
            len(same), ", ".join(study.noise), same[0],
        )  # fmt: skip
    for where in diverged.values():
        log.warning("a run diverged (its loss was not finite): %s", where)
    result = InstabilityResult(rows, paths, {})
    summary = _summary(study, threshold, command) | {
        "stable_from": result.stable_from(threshold),
        "diverged": list(diverged.values()),
        "identical_pairs": same,
        "notes": list(notes),
    }
    return InstabilityResult(rows, paths, summary)


def _measure(study: Study, choice: str, a: TrainJob, b: TrainJob) -> tuple[EvaluateJob, EvaluateJob, PathJob]:
    data = study.prepared.data
    measurement = Measurement(study.splits, study.calibration if choice == "recalibrate" else None)
    cost = measurement.cost({split: len(data.split(split)) for split in study.splits})
    inner = study.alphas[1:-1]
    first, last = (EvaluateJob(end, measurement, cost, f"end of {end.label}") for end in (a, b))
    path = PathJob(a, b, inner, measurement, cost * len(inner), f"path between {a.label} and {b.label}")
    return first, last, path


def _row(alphas: Sequence[float], curve: list[Counts], split: str, distance: float) -> Row:
    heights = barrier_heights(alphas, [counts.error for counts in curve])
    return {
        "split": split,
        "barrier": heights.barrier,
        "chord_barrier": heights.chord_barrier,
        "alpha_at_max": heights.alpha_at_max,
        "error_a": curve[0].error,
        "error_b": curve[-1].error,
        "loss_barrier": barrier_heights(alphas, [counts.loss for counts in curve]).barrier,
        "l2_distance": distance,
    }


def _missing(split: str) -> Row:
    measured = ("barrier", "chord_barrier", "alpha_at_max", "error_a", "error_b", "loss_barrier", "l2_distance")
    return {"split": split, **dict.fromkeys(measured, math.nan)}


def _summary(study: Study, threshold: float, command: str) -> dict[str, Any]:
    import numpy
    import torch

    from modeconn import __version__

    setting, data = study.prepared.setting, study.prepared.data
    return {
        "task": setting.task.name,
        "iterations": setting.task.iterations,
        "rewind_iters": list(study.rewind_iters),
        "threshold": threshold,
        "replicates": study.replicates,
        "copies": study.copies,
        "alphas": list(study.alphas),
        "batchnorm": list(study.batchnorm),
        "splits": list(study.splits),
        "noise": list(study.noise),
        "seed": study.seed,
        "data": data.name,
        "data_note": data.note,
        "data_fingerprint": data.fingerprint,
        "options": setting.task.spec(),
        "precision": setting.precision,
        "device": torch.device(setting.device).type,
        "command": command,
        "versions": {
            "modeconn": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
    }


def _alphas(alphas: int | Sequence[float]) -> tuple[float, ...]:
    if isinstance(alphas, int):
        _require(alphas >= 3, f"a path needs at least 3 alphas, its ends and one between; got {alphas}")
        return tuple(index / (alphas - 1) for index in range(alphas))
    points = tuple(sorted({0.0, 1.0, *map(float, alphas)}))
    _require(all(0 <= p <= 1 for p in points), f"alphas must be between 0 and 1; got {list(alphas)}")
    _require(len(points) >= 3, f"a path needs at least 3 alphas, its ends and one between; got {list(alphas)}")
    return points


def _choices(kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    _require(not isinstance(given, str) and len(given) > 0, f"give at least one {kind}, as a list; got {given!r}")
    for name in given:
        if name not in known:
            raise unknown(kind, name, known)
    _require(len(set(given)) == len(given), f"each {kind} once, please; got {list(given)}")


def _workers(workers: int | None, device: str) -> int:
    if workers is None:
        return 1 if device.startswith("cuda") else default_workers()
    _require(workers >= 0, f"the number of workers must not be negative; got {workers}")
    return workers


def _check_room(store: Store, study: Study, pairs: list[Pair]) -> None:
    """Refuse a study whose states would not fit on the disk."""
    ends = {job_name(end.end) for pair in pairs for jobs in pair.measurements.values() for end in jobs[:2]}
    trunks = study.replicates * len(study.rewind_iters)
    # Adam keeps two numbers for every weight; a state before the end holds them beside the weights.
    needed = study.prepared.state_bytes * (len(ends) + 3 * trunks + 4 * (os.cpu_count() or 1))
    free = shutil.disk_usage(store.root).free
    if needed > free:
        raise StoreError(
            f"the study needs up to {needed / 1e9:.1f} GB in {store.root}, where {free / 1e9:.1f} GB are free; "
            "choose another --store"
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise OptionError(message)
