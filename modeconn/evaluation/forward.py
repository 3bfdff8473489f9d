"""Forward passes of anyone's network on anyone's batch: its inputs, its target, and the logits."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.errors import DataError, ModeconnError, NetworkError
from modeconn.evaluation.structures import describe_batch, map_tensors

_TARGETS = ("labels", "label", "targets", "target", "y")


def call(network: nn.Module, batch: Any) -> tuple[Tensor, Tensor | None]:
    """Compute a network's output (logits) on a batch's inputs; also gives the batch's target, if it has one.

    The last entry of a tuple is the target, the entry called `labels`, `label`, `targets`, `target` or `y` of a
    mapping; a tensor alone is an input. Floating-point inputs get the type of the network's parameters.

    Raises:
        DataError: the network fails on it; the message shows the batch.
        NetworkError: its output holds no tensor.
    """
    positional, named, target = _split(batch)
    dtype = dtype_of(network)
    if dtype is not None:
        cast = lambda t: t.to(dtype) if t.is_floating_point() else t  # noqa: E731
        positional, named = map_tensors(cast, positional), map_tensors(cast, named)
    try:
        output = network(*positional, **named)
    except ModeconnError:  # of a network of ours, which says better what is wrong
        raise
    except Exception as error:
        raise DataError(
            f"the network fails on a batch {describe_batch(batch)}: {type(error).__name__}: {error}. The last entry of "
            f"a tuple and the entry {', '.join(_TARGETS[:2])} of a mapping are taken for the target; "
            "if a batch is something else, say with evaluate= how it is measured"
        ) from error
    return _logits(output), target


def dtype_of(network: nn.Module) -> torch.dtype | None:
    """The type of a network's first floating-point parameter, which its inputs must have; None if it has none."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), None)


def _split(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Split a batch into positional inputs, named inputs, and the target."""
    if isinstance(batch, Mapping):
        target = next((name for name in _TARGETS if name in batch), None)
        named = {str(name): value for name, value in batch.items() if name != target}
        # A single input is passed by position, as the network may call it anything; tokens keep the name that Hugging
        # Face's networks have for them.
        if len(named) == 1 and "input_ids" not in named:
            return tuple(named.values()), {}, None if target is None else batch[target]
        return (), named, None if target is None else batch[target]
    if isinstance(batch, list | tuple) and len(batch) > 1:  # (x, y), (x, z, y), ((x, z), y) or ({...}, y)
        inputs = batch[0] if len(batch) == 2 else tuple(batch[:-1])
        if isinstance(inputs, Mapping):
            return (), {str(name): value for name, value in inputs.items()}, batch[-1]
        return tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,), {}, batch[-1]
    return tuple(batch) if isinstance(batch, list | tuple) else (batch,), {}, None


def _logits(output: Any) -> Tensor:
    """Find the logits: the output itself, its `logits`, or its first entry."""
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
