"""A module's effective weights by plain names: wrappers taken off, masks and parametrizations applied."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from modeconn.errors import NetworkError
from modeconn.weights.state_dicts import (
    Weights,
    aliases_of,
    is_quantised_tensor,
    left_out,
    refuse_quantised,
    refuse_without_values,
    shape_of,
    state_tensors,
)

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def unwrap(network: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel, AveragedModel and `torch.compile`, however nested.

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
    """The effective weights of a module by the names they have in `plain_copy`. What is plain is not copied.

    Raises:
        NetworkError: not a module, no tensors, quantised or uninitialised layers, tensors on the meta device.

    >>> layer = prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5)
    >>> weights = weights_of_module(layer, "a")
    >>> list(weights.layout), int((weights.read("weight") == 0).sum())
    (['bias', 'weight'], 8)
    """
    network = unwrap(network)
    refuse_quantised((name for name, layer in network.named_modules() if _is_quantised_layer(layer)), origin)
    entries = network.state_dict(keep_vars=True)
    tensors = state_tensors(network)
    refuse_quantised((name for name, tensor in tensors.items() if is_quantised_tensor(tensor)), origin)
    if lazy := sorted(name for name, tensor in tensors.items() if nn.parameter.is_lazy(tensor)):
        raise NetworkError(f"{origin} has no shapes yet for {', '.join(lazy)}; pass a batch through the network first")
    if not tensors:
        raise NetworkError(f"{origin} is a {type(network).__name__} without parameters and buffers")
    refuse_without_values((name for name, tensor in tensors.items() if tensor.is_meta), origin)
    weights = effective_weights(network, lambda name: tensors[name].detach(), origin)
    stored, _ = effective_reads(network, tensors.__getitem__)
    aliases = aliases_of({name: give() for name, give in stored.items()})
    return replace(weights, aliases=aliases, notes=(*left_out(entries, tensors), *weights.notes))


def effective_weights(network: nn.Module, read: Callable[[str], Tensor], origin: str) -> Weights:
    """The effective weights of a network whose own tensors, by their names in its state dict, are what `read` gives.

    Computed ones are computed at every reading, one at a time.
    """
    stored, computed = effective_reads(network, read)
    reads = stored | computed
    layout = {name: shape_of(give()) for name, give in reads.items()}
    note = f"pruned or parametrized, read by the effective weights: {', '.join(computed)}"
    return Weights(layout, lambda name: reads[name](), origin, (note,) if computed else ())


Reads = dict[str, Callable[[], Tensor]]


def effective_reads(network: nn.Module, read: Callable[[str], Tensor]) -> tuple[Reads, Reads]:
    """By plain name, how each tensor is read: those that are stored, and those that are computed from stored ones.

    `read` is given names of the network's own state dict.
    """
    computed: Reads = {}
    behind: set[str] = set()
    plain = _plain_prefixes(network)
    for prefix, module in network.named_modules(remove_duplicate=False):
        if prefix not in plain:
            continue
        tensors = computed_tensors(module)
        for name, stored in final_tensors(tensors).items():
            behind |= {_join(prefix, own) for own in stored}
            computed[_join(plain[prefix], name)] = partial(value_of, tensors, name, partial(_read_own, read, prefix))
    stored_reads: Reads = {}
    for name in state_tensors(network):
        if name not in behind:
            prefix, _, own = name.rpartition(".")
            stored_reads[_join(plain.get(prefix, prefix), own)] = partial(read, name)
    return stored_reads, computed


@dataclass(frozen=True)
class Computed:
    """A tensor of a module that is computed from others, `needs`, by their names in the module's state dict."""

    needs: tuple[str, ...]
    compute: Callable[[Mapping[str, Tensor]], Tensor]


