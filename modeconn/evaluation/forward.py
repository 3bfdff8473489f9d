"""Forward passes of anyone's network on anyone's batch: its inputs, its target, and the logits."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.errors import DataError, ModeconnError, NetworkError, OptionError
from modeconn.evaluation.structures import describe_batch, map_tensors

_TARGETS = ("labels", "label", "targets", "target", "y")
ADVICE = "say with evaluate= how it is measured"


def call(network: nn.Module, batch: Any, entry: str = "", advice: str = ADVICE) -> tuple[Tensor, Any]:
    """Compute a network's output (logits) on a batch's inputs; also gives the batch's target, None if it has none.

    The last entry of a tuple is the target, the entry called `labels`, `label`, `targets`, `target` or `y` of a
    mapping; a tensor alone is an input. Floating-point inputs get the type of the network's parameters.

    Of an output with several tensors, the logits are the entry that is called so, or the only one whose shape goes
    with the target.

    Args:
        network: in whatever mode it is.
        batch: it may be written to.
        entry: which entry of the output the logits are: a place from 0, or a name; empty to find it.
        advice: what can be done about a batch or an output that is something else.

    Raises:
        DataError: the network fails on it; the message names the module and shows the batch.
        NetworkError: its output holds no tensor.
        OptionError: it holds several that may be the logits, or none that goes with the target.
    """
    _, logits, target = find_logits(network, batch, entry, advice)
    return logits, target


def find_logits(network: nn.Module, batch: Any, entry: str = "", advice: str = ADVICE) -> tuple[str, Tensor, Any]:
    """Do the same as `call`, and tell which entry of the output the logits are; empty if the output is a tensor."""
    output, target = run(network, batch, advice)
    name, logits = _logits(output, target, entry, advice)
    return name, logits, target


def run(network: nn.Module, batch: Any, advice: str = ADVICE) -> tuple[Any, Any]:
    """Pass a batch's inputs through a network; gives the output as it is, and the batch's target.

    Raises:
        DataError: as `call`.
    """
    positional, named, target = split_batch(network, batch)
    dtype = dtype_of(network)
    if dtype is not None:
        cast = lambda t: t.to(dtype) if t.is_floating_point() else t  # noqa: E731
        positional, named = map_tensors(cast, positional), map_tensors(cast, named)
    try:
        return network(*positional, **named), target
    except ModeconnError:  # of a network of ours, which says better what is wrong
        raise
    except Exception as error:
        where = _failing_module(network, error)
        reasons = [f"{type(error).__name__}: {error}", *_reasons(network, batch, positional, named, error, advice)]
        raise DataError(f"the network fails{where} on a batch {describe_batch(batch)}: {'. '.join(reasons)}") from error


def dtype_of(network: nn.Module) -> torch.dtype | None:
    """The type of a network's first floating-point parameter, which its inputs must have; None if it has none."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), None)


