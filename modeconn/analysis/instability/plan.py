"""An instability study as jobs: replicates, trunks, forks, copies, and every pair of them. Nothing is computed here."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from modeconn.analysis.instability.align import AlignJob, check_alignable
from modeconn.analysis.instability.curvature import CurvatureJob, check_curved, curvature_job
from modeconn.analysis.instability.ends import EndsJob, ends_job
from modeconn.analysis.instability.jobs import EvaluateJob, PathJobs, evaluation, path_jobs
from modeconn.analysis.instability.measurement import Measurement
from modeconn.analysis.instability.options import StudyOptions
from modeconn.errors import OptionError
from modeconn.execution import Job
from modeconn.tasks import NOISE_SOURCES, parse_iterations
from modeconn.training.cohort.jobs import train_together, trains_together
from modeconn.training.fork import fork, fork_perturbed, trunk
from modeconn.training.jobs import RewindJob, TrainJob
from modeconn.training.perturbation import Perturbation
from modeconn.training.protocol import Training
from modeconn.training.task_training import Prepared


@dataclass(frozen=True)
class Study:
    """A study that was checked: its options, its task tried, its rewinding iterations resolved.

    Attributes:
        batchnorm: the BatchNorm choices; `("none",)` for a network without.
        calibration: training examples to recalibrate on, no more than there are.
        together: whether the copies of one k train together.
        measured_at: the iterations before the last at which copies are measured, too; ascending.
        by_replicate: whether only those of one replicate do so, and not those of all.
    """

    options: StudyOptions
    prepared: Prepared
    rewind_iters: tuple[int, ...]
    batchnorm: tuple[str, ...]
    calibration: int
    together: bool
    measured_at: tuple[int, ...] = ()
    by_replicate: bool = False


@dataclass(frozen=True)
class TrunkJobs:
    """The jobs that measure the network at k."""

    evaluation: EvaluateJob
    from_init: EndsJob


@dataclass(frozen=True)
class Pair:
    """Two copies at one iteration, and for every BatchNorm choice the jobs that measure their ends and the path.

    Attributes:
        ends: how they differ, for every BatchNorm choice, if that is asked for.
        from_init: how far each is from the initialisation, likewise.
        trunk: the network that they were forked from, measured likewise.
        alignment: of the second copy to the first, if that is asked for.
        aligned: the jobs that measure the path to the aligned copy, for every BatchNorm choice, likewise.
        curvature: at the network that they were forked from, and at each of them, if that is asked for.
    """

    replicate: int
    rewind_iter: int
    copies: tuple[int, int]
    measurements: dict[str, PathJobs]
    iteration: int
    ends: dict[str, EndsJob] = field(default_factory=dict)
    from_init: tuple[EndsJob, ...] = ()
    trunk: TrunkJobs | None = None
    alignment: AlignJob | None = None
    aligned: dict[str, PathJobs] = field(default_factory=dict)
    curvature: tuple[CurvatureJob, ...] = ()

    @property
    def jobs(self) -> Iterator[Job]:
        """All that measure it."""
        for measurement in self.measurements.values():
            yield from measurement.jobs
        if self.alignment:
            yield self.alignment
            yield from (measurement.path for measurement in self.aligned.values())
        yield from (*self.ends.values(), *self.from_init)
        yield from self.curvature
        if self.trunk:
            yield from (self.trunk.evaluation, self.trunk.from_init)


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
    _check_forks(prepared.training, options, ks)
    measured_at = measuring_iterations(options, prepared.training.iterations, prepared.per_epoch)
    if measured_at and measured_at[0] <= ks[0] and options.copies_train == "rest":
        raise OptionError(
            f"iteration {measured_at[0]} of measure_at= is not after the first k, {ks[0]}, so that there are no copies "
            "to measure; give later ones"
        )
    options.require_room(len(ks), len(batchnorm) * (1 if options.align is None else 2), 1 + len(measured_at))
    if options.curvature and not train:
        raise OptionError('curvature is that of the training loss: give data={"test": ..., "train": ...}')
    if options.curvature:
        check_curved(prepared.training)
    if options.align is not None:
        check_alignable(prepared.training, splits[0])
    return Study(
        options=replace(options, splits=splits),
        prepared=prepared,
        rewind_iters=ks,
        batchnorm=batchnorm,
        calibration=min(options.calibration, train),
        together=options.perturb is None and trains_together(prepared, options.together),
        measured_at=measured_at,
        by_replicate=options.search,  # which measures one replicate at a time
    )


def _check_forks(training: Training, options: StudyOptions, ks: Sequence[int]) -> None:
    """Refuse what cannot be at a fork.

    Raises:
        OptionError: what cannot be, and what to give instead.
    """
    reset = options.fork_optimizer == "reset"
    if options.perturb is not None and training.noise_per_call:
        raise OptionError("a loop of your own draws noise anew at each call, which copies cannot share; leave perturb=")
    if reset and training.noise_per_call:
        raise OptionError('what a loop of your own carries on is one state; leave fork_optimizer="carry"')
    if options.copies_train == "whole" and ks[-1] == training.iterations and not reset:
        raise OptionError(
            f"the optimizer's state at the last iteration, {ks[-1]}, is not kept, so that copies of "
            'copies_train="whole" cannot carry it on; give earlier rewinding iterations, or fork_optimizer="reset"'
        )


def plan_pairs(study: Study) -> Iterator[Pair]:
    """Every pair of copies with the jobs that measure it: at the last iteration first, then at earlier ones.

    Trunks and ends that are shared are one job.
    """
    for (iteration, replicate, k), ends in _ends(study).items():
        for a, b in itertools.combinations(range(study.options.copies), 2):
            jobs = {choice: _path_jobs(study, choice, ends[a], ends[b]) for choice in study.batchnorm}
            pair = Pair(replicate, k, (a + 1, b + 1), jobs, iteration)
            if "ends" in study.options.measures:
                pair = _with_ends(study, pair, ends[a], ends[b])
            if study.options.curvature:
                pair = _with_curvature(study, pair, ends[a], ends[b])
            yield pair if study.options.align is None else _with_alignment(study, pair, ends[a], ends[b])


def _with_alignment(study: Study, pair: Pair, a: TrainJob, b: TrainJob) -> Pair:
    """A pair with the jobs that align its second copy to the first, and measure the path between them then."""
    options, (split, *_) = study.options, study.options.splits
    assert options.align is not None
    label = f"alignment of {b.label} to {a.label}"
    job = AlignJob(a, b, options.align, split, study.prepared.examples[split], label)
    aligned = {choice: _path_jobs(study, choice, a, b, job) for choice in study.batchnorm}
    return replace(pair, alignment=job, aligned=aligned)


def _with_curvature(study: Study, pair: Pair, a: TrainJob, b: TrainJob) -> Pair:
    """A pair with the jobs that measure the curvature at its trunk and at its two copies."""
    examples = min(study.options.curvature_examples, study.prepared.examples["train"])
    jobs = tuple(curvature_job(end, examples) for end in (_trunk_states(study, pair)[pair.rewind_iter], a, b))
    return replace(pair, curvature=jobs)


def _trunk_states(study: Study, pair: Pair) -> dict[int, TrainJob]:
    """The states of a pair's trunk by iteration: the initialisation, and that at each k."""
    saved = sorted({0, *study.rewind_iters})
    states = trunk(study.prepared.training, saved, study.options.seed, pair.replicate)
    return {state.iteration: state for state in states}


