"""Tensors cut into blocks, such as heads and experts, and the best order inside of two blocks that are to agree."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from modeconn.analysis.alignment.items import Item, assignment, index_of, places_of
from modeconn.analysis.alignment.symmetry import Axis, Group, Permutations, Places, codes, moved

OfPair = Callable[[int, int], tuple[float, Permutations]]  # what a pair of blocks agrees in, and in which order


@dataclass(frozen=True)
class Piece:
    """An item cut into blocks, a tensor for each: the same for all of them but for the numbers."""

    a: Sequence[Tensor]
    b: Sequence[Tensor]
    axes: tuple[Axis, ...]


def separable(inside: Sequence[Group], cut: Sequence[Piece]) -> bool:
    """Whether the groups inside a block can be ordered one without another: no number stands for units of two."""
    if any(group.parent is not None for group in inside) or any(len(piece.axes) > 1 for piece in cut):
        return False
    shared = [sum((units.ravel() >= 0).astype(int) for _, units in piece.axes[0].units) for piece in cut if piece.axes]
    return all((np.asarray(many) <= 1).all() for many in shared)


def best_of_pairs(inside: Sequence[Group], cut: Sequence[Piece]) -> OfPair:
    """The best order inside of two blocks, exactly: an assignment problem for each group."""
    rows: list[list[_Rows]] = [[] for _ in inside]
    stay: list[_Rows] = []  # what has no units inside
    for piece in cut:
        if not piece.axes:
            stay.append(_Rows(piece, 0, np.arange(piece.a[0].shape[0])[None]))
            continue
        (axis,) = piece.axes
        for number in axis.groups:
            rows[number].append(_Rows(piece, axis.axis, places_of(axis, number)))
        if len(rest := np.flatnonzero(np.all([units.ravel() < 0 for _, units in axis.units], axis=0))):
            stay.append(_Rows(piece, axis.axis, rest[None]))

    def pair(one: int, other: int) -> tuple[float, Permutations]:
        value = sum(float(of.gains(one, other)) for of in stay)
        orders = [np.arange(group.size) for group in inside]  # of a group that is in no item
        for number, of_group in enumerate(rows):
            if of_group:
                gain = torch.stack([of.gains(one, other) for of in of_group]).sum(0).double()
                orders[number] = assignment(gain)
                value += float(gain[torch.arange(len(gain)), torch.from_numpy(orders[number])].sum())
        return value, tuple(orders)

    return pair


class _Rows:
    """What each unit inside a block stands for in one piece, of all blocks of both networks: [size, n]."""

    def __init__(self, piece: Piece, axis: int, places: Places) -> None:
        def rows(tensor: Tensor) -> Tensor:
            return tensor.movedim(axis, 0)[index_of(places.ravel(), tensor)].reshape(len(places), -1)

        self._a, self._b = ([rows(tensor) for tensor in tensors] for tensors in (piece.a, piece.b))

    def gains(self, one: int, other: int) -> Tensor:
        """Inner products of the units of a's block with those of b's: [size, size]."""
        return self._a[one] @ self._b[other].T


def cut_into_blocks(
    item: Item,
    top: int,
    inner: Sequence[int],
    groups: Sequence[Group],
    found: Permutations,
    identity: Permutations,
    number: Mapping[int, int],
) -> Iterator[Piece]:
    """Cut an item along each of its axes that stands for blocks, the others of them in the order that was found."""
    family = {top, *inner}
    related = [axis for axis in item.axes if family & set(axis.groups)]
    along = [axis for axis in related if not axis.context]
    inside = [axis for axis in related if axis.context]
    for axis in along:
        hung = [other for other in inside if axis.axis in other.context]
        others = [other for other in item.axes if other is not axis and other not in hung]
        b = moved(moved(item.b, others, found), (axis, *hung), identity)
        a_blocks, b_blocks = [], []
        axes: tuple[Axis, ...] = ()
        for block in range(groups[top].size):
            places, left = _in_block(axis, block, top, groups, number)
            a, bb = (tensor.index_select(axis.axis, index_of(places, tensor)) for tensor in (item.a, b))
            axes = (left,) if left.units else ()
            for other in hung:
                where, more = _in_block(_row_of(other, axis.axis, places), block, top, groups, number)
                a, bb = (tensor.index_select(other.axis, index_of(where, tensor)) for tensor in (a, bb))
                axes += (more,) if more.units else ()
            a_blocks.append(a)
            b_blocks.append(bb)
        yield Piece(a_blocks, b_blocks, axes)


def _in_block(
    axis: Axis, block: int, top: int, groups: Sequence[Group], number: Mapping[int, int]
) -> tuple[Places, Axis]:
    """The places of an axis that are in a block, in one order for all blocks, and what they stand for there."""
    many = groups[top].size
    line = [(group, units.ravel()) for group, units in axis.units]
    length = max(len(units) for _, units in line)
    there = np.zeros(length, dtype=bool)
    for group, units in line:
        if group == top or group in number:
            size = groups[group].size // many
            there |= (units >= 0) & (units // size == block)
    places = np.flatnonzero(there)
    outside = [group for group, _ in line if group != top and group not in number]
    fixed = codes(axis, None, without=[group for group, _ in line if group not in outside]).ravel()
    fixed = np.broadcast_to(fixed, length)[places]
    left = [
        (number[group], np.where(units[places] >= 0, units[places] % (groups[group].size // many), -1))
        for group, units in line
        if group in number
    ]
    order = np.lexsort((fixed, *(units for _, units in left)))
    shape = [len(places) if place == axis.axis else 1 for place in range(axis.fixed.ndim)]
    kept = tuple((group, units[order].reshape(shape)) for group, units in left if (units >= 0).any())
    return places[order], replace(axis, units=kept, fixed=fixed[order].reshape(shape))


def _row_of(axis: Axis, context: int, places: Places) -> Axis:
    """An axis as it is at the first of some places of its context, where it is the same at all of them."""
    rank = axis.fixed.ndim

    def row(labels: Places) -> Places:
        labels = np.broadcast_to(labels, np.broadcast_shapes(labels.shape, (1,) * rank))
        return np.take(labels, places[:1], axis=context) if labels.shape[context] > 1 else labels

    return replace(axis, units=tuple((group, row(units)) for group, units in axis.units), fixed=row(axis.fixed))


def within_block(group: Group, many: int, number: Mapping[int, int]) -> Group:
    """A group as it is inside one of so many blocks."""
    parent = None if group.parent is None else number.get(group.parent)
    size = group.size // many
    owners = None if parent is None or group.owners is None else group.owners[:size]
    return Group(group.name, size, parent, owners)
