"""Re-estimating BatchNorm's running statistics for weights that no training has visited."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.evaluation.modes import batchnorm_layers, evaluating


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], Any] | None = None) -> None:
    """Replace running means and variances by those over all of the given batches, in place.

    Only normalization layers are in training mode meanwhile, so that dropout stays off. The variance is the pooled
    population variance (`PooledVariance`): within batches and between their means, each batch weighted by its number of
    values.

    Args:
        network: in evaluation mode or not; its modes are put back.
        batches: network inputs; passed through once, in order.
        forward: how to pass a batch; the network itself if None.

    The second layer of a network is normalized with the batch's own statistics while the third is measured, as in
    training; so the result depends, slightly, on how the examples are divided into batches.
    """
    layers: list[Any] = batchnorm_layers(network)
    pooled = {layer: PooledVariance() for layer in layers}

    def before(layer: Any, inputs: Any) -> None:
        layer.train()  # whoever passes the batches may have put the network into evaluation mode

    def after(layer: Any, inputs: Any, output: Tensor) -> None:
        # With a momentum of 1 the layer has just stored this batch's own mean and unbiased variance.
        n = output.numel() // output.shape[1]  # a norm's output has its input's shape
        pooled[layer].add(layer.running_mean.double(), layer.running_var.double() * (n - 1), n)

    with _storing_batch_statistics(network, layers), contextlib.ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(before))
            hooks.enter_context(layer.register_forward_hook(after))
        for index, batch in enumerate(batches):
            for layer in layers if index == 0 else ():
                # What was there counts zero times; but zero times infinity would stay.
                layer.running_mean.zero_()
                layer.running_var.zero_()
            (forward or network)(batch)
    for layer, statistics in pooled.items():
        if statistics.count:
            layer.running_mean.copy_(statistics.mean)
            layer.running_var.copy_(statistics.variance)


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


@contextlib.contextmanager
def _storing_batch_statistics(network: nn.Module, layers: list[Any]) -> Iterator[None]:
    """Inside, only these layers are in training mode, and each pass replaces their statistics by the batch's own."""
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    with evaluating(network):
        for layer in layers:
            layer.train()
            # Not counted as training: the buffer is put back, and what was tracked meanwhile is dropped.
            layer.momentum, layer.num_batches_tracked = 1.0, None
        try:
            yield
        finally:
            for layer, (momentum, seen) in zip(layers, before, strict=True):
                layer.momentum, layer.num_batches_tracked = momentum, seen
