"""Metrics of a network on a batch, as sums and counts of each example: error, cross-entropy, squared error, or own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from modeconn.errors import DataError, OptionError, unknown
from modeconn.evaluation.forward import call, find_logits, run
from modeconn.evaluation.metric_objects import Metric, WholeData, is_metric
from modeconn.evaluation.scores import (
    IGNORED,
    BatchSums,
    are_distributions,
    score_binary_probabilities,
    score_classification,
    score_multi_label,
    score_probabilities,
    score_regression,
    score_tokens,
)
from modeconn.evaluation.structures import at_least_float32, describe_batch


@dataclass(frozen=True)
class Meter:
    """A way to measure a network on a batch.

    Attributes:
        name: `"classification"`, `"multi-label"`, `"probabilities"`, `"regression"`, `"tokens"`, `"next-token"` or
            `"own"` or `"metric"`.
        measure: gives sums and counts, from a network in evaluation mode and a batch.
        forward: passes a batch through the network and nothing else, for BatchNorm's statistics.
        perplexity: whether perplexity is a metric too: exp(loss), with the loss in nats a mean over all tokens.
        about: what is measured, of which output, in words.
        read: gives the output that is scored and its target, from a network and a batch; None for `"own"`.
        score: gives sums and counts of these; `measure` is the two together.
        whole: what is computed from all outputs and targets together, of `"metric"`, which has no `measure`.
    """

    name: str
    measure: Callable[[nn.Module, Any], BatchSums] = field(repr=False)
    forward: Callable[[nn.Module, Any], Any] = field(repr=False)
    perplexity: bool = False
    about: str = ""
    read: Callable[[nn.Module, Any], tuple[Tensor, Tensor]] | None = field(default=None, repr=False)
    score: Callable[[Tensor, Tensor], BatchSums] | None = field(default=None, repr=False)
    whole: WholeData | None = field(default=None, repr=False)


def choose_meter(evaluate: str | Callable[..., Any] | Metric, network: nn.Module, batch: Any) -> Meter:
    """Choose a meter: by name, by what a first batch shows (`"auto"`), or the caller's own function.

    `"auto"` goes by the network's output and the target, n examples of length l:

    - [n, classes] and n whole numbers, or one-hot or soft labels [n, classes] whose rows sum to 1: `"classification"`
    - one output each and n times 0 or 1, or [n, labels] and as many of these: `"multi-label"`
    - the same, where the outputs of each example sum to 1: `"probabilities"`
    - [n, l, vocabulary] and whole numbers [n, l]: `"tokens"`, or `"next-token"` for a causal language model
    - a causal language model and `input_ids` without a target: `"next-token"`
    - as many floating-point targets as outputs: `"regression"`

    Where two of these would go, and give other numbers, it is asked. Of an output with several tensors, one can be
    chosen by place or name: `"classification[1]"`, `"auto[logits]"`.

    An own `evaluate(network, batch)` gives a mapping from metrics to `(sum, count)`. These are numbers, or tensors
    [batch] with one entry per example. An object with `update`, `compute` and `reset`, such as torchmetrics has, gets
    the outputs and targets of all batches: metrics that are no means over examples, such as F1 and AUROC.

    Args:
        evaluate: a name, a function, or an object that is a metric.
        network: in evaluation mode.
        batch: as the network takes it; it may be written to.

    Raises:
        OptionError: unknown name, or nothing that can be measured without `evaluate`.
        DataError: the network fails on the batch.
    """
    if is_metric(evaluate):
        return _metric(evaluate, network, batch)
    if callable(evaluate):
        # Its forward pass is evaluate itself: only the caller knows how a batch goes through the network.
        name = getattr(evaluate, "__name__", type(evaluate).__name__)
        return Meter("own", lambda net, data: _own(evaluate, net, data), evaluate, about=f"what evaluate={name} gives")
    name, bracket, entry = str(evaluate).removesuffix("]").partition("[")
    if name not in ("auto", *_SCORES) or bool(bracket) != str(evaluate).endswith("]"):
        raise unknown("evaluation", str(evaluate), ("auto", *_SCORES))
    entry, output, target = find_logits(network, batch, entry)
    _refuse_index(output, batch)
    # A text is its own target, but only for a network that predicts the next token.
    if (
        name == "auto"
        and target is None
        and _is_causal(network)
        and isinstance(batch, Mapping)
        and "input_ids" in batch
    ):
        name = "next-token"
    elif name == "auto":
        name = _guess(network, output, target)
    # Logits that sum to 1 for every example are none, unless they are made up, such as one-hot ones.
    if name == "classification" and are_distributions(output) and bool((output.frac() != 0).any()):
        name = "probabilities"
    return _meter(name, output, target, entry)


def _metric(evaluate: Metric, network: nn.Module, batch: Any) -> Meter:
    _, output, _ = find_logits(network, batch, "")
    whole = WholeData.of(evaluate, output.device)
    about = f"{whole.name} of all outputs and targets together"
    return Meter("metric", partial(_refuse_batch, whole.name), run, about=about, read=_read, whole=whole)


def _refuse_batch(name: str, network: nn.Module, batch: Any) -> BatchSums:
    raise OptionError(f"evaluate={name} is a metric of whole data, and has no value for each batch")


def _guess(network: nn.Module, output: Tensor, target: Any) -> str:
    what = kind_of_target(output, target)
    # Hugging Face's causal language models take unshifted labels; everybody else shifts them in the data.
    if what == "tokens" and _is_causal(network):
        return "next-token"
    if what == "multi-label" and bool(((output >= 0) & (output <= 1)).all()):
        raise OptionError(
            f"cannot tell logits from probabilities: the network gives {describe_batch(output)}, all between 0 and 1. "
            'Say evaluate="multi-label" if they are logits, or "probabilities"'
        )
    if what is None:
        shown = "none" if target is None else describe_batch(target)
        raise OptionError(
            f"cannot tell what to measure: the network gives {describe_batch(output)} and the target is {shown}. "
            f"Say evaluate= one of {', '.join(_SCORES)}, or a function (network, batch) that gives "
            "{name: (sum, count)}"
        )
    return what


Kind = Literal["classification", "multi-label", "regression", "tokens"]


def kind_of_target(output: Tensor, target: Any) -> Kind | None:
    """Which of the losses that people train with goes with an output and a target; None if that cannot be told.

    >>> kind_of_target(torch.zeros(2, 3), torch.tensor([2, 0]))
    'classification'
    >>> kind_of_target(torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    'multi-label'
    >>> kind_of_target(torch.zeros(2, 1), torch.tensor([0.5, 2.0]))
    'regression'
    """
    if not isinstance(target, Tensor):
        return None
    labels, same = not target.is_floating_point(), target.numel() == output.numel()
    if labels and output.ndim == 2 and output.shape[1] > 1 and target.numel() == len(output):
        return "classification"
    if labels and output.ndim == 3 and target.shape == output.shape[:2]:
        return "tokens"
    if same and output.ndim == 2 and output.shape[1] > 1 and target.shape == output.shape and are_distributions(target):
        return "classification"
    if same and bool(((target == 0) | (target == 1)).all()):
        return "multi-label"
    return "regression" if same and not labels else None


def _refuse_index(output: Tensor, batch: Any) -> None:
    """Refuse a batch (inputs, label, index), whose last entry would be taken for the label.

    Raises:
        OptionError: the last of three or more entries counts up, or has no number twice where labels surely had.
    """
    if not isinstance(batch, list | tuple) or len(batch) < 3 or not isinstance(batch[-1], Tensor | np.ndarray):
        return
    last = torch.as_tensor(batch[-1])
    if last.ndim != 1 or last.is_floating_point() or last.dtype == torch.bool or len(last) < 2:
        return
    last, classes = last.long(), output.shape[-1] if output.ndim else 1
    counts_up = bool((last.diff() == 1).all())
    # Of n labels among c classes, none is there twice with a probability of about exp(-n (n - 1) / 2c).
    unlikely = len(last) * (len(last) - 1) > 20 * classes and len(last.unique()) == len(last)
    if counts_up or unlikely:
        raise OptionError(
            f"the last entry of a batch {describe_batch(batch)} looks like an index and not like labels; give batches "
            "(inputs, labels), or say with evaluate= how it is measured"
        )


def _is_causal(network: nn.Module) -> bool:
    """Whether a network predicts the next token, which Hugging Face's class names tell."""
    return any(kind.__name__.endswith(("ForCausalLM", "LMHeadModel")) for kind in type(network).__mro__)


def _meter(name: str, output: Tensor, target: Any, entry: str) -> Meter:
    """A meter by name, for outputs and targets as in the first batch."""
    score, metrics, of, *nouns = _SCORES[name]
    if name == "probabilities" and kind_of_target(output, target) == "multi-label":
        score, metrics = score_binary_probabilities, "error and binary cross-entropy"
    read = partial(_read_next_token if name == "next-token" else _read, entry=entry)
    outputs = output[:1].numel() if name in ("multi-label", "regression") else output.shape[-1] if output.ndim else 1
    about = f"{metrics} of each {of}, from {outputs} {nouns[outputs != 1]}"
    about += "" if entry in ("", "logits") else f" in entry {entry} of the network's output"
    return _scoring(name, read, score, perplexity=name in ("tokens", "next-token"), about=about)


def _scoring(
    name: str,
    read: Callable[[nn.Module, Any], tuple[Tensor, Tensor]],
    score: Callable[[Tensor, Tensor], BatchSums],
    **words: Any,
) -> Meter:
    return Meter(name, lambda network, batch: score(*read(network, batch)), run, read=read, score=score, **words)


def _read(network: nn.Module, batch: Any, entry: str = "") -> tuple[Tensor, Tensor]:
    output, target = call(network, batch, entry)
    if target is None:
        raise DataError(f"a batch has no target: {describe_batch(batch)}")
    return at_least_float32(output), torch.as_tensor(target)


def _read_next_token(network: nn.Module, batch: Any, entry: str = "") -> tuple[Tensor, Tensor]:
    """The predictions of token t + 1 from the first t, and that token."""
    output, labels = call(network, batch, entry)
    if labels is None:  # a text is its own target, as far as it is not padding
        if not isinstance(batch, Mapping) or "input_ids" not in batch:
            raise DataError(f"a batch has neither labels nor input_ids: {describe_batch(batch)}")
        labels = torch.as_tensor(batch["input_ids"])
        if "attention_mask" in batch:
            labels = labels.masked_fill(torch.as_tensor(batch["attention_mask"]) == 0, IGNORED)
    return at_least_float32(output[:, :-1]), labels[:, 1:]


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


# name: how a batch is scored; then words: the metrics, of each of what, and from one or several of what
_SCORES: dict[str, tuple[Callable[..., BatchSums], str, str, str, str]] = {
    "classification": (score_classification, "error and cross-entropy", "example", "logit", "logits"),
    "multi-label": (score_multi_label, "error and binary cross-entropy", "label", "logit", "logits"),
    "probabilities": (score_probabilities, "error and cross-entropy", "example", "probability", "probabilities"),
    "regression": (score_regression, "squared error", "example", "output", "outputs"),
    "tokens": (score_tokens, "error and cross-entropy", "token", "logit", "logits"),
    "next-token": (score_tokens, "error and cross-entropy", "next token", "logit", "logits"),
}
CLASSIFICATION = _scoring("classification", _read, score_classification, about="error and cross-entropy")
