"""The rewinding iterations from which on subnetworks are stable, and match, over density (Frankle et al. 2020)."""

import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modeconn.errors import OptionError
from modeconn.execution import MakeExecutor
from modeconn.progress import Report, silent, with_progress
from modeconn.result import Row
from modeconn.tasks import Task, get_task, parse_iterations
from modeconn.tickets.lottery import lottery, with_early_stopping
from modeconn.tickets.options import LotteryOptions
from modeconn.tickets.plan import FIXED, PLAIN, plan_lottery, plan_replicate
from modeconn.tickets.result import LotteryResult
from modeconn.tickets.sweep_options import SweepOptions
from modeconn.tickets.sweep_result import COLUMNS, PROPERTIES, SweepResult
from modeconn.training.task_training import prepare
from modeconn.training.trackers import Log


@with_progress
def sweep(
    task: str | Task = "digits-conv",
    *,
    levels: Iterable[int] = SweepOptions.levels,
    ks: str | int | Iterable[str | int] = SweepOptions.ks,
    conditions: Sequence[str] = SweepOptions.conditions,
    fraction: float = SweepOptions.fraction,
    replicates: int = SweepOptions.replicates,
    copies: int = SweepOptions.copies,
    retrain: str = SweepOptions.retrain,
    scope: str | None = SweepOptions.scope,
    rates: Sequence[tuple[str, float]] | None = SweepOptions.rates,
    carry_optimizer: bool = SweepOptions.carry_optimizer,
    prune_iter: str | int = SweepOptions.prune_iter,
    per_class: int = SweepOptions.per_class,
    threshold: float = SweepOptions.threshold,
    batchnorm: str = SweepOptions.batchnorm,
    alphas: int | str | Sequence[float] = SweepOptions.alphas,
    calibration: int = SweepOptions.calibration,
    validation: int | None = SweepOptions.validation,
    seed: int = SweepOptions.seed,
    together: str = SweepOptions.together,
    iterations: int | None = None,
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
) -> SweepResult:
    """Find the smallest k from which subnetworks are stable, and the smallest from which they match, at each density.

    By bisection over k at each level by itself, for every replicate: over density neither property is monotone (Frankle
    et al. 2020, figure 9). Each k that is asked for is a lottery of that k, whose trainings the store keeps, so that
    levels, conditions and properties share them. That a property holds from some k on is a rule with exceptions, which
    bisection does not see.

    Args:
        task: a preset's name, or a `Task`.
        levels: of pruning that are looked at; level n has a density of (1 - fraction)^n.
        ks: candidates for k: iterations, epochs and percentages.
        conditions: which subnetworks, of those of `modeconn.lottery` that are rewound to k.
        threshold: the instability on test data, as a fraction of error, below which a subnetwork is stable.
        batchnorm: the BatchNorm choice whose instability that is.
        fraction, replicates, copies, retrain, scope, rates, carry_optimizer, prune_iter: as in `modeconn.lottery`.
        per_class, alphas, calibration, validation, seed, together, iterations: as in `modeconn.lottery`.
        device, precision, workers, executor, store, data_dir, checkpoint_every, command, log, report: as in
            `modeconn.instability`.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.
        out: where to write `sweep.csv`, `summary.json` and the figure; nowhere if None.

    Raises:
        ModeconnError: a bad option, data set or network, before anything is computed; or jobs that failed.
    """
    given = {name: value for name, value in locals().items() if name in SweepOptions.__dataclass_fields__}
    asked = SweepOptions(**given)
    task = get_task(task)
    task = task if iterations is None else task.shortened(iterations)
    machine: dict[str, Any] = {"device": device, "precision": precision, "checkpoint_every": checkpoint_every}
    prepared = prepare(with_early_stopping(task, data_dir, asked.validation), data_dir=data_dir, **machine)
    candidates = _candidates(asked, task.iterations, prepared.per_epoch)
    whole = plan_lottery(prepared, LotteryOptions(**asked.lottery(asked.levels, candidates)), *candidates)
    list(plan_replicate(whole, 0))  # what cannot be is said before anything is computed
    machine |= {"workers": workers, "executor": executor, "store": store, "data_dir": data_dir}
    machine |= {"command": command, "log": log, "report": report}

    @functools.cache
    def measured(k: int, level: int) -> LotteryResult:
        return lottery(task, **asked.lottery((level,), k), **machine)

    way = FIXED if asked.batchnorm == "recalibrate" and prepared.has_batchnorm else PLAIN
    rows = [
        row
        for condition in asked.conditions
        for level in asked.levels
        for replicate in range(asked.replicates)
        for row in _search(
            {"condition": condition, "level": level, "replicate": replicate}, candidates, measured, asked.threshold, way
        )
    ]
    any_of = measured(_first_asked(candidates), asked.levels[0]).summary
    kept = ("task", "task_changes", "iterations", "data_note", "versions", "machine")
    summary = asdict(asked) | {name: any_of[name] for name in kept} | {"candidates": candidates, "command": command}
    result = SweepResult(rows, summary | {"scope": whole.scope, "rates": whole.rates})
    if out is None:
        return result
    from modeconn.tickets.figures import save_sweep_figure

    result = result.save(out)
    save_sweep_figure(result)
    return result


def first_that_holds(candidates: Sequence[int], holds: Callable[[int], bool]) -> tuple[int | None, list[int]]:
    """Bisect for the first candidate at which something holds, that holds from there on; and which were asked.

    >>> first_that_holds([0, 10, 20, 30, 40], lambda k: k >= 30)
    (30, [20, 30])
    >>> first_that_holds([0, 10], lambda k: False)
    (None, [0, 10])
    """
    low, high = -1, len(candidates)  # it does not hold at `low`, and does at `high`; beyond both ends by assumption
    asked = []
    while high - low > 1:
        middle = (low + high) // 2
        asked.append(candidates[middle])
        low, high = (low, middle) if holds(candidates[middle]) else (middle, high)
    return (candidates[high] if high < len(candidates) else None), asked


def _candidates(asked: SweepOptions, total: int, per_epoch: int | None) -> tuple[int, ...]:
    """The k that are bisected, ascending.

    Raises:
        OptionError: one that is no iteration before T.
    """
    found = parse_iterations(asked.ks, total, per_epoch)
    if found[-1] == total:
        raise OptionError(f"ks contain the last iteration, {total}, from which nothing is left to train; leave it out")
    return found


def _search(
    place: Row, candidates: Sequence[int], measured: Callable[[int, int], LotteryResult], threshold: float, way: str
) -> list[Row]:
    """A row for each property of one condition, level and replicate.

    Args:
        place: these three.
        candidates: the k, ascending.
        measured: from k and a level to the lottery that has both.
        threshold: of instability.
        way: the ending of the column of instability that is compared with it.
    """

    @functools.cache
    def of(k: int) -> Row:
        rows = measured(k, place["level"]).rows
        return next(row for row in rows if all(row[name] == value for name, value in place.items()))

    holds: dict[str, Callable[[int], bool]] = {
        "stable": lambda k: bool(of(k)[f"instability_test{way}"] < threshold),
        "matching": lambda k: of(k)["matching_02"] is True,
    }
    rows = []
    for name in PROPERTIES:
        found, asked = first_that_holds(candidates, holds[name])
        about = {"density": of(asked[0])["density"], "property": name, "rewind_iter": found, "measured": len(asked)}
        row = place | about
        rows.append({column: row[column] for column in COLUMNS})
    return rows


def _first_asked(candidates: Sequence[int]) -> int:
    """The k that bisection begins with."""
    return candidates[(len(candidates) - 1) // 2]
