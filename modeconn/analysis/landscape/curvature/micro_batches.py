"""Batches in pieces that memory holds, with the weight that the mean loss of each has in the mean over all."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.evaluation.forward import split_batch
from modeconn.evaluation.losses import computes_loss
from modeconn.evaluation.scores import IGNORED
from modeconn.evaluation.structures import map_tensors, tensors_of


def micro_batches(batches: Iterable[Any], size: int, dtype: torch.dtype, examples: int | None) -> Iterator[Any]:
    """Cut batches into pieces of so many examples at most, floating-point tensors in one type.

    A batch whose tensors do not have one first dimension cannot be cut, and stays whole.

    Args:
        batches: any.
        size: examples in a piece, at most.
        dtype: of the network.
        examples: stop after so many; all if None.

    >>> batches = [(torch.arange(5.0), torch.arange(5)), (torch.arange(2.0), torch.arange(2))]
    >>> [y.tolist() for _, y in micro_batches(batches, 3, torch.float64, 6)]
    [[0, 1, 2], [3, 4], [0]]
    """
    left = examples
    for batch in batches:
        batch = map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, batch)
        length = examples_in(batch)
        kept = length if left is None else min(length, left)
        if not _divisible(batch):
            yield batch
        else:
            for start in range(0, kept, size):
                stop = min(start + size, kept)
                yield map_tensors(lambda tensor, start=start, stop=stop: tensor[start:stop], batch)  # type: ignore[misc]
        if left is not None:
            left -= kept
            if left <= 0:
                return


def examples_in(batch: Any) -> int:
    """How many examples a batch has: the first dimension of its first tensor."""
    return next((len(tensor) for tensor in tensors_of(batch) if tensor.ndim), 1)


def weight_of(network: nn.Module, batch: Any, own_loss: bool) -> int:
    """The weight of a batch's mean loss: over how many values `modeconn.evaluation.losses.mean_loss` takes that mean.

    These are the labels that count (-100 does not), of a causal language model that shifts them itself all but the
    first of each text; or the entries of a floating-point target.

    Args:
        network: which the batch is for.
        batch: with its target.
        own_loss: whether the loss is a function of the caller's, which is taken for a mean over examples.
    """
    if own_loss:
        return examples_in(batch)
    *_, target = split_batch(network, batch)
    if not isinstance(target, Tensor):
        return examples_in(batch)
    if target.is_floating_point():
        return target.numel()
    shifted = target.ndim == 2 and computes_loss(network, batch) and _shifts_labels(network)
    return int(((target[:, 1:] if shifted else target) != IGNORED).sum())


def _shifts_labels(network: nn.Module) -> bool:
    """Whether a network is, or wraps, one of Hugging Face's that predict the next token of their labels."""
    kinds = (kind for module in network.modules() for kind in type(module).__mro__)
    return any(kind.__name__.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds)


def _divisible(batch: Any) -> bool:
    tensors = tensors_of(batch)
    return bool(tensors) and all(tensor.ndim for tensor in tensors) and len({len(tensor) for tensor in tensors}) == 1
