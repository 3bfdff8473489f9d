"""Metrics of a network on a batch, as sums and counts of each example: error, cross-entropy, squared error, or own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modeconn.errors import DataError, OptionError, unknown
from modeconn.evaluation.forward import call
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


@dataclass(frozen=True)
class Meter:
    """A way to measure a network on a batch.

    Attributes:
        name: `"classification"`, `"regression"`, `"tokens"`, `"next-token"` or `"own"`.
        measure: gives sums and counts, from a network in evaluation mode and a batch.
        forward: passes a batch through the network and nothing else, for BatchNorm's statistics.
        perplexity: whether perplexity is a metric too: exp(loss), with the loss in nats a mean over all tokens.
    """

    name: str
    measure: Callable[[nn.Module, Any], BatchSums] = field(repr=False)
    forward: Callable[[nn.Module, Any], Any] = field(repr=False)
    perplexity: bool = False


def choose_meter(evaluate: str | Callable[..., Any], network: nn.Module, batch: Any) -> Meter:
    """Choose a meter: by name, by what a first batch shows (`"auto"`), or the caller's own function.

    `"auto"` goes by the network's output and the target, n examples of length l:

    - logits [n, classes] and n whole numbers: `"classification"`
    - logits [n, l, vocabulary] and whole numbers [n, l]: `"tokens"`, or `"next-token"` for a causal language model
    - a causal language model and `input_ids` without a target: `"next-token"`
    - as many floating-point targets as outputs: `"regression"`

    An own `evaluate(network, batch)` gives a mapping from metrics to `(sum, count)`. These are numbers, or tensors
    [batch] with one entry per example.

    Args:
        evaluate: a name, or a function.
        network: in evaluation mode.
        batch: as the network takes it; it may be written to.

    Raises:
        OptionError: unknown name, or nothing that can be measured without `evaluate`.
        DataError: the network fails on the batch.
    """
    if callable(evaluate):
        # Its forward pass is evaluate itself: only the caller knows how a batch goes through the network.
        return Meter("own", lambda net, data: _own(evaluate, net, data), evaluate)
    if evaluate != "auto":
        if evaluate not in _METERS:
            raise unknown("evaluation", str(evaluate), ("auto", *_METERS))
        return _METERS[evaluate]
    output, target = call(network, batch)
    # A text is its own target, but only for a network that predicts the next token.
    if target is None and _is_causal(network) and isinstance(batch, Mapping) and "input_ids" in batch:
        return _METERS["next-token"]
    return _METERS[_guess(network, output, target)]


def check_labels(low: int, high: int, classes: int) -> None:
    """Refuse labels outside 0, ..., classes - 1.

    Raises:
        DataError: with the label that is farthest below, or else above.
    """
    if low < 0 or high >= classes:
        worst = low if low < 0 else high
        raise DataError(f"a label is {worst}, but the network gives {classes} classes, numbered from 0")


def _guess(network: nn.Module, output: Tensor, target: Any) -> str:
    if isinstance(target, Tensor):
        labels = not target.is_floating_point()
        if labels and output.ndim == 2 and target.numel() == len(output):
            return "classification"
        if labels and output.ndim == 3 and target.shape == output.shape[:2]:
            # Hugging Face's causal language models take unshifted labels; everybody else shifts them in the data.
            return "next-token" if _is_causal(network) else "tokens"
        if not labels and target.numel() == output.numel():
            return "regression"
    shown = "none" if target is None else describe_batch(target)
    raise OptionError(
        f"cannot tell what to measure: the network gives {describe_batch(output)} and the target is {shown}. "
        f"Say evaluate= one of {', '.join(_METERS)}, or a function (network, batch) that gives "
        "{name: (sum, count)}"
    )


def _is_causal(network: nn.Module) -> bool:
    """Whether a network predicts the next token, which Hugging Face's class names tell."""
    return any(kind.__name__.endswith(("ForCausalLM", "LMHeadModel")) for kind in type(network).__mro__)


def _on_target(score: Callable[[Tensor, Tensor], BatchSums]) -> Callable[[nn.Module, Any], BatchSums]:
    def measure(network: nn.Module, batch: Any) -> BatchSums:
        output, target = call(network, batch)
        if target is None:
            raise DataError(f"a batch has no target: {describe_batch(batch)}")
        return score(_at_least_float32(output), torch.as_tensor(target))

    return measure


