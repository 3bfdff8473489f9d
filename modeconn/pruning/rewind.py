"""The rewinding iteration: given, or the smallest from which on the dense network is stable to SGD noise."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modeconn.analysis.instability import conduct, plan_study
from modeconn.analysis.result import InstabilityResult
from modeconn.errors import OptionError
from modeconn.execution import Progress, Store
from modeconn.pruning.options import LotteryOptions
from modeconn.pruning.plan import resolve_iteration
from modeconn.tasks import parse_iterations
from modeconn.training.setting import Prepared
from modeconn.training.trackers import Follower

_SPLIT = "test"


@dataclass(frozen=True)
class Choice:
    """A rewinding iteration, why it was chosen, in a sentence, and what was measured for it."""

    rewind_iter: int
    why: str
    facts: dict[str, Any] = field(default_factory=dict)


def choose_rewind_iter(
    prepared: Prepared,
    options: LotteryOptions,
    store: Store,
    workers: int,
    follower: Follower,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Choice:
    """The k that was given; or, for `"auto"`, an instability study of the dense network, or what the store holds of it.

    Raises:
        OptionError: k is not one iteration before T; or the network is stable from no k that was measured.
    """
    total = prepared.training.iterations
    if options.rewind_iter != "auto":
        k = resolve_iteration("rewind-iter", options.rewind_iter, total, prepared.per_epoch)
        return Choice(k, f"Rewinding to iteration {k}, as given.")
    candidates = parse_iterations(options.rewind_iters, total, prepared.per_epoch)
    if total in candidates:
        raise OptionError(f"rewind-iters contain the last iteration, {total}, from which nothing is left to train")

    def measure(ks: Iterable[int]) -> InstabilityResult:
        study = plan_study(prepared, options.study(rewind_iters=tuple(ks)))
        return conduct(study, store, workers, follower, report)

    result = bisect(candidates, measure, options) if options.search else measure(candidates)
    return _choose(result, options, total)


def bisect(
    candidates: tuple[int, ...], measure: Callable[[Iterable[int]], InstabilityResult], options: LotteryOptions
) -> InstabilityResult:
    """Measure only what is needed to find the smallest stable k, and its neighbours to confirm it.

    Instability falls with k, so the candidates are halved as long as it is open which of them is the first stable
    one. That is a rule with exceptions: the candidate above the one found is measured too, and while it is unstable the
    search goes on above it.

    Returns:
        The study of the k that were measured.
    """
    measured: set[int] = set()

    def stable(index: int) -> bool:
        measured.add(candidates[index])
        result = measure([candidates[index]])
        return bool(result.stable(_SPLIT, _choice(result, options), options.threshold)[0])

    low, high = -1, len(candidates)  # unstable up to low, stable from high on, as far as is known
    while high - low > 1:
        middle = (low + high) // 2
        if stable(middle):
            high = middle
        else:
            low = middle
    while high < len(candidates) - 1 and not stable(high + 1):
        high = next((i for i in range(high + 2, len(candidates)) if stable(i)), len(candidates))
    return measure(sorted(measured))


def _choose(result: InstabilityResult, options: LotteryOptions, total: int) -> Choice:
    choice = _choice(result, options)
    k = result.stable_from(options.threshold)[_SPLIT][choice]
    means = result.mean[_SPLIT][choice]
    shown = ", ".join(f"{100 * m:.2f} at {i}" for i, m in zip(result.rewind_iters, means, strict=True))
    statistics = "" if choice == "none" else f" with BatchNorm statistics {choice}d"
    measured = (
        f"mean test instability{statistics} over {result.samples}, in points of error: {shown}; "
        f"stable is below {100 * options.threshold:g}"
    )
    facts = {
        "rewind_iters": result.rewind_iters.tolist(),
        "batchnorm": choice,
        "instability": {name: _numbers(values) for name, values in result.mean[_SPLIT].items()},
        "stable_from": result.stable_from(options.threshold)[_SPLIT],
    }
    if k is None:
        raise OptionError(
            f"auto found no iteration from which on the dense network stays stable ({measured}). Measure later ones "
            "with --rewind-iters, or give --rewind-iter K yourself"
        )
    share = f"{100 * k / total:.3g} % of training"
    return Choice(
        k, f"Rewinding to iteration {k} ({share}), from where on the dense network is stable: {measured}.", facts
    )


def _choice(result: InstabilityResult, options: LotteryOptions) -> str:
    choices = [choice for split, choice in result.choices if split == _SPLIT]
    return options.batchnorm if options.batchnorm in choices else choices[0]


def _numbers(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