def computed_tensors(module: nn.Module) -> dict[str, Computed]:
    """By name: tensors that hooks of `prune`, `weight_norm`, `spectral_norm`, or parametrizations compute.

    What a tensor needs may be computed as well: a mask on the direction of a weight normalization.
    """
    found = {}
    method: Callable[[Any], Tensor]
    endings: tuple[str, ...]
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            name, endings, method = hook._tensor_name, ("_orig", "_mask"), hook.apply_mask
        elif isinstance(hook, WeightNorm):
            name, endings, method = hook.name, ("_g", "_v"), hook.compute_weight
        elif isinstance(hook, SpectralNorm):
            name, endings = hook.name, ("_orig", "_u", "_v")
            method = partial(hook.compute_weight, do_power_iteration=False)
        else:
            continue
        needs = tuple(name + ending for ending in endings)
        found[name] = Computed(needs, partial(_by_hook, method))
    if parametrize.is_parametrized(module):
        parametrizations: Any = module.parametrizations
        for name, chain in parametrizations.items():
            prefix = f"parametrizations.{name}."
            found[name] = Computed(tuple(prefix + own for own in state_tensors(chain)), partial(_apply, chain, prefix))
    return found


def final_tensors(computed: Mapping[str, Computed]) -> dict[str, list[str]]:
    """The computed tensors from which no other is computed, each with the stored tensors behind it."""

    def behind(name: str) -> list[str]:
        return [name] if name not in computed else [own for need in computed[name].needs for own in behind(need)]

    inner = {need for tensor in computed.values() for need in tensor.needs}
    return {name: behind(name) for name in computed if name not in inner}


@torch.no_grad()
def value_of(computed: Mapping[str, Computed], name: str, read: Callable[[str], Tensor]) -> Tensor:
    """A tensor of a module by its name there, computed if it is one of `computed`, else read."""
    if name not in computed:
        return read(name)
    tensor = computed[name]
    return tensor.compute({need: value_of(computed, need, read) for need in tensor.needs}).detach()


def detached(network: nn.Module) -> dict[int, Any]:
    """A memo for `copy.deepcopy`, which fails on tensors with a history: such attributes are copied without it."""
    memo: dict[int, Any] = {}
    for module in network.modules():
        computed = computed_tensors(module)
        for name, value in vars(module).items():
            if name in computed and isinstance(value, Tensor):
                memo[id(value)] = value.detach()  # not copied: a hook replaces it before every forward pass
            else:
                memo |= {id(tensor): tensor.detach().clone() for tensor in _with_history(value)}
    return memo


def inside(module: nn.Module) -> nn.Module | None:
    """The module that this one wraps, if it is a wrapper."""
    if isinstance(module, _WRAPPERS):
        return module.module
    # torch.compile's wrapper, by its look: importing its class takes seconds. Scripted modules' children have no get.
    return module._modules["_orig_mod"] if "_orig_mod" in module._modules else None  # noqa: SIM401


def _by_hook(method: Callable[[Any], Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    """What a hook's method computes. It takes a module and looks up its tensors, nothing else: a namespace will do."""
    return method(SimpleNamespace(**tensors))


def _apply(chain: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """What parametrizations make of tensors, in evaluation mode, by a copy that has these instead of its own."""
    own = state_tensors(chain)
    memo = detached(chain) | {id(tensor): tensors[prefix + name] for name, tensor in own.items()}
    return copy.deepcopy(chain, memo).eval()()


def _with_history(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor) and not value.is_leaf:
        yield value
    elif isinstance(value, dict | list | tuple | set):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _with_history(item)


def _plain_prefixes(network: nn.Module) -> dict[str, str]:
    """Names of submodules, and those that they have once wrappers inside the network are taken off.

    The insides of parametrizations are left out: they are no part of a plain network.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    plain = {"": ""}
    for prefix, module in modules.items():
        parent, _, segment = prefix.rpartition(".")
        if not prefix or parent not in plain:
            continue
        if segment == "parametrizations" and parametrize.is_parametrized(modules[parent]):
            continue
        plain[prefix] = plain[parent] if inside(modules[parent]) is module else _join(plain[parent], segment)
    return plain


def _read_own(read: Callable[[str], Tensor], prefix: str, name: str) -> Tensor:
    return read(_join(prefix, name))


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _is_quantised_layer(module: nn.Module) -> bool:
    home = type(module).__module__.split(".")
    return home[0] == "torch" and "quantized" in home and "reference" not in home
