"""The rewinding iteration: given, or the smallest from which on the dense network is stable to SGD noise."""

from dataclasses import dataclass, field, replace
from typing import Any

from modeconn.analysis.instability.instability import conduct
from modeconn.analysis.instability.plan import Study, plan_study
from modeconn.analysis.instability.result import InstabilityResult
from modeconn.errors import OptionError
from modeconn.result import jsonable
from modeconn.tasks import parse_iterations
from modeconn.tickets.options import LotteryOptions
from modeconn.tickets.plan import resolve_rewind_iters
from modeconn.tickets.words import as_given
from modeconn.training.runner import Runner
from modeconn.training.task_training import Prepared

_SPLIT = "test"


@dataclass(frozen=True)
class Choice:
    """Rewinding iterations, ascending, why they were chosen, in a sentence, and the measurements behind it."""

    rewind_iters: tuple[int, ...]
    why: str
    facts: dict[str, Any] = field(default_factory=dict)


def choose_rewind_iter(prepared: Prepared, options: LotteryOptions, runner: Runner) -> Choice:
    """The k that were given; for `"auto"` the smallest stable k of an instability study of the dense network.

    Raises:
        OptionError: a k that is not before T; or the network is stable from no k that was measured.
    """
    total = prepared.training.iterations
    if options.rewind_iter != "auto":
        ks = resolve_rewind_iters(options.rewind_iter, total, prepared.per_epoch)
        return Choice(ks, as_given(ks))
    if total in parse_iterations(options.rewind_iters, total, prepared.per_epoch):
        raise OptionError(f"rewind-iters contain the last iteration, {total}, from which nothing is left to train")
    return explain(conduct(plan_dense(prepared, options), runner), options, total)


def plan_dense(prepared: Prepared, options: LotteryOptions) -> Study:
    """The instability study that `"auto"` decides by, whose copies are the dense networks of the lottery."""
    # They train together by replicate, as tickets do.
    return replace(plan_study(prepared, options.study()), by_replicate=True)


def explain(result: InstabilityResult, options: LotteryOptions, total: int) -> Choice:
    """The smallest k from which on a study found the network stable on test data, and why.

    Raises:
        OptionError: there is none.
    """
    choice = result.choices[0][1]  # the study was asked for it first
    k = result.stable_from(options.threshold)[_SPLIT][choice]
    means = result.mean[_SPLIT][choice]
    shown = ", ".join(f"{100 * m:.2f} at {i}" for i, m in zip(result.rewind_iters, means, strict=True))
    statistics = "" if choice == "none" else f" with BatchNorm statistics {choice}d"
    measured = (
        f"mean test instability{statistics} over {result.samples}, in percentage points: {shown}; "
        f"stable is below {100 * options.threshold:g}"
    )
    facts = {
        "rewind_iters": result.rewind_iters.tolist(),
        "batchnorm": choice,
        "instability": jsonable(result.mean[_SPLIT]),
        "stable_from": result.stable_from(options.threshold)[_SPLIT],
    }
    if k is None:
        raise OptionError(
            f"auto found no iteration from which on the dense network stays stable ({measured}). Measure later ones "
            "with rewind_iters=, or give rewind_iter=K yourself"
        )
    share = f"{100 * k / total:.3g} % of training"
    return Choice(
        (k,), f"Rewinding to iteration {k} ({share}), from where on the dense network is stable: {measured}.", facts
    )
