"""REPAIR (Jordan et al. 2022): give a network on a path the channel statistics of the path's ends.

Averaging two networks averages their channels; where these are not perfectly correlated, the average has less
variance than either ("variance collapse"), more so with every layer. REPAIR rescales every hidden channel.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.analysis.paths.recalibrate import Pool
from modeconn.errors import DataError, NetworkError
from modeconn.evaluation.modes import evaluating

_Forward = Callable[[Any], Any]
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
_NOISE = 1e-6  # of its mean: a channel that varies less than this shows float32's rounding only


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of one layer's output, per channel.

    Attributes:
        mean: float64 [channels].
        std: population standard deviation, float64 [channels].
    """

    mean: Tensor
    std: Tensor


def channel_statistics(
    network: nn.Module, batches: Iterable[Any], forward: _Forward | None = None
) -> dict[str, Statistics]:
    """Mean and standard deviation of every hidden channel over all of the batches, in evaluation mode.

    Args:
        network: unchanged afterwards. Its hidden layers are the convolutions, transposed convolutions, linear and
            BatchNorm layers that are called, except the one called last, which is the output, and except BatchNorm
            layers with an activation inside, such as `timm`'s. Channels are dim 1 of an output, or the last dim of a
            linear layer's.
        batches: passed through once, in order, and never looked into.
        forward: how to pass a batch; the network itself if None.

    Returns:
        By module name, in the order of the first call. A layer called several times pools over its calls; one with
        several names has its first.

    Raises:
        DataError: no batches.

    >>> network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    >>> _ = nn.init.constant_(network[0].weight, 2), nn.init.zeros_(network[0].bias)
    >>> channel_statistics(network, [torch.tensor([[1.0], [3.0]])])
    {'0': Statistics(mean=tensor([4.], dtype=torch.float64), std=tensor([2.], dtype=torch.float64))}
    """
    names = repairable_layers(network)
    with evaluating(network):
        pools, calls = _measure(names, batches, forward or network)
    outputs = {called[-1] for called in calls if called}
    return {names[layer]: _statistics(pool) for layer, pool in pools.items() if layer not in outputs}


def interpolate_statistics(
    a: Mapping[str, Statistics], b: Mapping[str, Statistics], alpha: float
) -> dict[str, Statistics]:
    """The targets on a path: means and standard deviations interpolated linearly (Jordan et al. 2022).

    Layers that were called in one network only have none. At alpha 0 and 1 the targets are `a`'s and `b`'s own;
    beyond, a standard deviation is at least 0.

    Raises:
        NetworkError: a layer with different numbers of channels.

    >>> a, b = (Statistics(torch.tensor([m]), torch.tensor([s])) for m, s in ((0.0, 1.0), (2.0, 5.0)))
    >>> interpolate_statistics({"0": a}, {"0": b}, 0.25)
    {'0': Statistics(mean=tensor([0.5000]), std=tensor([2.]))}
    """
    targets = {}
    for name in (name for name in a if name in b):
        _check(name, a[name], b[name])
        mean, std = (
            torch.lerp(x, y.to(x), alpha) for x, y in ((a[name].mean, b[name].mean), (a[name].std, b[name].std))
        )
        targets[name] = Statistics(mean, std.clamp_min(0))
    return targets


@contextlib.contextmanager
def repaired(
    network: nn.Module,
    batches: Iterable[Any],
    targets: Mapping[str, Statistics],
    forward: _Forward | None = None,
    *,
    exact: bool = False,
) -> Iterator[None]:
    """Inside, hidden channels are rescaled to the targets, their means and standard deviations over the batches.

    Forward hooks do it, which are gone on exit; weights and buffers stay what they are. Inside, the network is in
    evaluation mode. BatchNorm layers are rescaled like others, whatever their running statistics. A channel that does
    not vary has its mean moved.

    As in the authors' code, one pass measures all layers: each is rescaled by a batch's own statistics while the next
    is measured. With one batch this is exact. With more, the result depends slightly on how the examples are divided,
    and comes the nearer to the targets the larger the batches are; `exact` measures layer after layer instead. A second
    pass that refines all layers at once would not help: what it corrects in one layer moves all those behind it.

    A layer called several times for one batch is rescaled by what its calls have in common, which takes a pass for
    each such layer. Where its output comes back to it, it is measured before it is rescaled, and misses its targets.

    Args:
        network: called as `forward(batch)` or, if that is None, `network(batch)`.
        batches: of many examples each; not necessarily gone through once.
        targets: by module name; from `channel_statistics` or `interpolate_statistics`. Other layers are left alone.
        forward: how to pass a batch.
        exact: a pass for every layer, under the final rescaling of those before it.

    Raises:
        NetworkError: a target for what is no such layer, or for another number of channels.
        DataError: no batches, or a layer with one value per channel in every batch.
    """
    names = {layer: name for layer, name in repairable_layers(network).items() if name in targets}
    if missing := sorted(set(targets) - set(names.values())):
        raise NetworkError(f"targets for what is no convolution, linear or BatchNorm layer of the network: {missing}")
    with evaluating(network):
        maps = _solve(names, targets, batches, forward or network, set(names) if exact else set())
        with _hooked(maps, lambda layer, _, output: maps[layer](layer, output)):
            yield