def _classification(logits: Tensor, labels: Tensor) -> BatchSums:
    """Error (0 or 1) and cross-entropy in nats of each example; an output that is not finite counts as wrong."""
    if logits.ndim != 2 or labels.numel() != len(logits) or labels.is_floating_point():
        raise DataError(
            f"classification takes logits [batch, classes] and whole-number labels [batch]; the network gives "
            f"{describe_batch(logits)} and the labels are {describe_batch(labels)}"
        )
    labels, extremes = _in_range(labels.reshape(-1), logits, torch.ones((), dtype=torch.bool, device=logits.device))
    best, predicted = logits.max(1)
    wrong = (predicted != labels) | ~best.isfinite()
    loss = cross_entropy(logits, labels, reduction="none")
    one = torch.ones_like(loss)
    sums, counts = {"error": wrong, "loss": loss}, {"error": one, "loss": one}
    return BatchSums(sums, counts, predicted, labels=extremes, classes=logits.shape[-1])


def _regression(output: Tensor, target: Tensor) -> BatchSums:
    """Squared error of each example, with its number of outputs as the count."""
    if output.numel() != target.numel() or (output.ndim and target.ndim and len(output) != len(target) != 1):
        raise DataError(f"the output {describe_batch(output)} and the target {describe_batch(target)} do not agree")
    examples = len(target) if target.ndim else 1
    squares = output.reshape(examples, -1) - target.reshape(examples, -1)
    sums = squares.square().sum(1)
    return BatchSums({"loss": sums}, {"loss": torch.full_like(sums, squares.shape[1])})


def _tokens(logits: Tensor, labels: Tensor) -> BatchSums:
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


def _in_range(labels: Tensor, logits: Tensor, counted: Tensor) -> tuple[Tensor, Tensor | None]:
    """Move labels to the logits' device and into the range of the classes; also gives their lowest and highest, [1, 2].

    A label out of range would break a GPU's context for good, and to look for one here would wait for the GPU at every
    batch. So labels are clamped now, and their extremes are checked after the last batch.
    """
    labels = labels.to(logits.device, torch.int64)
    shown = torch.where(counted, labels, 0)
    extremes = torch.stack(shown.aminmax())[None] if shown.numel() else None
    return torch.where(counted, shown.clamp(0, logits.shape[-1] - 1), labels), extremes


def _next_token(network: nn.Module, batch: Any) -> BatchSums:
    """Error and cross-entropy of predicting token t + 1 from the first t."""
    output, labels = call(network, batch)
    if labels is None:  # a text is its own target, as far as it is not padding
        if not isinstance(batch, Mapping) or "input_ids" not in batch:
            raise DataError(f"a batch has neither labels nor input_ids: {describe_batch(batch)}")
        labels = torch.as_tensor(batch["input_ids"])
        if "attention_mask" in batch:
            labels = labels.masked_fill(torch.as_tensor(batch["attention_mask"]) == 0, IGNORED)
    return _tokens(_at_least_float32(output[:, :-1]), labels[:, 1:])


def _at_least_float32(output: Tensor) -> Tensor:
    return output.to(torch.promote_types(output.dtype, torch.float32))


def _tensor(value: Any) -> Tensor:
    """Convert to a tensor, Python's numbers in double precision: `torch.as_tensor` would round them to float32."""
    return value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def _own(evaluate: Callable[..., Any], network: nn.Module, batch: Any) -> BatchSums:
    """Sums and counts that the caller's function gives, checked."""
    given = evaluate(network, batch)
    if not isinstance(given, Mapping) or not given:
        raise OptionError(f"evaluate must give {{name: (sum, count)}}; it gives {type(given).__name__}")
    sums, counts, whole = {}, {}, set()
    for name, pair in given.items():
        try:
            if not isinstance(pair, tuple | list):
                raise TypeError
            total, count = (_tensor(value) for value in pair)
        except (TypeError, ValueError, RuntimeError) as error:
            raise OptionError(f"evaluate must give (sum, count) for {name!r}; it gives {pair!r:.80}") from error
        if total.ndim == 1 and count.ndim == 0 and count == 1:  # each example counts once
            count = count.expand_as(total)
        if total.ndim > 1 or total.shape != count.shape or total.is_complex() or count.is_complex():
            raise OptionError(
                f"evaluate must give numbers, or vectors with one entry per example, as sum and count of {name!r}; "
                f"it gives {describe_batch(total)} and {describe_batch(count)}"
            )
        if not bool(((count >= 0) & count.isfinite()).all()):
            raise OptionError(f"evaluate gives an infinite, undefined or negative count for {name!r}")
        sums[str(name)], counts[str(name)] = total.reshape(-1), count.reshape(-1)
        if total.ndim == 0:
            whole.add(str(name))
    return BatchSums(sums, counts, whole=frozenset(whole))


CLASSIFICATION = Meter("classification", _on_target(_classification), call)
_METERS = {
    "classification": CLASSIFICATION,
    "regression": Meter("regression", _on_target(_regression), call),
    "tokens": Meter("tokens", _on_target(_tokens), call, perplexity=True),
    "next-token": Meter("next-token", _next_token, call, perplexity=True),
}
