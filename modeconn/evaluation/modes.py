"""Evaluation mode, and the layers whose training mode matters most: those that keep running statistics."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation mode; afterwards every layer is in the mode it was in.

    By `train()` alone, as modules may do more in it than set a flag: merge weights, or fill a cache.
    """
    modes = [(module, module.training) for module in network.modules()]
    if any(training for _, training in modes):
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:  # from the outside in, so that mixed modes come back
            if module.training != training:
                module.train(training)
        for module, training in modes:  # where `train()` keeps a mode that was assigned past it
            module.training = training


@contextlib.contextmanager
def padded(network: nn.Module, watched: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, PyTorch's transformer layers compute on padded batches in evaluation mode too, as they do in training.

    Else they pass nested tensors from layer to layer, which have no shape to take statistics over. Nothing is changed
    unless what is watched is inside such a layer.
    """
    encoders = (nn.TransformerEncoder, nn.TransformerEncoderLayer)
    inside = {part for encoder in network.modules() if isinstance(encoder, encoders) for part in encoder.modules()}
    if inside.isdisjoint(watched):
        yield
        return
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def running_statistics_layers(network: nn.Module) -> dict[nn.Module, str]:
    """The layers that keep running statistics, with their names: BatchNorm, and others with these two buffers."""
    return {
        layer: name
        for name, layer in network.named_modules()
        if all(isinstance(getattr(layer, buffer, None), Tensor) for buffer in ("running_mean", "running_var"))
    }