@dataclass(frozen=True, eq=False)
class _Map:
    """An affine map per channel."""

    mean: Tensor
    scale: Tensor
    target: Tensor

    def __call__(self, layer: nn.Module, output: Tensor) -> Tensor:
        values, shape = _at_least_float32(output), (-1, *[1] * _dims_behind_channels(layer, output))
        mean, scale, target = (each.to(values.dtype).view(shape) for each in (self.mean, self.scale, self.target))
        return ((values - mean) * scale + target).to(output.dtype)


def _solve(
    names: Mapping[nn.Module, str],
    targets: Mapping[str, Statistics],
    batches: Iterable[Any],
    forward: _Forward,
    alone: set[nn.Module],
) -> dict[nn.Module, _Map]:
    """The maps to the targets; those of layers `alone` are found one after the other."""
    solved: dict[nn.Module, _Map] = {}

    def towards(layer: nn.Module, now: Statistics) -> _Map:
        target = targets[names[layer]]
        _check(names[layer], now, target)
        varies = now.std > _NOISE * now.mean.abs()
        return _Map(now.mean, torch.where(varies, target.std.to(now.std) / now.std, 1.0), target.mean.to(now.mean))

    def while_measuring(layer: nn.Module, of_this_call: Statistics) -> _Map | None:
        return solved.get(layer) if layer in alone else towards(layer, of_this_call)

    while True:
        pools, calls = _measure(names, batches, forward, while_measuring)
        repeated = {layer for called in calls for layer, count in Counter(called).items() if count > 1}
        if repeated <= alone:
            maps = {layer: towards(layer, _statistics(pool)) for layer, pool in pools.items()} | solved
            following = next((layer for layer in maps if layer in alone and layer not in solved), None)
            if following is None:
                break
            solved[following] = maps[following]
        alone = alone | repeated
    for layer, pool in pools.items():
        if layer not in alone and pool.count == len(calls) and pool.squares.any():
            raise DataError(
                f"layer {names[layer]!r} has one value per channel and batch, which cannot be rescaled by its own "
                "statistics; give batches of many examples"
            )
    return maps


@torch.no_grad()
def _measure(
    layers: Iterable[nn.Module],
    batches: Iterable[Any],
    forward: _Forward,
    mapping: Callable[[nn.Module, Statistics], _Map | None] = lambda layer, of_this_call: None,
) -> tuple[dict[nn.Module, Pool], list[list[nn.Module]]]:
    """Pool outputs before `mapping` changes them, given a call's own statistics; and the layers called per batch."""
    pools: dict[nn.Module, Pool] = {}
    calls: list[list[nn.Module]] = []

    def hook(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        if not output.numel():
            return output
        calls[-1].append(layer)
        channels = output.dim() - _dims_behind_channels(layer, output)
        values = _at_least_float32(output)[None]  # so that there is a dim to average over
        others = [dim for dim in range(values.dim()) if dim != channels]
        # As good as torch.var_mean, and several times faster on CPUs.
        mean = values.mean(others, keepdim=True)
        variance, mean = (values - mean).square_().mean(others).double(), mean.flatten().double()
        n = output.numel() // len(mean)
        pools.setdefault(layer, Pool()).add(mean, variance * n, n)
        change = mapping(layer, Statistics(mean, variance.sqrt()))
        return change(layer, output) if change else output

    with _hooked(layers, hook):
        for batch in batches:
            calls.append([])
            forward(batch)
    if not calls:
        raise DataError("no batches to measure channels on; give what can be gone through again and again")
    return pools, calls


def _statistics(pool: Pool) -> Statistics:
    return Statistics(pool.mean, pool.variance.sqrt())


def repairable_layers(network: nn.Module) -> dict[nn.Module, str]:
    """The convolution, linear and BatchNorm layers, by module; one of them is the output, which is not repaired."""
    return {
        module: name
        for name, module in network.named_modules()
        if (isinstance(module, _LAYERS) or _is_linear(module)) and not _activates(module)
    }


def _is_linear(layer: nn.Module) -> bool:
    # Hugging Face's GPT-2 calls its linear layers so.
    return isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"


def _activates(layer: nn.Module) -> bool:
    children = layer.children() if isinstance(layer, nn.modules.batchnorm._BatchNorm) else ()
    return any(not isinstance(child, nn.Identity) for child in children)


def _dims_behind_channels(layer: nn.Module, output: Tensor) -> int:
    if _is_linear(layer):
        return 0
    # A convolution takes a single image too, without a batch.
    return len(layer.kernel_size) if isinstance(layer, nn.modules.conv._ConvNd) else output.dim() - 2


def _at_least_float32(output: Tensor) -> Tensor:
    return output.to(torch.promote_types(output.dtype, torch.float32))


def _check(name: str, a: Statistics, b: Statistics) -> None:
    if a.mean.shape != b.mean.shape:
        raise NetworkError(f"layer {name!r} has {len(a.mean)} channels here and {len(b.mean)} there")


@contextlib.contextmanager
def _hooked(layers: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Tensor], Tensor]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
