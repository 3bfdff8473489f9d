"""Predicted probabilities beside those of two other networks, and their calibration, as sums over batches."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modeconn.errors import OptionError
from modeconn.evaluation.meters import Meter
from modeconn.evaluation.scores import IGNORED, cross_entropies, score_classification, score_probabilities, score_tokens

BINS = 15  # of confidence, equally wide (Guo et al. 2017)
# Logits are multiplied by 1 / temperature: from 1/16 to 1024, in steps of 2 ** (1/4).
FACTORS = 2.0 ** (np.arange(-16, 41) / 4)
_ENTRIES = 1 << 24  # of log-probabilities that are worked on at a time

Rows = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class PredictionSums(NamedTuple):
    """Sums over examples, or tokens, of one network's predictions, beside those of two others, a and b; float64.

    Attributes:
        examples: how many.
        losses: [factors], cross-entropies with logits multiplied by each of FACTORS.
        gaps: [BINS], of the examples of each bin: confidences, minus one for each that is right.
        kl: [2], Kullback-Leibler divergences from a's and from b's predictions to these, in nats.
        differing: [2], examples that are labelled otherwise than by a, and by b.
        ensemble: [2], errors and cross-entropies of (1 - alpha) p_a + alpha p_b.
    """

    examples: Tensor
    losses: Tensor
    gaps: Tensor
    kl: Tensor
    differing: Tensor
    ensemble: Tensor

    def plus(self, other: "PredictionSums") -> "PredictionSums":
        """The sums over both."""
        return PredictionSums(*(one + more for one, more in zip(self, other, strict=True)))


def rows_of(meter: Meter) -> Rows:
    """A function that makes log-probabilities [n, classes] and labels of them, of the output and target of a meter.

    Raises:
        OptionError: what the meter measures are no classes.
    """
    try:
        return _ROWS[meter.score]
    except KeyError:
        raise OptionError(
            f"predictions=True compares predicted probabilities of classes or tokens, and what is measured here is "
            f'{meter.about or meter.name}; leave it out, or say evaluate="classification" if it holds logits of classes'
        ) from None


def compare_predictions(logs: Tensor, target: Tensor, ends: tuple[Tensor, Tensor], alpha: float) -> PredictionSums:
    """Compare predictions with those of two networks and with the targets.

    Args:
        logs: logarithms of probabilities, [n, classes].
        target: labels [n], or soft labels [n, classes].
        ends: those of a and b, each like `logs`.
        alpha: weight of b in the ensemble, 1 - alpha being that of a; outside [0, 1] there is none, and it gives NaN.

    >>> even, sure = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> sums = compare_predictions(sure, torch.tensor([1]), (even, sure), 0.5)
    >>> sums.kl.numpy().round(3).tolist(), sums.differing.tolist(), sums.ensemble.exp()[1].numpy().round(3).tolist()
    ([0.144, 0.0], [1.0, 0.0], 1.6)
    """
    parts = max(1, _ENTRIES // logs.shape[1])
    pieces = (one.split(parts) for one in (logs, target, *ends))
    first, *others = (_compare(x, y, (a, b), alpha) for x, y, a, b in zip(*pieces, strict=True))
    for other in others:
        first = first.plus(other)
    return first


def calibration_error(sums: PredictionSums) -> float:
    """The expected calibration error: sum over bins of |right - confidence|, over the number of examples."""
    return float(sums.gaps.abs().sum() / sums.examples)


def calibrated(sums: PredictionSums) -> tuple[float, float]:
    """The temperature with the lowest cross-entropy and that cross-entropy in nats; NaN where it is not finite.

    The cross-entropy is convex in the factor 1 / temperature. It is measured at FACTORS, and the lowest point is that
    of the polynomial in its logarithm through the five around the lowest: to about 1e-5 nats. At either end of FACTORS
    the lowest may lie beyond, and is not sought there.
    """
    values = (sums.losses / sums.examples).cpu().numpy()
    if not np.isfinite(values).any():
        return math.nan, math.nan
    values = np.where(np.isfinite(values), values, np.inf)
    # Without an error the loss falls to exactly 0, and stays there: the lowest is then the last.
    lowest = len(values) - 1 if values[-1] == values.min() else int(values.argmin())
    around = np.clip(lowest - 2, 0, len(FACTORS) - 5) + np.arange(5)
    if lowest in (0, len(FACTORS) - 1) or not np.isfinite(values[around]).all():
        return float(1 / FACTORS[lowest]), float(values[lowest])
    curve = np.polynomial.Polynomial(np.polyfit(around - lowest, values[around] - values[lowest], 4)[::-1])
    fine = np.linspace(-1, 1, 2001)
    heights = curve(fine)
    place = int(heights.argmin())
    return float(FACTORS[lowest] ** -1 * 2.0 ** (-fine[place] / 4)), float(values[lowest] + heights[place])


def _compare(logs: Tensor, target: Tensor, ends: tuple[Tensor, Tensor], alpha: float) -> PredictionSums:
    best, predicted = logs.max(1)
    confidence = best.exp().double()
    right = (predicted == (target if target.ndim == 1 else target.argmax(1))) & best.isfinite()
    places = (confidence * BINS).ceil().nan_to_num(1).clamp(1, BINS) - 1
    bins = places[:, None] == torch.arange(BINS, device=logs.device)  # [n, BINS]
    both = score_classification(_mixture(*ends, alpha), target)
    return PredictionSums(
        examples=torch.tensor(len(logs), dtype=torch.float64, device=logs.device),
        losses=torch.stack([_total(cross_entropies(logs * float(factor), target)) for factor in FACTORS]),
        gaps=torch.where(bins, (confidence - right.double())[:, None], 0).sum(0),
        kl=torch.stack([_total(_divergences(end, logs)) for end in ends]),
        differing=torch.stack([_total(end.argmax(1) != predicted) for end in ends]),
        ensemble=torch.stack([_total(both.sums[name]) for name in ("error", "loss")]),
    )


def _divergences(of: Tensor, logs: Tensor) -> Tensor:
    """KL(of || logs) of each row: sum over classes of p (log p - log q), where a p of 0 counts 0."""
    return torch.where(of == -math.inf, 0, of.exp() * (of - logs)).sum(1, dtype=torch.float64).clamp(min=0)


def _mixture(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """The logarithm of (1 - alpha) p_a + alpha p_b."""
    if alpha in (0, 1):
        return b if alpha == 1 else a
    if not 0 < alpha < 1:
        return torch.full_like(a, math.nan)
    return torch.logaddexp(a + math.log(1 - alpha), b + math.log(alpha))


def _total(values: Tensor) -> Tensor:
    return values.sum(dtype=torch.float64)


def _rows_of_examples(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    soft = target.shape == output.shape and output.shape[1] > 1
    return output.log_softmax(1), target.to(output) if soft else _labels(target.reshape(-1), output)


def _rows_of_tokens(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    target = target.to(output.device)
    counted = target != IGNORED
    return output[counted].log_softmax(1), _labels(target[counted], output)


def _labels(target: Tensor, output: Tensor) -> Tensor:
    """Labels that a GPU can work with: the meter refuses those out of range, but after the last batch."""
    return target.to(output.device, torch.int64).clamp(0, output.shape[-1] - 1)


_ROWS: dict[object, Rows] = {
    score_classification: _rows_of_examples,
    score_probabilities: lambda output, target: _rows_of_examples(output.log(), target),
    score_tokens: _rows_of_tokens,
}
