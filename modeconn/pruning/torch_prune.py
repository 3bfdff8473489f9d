"""Masks to and from `torch.nn.utils.prune`, which keeps them as buffers and renames the parameters."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.nn.utils import prune

from modeconn.errors import NetworkError
from modeconn.pruning.masks import Mask
from modeconn.weights.effective import unwrap
from modeconn.weights.masks import check_mask
from modeconn.weights.state_dicts import identity_of, qualified_name


def to_torch_prune(network: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Prune a network by `torch.nn.utils.prune`, in place: `weight = weight_orig * weight_mask`.

    Where several layers share a weight, all of them are pruned. The optimizer's parameters stay the same objects.

    Raises:
        NetworkError: the mask does not fit; names and shapes are listed, and nothing is changed.

    >>> import torch
    >>> network = nn.Sequential(nn.Linear(2, 1, bias=False))
    >>> to_torch_prune(network, {"0.weight": torch.tensor([[True, False]])})
    >>> list(network.state_dict()), from_torch_prune(network)
    (['0.weight_orig', '0.weight_mask'], Mask(1 of 2 weights in 1 layer))
    """
    network = unwrap(network)
    check_mask(mask, network)
    # PyTorch prunes a weight in one layer alone, so each is pruned wherever it is tied.
    places: dict[object, list[tuple[nn.Module, str]]] = {}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            places.setdefault(identity_of(parameter), []).append((module, name))
    parameters = dict(network.named_parameters(remove_duplicate=False))
    for name, kept in mask.items():
        for module, own in places[identity_of(parameters[name])]:
            prune.custom_from_mask(module, own, kept.to(parameters[name].device))


def from_torch_prune(network: nn.Module) -> Mask:
    """Read the mask of a network pruned by `torch.nn.utils.prune`, by its names before; it is left unchanged.

    Layers and biases that were not pruned are not in it; one pruned several times has one mask, of what remains.

    Raises:
        NetworkError: nothing in it was pruned, or a mask holds other numbers than 0 and 1.
    """
    network = unwrap(network)
    found: dict[str, Tensor] = {}
    seen: set[object] = set()
    for name, original, kept in _pruned(network):
        if not bool(((kept == 0) | (kept == 1)).all()):
            raise NetworkError(f"the mask of {name} holds other numbers than 0 and 1; remove it with prune.remove")
        if identity_of(original) not in seen:
            seen.add(identity_of(original))
            found[name] = kept != 0
    if not found:
        raise NetworkError(f"nothing in this {type(network).__name__} was pruned with torch.nn.utils.prune")
    return Mask(found)


def _pruned(network: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Find all pruned tensors: the name before, the unpruned tensor, and its mask."""
    for prefix, module in network.named_modules():
        pruned = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, prune.BasePruningMethod)]
        for own in (hook._tensor_name for hook in pruned):
            yield qualified_name(prefix, own), getattr(module, f"{own}_orig"), getattr(module, f"{own}_mask")
