"""Scores of a network's output on a batch, as sums and counts of each example: error, cross-entropy, squared error."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from modeconn.errors import DataError
from modeconn.evaluation.structures import describe_batch

IGNORED = -100  # a label that does not count, as in PyTorch


@dataclass(frozen=True, eq=False)
class BatchSums:
    """Sums and counts of one batch, on its device.

    Attributes:
        sums: metric to [units]: the sum for each example, or for the whole batch, [1].
        counts: metric to [units]: how many things each sum is over.
        predictions: predicted classes, int64 [n], where there are any.
        whole: metrics that were measured for the whole batch and not for each example.
        labels: the lowest and highest label, int64 [1, 2], where there are any, for `check_labels`.
        classes: number of classes that the labels are of.
    """

    sums: dict[str, Tensor]
    counts: dict[str, Tensor]
    predictions: Tensor | None = None
    whole: frozenset[str] = frozenset()
    labels: Tensor | None = None
    classes: int = 0


def check_labels(low: int, high: int, classes: int) -> None:
    """Refuse labels outside 0, ..., classes - 1.

    Raises:
        DataError: with the label that is farthest below, or else above.
    """
    if low < 0 or high >= classes:
        worst = low if low < 0 else high
        if classes == 1 and worst == 1:
            raise DataError(
                "a label is 1, but the network gives one output; if that is the logit of a binary classification, say "
                'evaluate="multi-label"'
            )
        raise DataError(f"a label is {worst}, but the network gives {classes} classes, numbered from 0")


def score_classification(logits: Tensor, labels: Tensor) -> BatchSums:
    """Error (0 or 1) and cross-entropy in nats of each example; an output that is not finite counts as wrong."""
    if logits.ndim == 2 and labels.shape == logits.shape and logits.shape[1] > 1:
        return _soft_classification(logits, labels)
    if logits.ndim != 2 or labels.numel() != len(logits) or labels.is_floating_point():
        raise DataError(
            f"classification takes logits [batch, classes] and whole-number labels [batch]; the network gives "
            f"{describe_batch(logits)} and the labels are {describe_batch(labels)}"
        )
    labels, extremes = _in_range(labels.reshape(-1), logits, torch.ones((), dtype=torch.bool, device=logits.device))
    best, predicted = logits.max(1)
    wrong = (predicted != labels) | ~best.isfinite()
    loss = cross_entropies(logits, labels)
    one = torch.ones_like(loss)
    sums, counts = {"error": wrong, "loss": loss}, {"error": one, "loss": one}
    return BatchSums(sums, counts, predicted, labels=extremes, classes=logits.shape[-1])


def _soft_classification(logits: Tensor, target: Tensor) -> BatchSums:
    """The same of one-hot or soft labels [batch, classes]; right is the class with the largest."""
    if not are_distributions(target):
        raise DataError(
            f"labels {describe_batch(target)} of classification are one-hot or soft and sum to 1 in each row; those of "
            'a batch do not: say evaluate="multi-label" or "regression"'
        )
    target = target.to(logits)
    best, predicted = logits.max(1)
    wrong = (predicted != target.argmax(1)) | ~best.isfinite()
    loss = cross_entropies(logits, target)
    one = torch.ones_like(loss)
    return BatchSums({"error": wrong, "loss": loss}, {"error": one, "loss": one}, predicted, classes=logits.shape[-1])


def cross_entropies(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy in nats of each row of logits [n, classes], for labels [n] or soft labels [n, classes]."""
    if target.ndim == 1:
        return cross_entropy(logits, target, reduction="none")
    # Not `cross_entropy`: 0 times the logarithm of a probability of 0 is 0.
    return torch.where(target > 0, -target * logits.log_softmax(1), 0).sum(1)


def score_probabilities(probabilities: Tensor, labels: Tensor) -> BatchSums:
    """Error and cross-entropy of outputs that are probabilities [batch, classes] already, by their logarithms."""
    finite = probabilities[probabilities.isfinite().flatten(1).all(1)] if probabilities.ndim == 2 else probabilities
    if len(finite) and not are_distributions(finite.half()):  # rounded, as they may have been computed in few bits
        raise DataError(
            f"an output {describe_batch(probabilities)} of probabilities does not sum to 1 for each example; "
            'say evaluate="classification" if it holds logits'
        )
    return score_classification(probabilities.log(), labels)


def score_multi_label(logits: Tensor, target: Tensor) -> BatchSums:
    """Wrong labels and binary cross-entropy in nats of each example, with its number of labels as the count."""
    return _binary(logits, target, logits > 0, -logsigmoid(logits), -logsigmoid(-logits))


