"""REPAIR (Jordan et al. 2022): give a network on a path the channel statistics of the path's ends.

Averaging two networks averages their channels; where these are not perfectly correlated, the average has less
variance than either ("variance collapse"), more so with every layer. REPAIR rescales every hidden channel X_alpha of
the network at alpha, by a map x -> (x - E[X_alpha]) scale + shift, so that over the calibration data

    E[X_alpha] = (1 - alpha) E[X_a] + alpha E[X_b]    and    std(X_alpha) = (1 - alpha) std(X_a) + alpha std(X_b).
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from modeconn.analysis.paths.recalibrate import PooledVariance
from modeconn.analysis.paths.repair_layers import RepairedLayers, is_linear, repairable_layers
from modeconn.errors import DataError, NetworkError
from modeconn.evaluation.modes import evaluating, padded
from modeconn.evaluation.structures import at_least_float32

_Forward = Callable[[Any], Any]
_NOISE = 1e-6  # of its mean: a channel that varies less than this shows float32's rounding only


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and standard deviation of one layer's output, per channel.

    Attributes:
        mean: float64 [channels].
        std: population standard deviation, float64 [channels].
    """

    mean: Tensor
    std: Tensor


def channel_statistics(
    network: nn.Module,
    batches: Iterable[Any],
    forward: _Forward | None = None,
    repaired_layers: RepairedLayers | None = None,
) -> dict[str, Statistics]:
    """Mean and standard deviation of every hidden channel over all of the batches, in evaluation mode.

    Args:
        network: unchanged afterwards. Channels are dim 1 of an output, or the last dim of a linear layer's.
        batches: passed through once, in order, and never looked into.
        forward: how to pass a batch; the network itself if None.
        repaired_layers: of this network; its convolution, linear and BatchNorm layers if None. The one that is called
            last, the output, is left out if they say so.

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
    of = repaired_layers or RepairedLayers(repairable_layers(network), output=False, note="")
    names = of.layers
    with evaluating(network), padded(network, names):
        measured, calls = _measure(names, batches, forward or network)
    outputs = set() if of.output else {called[-1] for called in calls if called}
    return {names[layer]: _statistics(pooled) for layer, pooled in measured.items() if layer not in outputs}


def interpolate_statistics(
    a: Mapping[str, Statistics], b: Mapping[str, Statistics], alpha: float
) -> dict[str, Statistics]:
    """The targets on a path: (1 - alpha) a + alpha b of means and of standard deviations (Jordan et al. 2022).

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
        _check_channels(name, a[name], b[name])
        mean = torch.lerp(a[name].mean, b[name].mean.to(a[name].mean), alpha)
        std = torch.lerp(a[name].std, b[name].std.to(a[name].std), alpha)
        targets[name] = Statistics(mean, std.clamp_min(0))
    return targets


@contextlib.contextmanager
def repaired(
    network: nn.Module,
    batches: Iterable[Any],
    targets: Mapping[str, Statistics],
    forward: _Forward | None = None,
    repaired_layers: RepairedLayers | None = None,
    *,
    exact: bool = False,
) -> Iterator[None]:
    """Context in which hidden channels have the targets' means and standard deviations over the batches.

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
        repaired_layers: of this network, as for `channel_statistics`.
        exact: a pass for every layer, under the final rescaling of those before it.

    Raises:
        NetworkError: a target for what is no such layer, or for another number of channels.
        DataError: no batches, or a layer with one value per channel in every batch.
    """
    layers = repaired_layers.layers if repaired_layers else repairable_layers(network)
    names = {layer: name for layer, name in layers.items() if name in targets}
    if missing := sorted(set(targets) - set(names.values())):
        raise NetworkError(f"targets for what is no convolution, linear or BatchNorm layer of the network: {missing}")
    with evaluating(network), padded(network, names):
        rescalings = _solve(names, targets, batches, forward or network, set(names) if exact else set())
        with _hooked(rescalings, lambda layer, _, output: rescalings[layer](layer, output)):
            yield


@dataclass(frozen=True, eq=False)
class _Rescaling:
    """The map x -> (x - mean) scale + shift of each channel; all float64 [channels]."""

    mean: Tensor
    scale: Tensor
    shift: Tensor

    def __call__(self, layer: nn.Module, output: Tensor) -> Tensor:
        values, shape = at_least_float32(output), (-1, *[1] * _dims_behind_channels(layer, output))
        mean, scale, shift = (each.to(values.dtype).view(shape) for each in (self.mean, self.scale, self.shift))
        return ((values - mean) * scale + shift).to(output.dtype)


