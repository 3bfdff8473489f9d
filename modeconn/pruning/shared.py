"""Weights that are one in memory though they are not equal tensors: copied so, and computed from one another."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from modeconn.errors import NetworkError
from modeconn.weights.effective import effective_reads, unwrap
from modeconn.weights.plain_copy import plain_copy
from modeconn.weights.shared import repeated_dims, shared_memory
from modeconn.weights.state_dicts import qualified_name, state_tensors


def plain_copy_sharing(network: nn.Module, device: torch.device | None = None) -> nn.Module:
    """Copy a network as `plain_copy` does, on a device, with its weights sharing memory as they do in the original.

    Raises:
        NetworkError: as `plain_copy` and `shared_memory`.
    """
    replica = plain_copy(network)
    replica = replica if device is None else replica.to(device)
    network = unwrap(network)
    copies = dict(replica.named_parameters(remove_duplicate=False))
    stored, _ = effective_reads(network, state_tensors(network).__getitem__)
    originals = {name: give() for name, give in stored.items() if name in copies}
    for name, (first, _) in shared_memory(originals).items():
        one, base, copied = originals[name], originals[first], copies[first]
        offset = copied.storage_offset() + one.storage_offset() - base.storage_offset()
        if copied.stride() != base.stride():
            raise NetworkError(f"{first} and {name} share memory of which they are parts; make them two tensors")
        copies[name].data = copied.data.as_strided(one.shape, one.stride(), offset)
    for name, one in originals.items():
        if any(repeated := repeated_dims(one)):
            first_of = tuple(slice(0, 1) if again else slice(None) for again in repeated)
            copies[name].data = copies[name].data[first_of].expand(one.shape)
    return replica


def tie(network: nn.Module, shared: Mapping[str, tuple[str, Tensor]]) -> None:
    """Compute weights of a network from others, in place: so these get the gradients of all their places."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    for prefix, module in list(network.named_modules()):
        for own, _ in list(module.named_parameters(recurse=False)):
            if (name := qualified_name(prefix, own)) in shared:
                first, places = shared[name]
                parametrize.register_parametrization(module, own, _Tied(parameters[first], places), unsafe=True)


class _Tied(nn.Module):
    def __init__(self, first: Tensor, places: Tensor) -> None:
        super().__init__()
        self._first = [first]  # in a list, so that it is no parameter of this module too
        self._places = places.to(first.device)

    def forward(self, _: Tensor) -> Tensor:
        return self._first[0].flatten()[self._places]
