"""The weighted average of networks' weights, tensor by tensor, and what networks must have for one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.analysis.connectivity.networks import Source, make_network, names_of, origins_of
from modeconn.analysis.paths.linear import all_finite, can_interpolate, compute_dtype, equal_values
from modeconn.errors import NetworkError, OptionError
from modeconn.weights.names import match_names
from modeconn.weights.sources import weights_of
from modeconn.weights.state_dicts import Weights

_SHOWN = 10  # integer tensors in a note: a network has as many counters as it has BatchNorm layers


def mean_of(networks: Sequence[Weights], shares: Sequence[float] | None = None) -> Weights:
    """The weighted average of networks with the same names, each tensor computed when it is read.

    Args:
        networks: at least one.
        shares: of each, positive; equal if None.

    Returns:
        Not rounded: tensors are at least float32. Integers are the first network's.
    """
    parts = [1.0] * len(networks) if shares is None else shares
    first = networks[0]
    layout = {name: torch.empty_like(shape, dtype=_mean_dtype(networks, name)) for name, shape in first.layout.items()}
    return Weights(layout, lambda name: _mean(networks, parts, name), "the average", aliases=first.aliases)


def original_of(sources: Sequence[Source], model: nn.Module | Callable[[], nn.Module] | None) -> nn.Module | None:
    """The network whose names an average gets: that of `model=`, or the first module among the networks, if any."""
    if model is None:
        return next((source for source in sources if isinstance(source, nn.Module)), None)
    with torch.random.fork_rng(devices=[]):
        return make_network(model)


def listed(networks: Sequence[Source]) -> list[Source]:
    """Networks to average.

    Raises:
        OptionError: none, or one that is not in a list.
    """
    if isinstance(networks, nn.Module | Mapping | str | Path):
        raise OptionError(
            f"networks must be a folder of checkpoints, or a list of networks; got one {type(networks).__name__}"
        )
    sources = list(networks)
    if not sources:
        raise OptionError("there are no networks to average; give a list of at least one")
    return sources


def fitted(
    sources: Sequence[Source],
    original: nn.Module | None,
    names: Sequence[str] | None,
    data_dir: str | Path | None,
    key: str | None = None,
    base: Any = None,
) -> list[Weights]:
    """The weights of each by the same names, without a network to put them into.

    Args:
        sources: the networks.
        original: one whose names they get; those of the first if None.
        names: what messages call them.
        data_dir: folder of data sets, for folders of stored runs.
        key: of the state dict in files that have several.
        base: the base model of adapters, or a function that makes it, where they do not name its folder.
    """
    called = names_of(sources, names)
    _, origins = origins_of(sources, called, data_dir, base, key)
    like = origins[0] if original is None else weights_of(original, "the network")
    # No network to put them into: names, shapes and ties are all that matters. Tied tensors are one object.
    shapes = {name: like.layout[like.aliases.get(name, name)] for name in like.layout}
    return [match_names(origin, shapes, name, original) for origin, name in zip(origins, called, strict=True)]


@torch.no_grad()
def _mean(networks: Sequence[Weights], shares: Sequence[float], name: str) -> Tensor:
    """One tensor of the average: a tensor of its own, at least float32.

    The mean moves towards each next network, mean += (x - mean) w / (sum of weights so far). Unlike a sum of products,
    it stays what it is where networks are equal.
    """
    first = networks[0].read(name)
    if not can_interpolate(first):
        return first.clone()
    mean = first.to(_mean_dtype(networks, name), copy=True)
    moved = False
    total = shares[0]
    for network, share in zip(networks[1:], shares[1:], strict=True):
        tensor = network.read(name)
        total += share
        # Equal infinities, as in a mask for attention, would differ by NaN.
        if moved or not equal_values(first, tensor):
            mean.lerp_(tensor.to(mean.device, mean.dtype), share / total)
            moved = True
        del tensor
    if moved and not bool(mean.isfinite().all()):
        bad = [one.origin for one in networks if not all_finite(one.read(name))]
        raise NetworkError(f"weights are NaN or infinite: {', '.join(f'{name} in {origin}' for origin in bad)}")
    return mean


def notes_on_integers(networks: Sequence[Weights]) -> Iterator[str]:
    """A note that names the integer tensors that differ, as they are not averaged; none if none do."""
    first = networks[0]
    names = [
        name
        for name, shape in first.layout.items()
        if not can_interpolate(shape)
        and not all(equal_values(first.read(name), other.read(name)) for other in networks[1:])
    ]
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        shown = ", ".join(names[:_SHOWN]) + more
        yield f"integers are not averaged; of those that differ, {first.origin}'s are used: {shown}"


def _mean_dtype(networks: Sequence[Weights], name: str) -> torch.dtype:
    """The type to average in; that of integers, which are not averaged."""
    first = networks[0].layout[name]
    if not can_interpolate(first):
        return first.dtype
    return compute_dtype(*(network.layout[name].dtype for network in networks))


def dtype_of_mean(networks: Sequence[Weights], name: str) -> torch.dtype:
    """The type of an average: that of all networks, or one that is wide enough for all."""
    dtypes = {network.layout[name].dtype for network in networks}
    return dtypes.pop() if len(dtypes) == 1 else _mean_dtype(networks, name)
