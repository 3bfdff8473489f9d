"""What a network is called with, so that its graph can be had: given, from data, or guessed from its first layer."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.errors import DataError, OptionError
from modeconn.evaluation.batches import Batches
from modeconn.evaluation.forward import dtype_of, split_batch
from modeconn.evaluation.modes import evaluating
from modeconn.evaluation.structures import map_tensors, tensors_of

_SIZES = (32, 28, 224, 64, 16, 299, 8)  # pixels of square images that networks are made for
_EXAMPLES = 2  # in a batch: one that is 1 would be taken for an axis of length 1

Call = tuple[tuple[Any, ...], dict[str, Any]]


def example_of(network: nn.Module, data: Any, device: torch.device) -> Call:
    """What a network is called with: positional and named arguments, of a few examples.

    Args:
        network: on the device.
        data: an example batch, or data of which the first batch is taken, with or without a target; if None, something
            random that the first layer takes: features, images or tokens.
        device: of the network.

    Raises:
        OptionError: nothing is given, and nothing that was guessed fits the network.
        DataError: data that are empty.
    """
    if data is not None:
        batch = _first(data, device)
        args, kwargs, target = split_batch(network, batch)
        found = as_parameters(network, args), as_parameters(network, kwargs)
        if target is not None and isinstance(batch, tuple) and not _takes(network, found):
            every: Call = as_parameters(network, batch), {}  # the last entry is no target, but an input as well
            return every if _takes(network, every) else found
        return found
    for guess in _guesses(network, device):
        found = as_parameters(network, (guess,)), {}
        if _takes(network, found):
            return found
    raise OptionError(
        f"what {type(network).__name__} is called with cannot be guessed from its first layer; give example= a batch, "
        "as the network takes it"
    )


class Measured(nn.Module):
    """A network whose output is its logits if it has some, or else all tensors that it gives.

    Caches of earlier tokens, hidden states and the like are not what a network computes for its user.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The tensors of the network's output."""
        output = self.network(*args, **kwargs)
        logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
        return logits if isinstance(logits, Tensor) else tuple(tensors_of(output))


def _takes(network: nn.Module, call: Call) -> bool:
    """Whether a network can be called so."""
    args, kwargs = map_tensors(torch.clone, call[0]), map_tensors(torch.clone, call[1])
    with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(network):
        try:
            network(*args, **kwargs)
        except Exception:
            return False
    return True


def _first(data: Any, device: torch.device) -> Any:
    """The first batch, cut to a few examples."""
    batch: Any
    if isinstance(data, Tensor):
        batch = data.to(device)
    elif isinstance(data, Mapping) or (isinstance(data, tuple) and any(isinstance(one, Tensor) for one in data)):
        batch = map_tensors(lambda tensor: tensor.to(device), data)
    else:
        batch = next(iter(Batches(data, device, batch_size=_EXAMPLES, limit=1, split="train")), None)
    if batch is None or not any(True for _ in tensors_of(batch)):
        raise DataError("the example has no tensor in it; give a batch as the network takes it")
    first = next(iter(tensors_of(batch)))
    many = len(first) if first.ndim else 0  # what is as long as the batch is cut, and a mask between positions is not
    return map_tensors(lambda tensor: tensor[:_EXAMPLES] if tensor.ndim and len(tensor) == many else tensor, batch)


def as_parameters(network: nn.Module, given: Any) -> Any:
    """Floating-point numbers in the type of the network's parameters."""
    dtype = dtype_of(network)
    return map_tensors(lambda t: t.to(dtype) if dtype is not None and t.is_floating_point() else t, given)


def _guesses(network: nn.Module, device: torch.device) -> Iterator[Tensor]:
    """Inputs that a network may take, by the first layer that has weights, those it names itself first."""
    generator = torch.Generator().manual_seed(0)

    def images(channels: int, sizes: tuple[int, ...], many: int = 2) -> Iterator[Tensor]:
        for size in sizes:
            yield torch.randn(_EXAMPLES, channels, *(size,) * many, generator=generator).to(device)

    own = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None)
    if isinstance(own, Mapping) and len(own.get("input_size", ())) == 3:
        yield torch.randn(_EXAMPLES, *own["input_size"], generator=generator).to(device)
    config = getattr(network, "config", None)
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
    if isinstance(size, int):
        yield from images(channels, (size,))
    for layer in itertools.islice((m for m in network.modules() if list(m.parameters(recurse=False))), 3):
        if isinstance(layer, nn.Embedding):
            yield torch.arange(2 * 6).reshape(2, 6).remainder(layer.num_embeddings).to(device)
        elif isinstance(layer, nn.Linear):
            yield from (
                torch.randn(*shape, layer.in_features, generator=generator).to(device) for shape in ((2,), (2, 5))
            )
            for channels in (1, 3):
                side = round((layer.in_features / channels) ** 0.5)
                if channels * side * side == layer.in_features:
                    yield from images(channels, (side,))
        elif isinstance(layer, nn.Conv2d):
            yield from images(layer.in_channels, _SIZES)
        elif isinstance(layer, nn.Conv1d):
            yield from images(layer.in_channels, _SIZES, 1)
