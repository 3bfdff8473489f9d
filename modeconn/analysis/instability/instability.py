"""Instability analysis: from which iteration on do copies of a network reach the same linearly connected minimum?"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from modeconn.analysis.instability.bisection import search as search_stable
from modeconn.analysis.instability.collect import collect
from modeconn.analysis.instability.curves import mean_barrier, read_curve
from modeconn.analysis.instability.jobs import EvaluateJob
from modeconn.analysis.instability.options import StudyOptions
from modeconn.analysis.instability.plan import (
    Pair,
    Study,
    jobs_of,
    measuring_iterations,
    plan_pairs,
    plan_study,
    rewinding_iterations,
)
from modeconn.analysis.instability.result import InstabilityResult
from modeconn.errors import OptionError
from modeconn.execution import MakeExecutor, Store
from modeconn.execution.names import job_name
from modeconn.progress import Report, silent, with_progress
from modeconn.tasks import Task, get_task
from modeconn.training.own_loop import InitFunction, TrainFunction, prepare_own
from modeconn.training.runner import Runner, open_runner
from modeconn.training.task_training import prepare
from modeconn.training.trackers import Log


@with_progress
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
    measure_at: str | int | Iterable[str | int] = StudyOptions.measure_at,
    measures: Sequence[str] = StudyOptions.measures,
    copies_train: str = StudyOptions.copies_train,
    fork_optimizer: str = StudyOptions.fork_optimizer,
    perturb: str | None = StudyOptions.perturb,
    align: str | None = StudyOptions.align,
    curvature: bool = StudyOptions.curvature,
    curvature_examples: int = StudyOptions.curvature_examples,
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
    fresh: bool = False,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    checkpoint_every: float = 60.0,
    command: str = "",
    log: Log | None = None,
    report: Report = silent,
    progress: bool = False,
) -> InstabilityResult:
    """Train to iteration k, fork copies that see different SGD noise, train them to the end, and measure barriers.

    Algorithm 1 of Frankle et al. 2020 for every k, on any number of replicates, with all pairs of copies. What the
    store holds is not computed again, and an interrupted study goes on with the same call.

    Args:
        task: a preset's name, or a `Task`.
        rewind_iters: the k: iterations, epochs (`"2ep"`) or percentages (`"3%"`), as a list or with commas.
        search: measure only those k that are needed to find the smallest stable one on the first split under the first
            BatchNorm choice, and its neighbours; it and the k below in as many replicates as decide about them, others
            in one (`modeconn.analysis.instability.bisection`). The answer is that of the full study unless
            instability rises again where it was not measured. By default over eleven k from 0 to half of the training.
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
            are stored under other names. More copies or replicates make it another training, with other numbers.
        measure_at: iterations (or epochs, or percentages) at which barriers between copies are measured, too, besides
            the last (Frankle et al. 2020, appendix C): one training, of which states are kept on the way. Each k is
            measured at those after it. The result is about the last; `result.at(iteration)` is about another.
        measures: what is measured besides barriers: nothing, or `["ends"]`, how copies differ, where they are measured
            (Frankle et al. 2020, appendices B and G). `instability.csv` then has columns for it: the cosine distance
            of the weights (1 - cosine), the `disagreement` (fraction of examples labelled differently) and the
            `possible_disagreement` of networks of these errors (their sum, at most 1; with two classes at most 2 minus
            it), `loss_l2` (L2 distance of the vectors of per-example losses, not divided by the number of examples),
            and `l2_from_init_a` and `_b`, the distance of each copy's parameters from the initialisation. `trunk.csv`
            has the error, the loss and that distance of the network at k.
        copies_train: `"rest"`, the T - k iterations that are left; or `"whole"`, T iterations after the fork, with the
            schedule and the copies' noise from their beginning (Frankle et al. 2020, figure 4). Iterations of
            `measure_at` then count from the fork.
        fork_optimizer: `"carry"` on the optimizer's state at k, or `"reset"` it: copies begin with that of iteration 0.
        perturb: in place of other SGD noise from k on: all copies share the trunk's, the first is the trunk itself, and
            the others are perturbed once at k (Altintas et al. 2025). `"weight"` sets one weight anew, as another
            initialisation has it; `"gaussian:NORM"` adds Gaussian noise to all parameters, whose L2 norm is NORM times
            that of the initialisation; `"batch"` draws the batch of iteration k alone under another seed, in the
            sources of `noise`. Copies train one by one.
        align: `"weights"` also measures the path after the units of each pair's second copy are permuted so that its
            weights are most like the first's (`modeconn.align`): is the barrier one of permutations?
            `instability.csv` then has `barrier_aligned`, `chord_barrier_aligned`, `loss_barrier_aligned`,
            `l2_distance_aligned` and `moved`, the share of units that changed their place. Networks that are trained
            already are read from the store. Stability is about copies as they are.
        curvature: also measures the largest eigenvalue of the Hessian of the training loss, and its trace from 10
            random vectors, at the network at k and at every copy where copies are measured: does the curvature settle
            at the k from which the network is stable? In evaluation mode and without augmentation, as
            `modeconn.sharpness`; `curvature.csv` has `eigenvalue`, `residual`, `trace`, `trace_error` and `loss`, of
            the network at k with copy 0.
        curvature_examples: the first so many training examples, at most.
        iterations: shortens (or lengthens) the task and its schedule in proportion.
        train: a training loop of your own instead of a task, which is then a name alone: a function of
            `(state, start, stop, seed)` that trains from iteration `start` to `stop` under the SGD noise of `seed` and
            returns the new state. A state is a dict: under `"model"` a state dict (or, returned, a network), and
            whatever else you carry on, such as an optimizer's state dict. Every call's result is stored, so an
            interrupted study goes on with the same call. The trunk up to k is one call from iteration 0, the copies
            from k are calls of their own, each iteration of `measure_at` one more from k. Runs are known by the name
            and by the content of `train` and `init`: their code, and the functions, classes and values that they refer
            to, as these are when the study is asked for; not by libraries and files. `train.modeconn_name = "..."`
            stands for all of that of `train`.
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
        fresh: compute all of the study anew, and replace what the store holds of it.
        data_dir: folder of data sets.
        out: where to write `instability.csv`, `paths.csv`, `summary.json` and figures; nowhere if None.
        checkpoint_every: seconds between two saves of a running training.
        command: noted in `summary.json`.
        log: called with `(metrics, step)`: what the trainings record, and at the end the mean instability at each k.
        report: called about twice a second with how far the study is.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.

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
        measure_at=measure_at,
        measures=measures,
        copies_train=copies_train,
        fork_optimizer=fork_optimizer,
        perturb=perturb,
        align=align,
        curvature=curvature,
        curvature_examples=curvature_examples,
    )
    if train is None:
        for name, part in (("init", init), ("data", data)):
            if part is not None:
                raise OptionError(f"{name}= goes with train=, a training loop of your own")
        task = get_task(task)
        task = task if iterations is None else task.shortened(iterations)
        # Before the data are loaded, with an epoch's length that only "ep" needs.
        for resolve in (rewinding_iterations, measuring_iterations):
            resolve(options, task.iterations, per_epoch=0)
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
            by_name=executor is None and bool(workers),
        )
    study = plan_study(prepared, options)
    runner = open_runner(
        "instability",
        study.prepared,
        study.options.asked() | {"rewind_iters": study.rewind_iters},
        store=store,
        executor=executor,
        workers=workers,
        out=out,
        command=command,
        log=log,
        report=report,
    )
    result = conduct(study, runner, command, fresh)
    if log:
        for split, choice in result.choices:
            for k, height in zip(result.rewind_iters, result.mean[split][choice], strict=True):
                log({f"instability/{split}/{choice}": float(height)}, int(k))
    if out is None:
        return result
    from modeconn.analysis.instability.figures import save_figures

    result = result.save(out)
    save_figures(result)
    return result


