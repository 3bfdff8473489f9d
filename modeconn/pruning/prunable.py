"""Weights of anyone's network that can be pruned: no biases, no normalization layers, no embeddings."""

import re

import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.weights.shared import refuse_expanded, shared_memory
from modeconn.weights.state_dicts import identity_of, qualified_name

_LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # of nn.MultiheadAttention
_LEFT_ALONE = re.compile(r"(Norm(\d+d)?|Embed(ding)?(Bag)?)$")  # somebody's own layers, by what they are called


def prunable(network: nn.Module) -> dict[str, Tensor]:
    """List the parameters of a network that can be pruned, by name, in the network's order.

    These are the weights of linear, bilinear, convolution and transposed convolution layers, the projections of
    `nn.MultiheadAttention`, and what other layers call `weight`, if it has two dims or more (GPT-2's linear layers).
    Not of embeddings and of normalization layers; somebody's own are known by a class name that ends in `Norm`,
    `Norm2d`, `Embed` or `Embedding`. Biases are never pruned, nor are weights of recurrent layers. A weight that
    several layers share, if transposed, is there once, by its first name; one that is an embedding too is not.

    Args:
        network: without masks and parametrizations, as `plain_copy` gives it. Not changed.

    Raises:
        NetworkError: scripted layers, weights that repeat their numbers, or that share some of them with others.

    >>> list(prunable(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Embedding(9, 2), nn.Linear(4, 2))))
    ['0.weight', '3.weight']
    """
    modules = dict(network.named_modules())
    if scripted := [name for name, module in modules.items() if isinstance(module, torch.jit.ScriptModule)]:
        where = f"layer {scripted[0]}" if scripted[0] else "the network"
        raise NetworkError(
            f"{where} is scripted, so that kinds of layers cannot be told apart; find the mask on the module it was "
            "made from, which fits this one too"
        )
    embeddings = [module for module in modules.values() if _is_embedding(module)]
    # Tied weights are seen once; what is an embedding too counts as seen from the start.
    seen = {identity_of(own) for module in embeddings for own in module.parameters(recurse=False)}
    found: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters(recurse=False):
            if _is_prunable(module, name, parameter) and identity_of(parameter) not in seen:
                seen.add(identity_of(parameter))
                found[qualified_name(prefix, name)] = parameter
    own = dict(network.named_parameters())
    of_embeddings = {name for name, parameter in own.items() if identity_of(parameter) in seen and name not in found}
    for name, (first, _) in shared_memory(own).items():
        found.pop(name, None)
        if name in of_embeddings:
            found.pop(first, None)
    refuse_expanded(found)
    return found


def everything(network: nn.Module) -> dict[str, Tensor]:
    """The mask that keeps every `prunable` weight, on the network's device.

    Raises:
        NetworkError: nothing is.
    """
    weights = prunable(network)
    if not weights:
        raise NetworkError(f"{type(network).__name__} has no weights that can be pruned: no linear or conv layer")
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def _is_prunable(module: nn.Module, name: str, parameter: Tensor) -> bool:
    if isinstance(module, _LAYERS):
        return name == "weight"
    if isinstance(module, nn.MultiheadAttention):
        return name in _PROJECTIONS
    return name == "weight" and parameter.dim() >= 2 and not _is_normalization(module)


def _is_embedding(module: nn.Module) -> bool:
    # A convolution that embeds patches is a convolution.
    return _ends_in(module, "Embed") and not isinstance(module, _LAYERS)


def _is_normalization(module: nn.Module) -> bool:
    return _ends_in(module, "Norm")


def _ends_in(module: nn.Module, word: str) -> bool:
    """Whether the name of a module's class, or of one that it derives from, ends in a word."""
    names = (_LEFT_ALONE.search(kind.__name__) for kind in type(module).__mro__)
    return any(found and found[0].startswith(word) for found in names)
