"""What is measured of a network on a batch: named sums and counts for each example."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modeconn.errors import DataError, ModeconnError, NetworkError, OptionError, unknown
from modeconn.evaluation.batches import describe_batch, map_tensors

IGNORED = -100  # a label that does not count, as in PyTorch
_TARGETS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a batch gave.

    Attributes:
        sums: name to [units]: for each example (or for a whole batch, [1]) the sum of what is measured.
        counts: name to [units]: how many things each sum is over.
        predictions: [n] labels that the network chose, where there are any.
        whole: names of what was measured for the whole batch and not for each example.
        labels: the lowest and highest label, int64 [1, 2], where there are any, for `check_labels`.
        classes: how many classes they are of.
    """

    sums: dict[str, Tensor]
    counts: dict[str, Tensor]
    predictions: Tensor | None = None
    whole: frozenset[str] = frozenset()
    labels: Tensor | None = None
    classes: int = 0


@dataclass(frozen=True)
class Meter:
    """A kind of measurement.

    Attributes:
        name: `"classification"`, `"regression"`, `"tokens"`, `"next-token"` or `"own"`.
        measure: from a network in evaluation mode and a batch.
        forward: passes a batch through the network and nothing else, for statistics.
        perplexity: whether exp(loss) is a metric too.
    """

    name: str
    measure: Callable[[nn.Module, Any], Outcome] = field(repr=False)
    forward: Callable[[nn.Module, Any], Any] = field(repr=False)
    perplexity: bool = False


def choose_meter(evaluate: str | Callable[..., Any], network: nn.Module, batch: Any) -> Meter:
    """The meter of that name; what the network's output on a batch suggests for `"auto"`; or the caller's own.

    Own: `evaluate(network, batch)` gives a mapping from names to `(sum, count)`. These are numbers, or tensors [batch]
    with one entry per example.

    Args:
        evaluate: a name, or a function.
        network: in evaluation mode.
        batch: as the network takes it; it may be written to.

    Raises:
        OptionError: unknown name, or nothing that can be measured without `evaluate`.
        DataError: the network fails on the batch.
    """
    if callable(evaluate):
        return Meter("own", lambda net, data: _own(evaluate, net, data), evaluate)
    if evaluate != "auto":
        if evaluate not in _METERS:
            raise unknown("evaluation", str(evaluate), ("auto", *_METERS))
        return _METERS[evaluate]
    output, target = call(network, batch)
    if target is None and _is_causal(network) and isinstance(batch, Mapping) and "input_ids" in batch:
        return _METERS["next-token"]
    return _METERS[_guess(network, output, target)]


def call(network: nn.Module, batch: Any) -> tuple[Tensor, Tensor | None]:
    """The network's output (logits) on a batch's inputs, and the batch's target, if it has one.

    The last entry of a tuple is the target, the entry called `labels`, `label`, `targets`, `target` or `y` of a
    mapping; a tensor alone is an input. Floating-point inputs get the type of the network's parameters.

    Raises:
        DataError: the network fails on it; the message shows the batch.
        NetworkError: its output holds no tensor.
    """
    positional, named, target = _split(batch)
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
    if dtype is not None:
        cast = lambda t: t.to(dtype) if t.is_floating_point() else t  # noqa: E731
        positional, named = map_tensors(cast, positional), map_tensors(cast, named)
    try:
        output = network(*positional, **named)
    except ModeconnError:
        raise
    except Exception as error:
        raise DataError(
            f"the network fails on a batch {describe_batch(batch)}: {type(error).__name__}: {error}. The last entry of "
            f"a tuple and the entry {', '.join(_TARGETS[:2])} of a mapping are taken for the target; "
            "if a batch is something else, say with evaluate= how it is measured"
        ) from error
    return _logits(output), target


def check_labels(low: int, high: int, classes: int) -> None:
    """Refuse labels that are not among the classes.

    Raises:
        DataError: with the label that is farthest below, or else above.
    """
    if low < 0 or high >= classes:
        worst = low if low < 0 else high
        raise DataError(f"a label is {worst}, but the network gives {classes} classes, numbered from 0")


