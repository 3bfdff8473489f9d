"""Re-estimating the running statistics of normalization layers for weights that no training has visited."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from modeconn.errors import NetworkError
from modeconn.evaluation.modes import evaluating, running_statistics_layers
from modeconn.evaluation.structures import at_least_float32


@torch.no_grad()
def recalibrate(
    network: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], Any] | None = None,
    *,
    skip: Collection[str] = (),
    thaw: bool = False,
) -> tuple[str, ...]:
    """Replace running means and variances by those over all of the given batches, in place.

    Only normalization layers are in training mode meanwhile, so that dropout stays off. Statistics are those of what
    reaches the normalization itself, whatever a layer does to its input before (it may divide it into chunks, or move
    its dims), and however often it is called for a batch. A BatchNorm layer gets the mean and the population variance
    of all values (`PooledVariance`); an InstanceNorm layer the means over examples of their means and unbiased
    variances, which its running statistics are estimates of.

    Args:
        network: in evaluation mode or not; its modes are put back.
        batches: network inputs; passed through once, in order.
        forward: how to pass a batch; the network itself if None.
        skip: names of layers that are left as they are.
        thaw: whether `frozen_layers` are measured like the others.

    Returns:
        The layers that keep what they had without having been asked to, by name: frozen ones, and those that no
        example reached, such as auxiliary heads.

    Raises:
        NetworkError: layers of scripted networks, which cannot be looked into; by name.

    The second layer of a network is normalized with the batch's own statistics while the third is measured, as in
    training; so the result depends, slightly, on how the examples are divided into batches. A call with one value per
    channel, which has no variance, is normalized with what was pooled until then.
    """
    refuse_scripted(network)
    layers: dict[Any, str] = {
        layer: name for layer, name in running_statistics_layers(network).items() if name not in skip
    }
    frozen = () if thaw else frozen_layers(network)
    trained = [layer for layer, name in layers.items() if name not in frozen]
    with _in_training_mode(network, trained), _Pooling({id(layer.running_mean) for layer in trained}) as pooling:
        for batch in batches:
            (forward or network)(batch)
    reached = {layer: pooling.pooled[key] for layer in layers if (key := id(layer.running_mean)) in pooling.pooled}
    for layer, statistics in reached.items():
        layer.running_mean.copy_(statistics.mean)
        layer.running_var.copy_(statistics.variance)
    return tuple(name for layer, name in layers.items() if layer not in reached)


def frozen_layers(network: nn.Module) -> tuple[str, ...]:
    """The layers with running statistics that training mode does not reach, by name.

    Modules may override `train` to keep themselves, or some of what is inside them, in evaluation mode.
    """
    layers = running_statistics_layers(network)
    if all(type(module).train is nn.Module.train for module in network.modules()):
        return ()
    with evaluating(network):
        network.train()
        return tuple(name for layer, name in layers.items() if not layer.training)


def refuse_scripted(network: nn.Module) -> None:
    """Refuse scripted and traced layers with running statistics.

    Raises:
        NetworkError: the network has some; by name.
    """
    layers = running_statistics_layers(network).items()
    if names := [name or "the network itself" for layer, name in layers if isinstance(layer, torch.jit.ScriptModule)]:
        raise NetworkError(
            f"running statistics of scripted or traced layers cannot be measured anew: {', '.join(names)}; give the "
            "network as it was before torch.jit, or leave its statistics as they are"
        )


class PooledVariance:
    """Mean and population variance per channel of values that come in batches (Chan et al. 1983).

    Of each batch, its number of values n', their mean and their sum of squared deviations from it, S' = n' var', are
    merged into those of the values so far, n, mean and S. With delta = mean' - mean,

        mean <- mean + delta n' / (n + n'),    S <- S + S' + delta^2 n n' / (n + n'),    n <- n + n',

    and the variance is S / n.

    Attributes:
        count: n.
        mean: per channel.
        squares: S per channel.

    >>> pooled = PooledVariance()
    >>> pooled.add(torch.tensor([1.0]), torch.tensor([2.0]), 2)  # the values 0 and 2
    >>> pooled.add(torch.tensor([7.0]), torch.tensor([0.0]), 1)
    >>> pooled.mean, pooled.variance
    (tensor([3.]), tensor([8.6667]))
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())

    def add(self, mean: Tensor, squares: Tensor, n: int) -> None:
        """Merge `n > 0` further values per channel, given by their mean and sum of squared deviations from it."""
        total = self.count + n
        delta = mean - self.mean
        self.mean = self.mean + delta * (n / total)
        self.squares = self.squares + squares + delta**2 * (self.count * n / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Population variance per channel."""
        return self.squares / self.count


class _OverExamples(PooledVariance):
    """Means over examples of their own means and variances, as InstanceNorm's running statistics are."""

    def add(self, mean: Tensor, squares: Tensor, n: int) -> None:
        """Merge `n > 0` examples, given by the mean of their means and the sum of their variances."""
        self.count += n
        self.mean = self.mean + (mean - self.mean) * (n / self.count)
        self.squares = self.squares + squares


class _Pooling(TorchFunctionMode):
    """Inside, normalizations that would update running statistics leave them alone, and their inputs' are pooled.

    Args:
        keys: which running means, by the identity of their tensors; other normalizations are let pass.

    Attributes:
        pooled: statistics by key, of those that were called on examples in training mode.
    """

    def __init__(self, keys: Collection[int]) -> None:
        super().__init__()
        self.keys = keys
        self.pooled: dict[int, PooledVariance] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.batch_norm:
            x, weight, bias, mean, variance, training, momentum, eps, _ = args
            func, args, kwargs = F.batch_norm, (x, mean, variance, weight, bias, training, momentum, eps), {}
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        return self._instance_norm(*args, **kwargs) if func is F.instance_norm else func(*args, **kwargs)

    def _batch_norm(
        self,
        x: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if id(mean) not in self.keys or mean is None or variance is None or not training or not x.numel():
            return F.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)
        pooled = self.pooled.setdefault(id(mean), PooledVariance())
        n = x.numel() // x.shape[1]
        if n == 1:
            value = x.flatten().double()
            pooled.add(value, torch.zeros_like(value), 1)
            return F.batch_norm(x, pooled.mean.to(mean), pooled.variance.to(variance), weight, bias, False, 0.0, eps)
        # With a momentum of 1 its own kernel stores the mean and the unbiased variance of this call.
        mean, variance = torch.zeros_like(mean), torch.zeros_like(variance)
        output = F.batch_norm(x, mean, variance, weight, bias, True, 1.0, eps)
        if torch.finfo(mean.dtype).bits < 32:  # which would round them
            wide = x.transpose(0, 1).flatten(1).float()
            mean, variance = wide.mean(1), wide.var(1)
        pooled.add(mean.double(), variance.double() * (n - 1), n)
        return output

    def _instance_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if id(running_mean) not in self.keys or not use_input_stats or not x.numel():
            return F.instance_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
        values = at_least_float32(x.flatten(2))
        means, variances = values.mean(2).double(), values.var(2).double()
        self.pooled.setdefault(id(running_mean), _OverExamples()).add(means.mean(0), variances.sum(0), len(x))
        return F.instance_norm(x, None, None, weight, bias, True, 0.0, eps)


@contextlib.contextmanager
def _in_training_mode(network: nn.Module, layers: Collection[Any]) -> Iterator[None]:
    """Inside, these layers alone are in training mode whenever they are called; what they count is put back."""
    counters = [(layer, getattr(layer, "num_batches_tracked", None)) for layer in layers]
    before = [(counter, counter.clone()) for _, counter in counters if counter is not None]
    with evaluating(network), contextlib.ExitStack() as undo:
        for layer in layers:
            # Whoever passes the batches may have put the network into evaluation mode. Past `train()`, which the layer
            # may override to stay in that mode.
            undo.enter_context(layer.register_forward_pre_hook(lambda layer, _: setattr(layer, "training", True)))
            if isinstance(layer, nn.SyncBatchNorm):
                # Batches are all in this process: there is nothing to wait for from others.
                vars(layer)["forward"] = _BatchNorm.forward.__get__(layer)
                undo.callback(vars(layer).pop, "forward")
        try:
            yield
        finally:
            for counter, value in before:
                counter.copy_(value)
