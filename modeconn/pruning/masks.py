"""Masks: which weights of a network remain, beside its state dict, and which weights can be pruned at all."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.weights.effective import unwrap
from modeconn.weights.masks import check_mask, mask_from_bytes, mask_to_bytes, notes_of
from modeconn.weights.plain_copy import is_plain, plain_copy
from modeconn.weights.state_dicts import identity_of

_FORMAT, _VERSION = "modeconn-mask", "1"
_LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # of nn.MultiheadAttention
_LEFT_ALONE = re.compile(r"(Norm(\d+d)?|Embed(ding)?(Bag)?)$")  # somebody's own layers, by what they are called


@dataclass(frozen=True)
class MaskedLayer:
    """What a mask leaves of one layer.

    Attributes:
        name: the parameter's name in the network, as in its state dict.
        weights: how many it has.
        kept: how many of them remain.
    """

    name: str
    weights: int
    kept: int

    @property
    def density(self) -> float:
        """The fraction that remains, in [0, 1]."""
        return self.kept / self.weights if self.weights else 1.0


class Mask(Mapping[str, Tensor]):
    """Which weights of a network remain: an immutable mapping from parameter names to boolean tensors.

    Its tensors are copies on the CPU; do not write to them. Two masks are equal if they keep the same weights.

    Args:
        kept: by parameter name, in the order of the network, True where a weight remains.

    Raises:
        NetworkError: no layers, or tensors that are not boolean.

    >>> mask = Mask({"fc.weight": torch.tensor([[True, False], [True, True]])})
    >>> mask.density, mask.kept, mask.total
    (0.75, 3, 4)
    >>> print(mask)
    layer      weights  kept  density
    fc.weight        4     3   75.0 %
    total            4     3   75.0 %
    """

    def __init__(self, kept: Mapping[str, Tensor]) -> None:
        wrong = [
            f"{name} is {entry.dtype if isinstance(entry, Tensor) else type(entry).__name__}"
            for name, entry in kept.items()
            if not isinstance(entry, Tensor) or entry.dtype != torch.bool
        ]
        if wrong or not kept:
            raise NetworkError(
                f"a mask holds a tensor of type torch.bool for each pruned layer; {'; '.join(wrong) or 'it is empty'}"
            )
        self._kept = {name: entry.detach().to("cpu", copy=True) for name, entry in kept.items()}

    @classmethod
    def of(cls, network: nn.Module) -> "Mask":
        """The mask that keeps every weight of a network that can be pruned; see `prunable`. It is left unchanged.

        Raises:
            NetworkError: it has none.

        >>> Mask.of(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
        Mask(6 of 6 weights in 1 layer)
        """
        plain = unwrap(network)
        plain = plain if is_plain(plain) else plain_copy(plain)
        return cls(everything(plain))

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        """The mask in a file that `save` wrote, or in any safetensors file that holds boolean tensors alone.

        Raises:
            NetworkError: missing, damaged, or no mask.
        """
        try:
            content = Path(path).read_bytes()
            kept = mask_from_bytes(content)
        except OSError as error:
            raise NetworkError(f"cannot read the mask {path}: {error.strerror}") from error
        except (SafetensorError, ValueError) as error:
            raise NetworkError(f"{path} is damaged, or is not a safetensors file: {error}") from error
        notes = notes_of(content)
        if notes.get("format", _FORMAT) != _FORMAT or notes.get("version", _VERSION) != _VERSION:
            found = f"format {notes.get('format')!r}, version {notes.get('version')!r}"
            raise NetworkError(f"{path} is not a mask that this version of modeconn reads: it has {found}")
        try:
            return cls(kept)
        except NetworkError as error:
            raise NetworkError(f"{path} is not a mask: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write a safetensors file of booleans, which any PyTorch code loads.

        Raises:
            NetworkError: it cannot be written.
        """
        notes = {"format": _FORMAT, "version": _VERSION}
        try:
            Path(path).write_bytes(mask_to_bytes(self, notes))
        except OSError as error:
            raise NetworkError(f"cannot write the mask {path}: {error.strerror}") from error

    def apply(self, network: nn.Module) -> None:
        """Set the pruned weights of a network to zero, in place. What remains keeps its bits.

        This prunes once: training moves the weights again, unless the mask is applied after every step.

        Raises:
            NetworkError: the mask does not fit; names and shapes are listed, and nothing is changed.
        """
        network = unwrap(network)
        check_mask(self, network)
        parameters = dict(network.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, kept in self.items():
                parameters[name].masked_fill_(~kept.to(parameters[name].device), 0)

    @property
    def total(self) -> int:
        """How many weights the masked layers have."""
        return sum(layer.weights for layer in self.layers())

    @property
    def kept(self) -> int:
        """How many of them remain."""
        return sum(layer.kept for layer in self.layers())

    @property
    def density(self) -> float:
        """The fraction of the masked layers' weights that remains, in [0, 1]."""
        return MaskedLayer("", self.total, self.kept).density

    @property
    def emptied(self) -> list[str]:
        """The names of layers with nothing left."""
        return [layer.name for layer in self.layers() if layer.weights and not layer.kept]

    def layers(self) -> list[MaskedLayer]:
        """What remains of each layer, in order."""
        return [MaskedLayer(name, entry.numel(), int(entry.count_nonzero())) for name, entry in self.items()]

    def describe(self) -> str:
        """A table with a line for each layer and for all; layers with nothing left are marked and named below."""
        rows = [*self.layers(), MaskedLayer("total", self.total, self.kept)]
        cells = [("layer", "weights", "kept", "density")]
        cells += [(row.name, f"{row.weights:,}", f"{row.kept:,}", f"{100 * row.density:.1f} %") for row in rows]
        name, *numbers = (max(map(len, column)) for column in zip(*cells, strict=True))
        marks = ["", *("  emptied" if row.name in self.emptied else "" for row in rows)]
        lines = [
            "  ".join([first.ljust(name), *(cell.rjust(width) for cell, width in zip(others, numbers, strict=True))])
            + mark
            for (first, *others), mark in zip(cells, marks, strict=True)
        ]
        if self.emptied:
            lines.append(f"nothing is left of {', '.join(self.emptied)}")
        return "\n".join(lines)

    def __getitem__(self, name: str) -> Tensor:
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return self.keys() == other.keys() and all(torch.equal(entry, other[name]) for name, entry in self.items())

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.describe()

    def __repr__(self) -> str:
        layers = "1 layer" if len(self) == 1 else f"{len(self)} layers"
        return f"Mask({self.kept:,} of {self.total:,} weights in {layers})"


def prunable(network: nn.Module) -> dict[str, Tensor]:
    """The parameters of a network that can be pruned, by name, in the network's order.

    These are the weights of linear, bilinear, convolution and transposed convolution layers, the projections of
    `nn.MultiheadAttention`, and what other layers call `weight`, if it has two dims or more (GPT-2's linear layers).
    Not of embeddings and of normalization layers; somebody's own are known by a class name that ends in `Norm`,
    `Norm2d`, `Embed` or `Embedding`. Biases are never pruned, nor are weights of recurrent layers. A weight that
    several layers share is there once, by its first name; one that is an embedding too is not.

    Args:
        network: without masks and parametrizations, as `plain_copy` gives it. Not changed.

    >>> list(prunable(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Embedding(9, 2), nn.Linear(4, 2))))
    ['0.weight', '3.weight']
    """
    modules = dict(network.named_modules())
    embeddings = [module for module in modules.values() if _is_embedding(module)]
    seen = {identity_of(own) for module in embeddings for own in module.parameters(recurse=False)}
    found: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters(recurse=False):
            if _is_prunable(module, name, parameter) and identity_of(parameter) not in seen:
                seen.add(identity_of(parameter))
                found[f"{prefix}.{name}" if prefix else name] = parameter
    return found


def everything(network: nn.Module) -> dict[str, Tensor]:
    """A mask of all that is `prunable`, in which everything remains, where the network is.

    Raises:
        NetworkError: nothing is.
    """
    weights = prunable(network)
    if not weights:
        raise NetworkError(f"{type(network).__name__} has no weights that can be pruned: no linear or conv layer")
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def _is_prunable(module: nn.Module, name: str, parameter: Tensor) -> bool:
    if isinstance(module, _LAYERS):
        return name == "weight"
    if isinstance(module, nn.MultiheadAttention):
        return name in _PROJECTIONS
    return name == "weight" and parameter.dim() >= 2 and not _is_normalization(module)


def _is_embedding(module: nn.Module) -> bool:
    # A convolution that embeds patches is a convolution.
    return _ends_in(module, "Embed") and not isinstance(module, _LAYERS)


def _is_normalization(module: nn.Module) -> bool:
    return _ends_in(module, "Norm")


def _ends_in(module: nn.Module, word: str) -> bool:
    """Whether a class or one of those it derives from says what it is at its name's end."""
    names = (_LEFT_ALONE.search(kind.__name__) for kind in type(module).__mro__)
    return any(found and found[0].startswith(word) for found in names)