def _split(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Positional inputs, named inputs, and the target."""
    if isinstance(batch, Mapping):
        target = next((name for name in _TARGETS if name in batch), None)
        named = {str(name): value for name, value in batch.items() if name != target}
        if len(named) == 1 and "input_ids" not in named:  # whatever the network calls it
            return tuple(named.values()), {}, None if target is None else batch[target]
        return (), named, None if target is None else batch[target]
    if isinstance(batch, list | tuple) and len(batch) > 1:
        inputs = batch[0] if len(batch) == 2 else tuple(batch[:-1])
        if isinstance(inputs, Mapping):
            return (), {str(name): value for name, value in inputs.items()}, batch[-1]
        return tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,), {}, batch[-1]
    return tuple(batch) if isinstance(batch, list | tuple) else (batch,), {}, None


def _logits(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return output["logits"]
    if isinstance(output, list | tuple) and output and isinstance(output[0], Tensor):
        return output[0]
    raise NetworkError(
        f"the network gives {type(output).__name__} without a tensor of logits; say with evaluate= what is measured"
    )


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
    return any(kind.__name__.endswith(("ForCausalLM", "LMHeadModel")) for kind in type(network).__mro__)


def _measured(score: Callable[[Tensor, Tensor], Outcome]) -> Callable[[nn.Module, Any], Outcome]:
    def measure(network: nn.Module, batch: Any) -> Outcome:
        output, target = call(network, batch)
        if target is None:
            raise DataError(f"a batch has no target: {describe_batch(batch)}")
        return score(_at_least_float32(output), torch.as_tensor(target))

    return measure


def _classification(logits: Tensor, labels: Tensor) -> Outcome:
    """Wrong or not, and cross-entropy in nats; an output that is not finite counts as wrong."""
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
    return Outcome(sums, counts, predicted, labels=extremes, classes=logits.shape[-1])


def _regression(output: Tensor, target: Tensor) -> Outcome:
    """Squared error, averaged over an example's outputs."""
    if output.numel() != target.numel() or (output.ndim and target.ndim and len(output) != len(target) != 1):
        raise DataError(f"the output {describe_batch(output)} and the target {describe_batch(target)} do not agree")
    examples = len(target) if target.ndim else 1
    squares = output.reshape(examples, -1) - target.reshape(examples, -1)
    sums = squares.square().sum(1)
    return Outcome({"loss": sums}, {"loss": torch.full_like(sums, squares.shape[1])})


def _tokens(logits: Tensor, labels: Tensor) -> Outcome:
    """For each sequence [length, vocabulary]: wrong tokens and cross-entropy; positions labelled -100 do not count."""
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
    return Outcome(sums, counts, predicted[counted], labels=extremes, classes=logits.shape[-1])


def _in_range(labels: Tensor, logits: Tensor, counted: Tensor) -> tuple[Tensor, Tensor | None]:
    """The labels where the logits are, those out of range moved into it; and the extremes that they had, [1, 2].

    A GPU fails on labels out of range for good, and looking at them here would wait for it at every batch.
    """
    labels = labels.to(logits.device, torch.int64)
    shown = torch.where(counted, labels, 0)
    extremes = torch.stack(shown.aminmax())[None] if shown.numel() else None
    return torch.where(counted, shown.clamp(0, logits.shape[-1] - 1), labels), extremes


def _next_token(network: nn.Module, batch: Any) -> Outcome:
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
    """Numbers of Python in double precision, which `torch.as_tensor` would round."""
    return value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def _own(evaluate: Callable[..., Any], network: nn.Module, batch: Any) -> Outcome:
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
        if total.ndim == 1 and count.ndim == 0 and count == 1:
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
    return Outcome(sums, counts, whole=frozenset(whole))


CLASSIFICATION = Meter("classification", _measured(_classification), call)
_METERS = {
    "classification": CLASSIFICATION,
    "regression": Meter("regression", _measured(_regression), call),
    "tokens": Meter("tokens", _measured(_tokens), call, perplexity=True),
    "next-token": Meter("next-token", _next_token, call, perplexity=True),
}
