"""Copies of anyone's network with plain names and effective weights; the original is left unchanged."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, SpectralNormStateDictHook
from torch.nn.utils.weight_norm import WeightNorm

from modeconn.errors import NetworkError
from modeconn.weights.computed import computed_tensors, detached, final_tensors, value_of
from modeconn.weights.effective import effective_reads, inside, refuse_without_shapes, unwrap
from modeconn.weights.shared import repeated_dims
from modeconn.weights.state_dicts import identity_of, state_tensors

_HOOKS = (
    *(prune.BasePruningMethod, WeightNorm),
    *(SpectralNorm, SpectralNormStateDictHook, SpectralNormLoadStateDictPreHook),
)


@torch.no_grad()
def plain_copy(network: nn.Module) -> nn.Module:
    """Copy a network without its wrappers, masks and parametrizations: plain names, effective weights.

    Masks of `torch.nn.utils.prune`, parametrizations, and weight and spectral normalization are made permanent,
    with the values they have in evaluation mode: the vectors of spectral normalization do not move. Wrapped
    submodules are unwrapped too. Tied tensors stay tied; modes, `requires_grad` and the caller's own hooks are kept;
    gradients are not carried. The original is left unchanged.

    Raises:
        NetworkError: not a module, or one that cannot be copied.

    >>> layer = prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5)
    >>> list(layer.state_dict()), list(plain_copy(layer).state_dict())
    (['bias', 'weight_orig', 'weight_mask'], ['bias', 'weight'])
    """
    network = unwrap(network)
    refuse_without_shapes(network, type(network).__name__)
    try:
        memo = _prepared_memo(network)
        # To deepcopy, the copy of a wrapper is the copy of what it wraps; the innermost wrappers first.
        for module in reversed(list(network.modules())):
            if inside(module) is not None:
                memo[id(module)] = copy.deepcopy(unwrap(module), memo)
        replica = copy.deepcopy(network, memo)
    except Exception as error:
        raise NetworkError(
            f"{type(network).__name__} cannot be copied ({type(error).__name__}: {error}); give a plain module with "
            "its weights or, to measure these, its state dict with model= a function that builds it"
        ) from error
    for module in list(replica.modules()):
        _make_permanent(module)
    return replica


def is_plain(network: nn.Module) -> bool:
    """Whether a network is what `plain_copy` would make: no wrapper, mask, parametrization or expanded tensor in it."""
    for tensor in (*network.parameters(), *network.buffers()):
        if nn.parameter.is_lazy(tensor) or any(repeated_dims(tensor)):  # a copy refuses what has no shape yet
            return False
    return all(inside(module) is None and not computed_tensors(module) for module in network.modules())


def _prepared_memo(network: nn.Module) -> dict[int, Any]:
    """A memo for deepcopy: what to take for tensors that it cannot copy, would untie, or need not copy."""
    memo = detached(network)
    state = state_tensors(network)
    stored, _ = effective_reads(network, state.__getitem__)
    plain = {identity_of(give()) for give in stored.values()}
    for tensor in state.values():
        if identity_of(tensor) not in plain:
            memo[id(tensor)] = tensor  # only read, to compute an effective weight, and then dropped
    # An expanded tensor, whose entries are one number in memory, cannot be written to: its copy has them apart.
    for tensor in (*network.parameters(), *network.buffers()):
        if any(repeated_dims(tensor)) and id(tensor) not in memo:
            apart = tensor.detach().clone(memory_format=torch.contiguous_format)
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(apart, requires_grad=tensor.requires_grad) if is_parameter else apart
    # Two parameters over one storage would be copied apart; their copies are made to share one again.
    first: dict[object, Tensor] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        twin = first.setdefault(identity_of(tensor), tensor)
        if twin is not tensor and id(tensor) not in memo:
            shared = copy.deepcopy(twin, memo).detach()
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(shared, requires_grad=tensor.requires_grad) if is_parameter else shared
    return memo


def _make_permanent(module: nn.Module) -> None:
    """Replace computed tensors by their values, in place, and remove all that computed them."""
    computed = computed_tensors(module)
    if not computed:
        return
    state = state_tensors(module)
    values = {}
    for name, stored in final_tensors(computed).items():
        # A copy: a parametrization that changes nothing gives the tensor it was given.
        value = value_of(computed, name, lambda own: state[own].detach()).clone()
        # A parameter if any of the tensors behind it is one, and trained if any of these is.
        is_parameter = any(isinstance(state[own], nn.Parameter) for own in stored)
        trained = any(state[own].requires_grad for own in stored)
        values[name] = nn.Parameter(value, requires_grad=trained) if is_parameter else value
    _remove_hooks(module)
    if parametrize.is_parametrized(module):
        # PyTorch's own removal deletes the property from the class, which copies share: it would break the caller's.
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module._modules["parametrizations"]
    for name in {need for tensor in computed.values() for need in tensor.needs} | set(computed):
        for home in (module._parameters, module._buffers, vars(module)):
            home.pop(name, None)
    for name, value in values.items():
        if isinstance(value, nn.Parameter):
            setattr(module, name, value)  # recurrent layers keep a list of their weights, which this updates
        else:
            module.register_buffer(name, value)


def _remove_hooks(module: nn.Module) -> None:
    # PyTorch's own removal of spectral normalization leaves a hook that makes loading a state dict fail.
    for hooks in (module._forward_pre_hooks, module._state_dict_hooks, module._load_state_dict_pre_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "hook", hook), _HOOKS):
                del hooks[key]
