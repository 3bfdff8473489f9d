"""Effective weights of a network: those it computes with, by their names without wrappers and parametrizations."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from modeconn.errors import NetworkError
from modeconn.weights.computed import computed_tensors, final_tensors, value_of
from modeconn.weights.state_dicts import (
    Weights,
    aliases_of,
    is_quantised_tensor,
    left_out,
    qualified_name,
    refuse_quantised,
    refuse_without_values,
    shape_of,
    state_tensors,
    whole,
)

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def unwrap(network: nn.Module) -> nn.Module:
    """Take off DataParallel, DistributedDataParallel, AveragedModel, `torch.compile` and activation checkpointing.

    Raises:
        NetworkError: not a module.

    >>> inner = nn.Linear(2, 2)
    >>> unwrap(nn.DataParallel(inner)) is inner
    True
    """
    if not isinstance(network, nn.Module):
        raise NetworkError(f"expected a torch.nn.Module, not {type(network).__name__}")
    while (inner := inside(network)) is not None:
        network = inner
    return network


def weights_of_module(network: nn.Module, origin: str) -> Weights:
    """Effective weights of a module, by the names they have in `plain_copy`; those that are stored are not copied.

    Raises:
        NetworkError: not a module, no tensors, quantised or uninitialised layers, tensors on the meta device.

    >>> layer = nn.utils.prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5)
    >>> weights = weights_of_module(layer, "a")
    >>> list(weights.layout), int((weights.read("weight") == 0).sum())
    (['bias', 'weight'], 8)
    """
    network = unwrap(network)
    refuse_quantised((name for name, layer in network.named_modules() if _is_quantised_layer(layer)), origin)
    entries = network.state_dict(keep_vars=True)
    tensors = state_tensors(network)
    refuse_quantised((name for name, tensor in tensors.items() if is_quantised_tensor(tensor)), origin)
    refuse_without_shapes(network, origin)
    if not tensors:
        raise NetworkError(f"{origin} is a {type(network).__name__} without parameters and buffers")
    refuse_without_values((name for name, tensor in tensors.items() if tensor.is_meta), origin)
    weights = effective_weights(network, lambda name: whole(tensors[name]), origin)
    # Ties are looked for among stored tensors alone: a computed one has no storage until it is read.
    stored, _ = effective_reads(network, tensors.__getitem__)
    aliases = aliases_of({name: give() for name, give in stored.items()})
    return replace(weights, aliases=aliases, notes=(*left_out(entries), *weights.notes))


def refuse_without_shapes(network: nn.Module, origin: str) -> None:
    """Refuse a network with lazy layers that have seen no batch.

    Raises:
        NetworkError: it has some; their tensors are named.
    """
    if lazy := sorted(name for name, tensor in state_tensors(network).items() if nn.parameter.is_lazy(tensor)):
        raise NetworkError(f"{origin} has no shapes yet for {', '.join(lazy)}; pass a batch through the network first")


def effective_weights(network: nn.Module, read: Callable[[str], Tensor], origin: str) -> Weights:
    """Effective weights of a network, with the tensors that `read` gives in place of its own.

    `read` is given names of the network's state dict, so these may come from a file. What is computed is computed at
    every reading, one tensor at a time.
    """
    stored, computed = effective_reads(network, read)
    reads = stored | computed
    layout = {name: shape_of(give()) for name, give in reads.items()}
    note = f"pruned or parametrized, read by the effective weights: {', '.join(computed)}"
    return Weights(layout, lambda name: reads[name](), origin, (note,) if computed else ())


Reads = dict[str, Callable[[], Tensor]]


def effective_reads(network: nn.Module, read: Callable[[str], Tensor]) -> tuple[Reads, Reads]:
    """Functions that give each effective tensor, by plain name: the stored ones, and those computed from others.

    `read` is given names of the network's own state dict.
    """
    computed: Reads = {}
    behind: set[str] = set()  # stored tensors that others are computed from; a plain network does not have them
    plain = plain_prefixes(network)
    for prefix, module in network.named_modules(remove_duplicate=False):
        if prefix not in plain:  # inside a parametrization
            continue
        tensors = computed_tensors(module)
        for name, stored in final_tensors(tensors).items():
            behind |= {qualified_name(prefix, own) for own in stored}
            computed[qualified_name(plain[prefix], name)] = partial(
                value_of, tensors, name, partial(_read_own, read, prefix)
            )
    stored_reads: Reads = {}  # all else, by its name without wrappers
    for name in state_tensors(network):
        if name not in behind:
            prefix, _, own = name.rpartition(".")
            stored_reads[qualified_name(plain.get(prefix, prefix), own)] = partial(read, name)
    return stored_reads, computed


def inside(module: nn.Module) -> nn.Module | None:
    """The module inside a wrapper; None if this is none."""
    if isinstance(module, _WRAPPERS):
        return module.module
    # Wrappers of torch.compile and of activation checkpointing, by their look: importing their classes takes seconds.
    for name in ("_orig_mod", "_checkpoint_wrapped_module"):
        if name in module._modules:  # scripted modules' children have no get
            return module._modules[name]
    return None


def plain_prefixes(network: nn.Module) -> dict[str, str]:
    """Names of submodules with those that they have in a plain network, without wrappers: `0._orig_mod` is `0`.

    Submodules of parametrizations are left out: a plain network has none.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    plain = {"": ""}
    for prefix, module in modules.items():
        parent, _, segment = prefix.rpartition(".")
        if not prefix or parent not in plain:
            continue
        if segment == "parametrizations" and parametrize.is_parametrized(modules[parent]):
            continue
        plain[prefix] = plain[parent] if inside(modules[parent]) is module else qualified_name(plain[parent], segment)
    return plain


def _read_own(read: Callable[[str], Tensor], prefix: str, name: str) -> Tensor:
    return read(qualified_name(prefix, name))


def _is_quantised_layer(module: nn.Module) -> bool:
    home = type(module).__module__.split(".")
    return home[0] == "torch" and "quantized" in home and "reference" not in home
