"""A lottery-ticket study as jobs: which masks, which subnetworks, which paths. Nothing is computed here."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from modeconn.analysis.instability.jobs import EvaluateJob, PathJobs, evaluation, path_jobs
from modeconn.analysis.instability.measurement import Measurement
from modeconn.errors import OptionError
from modeconn.execution import Job
from modeconn.execution.names import job_name
from modeconn.pruning.prunable import everything
from modeconn.pruning.prune import Pruning
from modeconn.pruning.rates import layer_rates
from modeconn.pruning.selection import counts_after
from modeconn.tasks import parse_iterations
from modeconn.tickets.conditions import Origins, condition_of
from modeconn.tickets.distances import PairDistances, compare_copies
from modeconn.tickets.jobs import ControlJob, MaskJob
from modeconn.tickets.options import CRITERIA, DENSE, LotteryOptions, draws_weights, pruning_of, scored_by
from modeconn.tickets.scoring import check_scoring
from modeconn.tickets.signs import SignFlipsJob
from modeconn.training.cohort.jobs import train_in_cohorts, train_together, trains_together
from modeconn.training.fork import fork, trunk
from modeconn.training.jobs import RewindJob, TrainJob
from modeconn.training.protocol import Training
from modeconn.training.schedule import learning_rate
from modeconn.training.task_training import Prepared, TaskTraining

_LEAST_RATE = 1e-3  # of the peak, below which fine-tuning is none
_Place = tuple[str, int]  # of a level: a condition, and which of its draws
PLAIN, FIXED = "", "_fixed"  # how paths are measured: as they are, and with a statistics fix


@dataclass(frozen=True)
class LotteryStudy:
    """A study that was checked: its options, its task tried, its iterations resolved.

    Attributes:
        rewind_iters: the rewinding iterations k, ascending.
        prune_iter: the iteration whose network the criteria beside IMP score; None for k.
        scope: where weights compete.
        rates: of layers, by the names of their weights.
        fix: the statistics fix: `"recalibrate"`, `"repair"` or `"none"`.
        together: whether the networks of a replicate at one level train together.
    """

    options: LotteryOptions
    prepared: Prepared
    rewind_iters: tuple[int, ...]
    prune_iter: int | None
    scope: str
    rates: tuple[tuple[str, float], ...]
    fix: str
    together: bool


@dataclass(frozen=True)
class Subnetwork:
    """A network under a mask, and the jobs that train and measure it.

    Attributes:
        rewind_iter: k, of the study; that of a condition's own weights is `start`'s.
        condition: `"dense"` at level 0.
        mask: None for the dense network.
        start: the state that training goes on from; the ticket, for IMP.
        draw: which of several initialisations, if its weights are drawn anew.
        copies: the trained networks; errors are those of the first.
        ends: errors of the first copy.
        sign_flips: how many of its weights have another sign than at the start; None if nobody asks.
        instability: paths between all pairs of copies, plain and with a statistics fix.
        previous, dense: the path from the level before, and from the dense network, likewise.
        init: the state of iteration 0 that its weights go back to, under its mask.
        distances: how its copies differ, all pairs of them; none if nobody asks.
    """

    replicate: int
    rewind_iter: int
    level: int
    condition: str
    mask: MaskJob | ControlJob | None
    start: TrainJob | RewindJob
    copies: tuple[TrainJob, ...]
    ends: EvaluateJob
    sign_flips: SignFlipsJob | None
    instability: dict[str, tuple[PathJobs, ...]]
    previous: dict[str, PathJobs]
    dense: dict[str, PathJobs]
    draw: int = 0
    init: TrainJob | RewindJob | None = None
    distances: tuple[PairDistances, ...] = ()

    @property
    def states(self) -> Iterator[TrainJob | RewindJob]:
        """The states of its training that are stored."""
        yield self.start
        yield from self.copies
        if self.init:
            yield self.init

    @property
    def jobs(self) -> Iterator[Job]:
        """The jobs that are wanted of it; their inputs come with them."""
        yield self.ends
        if self.mask:
            yield self.mask
        if self.sign_flips:
            yield self.sign_flips
        for pairs in self.instability.values():
            yield from (job for pair in pairs for job in pair.jobs)
        for path in (*self.previous.values(), *self.dense.values()):
            yield from path.jobs
        for compared in self.distances:
            yield from compared.jobs


def plan_lottery(prepared: Prepared, options: LotteryOptions, *rewind_iters: int) -> LotteryStudy:
    """Resolve and check a study's options against the task that was tried: its iterations, and what its paper prunes.

    Raises:
        OptionError: levels that would leave nothing, a layer that does not exist, an iteration beyond T.
        NetworkError: networks that are asked to train together, and cannot.
    """
    scope, rates = pruning_of(prepared.about["options"].get("model", ""))  # a loop of the user's own has no paper
    scope = scope if options.scope is None else options.scope
    rates = rates if options.rates is None else options.rates
    options = replace(options, scope=scope, rates=rates, splits=_splits(prepared, options))
    check_scoring(prepared.training, options.conditions)
    total = prepared.training.iterations
    given = options.prune_iter
    prune_iter = None if given == "rewind" else resolve_iteration("prune-iter", given, total, prepared.per_epoch)
    with prepared.training.computing():
        network = prepared.training.network()
    of_layers = layer_rates(network, rates)
    sizes = {name: kept.numel() for name, kept in everything(network).items()}
    counts_after(sizes, options.fraction, scope=scope, rates=of_layers, levels=options.levels)
    fix = "none" if not options.fix else "recalibrate" if prepared.has_batchnorm else "repair"
    fixed = set(options.barriers) if fix == "recalibrate" else {*options.barriers} - {"instability"}
    if fix != "none" and fixed and "train" not in prepared.examples:
        raise OptionError(
            f"barriers are measured with a statistics fix, too ({fix}), which needs training data: give "
            'data={"test": ..., "train": ...}, or fix=False'
        )
    together = trains_together(prepared, options.together)
    study = LotteryStudy(options, prepared, rewind_iters, prune_iter, scope, tuple(of_layers.items()), fix, together)
    _retraining(study)
    return study


def _splits(prepared: Prepared, options: LotteryOptions) -> tuple[str, ...]:
    """Where errors are measured, of the data that there are.

    Raises:
        OptionError: there are no test data.
    """
    if "test" not in prepared.examples:
        raise OptionError('matching is about test error: give data={"test": ...}, and training data under "train"')
    return tuple(split for split in options.splits if split in prepared.examples)


def resolve_iteration(name: str, text: str | int, total: int, per_epoch: int | None) -> int:
    """One iteration, T at most.

    Raises:
        OptionError: none or several, or beyond T.
    """
    found = parse_iterations(text, total, per_epoch)
    if len(found) != 1:
        raise OptionError(f"--{name} is one iteration; got {text!r}")
    return found[0]


def resolve_rewind_iters(text: str | int | Iterable[str | int], total: int, per_epoch: int | None) -> tuple[int, ...]:
    """The rewinding iterations that were given, ascending.

    Raises:
        OptionError: none, or `"auto"` beside others; beyond T, or T, where nothing would be left to train.
    """
    if isinstance(text, Iterable) and "auto" in text:
        raise OptionError("rewind_iter= is auto or iterations, and not both; give one or the other")
    found = parse_iterations(text, total, per_epoch)
    if not found:
        raise OptionError("rewind_iter= names no iteration; give at least one, or auto")
    if found[-1] == total:
        raise OptionError(f"rewinding to the last iteration, {total}, leaves nothing to train; choose an earlier one")
    return found


def plan_replicate(study: LotteryStudy, replicate: int) -> Iterator[Subnetwork]:
    """Every subnetwork of a replicate: for each k the dense network first, then level by level."""
    states = _trunk_states(study, replicate)
    for k in study.rewind_iters:
        yield from _plan_rewound(study, replicate, k, states)


def _plan_rewound(study: LotteryStudy, replicate: int, k: int, states: dict[int, TrainJob]) -> Iterator[Subnetwork]:
    """The subnetworks of one rewinding iteration."""
    options, seed, state = study.options, study.options.seed, states[k]
    # The study that chooses k trained all of its copies together: the dense networks are of these, be it one alone.
    count = _copies(options, DENSE)
    dense = fork(state, options.copies if study.together and options.rewind_iter == "auto" else count, seed, replicate)
    if study.together and len(dense) > 1:
        dense = train_together(dense, f"dense networks of replicate {replicate} from {k}")[:count]
    (init,) = trunk(study.prepared.training, [0], seed, replicate)
    yield _with_distances(study, _subnetwork(study, (replicate, k, 0, DENSE), None, state, tuple(dense), (), ()), init)
    names = dict.fromkeys(("imp", *options.conditions))
    wanted = [(name, draw) for name in names for draw in range(options.draws(name))]
    ends = dict.fromkeys(wanted, dense[0])  # of a level, by condition and draw
    mask: MaskJob | None = None
    ticket = dense[0]
    how = Pruning("magnitude", study.scope, study.rates)
    scored = state if study.prune_iter is None else states.get(study.prune_iter, dense[0])
    origins = Origins(options, replicate, how, state, states.get(0, state), dense[0], scored)
    for level in range(1, options.levels + 1):

        def place(condition: str, level: int = level) -> str:
            return f"replicate {replicate} level {level} {condition}"

        # 1. The ticket's mask, from the one before it.
        mask = MaskJob(ticket, mask, how, options.fraction, options.per_class, label=f"{place('imp')} mask")
        # 2. Each condition's weights are rewound and trained; the ticket's always, as the next level prunes it.
        asked = not options.at_levels or level in options.at_levels
        starts: dict[_Place, RewindJob] = {}
        masks: dict[_Place, MaskJob | ControlJob] = {}
        forked: dict[_Place, list[TrainJob]] = {}
        for name, draw in wanted if asked else wanted[:1]:
            of_ticket = (state if options.retrain == "weights" else ticket), mask
            source, its_mask = of_ticket if name == "imp" else condition_of(name, level, mask, origins, draw)
            at = 0 if name == "rewind0" else k
            label = place(name) + (f" draw {draw}" if draw else "")
            start = RewindJob(source, its_mask, _retraining(study), at, options.carry_optimizer, label)
            starts[name, draw], masks[name, draw] = start, its_mask
            forked[name, draw] = fork(start, _copies(options, name) if asked else 1, seed, replicate, level=level)
        # Which levels are asked for changes no mask: the networks that masks are found on then train alone.
        alone = 1 if options.at_levels else 0
        trained = _trained(study, forked, f"networks of replicate {replicate} level {level} from {k}", alone)
        # 3. They are measured.
        before, ends = ends, {one: copies[0] for one, copies in trained.items()}
        for (name, draw), copies in trained.items():
            start, its_mask = starts[name, draw], masks[name, draw]
            others = before.get((name, draw)), dense[0]
            if name in options.conditions:
                where = replicate, k, level, name
                pairs = [(other, copies[0]) if asked and other else () for other in others]
                found = replace(_subnetwork(study, where, its_mask, start, copies, *pairs), draw=draw)
                first = start.source if draws_weights(name) else init
                begun = RewindJob(first, its_mask, start.training, 0, label=f"{start.label} at 0")
                yield _with_distances(study, found, begun)
        ticket = ends["imp", 0]


def _trained(
    study: LotteryStudy, forked: dict[_Place, list[TrainJob]], label: str, alone: int = 0
) -> dict[_Place, tuple[TrainJob, ...]]:
    """The copies of each condition and draw as they are trained: together, if the study's networks are.

    Args:
        study: whose options decide.
        forked: the copies, each to be trained alone.
        label: of those that train together, for people.
        alone: how many, from the first on, train alone nevertheless.
    """
    if not study.together:
        return {place: tuple(copies) for place, copies in forked.items()}
    # At some levels some conditions are the same subnetwork, as one-shot pruning and the ticket at the first.
    trained = {job_name(copy): copy for copies in forked.values() for copy in copies}
    groups: dict[int, list[str]] = {}
    for name in list(trained)[alone:]:
        groups.setdefault(_optimizer_from(trained[name]), []).append(name)
    for names in groups.values():
        trained |= zip(names, train_in_cohorts([trained[name] for name in names], label), strict=True)
    return {place: tuple(trained[job_name(copy)] for copy in copies) for place, copies in forked.items()}


def _optimizer_from(copy: TrainJob) -> int:
    """The iteration that the optimizer of a copy counts its steps from; a cohort has one count, as Adam's."""
    start = copy.start
    if not isinstance(start, RewindJob):
        return 0
    return start.iteration - (start.source.iteration if start.carry_optimizer else 0)


