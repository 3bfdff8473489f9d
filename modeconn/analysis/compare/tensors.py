"""How far apart two networks are, tensor by tensor, in the memory of two tensors (three with an ancestor)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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

_SHOWN = 10  # integer tensors in a note
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
        one = _compare(name, *tensors)
        if one is None:
            infinite += [f"{name} in {at.origin}" for at, t in zip(sources, tensors, strict=True) if not all_finite(t)]
        else:
            found.append(one)
        del tensors
        report(Progress(place + 1, 0, len(sizes), sum(sizes[: place + 1]), sum(sizes), (), unit="tensors"))
    if infinite:
        raise NetworkError(f"weights are NaN or infinite: {', '.join(infinite)}; there is no average of them")
    return tuple(found)


def note_on_integers(tensors: Sequence[TensorDistance]) -> list[str]:
    """A note on what an average leaves out: integer tensors that differ. BatchNorm's counters are nobody's concern."""
    differing = [one.name for one in tensors if one.kind == "other" and not one.equal]
    named = [name for name in differing if not name.endswith("num_batches_tracked")]
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return [f"integers are not averaged, and these differ: {', '.join(named[:_SHOWN])}{more}"] if named else []


def _compare(name: str, a: Tensor, b: Tensor, c: Tensor | None = None) -> TensorDistance | None:
    """One tensor; None if it is not finite."""
    types = (str(a.dtype).removeprefix("torch."), str(b.dtype).removeprefix("torch."))
    only_equality = TensorDistance(name, "other", tuple(a.shape), types, True, Sums(entries=a.numel()))
    if not can_interpolate(a):
        return replace(only_equality, equal=equal_values(a, b))
    sums, moves = sums_of(a, b, c)
    if not sums.finite or (moves is not None and not math.isfinite(moves.squares_ancestor)):
        # Equal infinities, as in a mask for attention, stay what they are.
        equal = all(equal_values(a, other) for other in (b, c) if other is not None)
        return only_equality if equal and not _has_nan(a) else None
    kind = "statistic" if name.rpartition(".")[2] in _STATISTICS else "weight"
    like = likeness(a, b) if kind == "weight" else None
    return TensorDistance(name, kind, tuple(a.shape), types, sums.differing == 0, sums, like, moves)


def _has_nan(tensor: Tensor) -> bool:
    return bool((tensor.float() if is_float8(tensor.dtype) else tensor).isnan().any())
