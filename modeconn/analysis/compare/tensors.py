"""How far apart two networks are, tensor by tensor, in the memory of two tensors (three with an ancestor)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modeconn.analysis.compare.likeness import Likeness, likeness
from modeconn.analysis.compare.pairing import Pair
from modeconn.analysis.compare.sums import Moves, Sums, sums_of
from modeconn.analysis.connectivity.layers import ROOT
from modeconn.analysis.paths.linear import all_finite, can_interpolate, equal_values, is_float8
from modeconn.errors import NetworkError
from modeconn.progress import Progress, Report
from modeconn.weights.state_dicts import Weights

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class TensorDistance:
    """One tensor of both networks.

    Attributes:
        name: of the tensor.
        kind: `"weight"`; `"statistic"`, a running statistic of BatchNorm; or `"other"`, integers and equal tensors that
            hold infinities, of which only `equal` is known.
        shape: of the tensor.
        types: a's and b's.
        equal: whether all entries are.
        sums: distances.
        likeness: of matrices, against their units in a random order; None of what is no matrix, or too small.
        moves: of the task vectors; None without an ancestor.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    types: tuple[str, str]
    equal: bool
    sums: Sums
    likeness: Likeness | None = None
    moves: Moves | None = None

    @property
    def layer(self) -> str:
        """The module that owns it."""
        return self.name.rpartition(".")[0] or ROOT

    @property
    def block(self) -> str:
        """Its name up to the first number, such as `model.layers.3`; its layer without one."""
        parts = self.name.split(".")[:-1]
        number = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
        return ".".join(parts[: number + 1]) or ROOT


@torch.no_grad()
def compare_tensors(pair: Pair, ancestor: Weights | None, report: Report) -> tuple[TensorDistance, ...]:
    """Compare all tensors that two networks share, each read once and then released.

    Raises:
        NetworkError: weights are NaN or infinite; all are named.
    """
    found: list[TensorDistance] = []
    infinite: list[str] = []
    sizes = [pair.a.layout[name].numel() for name in pair.shared]
    for place, name in enumerate(pair.shared):
        sources = [pair.a, pair.b, *([ancestor] if ancestor is not None and name in ancestor.layout else [])]
        tensors = [source.read(name) for source in sources]
        wrong = [source.origin for source, tensor in zip(sources, tensors, strict=True) if not all_finite(tensor)]
        # Equal infinities, as in a mask for attention, stay what they are.
        if wrong and not _equal_infinities(tensors):
            infinite += [f"{name} in {origin}" for origin in wrong]
        else:
            found.append(_compare(name, tensors, finite=not wrong))
        del tensors
        report(Progress(place + 1, 0, len(sizes), sum(sizes[: place + 1]), sum(sizes), ()))
    if infinite:
        raise NetworkError(f"weights are NaN or infinite: {', '.join(infinite)}; there is no average of them")
    return tuple(found)


def _compare(name: str, tensors: Sequence[Tensor], finite: bool) -> TensorDistance:
    a, b, *rest = tensors
    types = (str(a.dtype).removeprefix("torch."), str(b.dtype).removeprefix("torch."))
    equal = equal_values(a, b)
    if not can_interpolate(a) or not finite:
        return TensorDistance(name, "other", tuple(a.shape), types, equal, Sums(entries=a.numel()))
    sums, moves = sums_of(a, b, *rest)
    if name.rpartition(".")[2] in _STATISTICS:
        return TensorDistance(name, "statistic", tuple(a.shape), types, equal, sums, None, moves)
    return TensorDistance(name, "weight", tuple(a.shape), types, equal, sums, likeness(a, b), moves)


def _equal_infinities(tensors: Sequence[Tensor]) -> bool:
    wide = [tensor.float() if is_float8(tensor.dtype) else tensor for tensor in tensors]
    return not any(bool(tensor.isnan().any()) for tensor in wide) and all(
        equal_values(wide[0], other) for other in wide[1:]
    )
