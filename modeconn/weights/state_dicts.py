"""`Weights`, a network's tensors by name and read one at a time, and how they are found in state dicts."""

import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.weights.low_rank import LowRank


@dataclass(frozen=True, eq=False)
class Weights:
    """A network's tensors by name, read one at a time, so that a file need not be held in memory.

    Attributes:
        layout: name to a meta tensor (shape and dtype, no data), in order.
        read: gives the tensor of that name where it is: on the network's device, or on the CPU from a file.
            It may share storage with the caller's network and must not be written to.
        origin: where they come from, for messages: `"a"`, `"runs/x.safetensors"`.
        notes: what was decided on reading.
        aliases: names whose tensor is that of another name (they share storage), and that name.
        low_rank: of an adapter, the names whose tensor is its base's plus a product of factors, and these.
    """

    layout: Mapping[str, Tensor]
    read: Callable[[str], Tensor]
    origin: str
    notes: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    low_rank: Mapping[str, LowRank] = field(default_factory=dict)


def weights_of_state_dict(source: Mapping[str, Any], origin: str, key: str | None = None) -> Weights:
    """Read a state dict, or a checkpoint that has one under `key`: `state_dict`, `model_state_dict` or `model` if None.

    Tensors are not copied. Pairs `x_orig` and `x_mask`, as `torch.nn.utils.prune` writes them, are read as `x`,
    their product. Entries that are not tensors are left out, with a note.

    Raises:
        NetworkError: no tensors, several state dicts, quantised weights, or tensors on the meta device.

    >>> weights = weights_of_state_dict({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, "a")
    >>> weights.read("w"), weights.notes
    (tensor([1., 1.]), ("its state dict is the one under 'state_dict'",))
    """
    entries, notes = _find_state_dict(source, origin, key)
    refuse_quantised([name for name, value in entries.items() if _is_quantised(name, value)], origin)
    tensors = {name: value for name, value in entries.items() if _is_weight(name, value)}
    refuse_without_values([name for name, tensor in tensors.items() if tensor.is_meta], origin)
    if nested := [name for name, tensor in tensors.items() if tensor.is_nested]:
        raise NetworkError(f"{origin} has nested tensors as weights ({', '.join(nested)}), which have no one shape")
    notes += left_out(entries)
    layout = {name: shape_of(tensor) for name, tensor in tensors.items()}
    weights = Weights(layout, lambda name: whole(tensors[name]), origin, tuple(notes), aliases_of(tensors))
    return with_masks_applied(weights)


def with_masks_applied(weights: Weights) -> Weights:
    """Read every `x` that is stored as `x_orig` and `x_mask` (`torch.nn.utils.prune`) as their product."""
    pairs = {}  # plain name: names of the unpruned tensor and of its mask
    for name in weights.layout:
        plain = name.removesuffix("_orig")
        if name != plain and f"{plain}_mask" in weights.layout and plain not in weights.layout:
            pairs[plain] = (name, f"{plain}_mask")
            shapes = [list(weights.layout[stored].shape) for stored in pairs[plain]]
            if shapes[0] != shapes[1]:
                raise NetworkError(f"{weights.origin}: the mask of {plain} is {shapes[1]}, and the weights {shapes[0]}")
    if not pairs:
        return weights

    def read(name: str) -> Tensor:
        if name not in pairs:
            return weights.read(name)
        tensor, mask = (weights.read(stored) for stored in pairs[name])
        if not ((mask == 0) | (mask == 1)).all():
            raise NetworkError(f"{weights.origin}: the mask of {name} has other values than 0 and 1")
        return mask.to(tensor.dtype) * tensor

    layout = {}  # in the same order, `x` where `x_orig` was
    for name, shape in weights.layout.items():
        plain = name.removesuffix("_orig")
        if name == pairs.get(plain, ("",))[0]:
            layout[plain] = shape
        elif not (name.endswith("_mask") and name.removesuffix("_mask") in pairs):
            layout[name] = shape
    note = f"pruned, the masks are applied to {len(pairs)} tensors: {', '.join(pairs)}"
    aliases = {name: other for name, other in weights.aliases.items() if name in layout and other in layout}
    return replace(weights, layout=layout, read=read, notes=(*weights.notes, note), aliases=aliases)


def state_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers of a network by name, not copied, in the order of its state dict.

    They are read from the modules themselves: what `state_dict()` gives may be copied, cast, dropped or renamed.
    """
    found: dict[str, Tensor] = {}
    for prefix, module in network.named_modules(remove_duplicate=False):
        unsaved = module._non_persistent_buffers_set
        buffers = {name: tensor for name, tensor in module._buffers.items() if name not in unsaved}
        for name, tensor in (*module._parameters.items(), *buffers.items()):
            if tensor is not None:
                found[qualified_name(prefix, name)] = tensor
    return found


def whole(tensor: Tensor) -> Tensor:
    """A tensor without its gradient history; of one that is sharded over processes (a DTensor), all of it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def left_out(entries: Mapping[str, Any]) -> tuple[str, ...]:
    """A note on the entries of a state dict that are no tensors of a network."""
    others = [
        name if isinstance(name, str) else reprlib.repr(name)
        for name, value in entries.items()
        if not _is_weight(name, value)
    ]
    return (f"not tensors of the network, left out: {', '.join(others)}",) if others else ()