def conduct(study: Study, runner: Runner, command: str = "", fresh: bool = False) -> InstabilityResult:
    """Run a planned study and collect its result; jobs whose artifacts are in the store are not computed again.

    Args:
        study: the plan.
        runner: computes its jobs.
        command: noted in `summary.json`.
        fresh: compute all of them anew.

    Raises:
        ModeconnError: jobs that failed, when the rest of the study is done; or too little room on the disk; or a loop
            of the user's own that ignores its seed.
    """
    began = time.monotonic()
    pairs = list(plan_pairs(study))
    if fresh:
        runner.forget(jobs_of(pairs))
    stored = {job_name(job) for job in jobs_of(pairs) if runner.store.done(job)}
    ends = [job.end for job in jobs_of(pairs) if isinstance(job, EvaluateJob)]
    trunks = [end.start for end in ends if end.start]
    runner.check_room([*trunks, *ends], study.prepared.state_bytes)
    runner.announce(jobs_of(pairs), pruned=study.options.search)
    if study.options.search:
        pairs = _searched(study, pairs, runner)
    else:
        if study.prepared.training.noise_per_call:  # the first pair alone, so that a fault shows early
            runner.recorder.add(jobs_of(pairs))
            runner.compute(jobs_of(pairs[:1]))
            check_seed(study, pairs[0], runner.store)
        runner.compute(jobs_of(pairs))
    check_seed(study, pairs[0], runner.store)
    needed = {job_name(job) for job in jobs_of(pairs)}
    measured = {"read": len(needed & stored), "computed": len(needed - stored)}
    return collect(study, pairs, runner.store, command, {"measurements": measured, "seconds": time.monotonic() - began})


def check_seed(study: Study, pair: Pair, store: Store) -> None:
    """See that a loop of the user's own makes something of its seed, by a pair of copies that were measured.

    Raises:
        OptionError: both have the same weights.
    """
    training = study.prepared.training
    if not training.noise_per_call or pair.rewind_iter == training.iterations:
        return
    curve = read_curve(store, next(iter(pair.measurements.values())))
    if curve and curve.l2_distance == 0:
        raise OptionError(
            f"train gave the same weights for two seeds (from iteration {pair.rewind_iter} on), so there is no noise "
            "to be stable to; have its argument seed decide the data order, augmentation and dropout"
        )


def _searched(study: Study, pairs: list[Pair], runner: Runner) -> list[Pair]:
    """Search for the smallest stable k. Returns the pairs that were needed for it, which are computed then."""
    split, choice = study.options.splits[0], study.batchnorm[0]

    def of(k: int, replicate: int) -> list[Pair]:
        return [pair for pair in pairs if (pair.rewind_iter, pair.replicate) == (k, replicate)]

    def measure(k: int, replicate: int) -> float:
        runner.compute(jobs_of(of(k, replicate)))
        at_the_end = [pair for pair in of(k, replicate) if pair.iteration == study.prepared.training.iterations]
        return mean_barrier(runner.store, [pair.measurements[choice] for pair in at_the_end], split)

    measured = search_stable(study.rewind_iters, study.options.replicates, study.options.threshold, measure)
    return [pair for pair in pairs if pair.replicate < measured.get(pair.rewind_iter, 0)]
