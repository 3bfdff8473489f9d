"""Masks in files and in training: which weights remain, as boolean tensors by parameter name."""

import json
from collections.abc import Callable, Mapping

import safetensors.torch
import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.reading import parse_json
from modeconn.weights.tensor_files import read_tensors

MASK = "mask.safetensors"  # of an artifact that holds a mask
_ORDER = "layers"  # where the order of layers is noted


def mask_to_bytes(mask: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> bytes:
    """Write a mask as a safetensors file of booleans, which any PyTorch code loads."""
    # The format sorts by name, so the network's order of layers is noted.
    notes = {**(notes or {}), _ORDER: json.dumps(list(mask))}
    return safetensors.torch.save({name: kept.cpu().contiguous() for name, kept in mask.items()}, notes)


def mask_from_bytes(content: bytes) -> dict[str, Tensor]:
    """Read the mask that `mask_to_bytes` wrote.

    Raises:
        ValueError: it is no such file.
    """
    return read_mask(content)[0]


def read_mask(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a mask in the order of the network, and what is noted beside them.

    Raises:
        ValueError: it is no such file.
    """
    found, notes = read_tensors(content)
    order = parse_json(notes.get(_ORDER, "[]"), list[str])
    return {name: found[name] for name in dict.fromkeys((*order, *found)) if name in found}, notes


def check_mask(mask: Mapping[str, Tensor], network: nn.Module | Mapping[str, Tensor]) -> None:
    """Refuse a mask that does not fit the network, or its parameters by name.

    Raises:
        NetworkError: names and shapes that do not fit are listed.
    """
    given = network.named_parameters(remove_duplicate=False) if isinstance(network, nn.Module) else network
    parameters = dict(given)
    wrong = []
    for name, kept in mask.items():
        if name not in parameters:
            wrong.append(f"{name} is no parameter of the network")
        elif kept.shape != parameters[name].shape:
            wrong.append(f"{name} is {list(kept.shape)} in the mask and {list(parameters[name].shape)} in the network")
        elif kept.dtype != torch.bool:
            wrong.append(f"{name} is {kept.dtype} in the mask and must be torch.bool")
    if wrong:
        raise NetworkError(f"the mask does not fit the network: {'; '.join(wrong)}")


def mask_enforcer(network: nn.Module, mask: Mapping[str, Tensor]) -> Callable[[], None]:
    """A function that sets the pruned weights of a network to zero, in place; called after every optimizer step.

    Momentum and weight decay move a pruned weight in the step, whatever its gradient; it is zero again before
    anybody sees it.
    """
    check_mask(mask, network)
    parameters = dict(network.named_parameters(remove_duplicate=False))
    held: list[Tensor] = [parameters[name] for name in mask]
    # Times zero or one, in their layout in memory: one call for all, where masked_fill_ would need one for each.
    factors = [torch.empty_like(weight).copy_(mask[name]) for name, weight in zip(mask, held, strict=True)]

    @torch.no_grad()
    def enforce_mask() -> None:
        if held:
            torch._foreach_mul_(held, factors)

    return enforce_mask
