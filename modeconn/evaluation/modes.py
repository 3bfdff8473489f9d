"""Evaluation mode, and the layers whose training mode matters most: BatchNorm."""

import contextlib
from collections.abc import Iterator

from torch import nn


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


def batchnorm_layers(network: nn.Module) -> list[nn.Module]:
    """List the BatchNorm layers that keep running statistics."""
    kind = nn.modules.batchnorm._BatchNorm
    return [m for m in network.modules() if isinstance(m, kind) and m.running_mean is not None]