def _solve(
    names: Mapping[nn.Module, str],
    targets: Mapping[str, Statistics],
    batches: Iterable[Any],
    forward: _Forward,
    alone: set[nn.Module],
) -> dict[nn.Module, _Rescaling]:
    """The rescaling of each layer to its target; those of layers `alone` are found one after the other."""
    solved: dict[nn.Module, _Rescaling] = {}  # of those alone, so far

    def towards_target(layer: nn.Module, now: Statistics) -> _Rescaling:
        target = targets[names[layer]]
        _check_channels(names[layer], now, target)
        varies = now.std > _NOISE * now.mean.abs()
        scale = torch.where(varies, target.std.to(now.std) / now.std, 1.0)  # a dead channel has its mean moved
        return _Rescaling(now.mean, scale, target.mean.to(now.mean))

    def meanwhile(layer: nn.Module, of_this_call: Statistics) -> _Rescaling | None:
        # So that the layers behind see, approximately, what they will see in the end.
        return solved.get(layer) if layer in alone else towards_target(layer, of_this_call)

    while True:
        # 1. One pass over the batches measures every layer, under the rescaling of those before it.
        measured, calls = _measure(names, batches, forward, meanwhile)
        # 2. A layer that is called several times for a batch has no statistics of one call: it must be solved alone.
        repeated = {layer for called in calls for layer, count in Counter(called).items() if count > 1}
        if not repeated <= alone:
            alone = alone | repeated
            continue
        # 3. The first of those alone, in the order of their calls, that is not solved yet is now: what it gets is
        #    final. The others behind it are measured again.
        rescalings = {layer: towards_target(layer, _statistics(of)) for layer, of in measured.items()} | solved
        following = next((layer for layer in rescalings if layer in alone and layer not in solved), None)
        if following is None:
            break
        solved[following] = rescalings[following]
    for layer, of in measured.items():
        if layer not in alone and of.count == len(calls) and of.squares.any():
            raise DataError(
                f"layer {names[layer]!r} has one value per channel and batch, which cannot be rescaled by its own "
                "statistics; give batches of many examples"
            )
    return rescalings


@torch.no_grad()
def _measure(
    layers: Iterable[nn.Module],
    batches: Iterable[Any],
    forward: _Forward,
    rescaling: Callable[[nn.Module, Statistics], _Rescaling | None] = lambda layer, of_this_call: None,
) -> tuple[dict[nn.Module, PooledVariance], list[list[nn.Module]]]:
    """Pass the batches through the network once, and pool each layer's outputs before they are rescaled.

    Args:
        layers: to measure.
        batches: network inputs.
        forward: how to pass one.
        rescaling: from a layer and the statistics of one call to what its output becomes; None to leave it.

    Returns:
        By layer, in the order of the first call; and the layers that were called for each batch.
    """
    pooled: dict[nn.Module, PooledVariance] = {}
    calls: list[list[nn.Module]] = []

    def hook(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        if output.is_nested:
            raise DataError(
                f"the output of {type(layer).__name__} is a nested tensor, whose channels cannot be measured; give "
                "padded batches"
            )
        if not output.numel():
            return output
        calls[-1].append(layer)
        channels = output.dim() - _dims_behind_channels(layer, output)
        values = at_least_float32(output)[None]  # so that there is a dim to average over
        others = [dim for dim in range(values.dim()) if dim != channels]
        # As good as torch.var_mean, and several times faster on CPUs.
        mean = values.mean(others, keepdim=True)
        variance, mean = (values - mean).square_().mean(others).double(), mean.flatten().double()
        n = output.numel() // len(mean)
        pooled.setdefault(layer, PooledVariance()).add(mean, variance * n, n)
        rescale = rescaling(layer, Statistics(mean, variance.sqrt()))
        return rescale(layer, output) if rescale else output

    with _hooked(layers, hook):
        for batch in batches:
            calls.append([])
            forward(batch)
    if not calls:
        raise DataError("no batches to measure channels on; give what can be gone through again and again")
    return pooled, calls


def _statistics(pooled: PooledVariance) -> Statistics:
    return Statistics(pooled.mean, pooled.variance.sqrt())


def _dims_behind_channels(layer: nn.Module, output: Tensor) -> int:
    if is_linear(layer):
        return 0
    if isinstance(layer, _ConvNd):
        return len(layer.kernel_size)  # it takes a single image too, without a batch
    # BatchNorm, or a block: of convolutions, or of linear layers alone.
    of_channels = isinstance(layer, _BatchNorm) or any(isinstance(part, _ConvNd) for part in layer.modules())
    return output.dim() - 2 if of_channels else 0


def _check_channels(name: str, a: Statistics, b: Statistics) -> None:
    if a.mean.shape != b.mean.shape:
        raise NetworkError(f"layer {name!r} has {len(a.mean)} channels here and {len(b.mean)} there")


@contextlib.contextmanager
def _hooked(layers: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Tensor], Tensor]) -> Iterator[None]:
    with contextlib.ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(hook))
        yield
