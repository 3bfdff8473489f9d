"""Lottery tickets: iterative magnitude pruning with rewinding to the k that instability analysis chose."""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

from modeconn.data import load_data
from modeconn.errors import OptionError
from modeconn.evaluation.losses import Loss
from modeconn.execution import MakeExecutor
from modeconn.progress import Report, silent, with_progress
from modeconn.tasks import Task, get_task
from modeconn.tickets.collect import collect, save_masks
from modeconn.tickets.options import LotteryOptions
from modeconn.tickets.own import compute_first, prepare_own_lottery
from modeconn.tickets.plan import plan_lottery, plan_replicate, resolve_rewind_iters
from modeconn.tickets.result import LotteryResult
from modeconn.tickets.rewind import choose_rewind_iter
from modeconn.training.own_loop import InitFunction, TrainFunction
from modeconn.training.runner import open_runner
from modeconn.training.task_training import prepare
from modeconn.training.trackers import Log

VALIDATION = 5000  # examples that early stopping looks at (Frankle & Carbin 2019), at most a tenth of the training data
_EVALUATIONS = 50  # of the validation loss in a training, or fewer, so that they take
_SHARE = 0.25  # of the training's work at most, unless that would be fewer than
_FEWEST = 5


@with_progress
def lottery(
    task: str | Task = "digits-conv",
    *,
    levels: int = LotteryOptions.levels,
    fraction: float = LotteryOptions.fraction,
    rewind_iter: str | int | Iterable[str | int] = LotteryOptions.rewind_iter,
    rewind_iters: str | int | Iterable[str | int] = LotteryOptions.rewind_iters,
    search: bool = LotteryOptions.search,
    replicates: int = LotteryOptions.replicates,
    copies: int = LotteryOptions.copies,
    conditions: Sequence[str] = LotteryOptions.conditions,
    barriers: Sequence[str] = LotteryOptions.barriers,
    barriers_of: Sequence[str] = LotteryOptions.barriers_of,
    retrain: str = LotteryOptions.retrain,
    scope: str | None = LotteryOptions.scope,
    rates: Sequence[tuple[str, float]] | None = LotteryOptions.rates,
    carry_optimizer: bool = LotteryOptions.carry_optimizer,
    prune_iter: str | int = LotteryOptions.prune_iter,
    per_class: int = LotteryOptions.per_class,
    threshold: float = LotteryOptions.threshold,
    batchnorm: str = LotteryOptions.batchnorm,
    fix: bool = LotteryOptions.fix,
    alphas: int | str | Sequence[float] = LotteryOptions.alphas,
    splits: Sequence[str] = LotteryOptions.splits,
    calibration: int = LotteryOptions.calibration,
    validation: int | None = LotteryOptions.validation,
    seed: int = LotteryOptions.seed,
    reinits: int = LotteryOptions.reinits,
    sign_flips: bool = LotteryOptions.sign_flips,
    at_levels: Sequence[int] = LotteryOptions.at_levels,
    details: Sequence[str] = LotteryOptions.details,
    measures: Sequence[str] = LotteryOptions.measures,
    together: str = LotteryOptions.together,
    iterations: int | None = None,
    train: TrainFunction | None = None,
    init: InitFunction | None = None,
    data: Any = None,
    evaluate: str | Callable[..., Any] = "auto",
    loss: Loss | None = None,
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
    report: Report = silent,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> LotteryResult:
    """Train, prune the smallest weights, rewind the others to iteration k, and again; measure what comes of it.

    Algorithm 2 of Frankle et al. 2020 (iterative magnitude pruning with rewinding), with instability analysis of the
    dense network choosing k, and of every subnetwork. Each level trains under SGD noise of its own, so that a mask and
    the copies that are trained under it saw different noise. What the store holds is not computed again.

    Args:
        task: a preset's name, or a `Task`.
        levels: how often to prune.
        fraction: of the remaining weights that each level prunes.
        rewind_iter: k, or several (`"0,500,3%"` or a list), each with masks and dense networks of its own, of which
            `result.at(k)` is one; or `"auto"`: the smallest of `rewind_iters` from which on the dense network stays
            stable on test data.
        rewind_iters: what `"auto"` measures.
        search: find it by bisection, and confirm it at the next ones.
        replicates: how many initialisations.
        copies: how many trainings of a subnetwork whose instability is measured, under different SGD noise; errors are
            of the first, instability is the mean over all pairs.
        conditions: `"imp"`, the tickets; with their layerwise density, `"random"` masks (nested over levels),
            `"reinit"`ialised weights, masks that are `"shuffle"`d within layers, `"invert"`ed masks (the smallest
            weights of the trained dense network), `"rewind0"`, weights from iteration 0, and `"sign"`, the signs of
            weights at k and the magnitudes of another initialisation; with their overall density, random masks
            (nested) of densities that are the same in every layer (`"uniform"`, the random pruning of Frankle et al.
            2021, but exactly), in proportion to (n_in + n_out + width + height) / (n_in n_out width height) (`"erk"`,
            Erdos-Renyi-kernel) or of as many weights in every layer (`"balanced"`), each as far as a layer has them,
            and without layers of rate 0; the masks that `"magnitude"`, `"snip"`, `"grasp"`, `"grasp-abs"` and
            `"synflow"` find at `prune_iter`; and `"oneshot"`, magnitude pruning of the trained dense network in one
            step (Frankle & Carbin 2019). Of the last six, controls (Frankle et al. 2021): `"snip-shuffle"` within
            layers, `"snip-reinit"`ialised weights, and `"snip-invert"`, the lowest of the scores of the whole network,
            as many in each layer as the mask keeps. All go on from iteration k: Frankle et al. 2021 is
            `rewind_iter=0`.
        barriers: among `"instability"` and the barriers to the `"previous"` level and the `"dense"` network, which are
            measured over the mean of the ends' errors and, as these differ, over the line between them (chord).
        barriers_of: the conditions whose barriers are measured. The others are trained once at every level.
        retrain: `"weights"` rewinds them; of Renda et al. 2020, `"rate"` keeps the trained weights and rewinds the
            schedule to k, `"finetune"` keeps both and trains T - k iterations at the last learning rate (on a constant
            schedule these two are one).
        scope: `"global"` or `"layerwise"`: where weights compete; None for the way of the network's paper, as
            `rates`. LeNets and VGGs are pruned globally without their output layer, as in the framework of Frankle et
            al. 2020; Conv-2, Conv-4 and Conv-6 layerwise, the output and convolutions more slowly, as in Frankle &
            Carbin 2019; all others globally, in all layers.
        rates: pairs of layers and what to multiply the fraction by in them; 0 keeps all of them. Layers are the name of
            a weight, `"first"`, `"output"`, `"conv"` or `"linear"`. None for those of the paper, () for none.
        carry_optimizer: carry the optimizer's state on at a rewind; the authors' framework does not. There is none for
            `"reinit"` and `"rewind0"`, whose weights no training has visited.
        prune_iter: the iteration of the dense network that criteria beside IMP score, or `"rewind"` for k: with
            several k, pruning later in training (Frankle et al. 2021).
        per_class: how many training examples of each class SNIP and GraSP score with.
        threshold: the instability, as a fraction of error, below which a network is stable.
        batchnorm: the BatchNorm choice whose instability decides about k.
        fix: measure barriers with a statistics fix as well: recalibrated BatchNorm, or, for networks without, REPAIR
            (of barriers to other levels).
        alphas: how many points on a path, ends included, or the points themselves.
        splits: where errors and instability are measured; `"test"` at least.
        calibration: how many training examples to take statistics on, at most.
        validation: training examples to hold out for early stopping; by default 5,000, at most a tenth. Their loss is
            recorded 50 times in a training: less often in a short one, so that this takes at most a quarter of the
            training's work, but 5 times at least; or as often as the task's `evaluate_every` says.
        seed: of the whole study.
        reinits: how many new initialisations each ticket gets under the conditions that draw weights anew
            (`"reinit"`, `"sign"`, `"snip-reinit"`), a row each, counted by `draw`; Frankle & Carbin 2019 take 3.
        sign_flips: count the weights whose sign at the end of the first copy's training is not that at its start, k, as
            a fraction of those that remain, in the column `sign_flips`.
        at_levels: the levels at which barriers are measured and the conditions beside IMP are trained, of all if none
            is given: figures about one density need no others.
        details: tables to keep, too: `"paths"`, error and loss at every alpha between the copies whose instability is
            measured, and `"curves"`, those that were recorded during training (on test data where the validation loss
            is lowest or, without validation, always).
        measures: what else is measured between the copies whose instability is: nothing, or `["ends"]`, how they differ
            as they are (Frankle et al. 2020, appendix G), the mean over all pairs: the L2 and cosine distance of their
            parameters, their disagreement and the most that their errors allow, the L2 distance of their losses, and
            how far both are from the weights at iteration 0 under their mask, in columns of `lottery.csv`.
        together: train the networks of a replicate at one level (all conditions, draws and copies, at most 8 at a time)
            as one: `"yes"`, `"no"`, or `"auto"`, where that was measured to be at least 1.5 times as fast (the digits
            network on a CPU). With more conditions or copies it is then another training; more replicates leave the
            others as they are. With `at_levels`, the tickets that masks are found on train by themselves.
        iterations: shortens (or lengthens) the task and its schedule in proportion.
        train: a training loop of your own instead of a task, which is then a name alone, as in `modeconn.instability`:
            a function of `(state, start, stop, seed, mask)`, whose last parameter is given by its name. `mask` is a
            `modeconn.Mask`, a mapping from names of weights to boolean tensors; call `mask.apply(network)`
            after every optimizer step, as pruned weights that are not zero at `stop` are refused. For dense networks it
            is None, or whatever default it has. Subnetworks begin at k (or at 0) with nothing in their state but
            weights, and what else `init` gives; with `carry_optimizer`, all that the trunk carried on at k. One
            function serves both studies, whose dense networks are then the same. A loop of your own keeps no early
            stopping, no curves, and no learning rate that `"finetune"` could know.
        init, data, evaluate: go with `train`, as in `modeconn.instability`. Criteria score on the first of each class
            of the training data or, if labels are not of classes, on its first batches with `10 * per_class` examples.
        loss: goes with `train`: what SNIP and GraSP take for the loss, a function of `(network, batch)` that gives a
            scalar tensor; if None, what the network says or the target suggests, as in `modeconn.prune`.
        device, precision, workers, executor, store, data_dir, checkpoint_every, command, log, report: as in
            `modeconn.instability`.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.
        out: where to write `lottery.csv`, `layers.csv`, `summary.json`, `masks/` and figures; nowhere if None.
        say: called with what people want to know before the end: why k was chosen.

    Raises:
        ModeconnError: a bad option, data set or network, before anything is computed; no stable k; or jobs that
            failed, when the rest of the study is done.
    """
    given = {name: value for name, value in locals().items() if name in LotteryOptions.__dataclass_fields__}
    options = LotteryOptions(**given)
    if train is None:
        for name, part in (("init", init), ("data", data), ("loss", loss)):
            if part is not None:
                raise OptionError(f"{name}= goes with train=, a training loop of your own")
        task = get_task(task)
        task = task if iterations is None else task.shortened(iterations)
        if options.rewind_iter != "auto":
            resolve_rewind_iters(options.rewind_iter, task.iterations, per_epoch=0)
        task = with_early_stopping(task, data_dir, options.validation)
        prepared = prepare(
            task, data_dir=data_dir, device=device, precision=precision, checkpoint_every=checkpoint_every
        )
    else:
        workers = (workers or 0) if executor is None else workers
        prepared = prepare_own_lottery(
            task.name if isinstance(task, Task) else task,
            options,
            train,
            init,
            data,
            iterations=iterations,
            evaluate=evaluate,
            loss=loss,
            device=device,
            precision=precision,
            elsewhere=executor is not None or bool(workers),
        )
    checked = plan_lottery(prepared, options, 0)
    list(plan_replicate(checked, 0))  # what cannot be is said before k is looked for
    options = checked.options
    runner = open_runner(
        "lottery",
        prepared,
        options.asked(),
        store=store,
        executor=executor,
        workers=workers,
        out=out,
        command=command,
        log=log,
        report=report,
    )
    chosen = choose_rewind_iter(prepared, options, runner)
    say(chosen.why)
    study = plan_lottery(prepared, options, *chosen.rewind_iters)
    subnetworks = [found for replicate in range(options.replicates) for found in plan_replicate(study, replicate)]
    runner.check_room([job for found in subnetworks for job in found.states], prepared.state_bytes)
    jobs = [job for found in subnetworks for job in found.jobs]
    runner.announce(jobs)
    if train is not None:
        compute_first(runner, subnetworks)
    runner.compute(jobs)
    result = collect(study, chosen, subnetworks, runner.store, command)
    if out is None:
        return result
    from modeconn.tickets.figures import save_lottery_figures

    result = result.save(out)
    save_masks(subnetworks, runner.store, Path(out) / "masks")
    save_lottery_figures(result)
    return result


def with_early_stopping(task: Task, data_dir: str | Path | None, validation: int | None) -> Task:
    """The task with training examples held out for early stopping, and their loss recorded on the way.

    It is recorded 50 times in a training, or less often in a short one (see `_interval`), unless the task itself says
    how often.

    Args:
        task: as it was asked for.
        data_dir: folder of data sets.
        validation: examples to hold out, 0 for none; None for the task's own number, or else 5,000, at most a tenth.
    """
    if validation is None:
        examples = len(load_data(task.data, data_dir, task.image_size).train)
        validation = task.validation or min(VALIDATION, examples // 10)
    every = task.evaluate_every or _interval(task, validation)
    return replace(task, validation=validation, evaluate_every=every if validation else task.evaluate_every)


def _interval(task: Task, validation: int) -> int:
    """Iterations between two evaluations, of which each passes the held-out examples forward.

    The work of an iteration is that of its batch forward and, at twice the price, backward. The interval is
    `max(T / 50, min(V / (0.25 * 3 B), T / 5))` for T iterations with B examples each and V held out.

    >>> _interval(get_task("mnist-lenet"), 5000), _interval(get_task("mnist-lenet").shortened(3000), 5000)
    (480, 112)
    """
    of_share = math.ceil(validation / (_SHARE * 3 * task.batch_size))
    return max(1, task.iterations // _EVALUATIONS, min(of_share, task.iterations // _FEWEST))
