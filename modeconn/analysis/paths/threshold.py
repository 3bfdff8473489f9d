"""Whether a path's barrier is above a threshold, from as few examples as the sequential test needs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modeconn.analysis.paths.alphas import Alphas
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import Line
from modeconn.analysis.paths.sequential import ThresholdDecision, begin_test
from modeconn.errors import OptionError
from modeconn.evaluation.measure import MetricSums
from modeconn.evaluation.modes import running_statistics_layers
from modeconn.evaluation.sampling import RandomAccess, RandomSubset, random_access
from modeconn.evaluation.structures import tensors_of

FIRST = 250  # examples drawn at first; then as many as were drawn before


def check_decide(
    threshold: float,
    error_probability: float,
    alphas: Alphas,
    batchnorm: str,
    higher_is_better: Any,
    option: str = "decide",
) -> None:
    """Refuse options with which nothing can be decided from a part of the examples; `option` is the threshold's name.

    Raises:
        OptionError: says which option, and what it takes.
    """
    for name, value in ((option, threshold), ("error_probability", error_probability)):
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < 1:
            raise OptionError(f"{name} must be a number between 0 and 1; got {value!r}")
    if alphas.adaptive:
        raise OptionError("decide= tests all alphas of a grid; give a count, a list or paper, not adaptive")
    if any(not 0 <= alpha <= 1 for alpha in alphas.points):
        raise OptionError("decide= is about the barrier, so alphas must be between 0 and 1")
    if batchnorm == "repair":
        raise OptionError('decide= goes with batchnorm="interpolate" or "recalibrate"; REPAIR needs the full count')
    if higher_is_better:
        raise OptionError("decide= is about the error, which is better when lower; leave out higher_is_better")


def decide_by_sampling(
    evaluator: PathEvaluator,
    line: Line,
    split: str,
    alphas: Sequence[float],
    threshold: float,
    error_probability: float,
    report: Callable[[int, int], None] = lambda drawn, examples: None,
) -> tuple[dict[float, MetricSums], ThresholdDecision]:
    """Draw examples in a fixed random order until it is decided whether the error barrier is above a threshold.

    Args:
        evaluator: what is measured, and with what network.
        line: the path.
        split: the data.
        alphas: ascending from 0 to 1.
        threshold: of the error barrier.
        error_probability: with which the decision may be another than that of all examples.
        report: called with how many examples are drawn, and how many there are.

    Returns:
        By alpha what was measured of the examples drawn, in their order, with a count of 0 where an alpha was settled
        before; and the decision.

    Raises:
        OptionError: nothing is measured that can be decided so, or batches cannot be taken apart.
    """
    data = _examples(evaluator, line, split)
    statistics: dict[float, list[tuple[Tensor, Tensor]]] = {}  # BatchNorm's, by alpha
    parts: dict[float, list[MetricSums]] = {alpha: [] for alpha in alphas}
    first, last = 0, len(alphas) - 1
    test = begin_test(len(alphas), len(data), threshold, error_probability)
    while test.decision is None:
        # 1. The next examples of the order, as many as were drawn before.
        stop = min(len(data), max(FIRST, 2 * test.drawn))
        part = replace(evaluator, data={split: RandomSubset(data, test.drawn, stop)}, batchnorm="none")
        # 2. Their errors at the alphas that are not settled, and at the ends, over which an excess is.
        errors = {}
        for place in sorted({first, last, *test.open.tolist()}):
            measured = part.measure(_network_at(evaluator, line, alphas[place], statistics))[split]
            parts[alphas[place]].append(measured)
            errors[place] = _errors(measured)
        # 3. The test goes on with their excesses.
        middle = (errors[first] + errors[last]) / 2
        test = test.after(np.stack([errors[place] - middle for place in test.open]))
        report(test.drawn, test.examples)
    counts = tuple(sum(len(part.sums["error"]) for part in of_alpha) for of_alpha in parts.values())
    decided = ThresholdDecision(test.decision, threshold, error_probability, test.examples, test.drawn, counts)
    return {alpha: _joined(of_alpha, test.drawn) for alpha, of_alpha in parts.items()}, decided


def _examples(evaluator: PathEvaluator, line: Line, split: str) -> RandomAccess:
    """The data, once the first batch shows that each example has an error."""
    batches = evaluator.data[split]
    few = [next(iter(batches))]
    measured = replace(evaluator, data={split: few}, batchnorm="none").measure_end(line.a)[split]
    length = len(tensors_of(few[0])[0])
    if "error" not in measured.sums or "error" in measured.whole:
        raise OptionError(
            f"decide= draws examples, and needs an error of each; measured are: {', '.join(measured.sums)}"
        )
    _errors(measured)
    data = random_access(batches)
    if data is None or length != len(measured.sums["error"]):
        raise OptionError(
            "decide= draws single examples, and these batches cannot be taken apart: give a tuple of tensors "
            "(inputs, targets), or batches in which every tensor has an entry for each example, of one shape"
        )
    return data


def _errors(measured: MetricSums) -> np.ndarray:
    """The error of each example, in [0, 1].

    Raises:
        OptionError: they are something else.
    """
    sums, counts = measured.sums["error"].astype(np.float64), measured.counts["error"]
    if not ((counts == 1).all() and (sums >= 0).all() and (sums <= 1).all()):
        raise OptionError(
            "decide= needs one error of each example, between 0 and 1; errors per token are means over different "
            "numbers of tokens, which need the full count"
        )
    return sums


@torch.no_grad()
def _network_at(
    evaluator: PathEvaluator, line: Line, alpha: float, statistics: dict[float, list[tuple[Tensor, Tensor]]]
) -> nn.Module:
    """A network at a point of the line; BatchNorm's statistics are recalibrated there once, and kept."""
    network = evaluator.network_at(line, alpha)
    if evaluator.batchnorm != "recalibrate":
        return network
    layers: Iterable[Any] = running_statistics_layers(network)
    if alpha not in statistics:
        evaluator.recalibrate(network)
        statistics[alpha] = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    for layer, (mean, variance) in zip(layers, statistics[alpha], strict=True):
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
    return network


def _joined(parts: list[MetricSums], drawn: int) -> MetricSums:
    """One measurement of all that was drawn; what was not measured any more counts zero times."""
    missing = drawn - sum(len(part.sums["error"]) for part in parts)
    predictions = [part.predictions for part in parts if part.predictions is not None]

    def join(arrays: list[np.ndarray]) -> np.ndarray:
        return np.pad(np.concatenate(arrays), (0, missing))

    return MetricSums(
        sums={name: join([part.sums[name] for part in parts]) for name in parts[0].sums},
        counts={name: join([part.counts[name] for part in parts]) for name in parts[0].counts},
        predictions=np.concatenate(predictions) if predictions and not missing else None,
        whole=parts[0].whole,
        classes=parts[0].classes,
    )
