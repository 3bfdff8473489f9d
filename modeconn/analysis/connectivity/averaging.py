"""`average(networks)`: the weighted average of networks' weights, tensor by tensor."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from modeconn.analysis.connectivity.networks import Source, make_network, names_of, origins_of
from modeconn.analysis.paths.linear import all_finite, can_interpolate, compute_dtype, equal_values
from modeconn.errors import NetworkError, OptionError
from modeconn.weights.loadable import loadable
from modeconn.weights.names import match_names
from modeconn.weights.sources import weights_of
from modeconn.weights.state_dicts import Weights

_SUM = 1e-6  # how far from 1 the sum of given weights may be


def average(
    networks: Sequence[Source],
    weights: Sequence[float] | None = None,
    *,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    names: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
) -> dict[str, Tensor]:
    """The weighted average of networks, tensor by tensor, as a state dict: sum over i of w_i theta_i.

    Floating-point and complex tensors are averaged in at least float32 and then take the networks' type, or the widest
    of theirs. Where all networks are equal, the average is bit for bit what they are; of two, it is the middle of
    the path of `modeconn.error_barrier`. Networks of weight 0 are not read. No network is built and the caller's are
    left unchanged: memory holds the result and a few tensors, however many networks are read from files.

    Running statistics of BatchNorm are averaged like weights, which is not what they should be at the average:
    measure them anew, as `modeconn.soup` does.

    Args:
        networks: at least one, each as `modeconn.error_barrier` takes it: modules, state dicts, files, Hugging Face
            folders, stored runs.
        weights: one for each, not negative, with a sum of 1; all equal if None.
        model: a module of the architecture, or a function that makes one; the tensors get its names. If None, they get
            those of the first module among the networks, or else of the first network.
        names: what messages call the networks.
        data_dir: folder of data sets, for folders of stored runs.

    Returns:
        By name, where the first network's tensors are and sharing memory with no network. Tied tensors are one tensor
        under each of their names. Weights that `weight_norm` normalizes are given by the length and direction that it
        keeps; what masks, spectral normalization and other parametrizations compute, by its effective name. Integer
        and boolean tensors are the first network's, not averaged; where another's differ, a warning names them.

    Raises:
        OptionError: no networks, or weights that are no such weights.
        NetworkError: networks that do not fit together, or weights that are NaN or infinite, by name.

    >>> a, b, middle = (nn.Linear(2, 1) for _ in range(3))
    >>> keys = middle.load_state_dict(average([a, b], weights=[0.25, 0.75]))
    >>> torch.allclose(middle.weight, 0.25 * a.weight + 0.75 * b.weight)
    True
    """
    sources = listed(networks)
    shares = _shares(weights, len(sources))
    original = original_of(sources, model)
    fitted = _fitted(sources, original, names, data_dir)
    averaged = [one for one, share in zip(fitted, shares, strict=True) if share]
    mean = mean_of(averaged, [share for share in shares if share])
    state: dict[str, Tensor] = {}
    for name in mean.layout:
        twin = mean.aliases.get(name)
        state[name] = state[twin] if twin in state else mean.read(name).to(_common_dtype(averaged, name))
    for note in notes_on_integers(averaged):
        warnings.warn(note, stacklevel=2)
    return state if original is None else loadable(state, original)


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
        raise OptionError(f"networks must be a list of networks; got one {type(networks).__name__}")
    sources = list(networks)
    if not sources:
        raise OptionError("there are no networks to average; give a list of at least one")
    return sources


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    try:
        shares = [float(weight) for weight in weights]
    except (TypeError, ValueError) as error:
        raise OptionError(f"weights must be {count} numbers, one for each network; got {weights!r}") from error
    if len(shares) != count:
        raise OptionError(f"weights must be {count} numbers, one for each network; got {len(shares)}")
    if not all(0 <= share < math.inf for share in shares) or abs(math.fsum(shares) - 1) > _SUM:
        raise OptionError(f"weights must not be negative and have a sum of 1; got {shares}")
    return shares


def _fitted(
    sources: Sequence[Source],
    original: nn.Module | None,
    names: Sequence[str] | None,
    data_dir: str | Path | None,
) -> list[Weights]:
    """The weights of each by the same names, without a network to put them into."""
    called = names_of(sources, names)
    _, origins = origins_of(sources, called, data_dir)
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
        yield f"integers are not averaged; of those that differ, {first.origin}'s are used: {', '.join(names)}"


def _mean_dtype(networks: Sequence[Weights], name: str) -> torch.dtype:
    """The type to average in; that of integers, which are not averaged."""
    first = networks[0].layout[name]
    if not can_interpolate(first):
        return first.dtype
    return compute_dtype(*(network.layout[name].dtype for network in networks))


def _common_dtype(networks: Sequence[Weights], name: str) -> torch.dtype:
    """The type of an average: that of all networks, or one that is wide enough for all."""
    dtypes = {network.layout[name].dtype for network in networks}
    return dtypes.pop() if len(dtypes) == 1 else _mean_dtype(networks, name)