def split_batch(network: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Split a batch into positional inputs, named inputs, and the target."""
    if isinstance(batch, Mapping):
        name = _target_name(batch)
        target = None if name is None else batch[name]
        named = {str(key): value for key, value in batch.items() if key != name}
        # A single input is passed by position, as the network may call it anything; tokens keep the name that Hugging
        # Face's networks have for them.
        if len(named) == 1 and "input_ids" not in named:
            return tuple(named.values()), {}, target
        return (), named | _decoder_inputs(network, named, target), target
    if isinstance(batch, list | tuple) and len(batch) > 1:  # (x, y), (x, z, y), ((x, z), y) or ({...}, y)
        inputs = batch[0] if len(batch) == 2 else tuple(batch[:-1])
        if isinstance(inputs, Mapping):
            return (), {str(name): value for name, value in inputs.items()}, batch[-1]
        return tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,), {}, batch[-1]
    return tuple(batch) if isinstance(batch, list | tuple) else (batch,), {}, None


def _target_name(batch: Mapping[Any, Any]) -> str | None:
    return next((name for name in _TARGETS if name in batch), None)


def _decoder_inputs(network: nn.Module, named: dict[str, Any], labels: Any) -> dict[str, Any]:
    """What Hugging Face's encoder-decoder networks make of labels, which they are not given here."""
    shift = getattr(network, "prepare_decoder_input_ids_from_labels", None)
    if shift is None or labels is None or not named.keys().isdisjoint(("decoder_input_ids", "decoder_inputs_embeds")):
        return {}
    return {"decoder_input_ids": shift(labels=labels)}


def _logits(output: Any, target: Any, entry: str, advice: str) -> tuple[str, Tensor]:
    """Find the logits: the entry that is asked for, the output itself, its `logits`, or what goes with the target."""
    if isinstance(output, Tensor) and not entry:
        return "", output
    entries = _entries(output)
    if isinstance(getattr(output, "logits", None), Tensor):  # of an object that is neither a tuple nor a mapping
        entries = {"logits": output.logits} | entries
    if entry:
        if entry not in entries:
            raise OptionError(f"the network's output has no tensor {entry!r}; it has {_shown(entries) or 'none'}")
        return entry, entries[entry]
    if "logits" in entries:
        return "logits", entries["logits"]
    if len(entries) == 1:
        return next(iter(entries.items()))
    if not entries:
        kind = type(output).__name__
        raise NetworkError(f"the network gives {kind} without a tensor of logits; {advice}")
    fitting = {name: tensor for name, tensor in entries.items() if _goes_with(tensor, target)}
    if len(fitting) == 1:
        return next(iter(fitting.items()))
    choice = _likeliest(fitting or entries)
    raise OptionError(
        f"cannot tell which of the network's outputs is measured: {_shown(fitting or entries)}; the target is "
        f"{'none' if target is None else describe_batch(target)}. Choose one, such as "
        f'evaluate="classification[{choice}]", let the network give the logits alone, or {advice}'
    )


def _entries(output: Any) -> dict[str, Tensor]:
    """The tensors of an output by name, or by place."""
    if isinstance(output, Tensor):
        return {}
    if isinstance(output, tuple) and hasattr(output, "_asdict"):  # a namedtuple
        output = output._asdict()
    if isinstance(output, list | tuple):
        output = dict(enumerate(output))
    found = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def _goes_with(tensor: Tensor, target: Any) -> bool:
    """Whether the shape of a tensor is that of logits, or of predictions, for a target."""
    if not tensor.is_floating_point() or tensor.ndim == 0:
        return False
    if not isinstance(target, Tensor):
        return tensor.ndim > 1
    if target.is_floating_point() or tensor.ndim == 1:
        return target.numel() == tensor.numel()
    per_example = tensor.ndim == 2 and target.numel() == len(tensor)
    return per_example or target.shape in (tensor.shape, tensor.shape[:-1])


def _likeliest(entries: Mapping[str, Tensor]) -> str:
    """The entry to name as an example: one that is called after logits, or else of the shape [batch, classes]."""
    called = [name for name in entries if "logits" in name.lower()]
    shaped = [name for name, tensor in entries.items() if tensor.ndim == 2 and tensor.is_floating_point()]
    return [*called, *shaped, *entries][0]


def _shown(entries: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name}: {describe_batch(tensor)}" for name, tensor in entries.items())


def _failing_module(network: nn.Module, error: Exception) -> str:
    """The innermost of the network's modules in which an exception was raised, as words for a message."""
    names = {id(module): name for name, module in network.named_modules()}
    found, step = "", error.__traceback__
    while step is not None:
        found = names.get(id(step.tb_frame.f_locals.get("self")), "") or found
        step = step.tb_next
    return f" in its module {found}" if found else ""


def _reasons(
    network: nn.Module, batch: Any, positional: tuple[Any, ...], named: dict[str, Any], error: Exception, advice: str
) -> list[str]:
    """What may be at fault, as far as that is seen: how the batch was read, or gradients that are not computed."""
    reasons = []
    if "does not require grad" in str(error) and not torch.is_grad_enabled():
        reasons.append("Here no gradients are kept: a forward pass that needs them must be under torch.enable_grad()")
    several = isinstance(batch, list | tuple) and len(batch) > 2
    if several or not _takes(network, positional, named):
        name = f"entry {_target_name(batch)!r}" if isinstance(batch, Mapping) else "last entry"
        inputs = ", ".join([describe_batch(positional)[1:-1], *named]).strip(", ") or "nothing"
        reasons.append(
            f"Its {name} is taken for the target, and given to the network is {inputs}; if that is wrong, {advice}"
        )
    return reasons


def _takes(network: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether a network's forward pass takes such arguments, as far as its signature tells."""
    try:
        signature = inspect.signature(network.forward)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*positional, **named)
    except TypeError:
        return False
    return True
