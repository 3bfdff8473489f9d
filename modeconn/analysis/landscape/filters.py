"""Directions around a network, normalised by filter or layer (Li et al. 2018, section 4)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modeconn.analysis.paths.linear import can_interpolate, compute_dtype
from modeconn.errors import NetworkError, OptionError, unknown
from modeconn.weights.state_dicts import Weights

NORMALIZATION = ("filter", "layer", "none")


def check_normalization(normalization: str) -> str:
    """The same, if it is one of the three.

    Raises:
        OptionError: it is not.
    """
    if normalization not in NORMALIZATION:
        raise unknown("normalization", str(normalization), NORMALIZATION)
    return normalization


def random_direction(weights: Weights, parameters: tuple[str, ...], generator: torch.Generator) -> dict[str, Tensor]:
    """A Gaussian direction in all weights that are not vectors or numbers; those, biases and norms, have 0.

    Args:
        weights: the network.
        parameters: the names that move.
        generator: on the CPU; the same one draws the same direction on every device.
    """
    found = {}
    for name in parameters:
        shape = weights.layout[name]
        if not can_interpolate(shape):
            continue
        if shape.ndim < 2:
            found[name] = torch.zeros(shape.shape, dtype=compute_dtype(shape.dtype))
        else:
            found[name] = torch.randn(shape.shape, dtype=compute_dtype(shape.dtype), generator=generator)
    return found


def given_direction(
    direction: Mapping[str, Tensor], weights: Weights, parameters: tuple[str, ...]
) -> dict[str, Tensor]:
    """A direction as it was given; what it does not name does not move.

    Raises:
        OptionError: it names no parameter of the network, or other things.
        NetworkError: a tensor of another shape, or one that is not finite.
    """
    if not isinstance(direction, Mapping) or not direction:
        raise OptionError(
            "a direction is a mapping from names of parameters to tensors, such as a state dict; got "
            f"{type(direction).__name__}"
        )
    tensors = {name: tensor for name, tensor in direction.items() if isinstance(tensor, Tensor)}
    names = [name for name in parameters if name in tensors]
    if not names:
        raise OptionError(
            f"the direction names none of the network's parameters; it has {', '.join(map(str, list(direction)[:5]))}"
        )
    for name in names:
        shape = tuple(weights.layout[name].shape)
        if tuple(tensors[name].shape) != shape:
            raise NetworkError(f"{name} is {list(shape)} in the network and {list(tensors[name].shape)} in a direction")
        if not tensors[name].isfinite().all():
            raise NetworkError(f"{name} is NaN or infinite in a direction")
    return {name: tensors[name].detach().cpu() for name in names}


def normalised(
    direction: Mapping[str, Tensor], weights: Weights, network: nn.Module, normalization: str
) -> dict[str, Tensor]:
    """Give a direction the network's scale: d_ij <- d_ij |w_ij| / |d_ij| for filter j of layer i (Li et al. 2018).

    A filter is what gives one output channel: of a convolution or a linear layer a slice of the weight's first
    dimension, of a transposed convolution one of its second. Vectors and numbers (biases, and parameters of norms) get
    0, as there. `"layer"` scales each whole tensor, `"none"` leaves everything as it is.

    >>> layer = nn.Linear(2, 2, bias=False)
    >>> layer.weight.data = torch.tensor([[3.0, 4.0], [0.0, 0.5]])
    >>> weights = Weights({"weight": torch.empty(2, 2, device="meta")}, lambda name: layer.weight.data, "")
    >>> normalised({"weight": torch.ones(2, 2)}, weights, layer, "filter")["weight"].norm(dim=1)
    tensor([5.0000, 0.5000])
    """
    if normalization == "none":
        return dict(direction)
    found = {}
    for name, tensor in direction.items():
        if tensor.ndim < 2:
            found[name] = torch.zeros_like(tensor)
            continue
        weight = weights.read(name)
        weight = (weight if weight.layout == torch.strided else weight.to_dense()).detach().to("cpu", tensor.dtype)
        groups = _transposed_groups(network, name)
        if normalization == "layer":
            over, shape = tuple(range(tensor.ndim)), tensor.shape
        elif groups:  # [in, out / groups, ...]: the filters of each group lie side by side
            shape = torch.Size((groups, len(tensor) // groups, *tensor.shape[1:]))
            over = (1, *range(3, len(shape)))
        else:
            over, shape = tuple(range(1, tensor.ndim)), tensor.shape
        lengths = [
            torch.linalg.vector_norm(one.reshape(shape).to(_double(one)), dim=over, keepdim=True)
            for one in (weight, tensor)
        ]
        scale = torch.where(lengths[1] > 0, lengths[0] / lengths[1], 0.0)  # what is pruned away stays away
        found[name] = (tensor.reshape(shape) * scale).reshape(tensor.shape).to(tensor.dtype)
    return found


def as_weights(direction: Mapping[str, Tensor], weights: Weights, origin: str) -> Weights:
    """A direction as weights that can be added to those of a network; buffers, and what it lacks, have 0."""

    def read(name: str) -> Tensor:
        there = weights.read(name)
        if name in direction:
            return direction[name].to(there.device)
        return torch.zeros_like(there if there.layout == torch.strided else there.to_dense())

    layout = {name: shape for name, shape in weights.layout.items()}
    layout |= {name: torch.empty_like(layout[name], dtype=tensor.dtype) for name, tensor in direction.items()}
    return Weights(layout, read, origin, aliases=weights.aliases)


def _transposed_groups(network: nn.Module, name: str) -> int:
    """The groups of the transposed convolution whose weight it is; 0 of anything else."""
    module, _, last = name.rpartition(".")
    found = dict(network.named_modules()).get(module)
    transposed = isinstance(found, nn.modules.conv._ConvTransposeNd) and last == "weight"
    return found.groups if transposed and isinstance(found, nn.modules.conv._ConvTransposeNd) else 0


def _double(tensor: Tensor) -> torch.dtype:
    return torch.complex128 if tensor.is_complex() else torch.float64
