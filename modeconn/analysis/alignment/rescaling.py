r"""Scales of units that leave the function of a network with ReLU as it is, and the canonical choice of them.

A ReLU, and every operator that is positively homogeneous, gives \(s\,\phi(x)\) for \(s\,x\), \(s > 0\): what a unit is
written with can be multiplied by s if what reads it is divided by s. Networks that differ by scales alone compute the
same function, and are far from each other in their weights.

BatchNorm's invariance to the scale of the weights before it is no such scale: it is not exact (there is an epsilon in
it), so groups that a normalisation stands on are refused like all others that an operator stands on which is not
known to be homogeneous.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.fx import Node

from modeconn.analysis.alignment.flow import READ, WRITTEN, Flow, Labels
from modeconn.analysis.alignment.symmetry import Axis, Symmetry, SymmetryError

_MOST_SWEEPS = 100_000
_CONVERGED = 1e-14  # of the logarithm of a scale, in one sweep


@dataclass(frozen=True)
class Scalable:
    """A group whose units can be multiplied by positive numbers.

    Attributes:
        group: its number in the symmetry.
        written: tensors and axes that are multiplied by the scales.
        read: tensors and axes that are divided by them.
    """

    group: int
    written: tuple[tuple[str, int], ...]
    read: tuple[tuple[str, int], ...]


def scalable_groups(symmetry: Symmetry, program: Any) -> tuple[Scalable, ...]:
    """The groups whose units can be multiplied by positive numbers without a change of the function.

    A group is one of them only if every operator on the way from where its units are written to where they are read is
    known to be positively homogeneous; `unscalable_groups` says of the others why they are not.

    Args:
        symmetry: of the network.
        program: its graph, by `exported`.
    """
    flow = _followed(symmetry, program)
    found = []
    for number in range(len(symmetry.groups)):
        written, read = (_places(symmetry, flow, number, kind) for kind in (WRITTEN, READ))
        if number not in flow.refused:
            found.append(Scalable(number, written, read))
    return tuple(found)


def unscalable_groups(symmetry: Symmetry, program: Any) -> dict[str, str]:
    """Why the other groups cannot be scaled, by their names: the operator, and the module that it is in.

    Args:
        symmetry: of the network.
        program: its graph, by `exported`.
    """
    refused = _followed(symmetry, program).refused
    return {symmetry.groups[number].name: refused[number] for number in sorted(refused)}


def rescaled(
    symmetry: Symmetry, state: Mapping[str, Tensor], groups: Sequence[Scalable], scales: Sequence[Tensor]
) -> dict[str, Tensor]:
    """A network's tensors after their units were multiplied by scales: it computes the same function.

    Args:
        symmetry: of the network.
        state: its tensors by name; those without units of the groups come back as they are.
        groups: those that are scaled.
        scales: positive, [size of the group], for each of them.

    Raises:
        SymmetryError: the scales do not fit the groups, or are not positive; the message names the group.
    """
    for group, scale in zip(groups, scales, strict=True):
        name, size = symmetry.groups[group.group].name, symmetry.groups[group.group].size
        if tuple(scale.shape) != (size,) or not bool(((scale > 0) & scale.isfinite()).all()):
            raise SymmetryError(f"group {name!r} needs {size} positive scales, not these: {scale}")
    found = dict(state)
    for group, scale in zip(groups, scales, strict=True):
        for places, factor in ((group.written, scale), (group.read, 1 / scale)):
            for name, axis in places:
                for same in (name, *(other for other, known in symmetry.tied.items() if known == name)):
                    if same in found:
                        found[same] = _multiplied(found[same], _axis(symmetry, name, axis), group.group, factor)
    return found


def canonical_scales(symmetry: Symmetry, state: Mapping[str, Tensor], groups: Sequence[Scalable]) -> dict[str, Tensor]:
    r"""A network's tensors with the scales of its units that have the smallest norm; it computes the same function.

    They minimise \(\sum_t \lVert t(s) \rVert_2^2\), t being the tensors with units of the groups (weights and biases),
    which is convex in \(\log s\). For one unit with all others fixed the minimum is at
    \(s_u^2 = \lVert \mathrm{out}_u \rVert_2 / \lVert \mathrm{in}_u \rVert_2\): the norm of what writes it and of what
    reads it become equal. Groups take turns, each of which lowers the sum, until nothing changes (ENorm: Stock et al.
    2019, with p = 2; biases count here; for one matrix it is Osborne's balancing, 1960). The minimum is the only one
    where every unit is connected to an input, a bias or an output; then networks that differ by scales alone come to
    be equal.

    A unit that nothing is written to, or that nothing reads which itself is read, has no such scale: it keeps its
    own, and does not count in those of others.

    Args:
        symmetry: of the network.
        state: its parameters by name.
        groups: by `scalable_groups`.

    Raises:
        SymmetryError: a tensor of a group is missing, or holds NaN or infinity; the message names it.
    """
    if not groups:
        return dict(state)
    return rescaled(symmetry, state, groups, _balanced(_squares(symmetry, state, groups), _spans(symmetry, groups)))


class _Homogeneous(Flow):
    """The walk of units that are scaled."""

    names: ClassVar[Mapping[str, str]] = {
        **Flow.names,
        **dict.fromkeys(("relu", "leaky_relu", "neg"), "unchanged"),
        **dict.fromkeys(("maximum", "minimum"), "agreeing"),
        **dict.fromkeys((f"{kind}max_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)), "pooled"),
        "prelu": "prelu",
    }

    def pooled(self, node: Node) -> Labels | None:  # type: ignore[override]
        """As it is, unless places are given too."""
        return super().pooled(node) if isinstance(node.meta["val"], Tensor) else None

    def prelu(self, node: Node) -> Labels | None:
        """A slope for each unit, which is not scaled."""
        x, weight = node.args[:2]
        name = self._parameters.get(weight)  # type: ignore[arg-type]
        if name is None:
            return None
        self.use(name, 0, 0)
        return self.value(x)  # type: ignore[arg-type]


def _followed(symmetry: Symmetry, program: Any) -> Flow:
    flow = _Homogeneous(symmetry, range(len(symmetry.groups)))
    flow.follow(program)
    for number in range(len(symmetry.groups)):
        for kind, how in ((WRITTEN, "writes"), (READ, "reads")):
            if not _places(symmetry, flow, number, kind):
                flow.refused.setdefault(number, f"no layer {how} it")
    return flow


def _places(symmetry: Symmetry, flow: Flow, group: int, kind: int) -> tuple[tuple[str, int], ...]:
    """The tensors and axes where units of a group are written, or read."""
    return tuple(
        (name, place)
        for (name, place), used in flow.uses.items()
        if used == kind and group in _axis(symmetry, name, place).groups
    )


def _axis(symmetry: Symmetry, name: str, place: int) -> Axis:
    return next(axis for axis in symmetry.tensors[name] if axis.axis == place)


def _multiplied(tensor: Tensor, axis: Axis, group: int, factor: Tensor) -> Tensor:
    """A tensor whose units of a group are multiplied, each by its own factor."""
    units = torch.from_numpy(next(units for number, units in axis.units if number == group)).to(tensor.device)
    here = factor.to(tensor)[units.clamp(min=0)]
    return tensor * torch.where(units >= 0, here, torch.ones_like(here))


def _spans(symmetry: Symmetry, groups: Sequence[Scalable]) -> list[slice]:
    """The places of the groups' units in one list of all of them; place 0 is for all that is not scaled."""
    ends = np.cumsum([1, *(symmetry.groups[group.group].size for group in groups)])
    return [slice(int(start), int(end)) for start, end in pairwise(ends)]


def _squares(symmetry: Symmetry, state: Mapping[str, Tensor], groups: Sequence[Scalable]) -> sparse.csr_array:
    """The sum of squares of all weights by the unit that they write and the unit that they read, 0 for none."""
    spans = _spans(symmetry, groups)
    starts = {group.group: span.start for group, span in zip(groups, spans, strict=True)}
    written, read = ({place for group in groups for place in getattr(group, kind)} for kind in ("written", "read"))
    rows, columns, values = [], [], []
    for name in dict.fromkeys(name for name, _ in sorted(written | read)):
        tensor = state.get(name)
        if tensor is None or not bool(tensor.isfinite().all()):
            how = "missing" if tensor is None else "not finite"
            raise SymmetryError(f"{name} is {how}: canonical scales need all its numbers")
        axes = [[axis for other, axis in places if other == name] for places in (written, read)]
        row, column = (_units_along(symmetry, name, found, starts) for found in axes)
        kept = [*axes[0], *axes[1]]
        rest = [axis for axis in range(tensor.dim()) if axis not in kept]
        squares = tensor.detach().double().cpu().square().permute(*kept, *rest)
        matrix = squares.reshape(len(row), len(column), -1).sum(-1).numpy()
        row, column = np.broadcast_arrays(row[:, None], column[None, :])
        there = (matrix > 0) & (row != column)  # a unit's weight to itself is not scaled
        rows.append(row[there])
        columns.append(column[there])
        values.append(matrix[there])
    places = (np.concatenate(rows), np.concatenate(columns))
    return sparse.coo_array((np.concatenate(values), places), shape=(spans[-1].stop,) * 2).tocsr()


def _units_along(symmetry: Symmetry, name: str, axes: Sequence[int], starts: Mapping[int, int]) -> NDArray[np.int64]:
    """The place in the list of all units of each place of an axis; [0] where there is no axis.

    Args:
        symmetry: of the network.
        name: of a tensor.
        axes: none, or the only one of it that is written, or read.
        starts: where the units of each group begin in the list.
    """
    found = np.zeros(1, np.int64)
    for axis in axes:
        for group, units in _axis(symmetry, name, axis).units:
            if group in starts:
                found = np.where(units.ravel() >= 0, starts[group] + units.ravel(), found)
    return found


def _balanced(squares: sparse.csr_array, spans: Sequence[slice]) -> list[Tensor]:
    """The scales of each group under which the sum of squares of all weights is the smallest.

    Args:
        squares: [units, units], of what is written for the one and read from the other; 0 stands for all the rest.
        spans: the units of each group.
    """
    squares = _alive(squares)
    written, read = squares, squares.T.tocsr()
    logs = np.zeros(squares.shape[0])
    parts = []
    for span in spans:
        into, out = written[span], read[span]
        coupled = into[:, span].nnz > 0  # units of one group that read each other: a step of half the length is safe
        parts.append((span, into, out, 0.125 if coupled else 0.25))
    for _ in range(_MOST_SWEEPS):
        largest = 0.0
        for span, into, out, power in parts:
            a = np.exp(2 * logs[span]) * (into @ np.exp(-2 * logs))
            b = np.exp(-2 * logs[span]) * (out @ np.exp(2 * logs))
            live = (a > 0) & (b > 0)
            step = np.where(live, power * np.log(np.where(live, b, 1) / np.where(live, a, 1)), 0)
            logs[span] += step
            largest = max(largest, float(np.abs(step).max()))
        if largest < _CONVERGED:
            break
    return [torch.from_numpy(np.exp(logs[span])) for span in spans]


def _alive(squares: sparse.csr_array) -> sparse.csr_array:
    """Without what is written to, or read from, units of which the one or the other is nothing."""
    live: NDArray[np.bool_] = np.ones(squares.shape[0], dtype=bool)
    while True:
        into, out = np.asarray(squares.sum(axis=1)).ravel(), np.asarray(squares.sum(axis=0)).ravel()
        now = (into > 0) & (out > 0)
        now[0] = True
        if (now == live).all():
            return squares
        live = now
        keep = sparse.diags_array(live.astype(float))
        squares = (keep @ squares @ keep).tocsr()
