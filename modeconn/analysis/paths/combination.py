"""Linear combinations of networks' weights: the points of curves, planes and random directions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from modeconn.analysis.paths.linear import can_interpolate, compute_dtype, equal_values
from modeconn.weights.state_dicts import Weights


def combination(
    networks: Sequence[Weights], coefficients: Sequence[float], origin: str = "a point between networks"
) -> Weights:
    """The sum of c_i w_i over networks with the same names, each tensor computed when it is read.

    Networks whose coefficient is 0 are not read, so that a single coefficient of 1 gives that network to the bit. What
    is not interpolated, integers and booleans, is the first network's.

    Args:
        networks: at least one; also differences of networks, as directions.
        coefficients: of each, of any sign.
        origin: what messages call it.

    >>> a, b = (Weights({"w": torch.empty(2, device="meta")}, {"w": t}.__getitem__, "") for t in torch.eye(2))
    >>> combination([a, b], [0.25, 0.75]).read("w")
    tensor([0.2500, 0.7500])
    """
    first = networks[0]
    used = [(network, float(c)) for network, c in zip(networks, coefficients, strict=True) if c != 0]
    if [c for _, c in used] == [1.0]:
        return used[0][0]

    def dtype(name: str) -> torch.dtype:
        tensors = [network.layout[name] for network in networks]
        return compute_dtype(*(t.dtype for t in tensors)) if can_interpolate(tensors[0]) else tensors[0].dtype

    layout = {name: torch.empty_like(shape, dtype=dtype(name)) for name, shape in first.layout.items()}
    return Weights(layout, lambda name: _combine(first, used, name, layout[name].dtype), origin, aliases=first.aliases)


@torch.no_grad()
def _combine(first: Weights, used: Sequence[tuple[Weights, float]], name: str, dtype: torch.dtype) -> Tensor:
    if not can_interpolate(first.layout[name]):
        return first.read(name)
    if not used:
        return torch.zeros_like(first.read(name), dtype=dtype)
    tensors = [network.read(name) for network, _ in used]
    # Equal infinities, as in a mask for attention, would differ by NaN.
    if math.isclose(sum(c for _, c in used), 1) and all(equal_values(tensors[0], other) for other in tensors[1:]):
        return tensors[0].to(dtype)
    total = tensors[0].to(dtype) * used[0][1]
    for tensor, (_, c) in zip(tensors[1:], used[1:], strict=True):
        total.add_(tensor.to(total.device, dtype), alpha=c)
    return total