def _with_ends(study: Study, pair: Pair, a: TrainJob, b: TrainJob) -> Pair:
    """A pair with the jobs that compare its two copies, and these and their trunk with the initialisation."""
    options, examples = study.options, study.prepared.examples
    states = _trunk_states(study, pair)
    init, start = states[0], states[pair.rewind_iter]
    return replace(
        pair,
        ends={
            choice: ends_job(a, b, options.splits, examples, _calibration(study, choice)) for choice in study.batchnorm
        },
        from_init=tuple(ends_job(init, end, (), examples) for end in (a, b)),
        trunk=TrunkJobs(
            evaluation(start, Measurement(tuple(options.splits), None), examples), ends_job(init, start, (), examples)
        ),
    )


def _ends(study: Study) -> dict[tuple[int, int, int], list[TrainJob]]:
    """The copies where they are measured, by the iteration, replicate and k; those of the last iteration first."""
    options, training = study.options, study.prepared.training
    total = training.iterations
    copies = {
        (replicate, state.iteration): _fork(study, state, replicate)
        for replicate in range(options.replicates)
        for state in trunk(training, study.rewind_iters, options.seed, replicate)
    }
    # Together train all that start at one k, or those of each replicate.
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for replicate, k in copies:
        alone = study.by_replicate or not study.together or _begin(study, k) == total
        groups.setdefault((k, replicate) if alone else (k,), []).append((replicate, k))
    ends: dict[tuple[int, int, int], list[TrainJob]] = {}
    for (k, *_), places in groups.items():
        iterations = (*(iteration for iteration in study.measured_at if iteration > _begin(study, k)), total)
        of_group = [copy for place in places for copy in copies[place]]
        for iteration, states in zip(iterations, _states(study, of_group, iterations, k), strict=True):
            trained = iter(states)
            ends |= {(iteration, *place): [next(trained) for _ in copies[place]] for place in places}
    return dict(sorted(ends.items(), key=lambda item: (item[0][0] != total, item[0])))


