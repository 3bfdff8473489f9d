"""Tensors that a module computes from others: pruned, normalized and parametrized weights.

`torch.nn.utils.prune`, weight and spectral normalization, and parametrizations keep other tensors in the state dict
(`weight_orig` and `weight_mask`, `weight_g` and `weight_v`, ...) and compute `weight` from them. Here it is computed
the same way, without a forward pass and without a change to the module.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from modeconn.weights.state_dicts import state_tensors


@dataclass(frozen=True)
class Computed:
    """A tensor that a module computes from others.

    Attributes:
        needs: names of the tensors that it is computed from, stored or computed, in the module's state dict.
        compute: gives the tensor, from a mapping with these.
    """

    needs: tuple[str, ...]
    compute: Callable[[Mapping[str, Tensor]], Tensor]


def computed_tensors(module: nn.Module) -> dict[str, Computed]:
    """The tensors of a module that pre-forward hooks (pruning, weight and spectral norm) or parametrizations compute.

    What a tensor needs may be computed as well, as where the direction `weight_v` of a weight normalization is pruned.
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
            method = partial(hook.compute_weight, do_power_iteration=False)  # as in evaluation mode: u and v stay
        else:  # a hook of the caller's own
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
    """The computed tensors that no other is computed from, each with the stored tensors that it comes from."""

    def behind(name: str) -> list[str]:
        return [name] if name not in computed else [own for need in computed[name].needs for own in behind(need)]

    inner = {need for tensor in computed.values() for need in tensor.needs}
    return {name: behind(name) for name in computed if name not in inner}


@torch.no_grad()
def value_of(computed: Mapping[str, Computed], name: str, read: Callable[[str], Tensor]) -> Tensor:
    """A tensor of a module by its name there: computed, with all that it needs, or else read."""
    if name not in computed:
        return read(name)
    tensor = computed[name]
    return tensor.compute({need: value_of(computed, need, read) for need in tensor.needs}).detach()


def detached(network: nn.Module) -> dict[int, Any]:
    """A memo for `copy.deepcopy`, which refuses tensors with a gradient history: they are copied without it."""
    memo: dict[int, Any] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.layout not in (torch.strided, torch.sparse_coo):  # which deepcopy cannot copy
            memo[id(tensor)] = tensor.detach().clone()
    for module in network.modules():
        computed = computed_tensors(module)
        for name, value in vars(module).items():
            if name in computed and isinstance(value, Tensor):
                memo[id(value)] = value.detach()  # not copied: a hook replaces it before every forward pass
            else:
                memo |= {id(tensor): tensor.detach().clone() for tensor in with_history(value)}
    return memo


def _by_hook(method: Callable[[Any], Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    """Compute a tensor by a hook's method. It looks up tensors of a module and nothing else, so a namespace will do."""
    return method(SimpleNamespace(**tensors))


def _apply(chain: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Compute a tensor by a copy of its parametrizations, in evaluation mode, with the given tensors for their own."""
    own = state_tensors(chain)
    # deepcopy takes what its memo has for an object, here the given tensor, instead of a copy.
    memo = detached(chain) | {id(tensor): tensors[prefix + name] for name, tensor in own.items()}
    return copy.deepcopy(chain, memo).eval()()


def with_history(value: object) -> Iterator[Tensor]:
    """The tensors with a gradient history in a value, which `copy.deepcopy` refuses to copy."""
    if isinstance(value, Tensor) and not value.is_leaf:
        yield value
    elif isinstance(value, dict | list | tuple | set):
        for item in value.values() if isinstance(value, dict) else value:
            yield from with_history(item)
