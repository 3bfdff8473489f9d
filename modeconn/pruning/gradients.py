"""Gradients of the loss of a masked network, batch by batch."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.evaluation.compute import generator_of
from modeconn.evaluation.forward import dtype_of
from modeconn.evaluation.losses import Loss, mean_loss
from modeconn.evaluation.measure import device_of
from modeconn.evaluation.structures import map_tensors, tensors_of
from modeconn.pruning.shared import tie
from modeconn.seeds import mix
from modeconn.weights.plain_copy import plain_copy
from modeconn.weights.shared import shared_memory
from modeconn.weights.state_dicts import identity_of


def masked_copy(
    network: nn.Module, kept: Mapping[str, Tensor], at_least: torch.dtype
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Copy the network and apply the mask; also gives the masked weights, which alone need gradients."""
    shared = shared_memory(dict(network.named_parameters()))
    network = plain_copy(network)
    first: dict[object, nn.Parameter] = {}
    for module in network.modules():
        for own, parameter in list(module.named_parameters(recurse=False)):
            # Tied weights may be two parameters over one storage; made one, it has the gradient of both.
            if first.setdefault(identity_of(parameter), parameter) is not parameter:
                setattr(module, own, first[identity_of(parameter)])
    network._apply(lambda tensor: _at_least(tensor, at_least)).requires_grad_(False)
    parameters = dict(network.named_parameters(remove_duplicate=False))
    weights = {name: parameters[name].masked_fill_(~remains, 0).requires_grad_() for name, remains in kept.items()}
    tie(network, shared)
    return network, weights


def batch_losses(
    network: nn.Module, batches: Iterable[Any], loss: Loss | None, seed: int, temperature: float
) -> Iterator[tuple[int, Tensor]]:
    """Compute for each batch its number of examples and its mean loss; a second pass sees the same dropout."""
    for index, batch in enumerate(batches):
        for generator in (torch.default_generator, generator_of(device_of(network))):
            generator.manual_seed(mix(seed, "dropout", index))
        sizes = [len(tensor) for tensor in tensors_of(batch) if tensor.dim()]
        yield sizes[0] if sizes else 1, mean_loss(network, _fresh(batch, network), loss, temperature)


def gradients_of(value: Tensor, weights: Mapping[str, Tensor], twice: bool = False) -> dict[str, Tensor]:
    """Compute gradients of a value by name; 0 for a layer that it does not depend on."""
    if not value.requires_grad:
        raise NetworkError("the loss does not depend on any weight that could be pruned")
    found = torch.autograd.grad(value, list(weights.values()), create_graph=twice, materialize_grads=True)
    return dict(zip(weights, found, strict=True))


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply elementwise; of complex numbers the products of their parts, summed."""
    return (a.conj() * b).real if a.is_complex() else a * b


def _fresh(batch: Any, network: nn.Module) -> Any:
    """Copy a batch for a network that may modify it in place, in the type that the network computes in."""
    dtype = dtype_of(network) or torch.get_default_dtype()
    return map_tensors(lambda t: t.to(dtype if t.is_floating_point() else t.dtype, copy=True), batch)


def _at_least(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    wide = torch.promote_types(tensor.dtype, dtype)
    return tensor.to(wide) if tensor.is_floating_point() or tensor.is_complex() else tensor
