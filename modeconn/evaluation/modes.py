"""Evaluation mode, and the layers whose training mode matters most: those that keep running statistics."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation mode; afterwards every layer is in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:  # one by one, as `train()` would not restore mixed modes
            module.training = training


def running_statistics_layers(network: nn.Module) -> dict[nn.Module, str]:
    """The layers that keep running statistics, with their names: BatchNorm, and others with these two buffers."""
    return {
        layer: name
        for name, layer in network.named_modules()
        if all(isinstance(getattr(layer, buffer, None), Tensor) for buffer in ("running_mean", "running_var"))
    }