def qualified_name(prefix: str, name: str) -> str:
    """The name in the whole network of what a submodule calls `name`: `prefix.name`."""
    return f"{prefix}.{name}" if prefix else name


def shape_of(tensor: Tensor) -> Tensor:
    """A meta tensor of the same shape and dtype."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def identity_of(tensor: Tensor) -> object:
    """A key that two tensors share if they are tied: the same storage, place, shape and strides.

    Tied weights may be one `nn.Parameter` under two names, or two parameters over one storage; both are found.
    """
    # Of tensors without a storage of their own, only the object tells which is which.
    if tensor.is_meta or tensor.layout != torch.strided or tensor.numel() == 0:
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def aliases_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Tied tensors: each later name with the first name of the same tensor."""
    first: dict[object, str] = {}
    earliest = {name: first.setdefault(identity_of(tensor), name) for name, tensor in tensors.items()}
    return {name: other for name, other in earliest.items() if name != other}


def refuse_quantised(names: Iterable[str], origin: str) -> None:
    """Refuse quantised weights.

    Raises:
        NetworkError: naming them.
    """
    if names := sorted(set(names)):
        raise NetworkError(
            f"{origin} has quantised weights ({', '.join(names)}): a path between quantised weights is not defined, "
            "because what lies between two of their values is not one of them; dequantise the network first"
        )


def refuse_without_values(names: Iterable[str], origin: str) -> None:
    """Refuse tensors on the meta device.

    Raises:
        NetworkError: naming them.
    """
    if names := sorted(names):
        raise NetworkError(f"{origin} has tensors on the meta device, without values: {', '.join(names)}; load them")


def is_quantised_tensor(value: object) -> bool:
    """Whether a tensor is one of PyTorch's, torchao's or bitsandbytes' quantised ones."""
    if not isinstance(value, Tensor):
        return False
    return value.is_quantized or type(value).__module__.split(".")[0] in ("torchao", "bitsandbytes")


def _is_quantised(name: object, value: object) -> bool:
    # Quantised layers of PyTorch keep weight and bias in an opaque object of this name.
    return is_quantised_tensor(value) or str(name).rpartition(".")[2] == "_packed_params"


def _is_weight(name: object, value: object) -> bool:
    return isinstance(value, Tensor) and isinstance(name, str) and name.rpartition(".")[2] != "_extra_state"


def _find_state_dict(source: Mapping[str, Any], origin: str, wanted: str | None) -> tuple[Mapping[str, Any], list[str]]:
    """Find the mapping that holds the tensors: under a known key, at the top, or under the only key that has any."""
    # Known keys go before tensors at the top, as a checkpoint may have a tensor or two beside its state dict.
    inside = [key for key, value in source.items() if isinstance(value, Mapping) and _has_tensors(value)]
    if wanted is not None:
        if wanted not in inside:
            there = ", ".join(map(reprlib.repr, inside)) or "no key"
            raise NetworkError(f"{origin} has no state dict under {wanted!r}; those it has are under {there}")
        return source[wanted], [f"its state dict is the one under {wanted!r}"]
    known = [key for key in ("state_dict", "model_state_dict", "model") if key in inside]
    if not known and _has_tensors(source):
        return source, []
    if not known and len(inside) > 1:
        raise NetworkError(
            f"{origin} has several state dicts, under {', '.join(map(reprlib.repr, inside))}; choose one "
            "(checkpoint_key=), or pass one of them"
        )
    if not inside:
        raise NetworkError(
            f"{origin} has no tensors by name in it, neither at the top nor under 'state_dict', 'model_state_dict' or "
            f"'model'; its keys are {', '.join(map(reprlib.repr, source)) or 'none'}"
        )
    key = (known or inside)[0]
    same = {other for other in inside if source[other].keys() == source[key].keys() or "ema" in str(other).lower()}
    others = [repr(other) for other in inside if other in same - {key}]
    beside = f", and not {' or '.join(others)}, which checkpoint_key= chooses" if others else ""
    return source[key], [f"its state dict is the one under {key!r}{beside}"]


def _has_tensors(entries: Mapping[str, Any]) -> bool:
    return any(isinstance(key, str) and (isinstance(v, Tensor) or _is_quantised(key, v)) for key, v in entries.items())