def score_binary_probabilities(probabilities: Tensor, target: Tensor) -> BatchSums:
    """The same of outputs that are probabilities already; a logarithm is -100 at least, as PyTorch's `BCELoss` has it.

    Raises:
        DataError: they are not between 0 and 1.
    """
    if bool(((probabilities < 0) | (probabilities > 1)).any()):
        raise DataError(f"an output {describe_batch(probabilities)} of probabilities is not between 0 and 1")
    losses = (-log.clamp(min=-100) for log in (probabilities.log(), (-probabilities).log1p()))
    return _binary(probabilities, target, probabilities > 0.5, *losses)


def score_regression(output: Tensor, target: Tensor) -> BatchSums:
    """Squared error of each example, with its number of outputs as the count."""
    if output.numel() != target.numel() or (output.ndim and target.ndim and len(output) != len(target) != 1):
        raise DataError(f"the output {describe_batch(output)} and the target {describe_batch(target)} do not agree")
    examples = len(target) if target.ndim else 1
    squares = output.reshape(examples, -1) - target.reshape(examples, -1)
    sums = squares.square().sum(1)
    return BatchSums({"loss": sums}, {"loss": torch.full_like(sums, squares.shape[1])})


def score_tokens(logits: Tensor, labels: Tensor) -> BatchSums:
    """Wrong tokens and cross-entropy in nats of each sequence; positions labelled -100 do not count."""
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise DataError(
            f"tokens take logits [batch, length, vocabulary] and labels [batch, length]; the network gives "
            f"{describe_batch(logits)} and the labels are {describe_batch(labels)}"
        )
    counted = labels.to(logits.device) != IGNORED
    labels, extremes = _in_range(labels, logits, counted)
    best, predicted = logits.max(2)
    wrong = ((predicted != labels) | ~best.isfinite()) & counted
    loss = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none").sum(1)
    count = counted.sum(1).to(loss.dtype)
    sums = {"error": wrong.sum(1).to(loss.dtype), "loss": loss}
    counts = {"error": count, "loss": count}
    return BatchSums(sums, counts, predicted[counted], labels=extremes, classes=logits.shape[-1])


def are_distributions(values: Tensor) -> bool:
    """Whether every row [n, classes] is a distribution over several classes: not below 0, with a sum of 1."""
    if values.ndim != 2 or values.shape[1] < 2 or not len(values):
        return False
    rounding = 0.02 if values.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return bool((values >= 0).all() and ((values.double().sum(1) - 1).abs() <= rounding).all())


def _binary(output: Tensor, target: Tensor, predicted: Tensor, if_one: Tensor, if_zero: Tensor) -> BatchSums:
    """Sums over the labels of each example: wrong ones, and the losses that a label of 1 or of 0 has."""
    target = target.to(output)
    if output.numel() != target.numel() or not bool(((target >= 0) & (target <= 1)).all()):
        raise DataError(
            f"labels of 0 and 1, one for each output, are taken; the network gives {describe_batch(output)} and the "
            f"labels are {describe_batch(target)}, from {float(target.min()):g} to {float(target.max()):g}; "
            'say with evaluate= what is measured, such as "regression"'
        )
    target = target.reshape(output.shape)
    loss = torch.where(target > 0, target * if_one, 0) + torch.where(target < 1, (1 - target) * if_zero, 0)
    wrong = (predicted != (target > 0.5)) | ~output.isfinite()
    examples = len(output) if output.ndim else 1
    loss, wrong = loss.reshape(examples, -1).sum(1), wrong.reshape(examples, -1).sum(1).to(loss.dtype)
    count = torch.full_like(loss, output.numel() / examples)
    sums, counts = {"error": wrong, "loss": loss}, {"error": count, "loss": count}
    return BatchSums(sums, counts, predicted.long().reshape(-1), classes=2)


def _in_range(labels: Tensor, logits: Tensor, counted: Tensor) -> tuple[Tensor, Tensor | None]:
    """Move labels to the logits' device and into the range of the classes; also gives their lowest and highest, [1, 2].

    A label out of range would break a GPU's context for good, and to look for one here would wait for the GPU at every
    batch. So labels are clamped now, and their extremes are checked after the last batch.
    """
    labels = labels.to(logits.device, torch.int64)
    shown = torch.where(counted, labels, 0)
    extremes = torch.stack(shown.aminmax())[None] if shown.numel() else None
    return torch.where(counted, shown.clamp(0, logits.shape[-1] - 1), labels), extremes
