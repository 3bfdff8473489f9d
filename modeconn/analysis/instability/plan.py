"""An instability study as jobs: replicates, trunks, forks, copies, and every pair of them. Nothing is computed here."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from modeconn.analysis.instability.jobs import PathJobs, path_jobs
from modeconn.analysis.instability.measurement import Measurement
from modeconn.analysis.instability.options import StudyOptions
from modeconn.errors import OptionError
from modeconn.execution import Job
from modeconn.tasks import NOISE_SOURCES, parse_iterations
from modeconn.training.cohort.jobs import train_together, trains_together
from modeconn.training.fork import fork, trunk
from modeconn.training.jobs import TrainJob
from modeconn.training.task_training import Prepared


@dataclass(frozen=True)
class Study:
    """A study that was checked: its options, its task tried, its rewinding iterations resolved.

    Attributes:
        batchnorm: the BatchNorm choices; `("none",)` for a network without.
        calibration: training examples to recalibrate on, no more than there are.
        together: whether the copies of one k train together.
    """

    options: StudyOptions
    prepared: Prepared
    rewind_iters: tuple[int, ...]
    batchnorm: tuple[str, ...]
    calibration: int
    together: bool


@dataclass(frozen=True)
class Pair:
    """Two copies, and for every BatchNorm choice the jobs that measure their ends and the path between."""

    replicate: int
    rewind_iter: int
    copies: tuple[int, int]
    measurements: dict[str, PathJobs]


def plan_study(prepared: Prepared, options: StudyOptions) -> Study:
    """Resolve and check a study's options against the training that was tried.

    Raises:
        OptionError: what it cannot give.
    """
    if prepared.training.noise_per_call and set(options.noise) != set(NOISE_SOURCES):
        raise OptionError("a loop of your own has one seed for all of its noise; leave noise= as it is")
    train = prepared.examples.get("train", 0)
    batchnorm = tuple(options.batchnorm) if prepared.has_batchnorm else ("none",)
    if "recalibrate" in batchnorm and not train:
        raise OptionError(
            'recalibrating BatchNorm needs training data: give data={"test": ..., "train": ...}, '
            'or batchnorm=["interpolate"]'
        )
    splits = tuple(split for split in options.splits if split in prepared.examples)
    if not splits:
        raise OptionError(f"there are no data for the splits {', '.join(options.splits)}")
    ks = rewinding_iterations(options, prepared.training.iterations, prepared.per_epoch)
    options.require_room(len(ks), len(batchnorm))
    return Study(
        options=replace(options, splits=splits),
        prepared=prepared,
        rewind_iters=ks,
        batchnorm=batchnorm,
        calibration=min(options.calibration, train),
        together=trains_together(prepared, options.together),
    )


def plan_pairs(study: Study) -> Iterator[Pair]:
    """Every pair of copies with the jobs that measure it. Trunks and ends that are shared are one job."""
    for (replicate, k), ends in _ends(study).items():
        for a, b in itertools.combinations(range(study.options.copies), 2):
            jobs = {choice: _path_jobs(study, choice, ends[a], ends[b]) for choice in study.batchnorm}
            yield Pair(replicate, k, (a + 1, b + 1), jobs)


def _ends(study: Study) -> dict[tuple[int, int], list[TrainJob]]:
    """The trained copies, by replicate and k."""
    options, training = study.options, study.prepared.training
    ends = {
        (replicate, state.iteration): fork(state, options.copies, options.seed, replicate, options.noise)
        for replicate in range(options.replicates)
        for state in trunk(training, study.rewind_iters, options.seed, replicate)
    }
    if not study.together:
        return ends
    # All that start at one k; a search measures one replicate at a time.
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for replicate, k in ends:
        if k < training.iterations:
            groups.setdefault((k, replicate) if options.search else (k,), []).append((replicate, k))
    for (k, *_), places in groups.items():
        copies = [copy for place in places for copy in ends[place]]
        trained = iter(train_together(copies, f"{len(copies)} copies from {k}"))
        ends |= {place: [next(trained) for _ in ends[place]] for place in places}
    return ends


def jobs_of(pairs: Iterable[Pair]) -> list[Job]:
    """The jobs that measure these pairs; their inputs come with them."""
    return [job for pair in pairs for measurement in pair.measurements.values() for job in measurement.jobs]


def rewinding_iterations(options: StudyOptions, total: int, per_epoch: int | None) -> tuple[int, ...]:
    """The k that are asked for, of a training of `total` iterations; ascending.

    Raises:
        OptionError: none, or one that cannot be.
    """
    found = parse_iterations(options.rewind_iters, total, per_epoch)
    if not found:
        raise OptionError("give at least one rewinding iteration")
    return found


def _path_jobs(study: Study, choice: str, a: TrainJob, b: TrainJob) -> PathJobs:
    measurement = Measurement(tuple(study.options.splits), study.calibration if choice == "recalibrate" else None)
    alphas = "adaptive" if study.options.alphas == "adaptive" else study.options.points
    return path_jobs(a, b, alphas, measurement, study.prepared.examples)
