"""Weight matching: the permutations of b under which its weights have the highest inner product with a's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from modeconn.analysis.alignment.symmetry import (
    Axis,
    Group,
    Permutations,
    Places,
    Symmetry,
    codes,
    moved,
    subtree,
)

_MOST_PASSES = 100
_AGREES = {torch.float32: 1e-6, torch.float64: 1e-12}  # a gain is one if it is more than this part of the score


@dataclass(frozen=True)
class Match:
    """Permutations that were found, and how good they are.

    Attributes:
        permutations: for each group of the symmetry.
        score: what was maximised, with b permuted: the inner product of a's weights with b's; the sum of correlations
            of matched units; or the loss of the midpoint, negated.
        before: the same with b as it was.
        scores: of all that were tried: of weight matching one for each order, whose spread says how much it matters.
        passes: over all groups, of the best one.
        notes: what was decided.
    """

    permutations: Permutations
    score: float
    before: float
    scores: tuple[float, ...]
    passes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """Two tensors that are to agree, and the axes of them that move."""

    a: Tensor
    b: Tensor
    axes: tuple[Axis, ...]


@torch.no_grad()
def match_weights(
    symmetry: Symmetry,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    start: Sequence[Places] | None = None,
    tries: int = 5,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, all: None,
) -> Match:
    r"""Maximise \(\sum_t \langle a_t, \pi(b)_t \rangle\) over the permutations of all groups (Ainsworth et al. 2023).

    Coordinate descent: with all groups but one fixed the best permutation of that one is a linear assignment problem.
    Where units are in blocks, the best order inside is found for each pair of blocks, and then the best order of the
    blocks. Groups are visited in a random order until none gains; the problem is NP-hard and the order matters, so
    several are tried.

    Args:
        symmetry: of both networks.
        a, b: their parameters by name; float32 or float64, on one device. Buffers follow, but are not matched.
        start: permutations to begin with; the identity if None.
        tries: random orders, the best of which is kept; the last one begins with what is certain: it fixes the groups
            from the network's ends inwards, each by the tensors whose other axes are fixed by then.
        seed: of these orders.
        report: called with how many tries are done, and how many there are.
    """
    names = [name for name in symmetry.tensors if name in a and symmetry.tied.get(name, name) == name]
    items = [Item(a[name], b[name], symmetry.tensors[name]) for name in names]
    begin = symmetry.identity() if start is None else tuple(start)
    before = _score(items, symmetry.identity())
    found = []
    for number in range(max(tries, 1)):
        report(number, tries)
        generator = np.random.default_rng([seed, number])
        inwards = start is None and number == max(tries, 1) - 1
        first = _from_the_ends(symmetry.groups, items, begin, generator) if inwards else begin
        found.append(ascend(symmetry.groups, items, first, generator))
    best = found[0]
    for one in (*found[1:], (before, symmetry.identity(), 0)):
        if one[0] - best[0] > _tolerance(items) * abs(best[0]):
            best = one
    score, permutations, passes = best
    return Match(permutations, score, before, tuple(one[0] for one in found), passes)


def ascend(
    groups: Sequence[Group],
    items: Sequence[Item],
    start: Permutations,
    generator: np.random.Generator,
    most: int = _MOST_PASSES,
) -> tuple[float, Permutations, int]:
    """Coordinate descent over the groups that are in no other's blocks, until none gains.

    Args:
        groups: all of them; their numbers are those of the items' axes.
        items: what is to agree.
        start: permutations to begin with.
        generator: of the order in which groups are visited.
        most: passes.

    Returns:
        The score, the permutations and the number of passes.
    """
    families = _families(groups)
    concerned = {top: _concerned(items, families[top]) for top in families}
    beside = _neighbours(families, items)
    found, waiting, passes = start, set(families), 0
    while waiting and passes < most:
        passes += 1
        for place in generator.permutation(len(families)).tolist():
            top = list(families)[place]
            if top not in waiting:  # nothing has changed that it was the best for
                continue
            waiting.discard(top)
            tried, old, new = _improved(families[top], groups, concerned[top], found, generator)
            if new - old > _tolerance(items) * max(abs(old), abs(new)):
                found, waiting = tried, waiting | beside[top]
    return _score(items, found), found, passes


def _neighbours(families: Mapping[int, tuple[int, ...]], items: Sequence[Item]) -> dict[int, set[int]]:
    """For each group those on the other axes of its tensors, itself among them if it is on two axes of one."""
    top_of = {number: top for top, family in families.items() for number in family}
    found: dict[int, set[int]] = {top: set() for top in families}
    for item in items:
        there = [(axis.axis, top_of[number]) for axis in item.axes for number in axis.groups]
        for axis, top in there:
            found[top] |= {other for place, other in there if other != top or place != axis}
    return found


def _from_the_ends(
    groups: Sequence[Group], items: Sequence[Item], start: Permutations, generator: np.random.Generator
) -> Permutations:
    """Each group once, the next one always that of which most is certain: whose tensors have no other that is open."""
    families, found = _families(groups), start
    fixed: set[int] = set()
    while open_ := [top for top in families if top not in fixed]:
        certain = {
            top: [
                item
                for item in _concerned(items, families[top])
                if {group for axis in item.axes for group in axis.groups} <= fixed | set(families[top])
            ]
            for top in open_
        }
        top = max(open_, key=lambda top: sum(item.a.numel() for item in certain[top]) / groups[top].size)
        of = certain[top] or _concerned(items, families[top])
        found, _, _ = _improved(families[top], groups, of, found, generator)
        fixed |= set(families[top])
    return found


def _families(groups: Sequence[Group]) -> dict[int, tuple[int, ...]]:
    """The groups that are in no other's blocks, each with all that is in its own."""
    return {top: tuple(subtree(groups, top)) for top, group in enumerate(groups) if group.parent is None}


