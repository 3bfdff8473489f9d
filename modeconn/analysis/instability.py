"""Instability analysis: from which iteration on do copies of a network reach the same linearly connected minimum?"""

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from modeconn.analysis.barrier import barrier_heights
from modeconn.analysis.jobs import Between, EvaluateJob, Measurement, between, mean_barrier, read_curve
from modeconn.analysis.options import StudyOptions
from modeconn.analysis.result import InstabilityResult, Row
from modeconn.analysis.search import search as search_stable
from modeconn.errors import OptionError
from modeconn.execution import Engine, Job, MakeExecutor, Progress, Store, job_name
from modeconn.execution.store import writing
from modeconn.tasks import Task, get_task, parse_iterations
from modeconn.training.cohort_jobs import train_together, trains_together
from modeconn.training.evaluation import Counts
from modeconn.training.fork import fork, trunk
from modeconn.training.jobs import TrainJob
from modeconn.training.own import InitFunction, TrainFunction, prepare_own
from modeconn.training.record import start_record
from modeconn.training.setting import Prepared, prepare
from modeconn.training.study import check_room, compute, engine_for, summarize
from modeconn.training.trackers import Follower, Log

_log = logging.getLogger("modeconn")


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
    measurements: dict[str, Between]


def instability(
    task: str | Task = "digits-conv",
    rewind_iters: str | int | Iterable[str | int] = StudyOptions.rewind_iters,
    *,
    search: bool = StudyOptions.search,
    replicates: int = StudyOptions.replicates,
    copies: int = StudyOptions.copies,
    alphas: int | str | Sequence[float] = StudyOptions.alphas,
    batchnorm: Sequence[str] = StudyOptions.batchnorm,
    splits: Sequence[str] = StudyOptions.splits,
    noise: Sequence[str] = StudyOptions.noise,
    threshold: float = StudyOptions.threshold,
    calibration: int = StudyOptions.calibration,
    together: str = StudyOptions.together,
    seed: int = StudyOptions.seed,
    iterations: int | None = None,
    train: TrainFunction | None = None,
    init: InitFunction | None = None,
    data: Any = None,
    evaluate: str | Callable[..., Any] = "auto",
    device: str = "auto",
    precision: str = "float32",
    workers: int | None = None,
    executor: Executor | MakeExecutor | None = None,
    store: str | Path = "modeconn-store",
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    checkpoint_every: float = 60.0,
    command: str = "",
    log: Log | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> InstabilityResult:
    """Train to iteration k, fork copies that see different SGD noise, train them to the end, and measure barriers.

    Algorithm 1 of Frankle et al. 2020 for every k, on any number of replicates, with all pairs of copies. What the
    store holds is not computed again, and an interrupted study goes on with the same call.

    Args:
        task: a preset's name, or a `Task`.
        rewind_iters: the k: iterations, epochs (`"2ep"`) or percentages (`"3%"`), as a list or with commas.
        search: measure only those k that are needed to find the smallest stable one on the first split under the first
            BatchNorm choice, and its neighbours; it and the k below in as many replicates as decide about them, others
            in one (`modeconn.analysis.search.search`). The answer is that of the full study unless instability rises
            again where it was not measured. By default over eleven k from 0 to half of the training.
        replicates: how many initialisations, each with its own trunk and copies.
        copies: how many copies to fork at each k; every pair of them is measured.
        alphas: how many points on a path, ends included, or the points themselves; or `"adaptive"`, on every path and
            split those of the default's 31 where the error may be highest, for less than 12 passes over the data, with
            the limits that `modeconn.error_barrier` states. `loss_barrier` is then of these alphas alone.
        batchnorm: what BatchNorm's running statistics are on the path: `"interpolate"`d like any weight, or
            `"recalibrate"`d on training data at every alpha, ends included. Without BatchNorm there is no choice.
        splits: among `"test"` and `"train"`.
        noise: the sources of SGD noise that differ between copies: `"order"`, `"augmentation"`, `"dropout"`.
        threshold: the instability, as a fraction of error, below which a network is stable; for `summary.json`.
        calibration: how many training examples to recalibrate on, at most.
        together: `"yes"` trains all copies that start at one k as one network, `"auto"` where that is known to be much
            faster. Results differ from those of `"no"` by rounding, which training amplifies as it does SGD noise; runs
            are stored under other names.
        iterations: shortens (or lengthens) the task and its schedule in proportion.
        train: a training loop of your own instead of a task, which is then a name alone: a function of
            `(state, start, stop, seed)` that trains from iteration `start` to `stop` under the SGD noise of `seed` and
            returns the new state. A state is a dict: under `"model"` a state dict (or, returned, a network), and
            whatever else you carry on, such as an optimizer's state dict. Every call's result is stored, so an
            interrupted study goes on with the same call. Runs are known by the name and by the source of `train` and
            `init`, not by what these call: give another name if that changes.
        init: goes with `train`: a function of a seed that returns a network (or a state with one) at iteration 0.
        data: goes with `train`: `{"test": ..., "train": ...}` or test data alone, in any form that
            `modeconn.error_barrier` takes.
        evaluate: goes with `train`: what is measured, as in `modeconn.error_barrier`; an error must be among it.
        device: `"auto"`, `"cpu"`, `"cuda"` or `"cuda:N"`.
        precision: `"float32"`, `"bfloat16"` or, on a GPU, `"tf32"`, for training and measuring.
        workers: processes; 0 for none besides this one, None for one per core, or one for each GPU. In a script, call
            this under `if __name__ == "__main__":`, as always with processes. With an executor: how many jobs it is
            given at a time, if not as many as it works on.
        executor: computes in place of processes on this machine: any `concurrent.futures.Executor`, which is not shut
            down; or a function that makes one, which is called again when its workers are lost. Jobs are sent to it by
            pickle, and the store must be a folder that its workers see, too.
        store: folder of all that is computed.
        data_dir: folder of data sets.
        out: where to write `instability.csv`, `paths.csv`, `summary.json` and figures; nowhere if None.
        checkpoint_every: seconds between two saves of a running training.
        command: noted in `summary.json`.
        log: called with `(metrics, step)`: what the trainings record, and at the end the mean instability at each k.
        report: called about twice a second with how far the study is.

    Raises:
        ModeconnError: a bad option, data set or network, before anything is computed; or jobs that failed, when the
            rest of the study is done.
    """
    options = StudyOptions(
        rewind_iters=rewind_iters,
        search=search,
        replicates=replicates,
        copies=copies,
        alphas=alphas,
        batchnorm=batchnorm,
        splits=splits,
        noise=noise,
        threshold=threshold,
        calibration=calibration,
        together=together,
        seed=seed,
    )
    if train is None:
        for name, part in (("init", init), ("data", data)):
            if part is not None:
                raise OptionError(f"{name}= goes with train=, a training loop of your own")
        task = get_task(task)
        task = task if iterations is None else task.shortened(iterations)
        # Before the data are loaded, with an epoch's length that only "ep" needs.
        _iterations(options, task.iterations, per_epoch=0)
        prepared = prepare(
            task, data_dir=data_dir, device=device, precision=precision, checkpoint_every=checkpoint_every
        )
    else:
        name = task.name if isinstance(task, Task) else task
        workers = (workers or 0) if executor is None else workers
        prepared = prepare_own(
            name,
            train,
            init,
            data,
            iterations=iterations,
            evaluate=evaluate,
            device=device,
            precision=precision,
            elsewhere=executor is not None or bool(workers),
        )
    study = plan_study(prepared, options)
    engine = engine_for(study.prepared.training.device, executor, workers)
    if out is not None:
        with writing(Path(out)):
            Path(out).mkdir(parents=True, exist_ok=True)
    opened = Store(store)
    asked = asdict(study.options) | {"rewind_iters": study.rewind_iters}
    recorder = start_record(opened, "instability", study.prepared, asked, command, out)
    result = conduct(study, opened, engine, Follower(log, opened), report, command, recorder.add)
    if log:
        for split, choice in result.choices:
            for k, height in zip(result.rewind_iters, result.mean[split][choice], strict=True):
                log({f"instability/{split}/{choice}": float(height)}, int(k))
    if out is None:
        return result
    from modeconn.plots import save_figures

    result = result.save(out)
    save_figures(result)
    return result


def conduct(
    study: Study,
    store: Store,
    engine: Engine,
    follower: Follower,
    report: Callable[[Progress], None] = lambda progress: None,
    command: str = "",
    record: Callable[[Iterable[Job]], None] = lambda jobs: None,
) -> InstabilityResult:
    """Compute what the store does not hold of a study, and collect its result; see `instability`.

    Args:
        record: called with the jobs that are asked for, before they are computed.

    Raises:
        ModeconnError: jobs that failed, when the rest of the study is done; or too little room on the disk.
    """
    pairs = list(plan_pairs(study))
    ends = [job.end for job in jobs_of(pairs) if isinstance(job, EvaluateJob)]
    trunks = [end.start for end in ends if end.start]
    check_room(store, [*trunks, *ends], study.prepared.state_bytes)

    def compute_now(jobs: list[Job]) -> None:
        record(jobs)
        compute(jobs, store, engine, follower, report)

    if study.options.search:
        pairs = _searched(study, pairs, store, compute_now)
    else:
        compute_now(jobs_of(pairs))
    return collect(study, pairs, store, command)


def _searched(study: Study, pairs: list[Pair], store: Store, compute_now: Callable[[list[Job]], None]) -> list[Pair]:
    """The pairs that the search for the smallest stable k needed, which are computed then."""
    split, choice = study.options.splits[0], study.batchnorm[0]

    def of(k: int, replicate: int) -> list[Pair]:
        return [pair for pair in pairs if (pair.rewind_iter, pair.replicate) == (k, replicate)]

    def measure(k: int, replicate: int) -> float:
        compute_now(jobs_of(of(k, replicate)))
        return mean_barrier(store, [pair.measurements[choice] for pair in of(k, replicate)], split)

    measured = search_stable(study.rewind_iters, study.options.replicates, study.options.threshold, measure)
    return [pair for pair in pairs if pair.replicate < measured.get(pair.rewind_iter, 0)]


def jobs_of(pairs: Iterable[Pair]) -> list[Job]:
    """All that measures these pairs; what it needs comes with it."""
    return [job for pair in pairs for way in pair.measurements.values() for job in way.jobs]


def plan_study(prepared: Prepared, options: StudyOptions) -> Study:
    """What is asked of a training that was tried, resolved.

    Raises:
        OptionError: what it cannot give.
    """
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
    return Study(
        options=replace(options, splits=splits),
        prepared=prepared,
        rewind_iters=_iterations(options, prepared.training.iterations, prepared.per_epoch),
        batchnorm=batchnorm,
        calibration=min(options.calibration, train),
        together=trains_together(prepared, options.together),
    )


def plan_pairs(study: Study) -> Iterator[Pair]:
    """Every pair of copies with the jobs that measure it. Trunks and ends that are shared are one job."""
    for (replicate, k), ends in _ends(study).items():
        for a, b in itertools.combinations(range(study.options.copies), 2):
            jobs = {choice: _between(study, choice, ends[a], ends[b]) for choice in study.batchnorm}
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


def collect(study: Study, pairs: list[Pair], store: Store, command: str) -> InstabilityResult:
    """The result of a study whose jobs are all in the store."""
    rows: list[Row] = []
    paths: list[Row] = []
    diverged: dict[str, Row] = {}
    same: dict[str, None] = {}
    notes: dict[str, None] = {}
    computed_with: set[str] = set()
    for pair in pairs:
        place = {"replicate": pair.replicate, "rewind_iter": pair.rewind_iter}
        place |= {"copy_a": pair.copies[0], "copy_b": pair.copies[1]}
        for choice, way in pair.measurements.items():
            ends = [store.require(end).facts for end in way.ends]
            computed_with |= {facts["torch"] for facts in ends}
            diverged |= _divergences(pair, way.ends, [facts["diverged_at"] for facts in ends])
            curve = read_curve(store, way)
            if curve is None:
                rows += [place | _missing(split) | {"batchnorm": choice} for split in study.options.splits]
                continue
            notes |= dict.fromkeys(curve.notes)
            if curve.l2_distance == 0 and pair.rewind_iter < study.prepared.training.iterations:
                same[f"replicate {pair.replicate}, k = {pair.rewind_iter}, copies {pair.copies}"] = None
            for split in study.options.splits:
                counts = curve.counts[split]
                row = _row(curve.alphas[split], counts, split, curve.l2_distance)
                rows.append(place | row | {"batchnorm": choice})
                paths += [
                    place | {"split": split, "batchnorm": choice, "alpha": a, "error": c.error, "loss": c.loss}
                    for a, c in zip(curve.alphas[split], counts, strict=True)
                ]
    if same:
        _log.warning(
            "%d pairs of copies ended in the same weights (distance 0), so their barrier is 0 by construction: "
            "the noise that differed (%s) has no effect on this task. First: %s",
            len(same), ", ".join(study.options.noise), next(iter(same)),
        )  # fmt: skip
    for where in diverged.values():
        _log.warning("a run diverged (its loss was not finite): %s", where)
    result = InstabilityResult(rows, paths, {})
    options = study.options
    summary = summarize(study.prepared, command) | {
        "rewind_iters": list(study.rewind_iters),
        "replicates_by_k": _replicates_by_k(pairs) if options.search else None,
        "threshold": options.threshold,
        "replicates": options.replicates,
        "copies": options.copies,
        "alphas": options.alphas if isinstance(options.alphas, str) else list(options.points),
        "batchnorm": list(study.batchnorm),
        "splits": list(options.splits),
        "noise": list(options.noise),
        "together": study.together,
        "seed": options.seed,
        "stable_from": result.stable_from(study.options.threshold),
        "diverged": list(diverged.values()),
        "identical_pairs": list(same),
        "notes": list(notes),
        "computed_with_torch": sorted(computed_with),
    }
    return InstabilityResult(rows, paths, summary)


def _replicates_by_k(pairs: Iterable[Pair]) -> dict[int, int]:
    """What a search measured."""
    found: dict[int, int] = {}
    for pair in pairs:
        found[pair.rewind_iter] = max(found.get(pair.rewind_iter, 0), pair.replicate + 1)
    return dict(sorted(found.items()))


def _divergences(pair: Pair, ends: tuple[EvaluateJob, EvaluateJob], iterations: list[int | None]) -> dict[str, Row]:
    """Where the copies of a pair diverged, by name of the run."""
    place = {"replicate": pair.replicate, "rewind_iter": pair.rewind_iter}
    return {
        job_name(end.end): place | {"copy": copy, "iteration": iteration}
        for copy, end, iteration in zip(pair.copies, ends, iterations, strict=True)
        if iteration is not None
    }


def _between(study: Study, choice: str, a: TrainJob, b: TrainJob) -> Between:
    measurement = Measurement(tuple(study.options.splits), study.calibration if choice == "recalibrate" else None)
    alphas = "adaptive" if study.options.alphas == "adaptive" else study.options.points
    return between(a, b, alphas, measurement, study.prepared.examples)


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


def _iterations(options: StudyOptions, total: int, per_epoch: int) -> tuple[int, ...]:
    found = parse_iterations(options.rewind_iters, total, per_epoch)
    if not found:
        raise OptionError("give at least one rewinding iteration")
    return found