def _fork(study: Study, state: TrainJob, replicate: int) -> list[TrainJob]:
    """The copies of a trunk's state at k, trained to their end."""
    options, k = study.options, state.iteration
    if options.perturb is not None:
        (init,) = trunk(state.training, [0], options.seed, replicate)
        how = Perturbation.parse(options.perturb)
        return fork_perturbed(state, init, options.copies, how, options.seed, replicate, options.noise)
    begin, carry = _begin(study, k), options.fork_optimizer == "carry"
    whole = begin < k
    if not whole and (carry or k in (0, state.training.iterations)):  # at 0 there is no optimizer's state yet
        return fork(state, options.copies, options.seed, replicate, options.noise)
    start = RewindJob(state, None, state.training, begin, carry, f"{state.label}, to go on from {begin}")
    copies = fork(start, options.copies, options.seed, replicate, options.noise)
    changed = ", ".join(word for word, said in (("anew", whole), ("optimizer reset", not carry)) if said)
    return [
        replace(copy, label=f"replicate {replicate} copy {number} from {k}, {changed}")
        for number, copy in enumerate(copies, 1)
    ]


def _begin(study: Study, k: int) -> int:
    """The iteration of the schedule at which copies that are forked at k begin."""
    return 0 if study.options.copies_train == "whole" else k


def _states(study: Study, copies: list[TrainJob], iterations: Iterable[int], k: int) -> Iterator[list[TrainJob]]:
    """Copies that were forked at one k, at ascending iterations, each going on from the one before."""
    training = study.prepared.training
    before: list[TrainJob] = []
    for iteration in iterations:
        states = [_state(copy, iteration) for copy in copies]
        if study.together and _begin(study, k) < training.iterations:
            at = "" if iteration == training.iterations else f" at {iteration}"
            states = train_together(states, f"{len(copies)} copies from {k}{at}", before)
        elif before and not training.noise_per_call:  # whose states are each reached by one call, from k
            states = [replace(state, start=start) for state, start in zip(states, before, strict=True)]
        yield states
        before = states


def _state(copy: TrainJob, iteration: int) -> TrainJob:
    """A copy's state at an iteration on its way."""
    if iteration == copy.iteration:
        return copy
    return replace(copy, iteration=iteration, label=f"{copy.label} at {iteration}")


def jobs_of(pairs: Iterable[Pair]) -> list[Job]:
    """The jobs that measure these pairs; their inputs come with them."""
    return [job for pair in pairs for job in pair.jobs]


def rewinding_iterations(options: StudyOptions, total: int, per_epoch: int | None) -> tuple[int, ...]:
    """The k that are asked for, of a training of `total` iterations; ascending.

    Raises:
        OptionError: none, or one that cannot be.
    """
    found = parse_iterations(options.rewind_iters, total, per_epoch)
    if not found:
        raise OptionError("give at least one rewinding iteration")
    return found


def measuring_iterations(options: StudyOptions, total: int, per_epoch: int | None) -> tuple[int, ...]:
    """The iterations before the last that copies are asked to be measured at, ascending.

    Raises:
        OptionError: one that cannot be.
    """
    return tuple(found for found in parse_iterations(options.measure_at, total, per_epoch) if found < total)


def _path_jobs(study: Study, choice: str, a: TrainJob, b: TrainJob, align: AlignJob | None = None) -> PathJobs:
    measurement = Measurement(tuple(study.options.splits), _calibration(study, choice))
    alphas = "adaptive" if study.options.alphas == "adaptive" else study.options.points
    return path_jobs(a, b, alphas, measurement, study.prepared.examples, align=align)


def _calibration(study: Study, choice: str) -> int | None:
    """Training examples that networks are recalibrated on under a BatchNorm choice."""
    return study.calibration if choice == "recalibrate" else None