def _concerned(items: Sequence[Item], family: Sequence[int]) -> list[Item]:
    return [item for item in items if any(set(axis.groups) & set(family) for axis in item.axes)]


def _improved(
    family: tuple[int, ...],
    groups: Sequence[Group],
    items: Sequence[Item],
    found: Permutations,
    generator: np.random.Generator,
) -> tuple[Permutations, float, float]:
    """The best permutation of one group, and of what is in its blocks, with all others as they are.

    Returns:
        The permutations, and the score of the items before and after.
    """
    if not items:
        return found, 0.0, 0.0
    top = family[0]
    if len(family) > 1:
        tried = _blocks(top, family, groups, items, found, generator)
        return tried, _score(items, found), _score(items, tried)
    gain = gains(top, groups[top].size, items, found).double()
    order = assignment(gain)
    tried = _with(found, {top: order})
    if any(sum(top in axis.groups for axis in item.axes) > 1 for item in items):
        return tried, _score(items, found), _score(items, tried)  # the gains are of one axis with the other held
    rows = torch.arange(len(order))
    old, new = (float(gain[rows, torch.from_numpy(one)].sum()) for one in (found[top], order))
    return tried, old, new


def assignment(gain: Tensor) -> Places:
    """The permutation p with the highest sum of gain[i, p[i]]; gain: [units of a, units of b]."""
    from scipy.optimize import linear_sum_assignment  # a heavy package, which other measures do not need

    _, columns = linear_sum_assignment(gain.double().cpu().numpy(), maximize=True)
    return np.asarray(columns, dtype=np.int64)


def gains(number: int, size: int, items: Sequence[Item], permutations: Permutations) -> Tensor:
    """Inner products of what each unit of a and each of b stands for, the others in their order: [size, size]."""
    total = torch.zeros(size, size, dtype=items[0].a.dtype, device=items[0].a.device)
    rest = _with(permutations, {number: np.arange(size)})
    for item in items:
        for axis in item.axes:
            if number in axis.groups:
                others = tuple(other for other in item.axes if other is not axis)
                b = moved(moved(item.b, others, permutations), (axis,), rest)
                places = torch.from_numpy(places_of(axis, number)).to(b.device)
                one, other = (tensor.movedim(axis.axis, 0)[places.ravel()].reshape(size, -1) for tensor in (item.a, b))
                total += one @ other.T
    return total


def places_of(axis: Axis, number: int) -> Places:
    """Where each unit of a group stands on an axis, its places in the order of what else they stand for: [size, n]."""
    units = next(units for group, units in axis.units if group == number).ravel()
    rest = codes(axis, None, without=(number,)).ravel()
    there = np.flatnonzero(units >= 0)
    order = there[np.lexsort((np.broadcast_to(rest, units.shape)[there], units[there]))]
    return order.reshape(int(units.max()) + 1, -1)