def _with_distances(study: LotteryStudy, found: Subnetwork, init: TrainJob | RewindJob) -> Subnetwork:
    """A subnetwork with the jobs that compare its copies, if that is asked for."""
    if not study.options.measures or len(found.copies) == 1:
        return found
    compared = compare_copies(found.copies, init, study.options.splits, study.prepared.examples)
    return replace(found, init=init, distances=compared)


def _copies(options: LotteryOptions, condition: str) -> int:
    """How many trainings of a subnetwork are wanted; the dense network's instability is what others compare with."""
    wanted = "instability" in options.barriers and (condition in options.barriers_of or condition == DENSE)
    return options.copies if wanted and condition in (DENSE, *options.conditions) else 1


def _trunk_states(study: LotteryStudy, replicate: int) -> dict[int, TrainJob]:
    iterations = set(study.rewind_iters)
    if "rewind0" in study.options.conditions:
        iterations.add(0)
    scores = any(scored_by(name)[0] in CRITERIA for name in study.options.conditions)
    if scores and study.prune_iter is not None and study.prune_iter < study.prepared.training.iterations:
        iterations.add(study.prune_iter)
    states = trunk(study.prepared.training, sorted(iterations), study.options.seed, replicate)
    return {state.iteration: state for state in states}


def _retraining(study: LotteryStudy) -> Training:
    """How subnetworks are trained: as the dense network, or at its last learning rate (Renda et al. 2020).

    Raises:
        OptionError: that rate is next to nothing.
    """
    training = study.prepared.training
    if study.options.retrain != "finetune" or not isinstance(training, TaskTraining):
        return training
    task = training.task
    last = learning_rate(task, task.iterations - 1)
    if last < _LEAST_RATE * task.learning_rate:
        raise OptionError(
            f"retrain='finetune' trains at the schedule's last learning rate, which is {last:.2g} and would change "
            "nothing; set a higher final_learning_rate=, or choose retrain='rate'"
        )
    constant = replace(task, schedule="constant", learning_rate=last, milestones=(), warmup=0)
    return replace(training, task=constant)


