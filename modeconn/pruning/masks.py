"""Masks: which weights of a network remain, as boolean tensors beside its state dict."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.files import write_atomically
from modeconn.pruning.prunable import everything
from modeconn.pruning.shared import plain_copy_sharing
from modeconn.reading import read_file
from modeconn.weights.effective import effective_reads, unwrap
from modeconn.weights.masks import check_mask, mask_to_bytes, read_mask
from modeconn.weights.plain_copy import is_plain
from modeconn.weights.shared import refuse_expanded
from modeconn.weights.state_dicts import state_tensors

_FORMAT, _VERSION = "modeconn-mask", "1"


@dataclass(frozen=True)
class MaskedLayer:
    """Counts of one layer: its weights, and those that a mask keeps.

    Attributes:
        name: the parameter's name in the network, as in its state dict.
        weights: number of weights.
        kept: number of those that remain.
    """

    name: str
    weights: int
    kept: int

    @property
    def density(self) -> float:
        """The fraction that remains, kept / weights, in [0, 1]; sparsity is 1 - density."""
        return self.kept / self.weights if self.weights else 1.0


class Reordering(Protocol):
    """What `modeconn.align` gives, as far as a mask needs it."""

    @property
    def symmetry(self) -> Any:
        """The groups of units, and the axes of tensors that they move."""

    @property
    def permutations(self) -> Any:
        """For each group, the unit that comes to each place."""


class Mask(Mapping[str, Tensor]):
    """A pruning mask: an immutable mapping from parameter names to boolean tensors, True where a weight remains.

    Its tensors are copies on the CPU; do not write to them. Two masks are equal if they keep the same weights.

    Args:
        kept: by parameter name, in the order of the network.

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
        """Make the mask that keeps every weight of a network that can be pruned, which is left unchanged.

        Raises:
            NetworkError: it has none.

        >>> Mask.of(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
        Mask(6 of 6 weights in 1 layer)
        """
        plain = unwrap(network)
        plain = plain if is_plain(plain) else plain_copy_sharing(plain)
        return cls(everything(plain))

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        """Load a mask from a file that `save` wrote, or any safetensors file that holds boolean tensors alone.

        Raises:
            NetworkError: missing, damaged, or no mask.
        """
        try:
            kept, notes = read_mask(read_file(path))  # a file by another hand has no notes
        except OSError as error:
            raise NetworkError(f"cannot read the mask {path}: {error.strerror}") from error
        except ValueError as error:
            raise NetworkError(f"{path} is damaged, or is not a safetensors file: {error}") from error
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
            write_atomically(Path(path), mask_to_bytes(self, notes))
        except OSError as error:
            raise NetworkError(f"cannot write the mask {path}: {error.strerror}") from error

    def apply(self, network: nn.Module) -> None:
        """Set the pruned weights of a network to zero, in place. What remains keeps its bits.

        This prunes once: training moves the weights again, unless the mask is applied after every step.

        Raises:
            NetworkError: the mask does not fit; names and shapes are listed, and nothing is changed.
        """
        parameters = _parameters(network, self)
        check_mask(self, parameters)
        refuse_expanded({name: parameters[name] for name in self})
        for name, kept in self.items():
            # What was made in inference mode can be written to in that mode alone.
            with torch.inference_mode(parameters[name].is_inference()), torch.no_grad():
                parameters[name].masked_fill_(~kept.to(parameters[name].device), 0)

    def permute(self, alignment: Reordering) -> "Mask":
        """The mask of the same weights, once the network's units stand in another order.

        A mask of `b` goes with `b`; `alignment.apply(b)` has the units in a's order, and this is its mask. One
        alignment serves all masks and checkpoints of a training, such as the levels of iterative magnitude pruning
        (Sharma et al. 2024): `[alignment.apply(state) for state in states]`. A ticket is carried to another
        initialisation so (Adnan et al. 2025): align the dense network that it was found in to one that was trained from
        the other initialisation, and permute its mask.

        Args:
            alignment: what `modeconn.align` gave for the network.

        Raises:
            NetworkError: the mask is of another network than the alignment; names and shapes are listed.

        >>> from modeconn import align, prune
        >>> a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
        >>> mask, alignment = prune(b, "magnitude", density=0.5), align(a, b)
        >>> permuted = mask.permute(alignment)  # to train a's initialisation under it
        >>> permuted.kept == mask.kept
        True
        >>> pruned = alignment.apply(b)
        >>> permuted.apply(pruned)
        >>> mask.apply(b)
        >>> x = torch.randn(5, 4)
        >>> torch.allclose(pruned(x), b(x), atol=1e-5)
        True
        """
        symmetry = alignment.symmetry
        wrong = [f"{name} is no tensor of that network" for name in self if name not in symmetry.shapes]
        wrong += [
            f"{name} is {list(kept.shape)} and not {list(symmetry.shapes[name])}"
            for name, kept in self.items()
            if name in symmetry.shapes and tuple(kept.shape) != tuple(symmetry.shapes[name])
        ]
        if wrong:
            raise NetworkError(f"the mask is of another network than the alignment: {'; '.join(wrong)}")
        return Mask({name: symmetry.moved(name, kept, alignment.permutations) for name, kept in self.items()})

    @property
    def total(self) -> int:
        """The number of weights of the masked layers."""
        return sum(layer.weights for layer in self.layers())

    @property
    def kept(self) -> int:
        """The number of those that remain."""
        return sum(layer.kept for layer in self.layers())

    @property
    def density(self) -> float:
        """The fraction of the masked layers' weights that remains, in [0, 1]."""
        return MaskedLayer("", self.total, self.kept).density

    @property
    def emptied(self) -> list[str]:
        """Names of layers with nothing left."""
        return [layer.name for layer in self.layers() if layer.weights and not layer.kept]

    def layers(self) -> list[MaskedLayer]:
        """Counts of each layer, in order."""
        return [MaskedLayer(name, entry.numel(), int(entry.count_nonzero())) for name, entry in self.items()]

    def describe(self) -> str:
        """Write a table: a line for each layer and for all; layers with nothing left are marked and named below."""
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


def _parameters(network: nn.Module, mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of a network, by their names in it and by those without wrappers, which masks are found by."""
    network = unwrap(network)
    stored, computed = effective_reads(network, state_tensors(network).__getitem__)
    if names := [name for name in mask if name in computed]:
        raise NetworkError(f"the network computes {', '.join(names)} by a mask or parametrization; make that permanent")
    return {name: give() for name, give in stored.items()} | dict(network.named_parameters(remove_duplicate=False))