def _blocks(
    top: int,
    family: tuple[int, ...],
    groups: Sequence[Group],
    items: Sequence[Item],
    found: Permutations,
    generator: np.random.Generator,
) -> Permutations:
    """The best order of blocks, with the best order inside of each for each block that it can come from."""
    many = groups[top].size
    inner = family[1:]
    number = {old: new for new, old in enumerate(inner)}
    inside = tuple(_within_block(groups[old], many, number) for old in inner)
    identity = _with(found, {old: np.arange(groups[old].size) for old in family})
    cut = [piece for item in items for piece in _cut(item, top, inner, groups, found, identity, number)]
    pair = _best_of_pairs(inside, cut) if _separable(inside, cut) else _climb_of_pairs(inside, cut, generator)
    found_of = [[pair(one, other) for other in range(many)] for one in range(many)]
    blocks = assignment(torch.tensor([[value for value, _ in row] for row in found_of], dtype=torch.float64))
    changed = {top: blocks}
    for old in inner:
        size = groups[old].size // many
        changed[old] = np.concatenate(
            [blocks[one] * size + found_of[one][blocks[one]][1][number[old]] for one in range(many)]
        )
    return _with(found, changed)


@dataclass(frozen=True)
class _Piece:
    """An item cut into blocks: the same for all of them but for the numbers."""

    a: Sequence[Tensor]
    b: Sequence[Tensor]
    axes: tuple[Axis, ...]


_OfPair = Callable[[int, int], tuple[float, Permutations]]  # what a pair of blocks agrees in, and in which order


def _separable(inside: Sequence[Group], cut: Sequence[_Piece]) -> bool:
    """Whether the groups inside a block can be ordered one without another: no number stands for units of two."""
    if any(group.parent is not None for group in inside) or any(len(piece.axes) > 1 for piece in cut):
        return False
    shared = [sum((units.ravel() >= 0).astype(int) for _, units in piece.axes[0].units) for piece in cut if piece.axes]
    return all((np.asarray(many) <= 1).all() for many in shared)


def _best_of_pairs(inside: Sequence[Group], cut: Sequence[_Piece]) -> _OfPair:
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

    def __init__(self, piece: _Piece, axis: int, places: Places) -> None:
        def rows(tensor: Tensor) -> Tensor:
            along = tensor.movedim(axis, 0) if tensor.ndim else tensor[None]
            return along[_index(places.ravel(), tensor)].reshape(len(places), -1)

        self._a, self._b = ([rows(tensor) for tensor in tensors] for tensors in (piece.a, piece.b))

    def gains(self, one: int, other: int) -> Tensor:
        """Inner products of the units of a's block with those of b's: [size, size]."""
        return self._a[one] @ self._b[other].T


def _climb_of_pairs(inside: Sequence[Group], cut: Sequence[_Piece], generator: np.random.Generator) -> _OfPair:
    """The best order inside of two blocks, by coordinate descent."""
    order = tuple(np.arange(group.size) for group in inside)

    def pair(one: int, other: int) -> tuple[float, Permutations]:
        items = [Item(piece.a[one], piece.b[other], piece.axes) for piece in cut]
        value, best, _ = ascend(inside, items, order, generator)
        return value, best

    return pair


def _cut(
    item: Item,
    top: int,
    inner: Sequence[int],
    groups: Sequence[Group],
    found: Permutations,
    identity: Permutations,
    number: Mapping[int, int],
) -> Iterator[_Piece]:
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
            a, bb = (tensor.index_select(axis.axis, _index(places, tensor)) for tensor in (item.a, b))
            axes = (left,) if left.units else ()
            for other in hung:
                where, more = _in_block(_row_of(other, axis.axis, places), block, top, groups, number)
                a, bb = (tensor.index_select(other.axis, _index(where, tensor)) for tensor in (a, bb))
                axes += (more,) if more.units else ()
            a_blocks.append(a)
            b_blocks.append(bb)
        yield _Piece(a_blocks, b_blocks, axes)


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


def _within_block(group: Group, many: int, number: Mapping[int, int]) -> Group:
    """A group as it is inside one of so many blocks."""
    parent = None if group.parent is None else number.get(group.parent)
    size = group.size // many
    owners = None if parent is None or group.owners is None else group.owners[:size]
    return Group(group.name, size, parent, owners)


def _index(places: Places, tensor: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(places)).to(tensor.device)


def _score(items: Sequence[Item], permutations: Permutations) -> float:
    return sum(float((item.a * moved(item.b, item.axes, permutations)).sum(dtype=torch.float64)) for item in items)


def _with(permutations: Permutations, changed: Mapping[int, Places]) -> Permutations:
    return tuple(changed.get(number, moved) for number, moved in enumerate(permutations))


def _tolerance(items: Sequence[Item]) -> float:
    return _AGREES.get(items[0].a.dtype, 1e-6) if items else 0.0