def _subnetwork(
    study: LotteryStudy,
    where: tuple[int, int, int, str],
    mask: MaskJob | ControlJob | None,
    start: TrainJob | RewindJob,
    copies: tuple[TrainJob, ...],
    from_previous: tuple[TrainJob, ...],
    from_dense: tuple[TrainJob, ...],
) -> Subnetwork:
    options, examples = study.options, study.prepared.examples
    replicate, rewind_iter, level, condition = where
    measured = tuple(options.splits)

    def paths(splits: tuple[str, ...], *pairs: tuple[TrainJob, ...], repair: bool) -> dict[str, tuple[PathJobs, ...]]:
        ways = {PLAIN: Measurement(splits, None)}
        if study.fix == "recalibrate" or (study.fix == "repair" and repair):
            calibration = min(options.calibration, examples["train"])
            ways[FIXED] = Measurement(splits, calibration, repair=study.fix == "repair")
        return {
            way: tuple(path_jobs(a, b, options.points, how, examples, measured) for a, b in pairs)
            for way, how in ways.items()
        }

    def one_path(measure: str, pair: tuple[TrainJob, ...]) -> dict[str, PathJobs]:
        if measure not in options.barriers or condition not in options.barriers_of or not pair:
            return {}
        return {way: path for way, (path,) in paths(("test",), pair, repair=True).items()}

    pairs = itertools.combinations(copies, 2)
    flips = SignFlipsJob(start, copies[0], mask, f"signs of {copies[0].label}") if options.sign_flips else None
    return Subnetwork(
        replicate=replicate,
        rewind_iter=rewind_iter,
        level=level,
        condition=condition,
        mask=mask,
        start=start,
        copies=copies,
        ends=evaluation(copies[0], Measurement(measured, None), examples),
        sign_flips=flips,
        instability=paths(measured, *pairs, repair=False),
        previous=one_path("previous", from_previous),
        dense=one_path("dense", from_dense),
    )
