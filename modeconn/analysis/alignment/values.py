"""Tensors as what can move: which atom stands at which place of their axes, and what operators ask of them.

A value's axes are labelled by parts. A part owns one axis or several axes together (the heads and the dimensions inside
them, before any operator tells them apart) and has an atom for each of their places; its atoms may differ along further
axes, its context (the dimensions inside a head move in another way in each head). An axis that no part owns is the same
at all its places, as after `expand`, so that any order of it is right.

Every function leaves the values it is given as they are and makes atoms equal where the operator has to be given places
that move together. Nothing here reads a number of a tensor.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from modeconn.analysis.alignment.atoms import Atom, Atoms, fixed


@dataclass(frozen=True)
class Part:
    """The labels of axes that move together.

    Attributes:
        axes: which it owns, ascending.
        atoms: as many axes as the value; of length 1 where the labels do not depend on an axis.
    """

    axes: tuple[int, ...]
    atoms: Atom


@dataclass(frozen=True)
class Value:
    """A tensor's labels.

    Attributes:
        shape: of the tensor.
        parts: no two of them own the same axis; axes of length 1 are owned by none.
    """

    shape: tuple[int, ...]
    parts: tuple[Part, ...] = ()

    def owner(self, axis: int) -> Part | None:
        """The part that owns an axis, if one does."""
        return next((part for part in self.parts if axis in part.axes), None)


def along(axis: int, atoms: Atom, rank: int) -> Part:
    """A part for one axis of a value with this many axes; atoms: [length]."""
    return Part((axis,), atoms.reshape([-1 if place == axis else 1 for place in range(rank)]))


def parameter(atoms: Atoms, shape: Sequence[int]) -> Value:
    """A tensor each of whose axes is free."""
    parts = (along(axis, atoms.fresh(size), len(shape)) for axis, size in enumerate(shape) if size > 1)
    return Value(tuple(shape), tuple(parts))


def constant(shape: Sequence[int]) -> Value:
    """A tensor whose axes all stay."""
    parts = (along(axis, fixed(size), len(shape)) for axis, size in enumerate(shape) if size > 1)
    return Value(tuple(shape), tuple(parts))


def broadcast(atoms: Atoms, values: Iterable[Value], why: str = "") -> Value:
    """What an operator gives that works place by place, as addition does."""
    first, *others = values
    for other in others:
        first = _together(atoms, first, other, why)
    return first


def contract(atoms: Atoms, terms: Sequence[tuple[str, Value]], out: str, why: str = "") -> Value:
    """Products summed over the letters that are not in `out`, as `torch.einsum` does."""
    letters = "".join(dict.fromkeys("".join(names for names, _ in terms) + out))
    product = broadcast(atoms, [_placed(value, names, letters) for names, value in terms], why)
    summed = reduce(atoms, product, [place for place, letter in enumerate(letters) if letter not in out], why=why)
    left = [letter for letter in letters if letter in out]
    return permute(summed, [left.index(letter) for letter in out])


def reduce(atoms: Atoms, value: Value, axes: Iterable[int], keep: bool = False, why: str = "") -> Value:
    """What a sum, mean or maximum over some axes gives."""
    gone = _places(value, axes)
    value = over(atoms, value, gone, why)
    parts = [part for part in value.parts if not gone & set(part.axes)]
    shape = tuple(1 if axis in gone else size for axis, size in enumerate(value.shape))
    return Value(shape, tuple(parts)) if keep else _dropped(Value(shape, tuple(parts)), gone)


def over(atoms: Atoms, value: Value, axes: Iterable[int], why: str = "") -> Value:
    """What an operator gives that treats all places of some axes alike, as a softmax over them does."""
    chosen = _places(value, axes)
    value = apart(atoms, value, chosen, why)
    parts = []
    for part in value.parts:
        if not chosen & set(part.axes):
            part = Part(part.axes, _constant_along(atoms, part.atoms, chosen, why))
        parts.append(part)
    return Value(value.shape, tuple(parts))


def pin(atoms: Atoms, value: Value, axes: Iterable[int], why: str) -> Value:
    """What an operator gives that tells the places of some axes apart; they stay where they are."""
    chosen = _places(value, axes)
    value = over(atoms, value, chosen, why)
    for part in value.parts:
        if chosen & set(part.axes):
            atoms.pin(part.atoms, why)
    return value


def pin_all(atoms: Atoms, value: Value, why: str) -> None:
    """Let nothing of a value move."""
    for part in value.parts:
        atoms.pin(part.atoms, why)


def permute(value: Value, order: Sequence[int]) -> Value:
    """The axes in another order."""
    order = [axis % len(value.shape) for axis in order]
    parts = [
        Part(tuple(sorted(order.index(axis) for axis in part.axes)), part.atoms.transpose(order))
        for part in value.parts
    ]
    return Value(tuple(value.shape[axis] for axis in order), tuple(parts))


def take(atoms: Atoms, value: Value, axis: int, places: Sequence[int] | Atom, why: str) -> Value:
    """Some places of an axis, in this order, as slicing and a constant index give."""
    axis, places = axis % len(value.shape), np.asarray(places, dtype=np.int64)
    parts = []
    for part in value.parts:
        if part.atoms.shape[axis] > 1:
            part = Part(part.axes, np.take(part.atoms, places, axis=axis))
        if axis in part.axes and len(places) == 1:
            if part.axes == (axis,):
                atoms.pin(part.atoms, why)  # the only place that is looked at is not any place
                continue
            part = Part(tuple(other for other in part.axes if other != axis), part.atoms)
        parts.append(part)
    shape = tuple(len(places) if place == axis else size for place, size in enumerate(value.shape))
    return Value(shape, tuple(parts))


def select(atoms: Atoms, value: Value, axis: int, place: int, why: str) -> Value:
    """One place of an axis, which goes."""
    axis = axis % len(value.shape)
    return _dropped(take(atoms, value, axis, [place % value.shape[axis]], why), {axis})


def expand(value: Value, shape: Sequence[int]) -> Value:
    """Axes of length 1 made longer, and new ones in front."""
    new = len(shape) - len(value.shape)
    sizes = [value.shape[axis - new] if size == -1 else size for axis, size in enumerate(shape)]
    return Value(tuple(sizes), _lifted(value, len(shape)).parts)


def join(atoms: Atoms, values: Sequence[Value], axis: int, why: str) -> Value:
    """Values one after the other along an axis that they have, as `torch.cat`."""
    axis = axis % len(values[0].shape)
    values = [_labelled(atoms, apart(atoms, value, {axis}, why), axis) for value in values]
    sizes = [value.shape[axis] for value in values]
    others = [
        Value(
            (*value.shape[:axis], 1, *value.shape[axis + 1 :]),
            tuple(
                Part(part.axes, _constant_along(atoms, part.atoms, {axis}, why))
                for part in value.parts
                if axis not in part.axes
            ),
        )
        for value in values
    ]
    rest = broadcast(atoms, others, why)
    rows = [_own(value, axis) for value in values]
    context = [max(row.shape[place] for row in rows) for place in range(len(values[0].shape))]
    full = [
        np.broadcast_to(row, [size if place == axis else length for place, length in enumerate(context)])
        for row, size in zip(rows, sizes, strict=True)
    ]
    joined = np.concatenate(full, axis=axis)
    if (joined < 0).all():  # places that stay are counted anew
        joined = along(axis, fixed(sum(sizes)), joined.ndim).atoms
    shape = (*rest.shape[:axis], sum(sizes), *rest.shape[axis + 1 :])
    return Value(shape, (*rest.parts, Part((axis,), joined)))


def reshape(atoms: Atoms, value: Value, shape: Sequence[int], why: str = "") -> Value:
    """The same places in another shape, in the same order."""
    known = math.prod(size for size in shape if size != -1)
    shape = tuple(math.prod(value.shape) // known if size == -1 else size for size in shape)
    blocks = _blocks(value.shape, shape)
    for part in value.parts:  # a part of several axes that do not become one block is taken apart at its borders
        if not any(set(part.axes) <= set(before) for before, _ in blocks):
            for before, _ in reversed(blocks):
                value = apart(atoms, value, set(before) & set(part.axes), why)
    flat = value
    sizes: list[tuple[list[int], list[int]]] = []
    for before, after in reversed(blocks):
        sizes[:0] = [(before, after)]
        flat = _merged(atoms, flat, before, why)
    # Now there is one axis for each block: it is cut into the axes that come after.
    parts = list(flat.parts)
    for place in reversed(range(len(sizes))):
        _, after = sizes[place]
        lengths = [shape[axis] for axis in after]
        parts = [_cut(part, place, lengths) for part in parts]
    whole = [part for part in parts if part.axes]
    return Value(shape, tuple(piece for part in whole for piece in _told_apart(atoms, part, shape)))


def apart(atoms: Atoms, value: Value, inner: Iterable[int], why: str = "") -> Value:
    """Take apart the parts that own both some of these axes and others: those are blocks, these are inside them."""
    chosen = set(inner)
    parts: list[Part] = []
    for part in value.parts:
        inside = tuple(axis for axis in part.axes if axis in chosen)
        outside = tuple(axis for axis in part.axes if axis not in chosen)
        parts += _refined(atoms, part, outside, inside, why) if inside and outside else [part]
    return Value(value.shape, tuple(parts))


def _refined(atoms: Atoms, part: Part, outside: tuple[int, ...], inside: tuple[int, ...], why: str) -> list[Part]:
    """Blocks along some axes of a part, and what is inside along the others, which may move apart in each block."""
    rank, shape = part.atoms.ndim, part.atoms.shape
    if (part.atoms < 0).all():
        return [along(axis, fixed(shape[axis]), rank) for axis in part.axes if shape[axis] > 1]
    found = _factors(atoms, part.atoms)
    outer = [_first(factor, inside) for factor in found if _is_constant(factor, inside)]
    inner = [factor for factor in found if not _is_constant(factor, inside)]
    for factor in list(inner):
        if outer and _distinct(outer, outside):
            break
        if not _is_constant(factor, outside):  # it is itself a block and a place inside it
            block = atoms.fresh(*(1 if axis in inside else size for axis, size in enumerate(shape)))
            place = atoms.fresh(*shape)
            atoms.unify(factor, atoms.pairs(block, place), why)
            outer.append(block)
            inner = [place if other is factor else other for other in inner]
    if not outer or not _distinct(outer, outside):  # blocks of the same units, side by side, which keep their order
        lengths = [size if axis in outside else 1 for axis, size in enumerate(shape)]
        outer.append(fixed(math.prod(lengths)).reshape(lengths))
    blocks = _combined(atoms, outer)
    places = _squeezed(atoms, _combined(atoms, inner), outside)
    parts = [
        Part(axes, labels)
        for axes, labels in ((outside, blocks), (inside, places))
        if any(labels.shape[axis] > 1 for axis in axes)
    ]
    atoms.blocks.append((shape, parts))
    return parts


def _factors(atoms: Atoms, labels: Atom) -> list[Atom]:
    """The arrays of atoms that an array of pairs is made of, as far as all its places have the same form."""
    halves = atoms.halves(labels) if (labels >= 0).all() else None
    if halves is None:
        return [atoms.find(labels)]
    return [factor for half in halves for factor in _factors(atoms, half)]


def _combined(atoms: Atoms, factors: Sequence[Atom]) -> Atom:
    first, *others = factors
    for other in others:
        first = atoms.pairs(first, other)
    return first


def _distinct(factors: Sequence[Atom], axes: Sequence[int]) -> bool:
    """Whether arrays of atoms together tell all places along some axes apart."""
    rows = [np.moveaxis(factor, axes, range(len(axes))) for factor in np.broadcast_arrays(*factors)]
    size = math.prod(rows[0].shape[: len(axes)])
    codes = np.stack([row.reshape(size, -1)[:, 0] for row in rows])
    return len(np.unique(codes, axis=1).T) == size


def _is_constant(labels: Atom, axes: Iterable[int]) -> bool:
    return bool((labels == _first(labels, axes)).all())


def _first(labels: Atom, axes: Iterable[int]) -> Atom:
    """The labels at the first place of some axes, which stay with length 1."""
    for axis in axes:
        labels = np.take(labels, [0], axis=axis)
    return labels


def _squeezed(atoms: Atoms, labels: Atom, axes: Iterable[int]) -> Atom:
    """Labels of length 1 along those axes on which they do not depend."""
    labels = atoms.find(labels)
    for axis in axes:
        if labels.shape[axis] > 1 and _is_constant(labels, [axis]):
            labels = _first(labels, [axis])
    return labels


def _constant_along(atoms: Atoms, labels: Atom, axes: Iterable[int], why: str) -> Atom:
    """Labels that do not depend on some axes any more."""
    for axis in axes:
        if labels.shape[axis] > 1:
            first = _first(labels, [axis])
            atoms.unify(labels, first, why)
            labels = first
    return labels


def _together(atoms: Atoms, one: Value, other: Value, why: str) -> Value:
    rank = max(len(one.shape), len(other.shape))
    one, other = _lifted(one, rank), _lifted(other, rank)
    while crossing := _crossing(one, other):
        one, other = (_parted(atoms, value, *crossing, why) for value in (one, other))
    shape = tuple(np.broadcast_shapes(one.shape, other.shape))
    parts = []
    for part in (*one.parts, *(part for part in other.parts if not one.owner(part.axes[0]))):
        both = next((found for found in other.parts if found.axes == part.axes), None)
        labels = part.atoms
        if both is not None and both is not part:
            atoms.unify(labels, both.atoms, why)
            labels = np.broadcast_arrays(labels, both.atoms)[0]
        context = [axis for axis in range(rank) if axis not in part.axes]
        parts.append(Part(part.axes, _squeezed(atoms, labels, context)))
    return Value(shape, tuple(parts))


def _crossing(one: Value, other: Value) -> tuple[Part, Part] | None:
    """Two parts that share an axis and do not own the same axes."""
    return next(
        (
            (part, found)
            for part in one.parts
            for found in other.parts
            if set(part.axes) & set(found.axes) and part.axes != found.axes
        ),
        None,
    )


def _parted(atoms: Atoms, value: Value, one: Part, other: Part, why: str) -> Value:
    """Cut each of two crossing parts, where a value has it, behind its first axes that the other has or has not."""
    for part, by in ((one, other), (other, one)):
        if len(part.axes) > 1 and any(found is part for found in value.parts):
            has = part.axes[0] in by.axes
            many = next((n for n, axis in enumerate(part.axes) if (axis in by.axes) != has), 0)
            if many:
                return apart(atoms, value, part.axes[many:], why)
    return value


def _lifted(value: Value, rank: int) -> Value:
    """New axes of length 1 in front."""
    new = rank - len(value.shape)
    if not new:
        return value
    parts = (
        Part(tuple(axis + new for axis in part.axes), part.atoms.reshape((1,) * new + part.atoms.shape))
        for part in value.parts
    )
    return Value((1,) * new + value.shape, tuple(parts))


def _placed(value: Value, names: str, letters: str) -> Value:
    """A value with an axis for each letter, of length 1 for those that it does not have."""
    order = sorted(range(len(names)), key=lambda axis: letters.index(names[axis]))
    value = permute(value, order)
    for place, letter in enumerate(letters):
        if letter not in names:
            value = inserted(value, place)
    return value


def inserted(value: Value, axis: int) -> Value:
    """A new axis of length 1 at this place."""
    parts = (
        Part(tuple(own + (own >= axis) for own in part.axes), np.expand_dims(part.atoms, axis)) for part in value.parts
    )
    return Value((*value.shape[:axis], 1, *value.shape[axis:]), tuple(parts))


def _dropped(value: Value, axes: Iterable[int]) -> Value:
    """Without some axes, on which no label depends any more."""
    gone = set(axes)
    left = [axis for axis in range(len(value.shape)) if axis not in gone]
    parts = (
        Part(tuple(left.index(axis) for axis in part.axes), part.atoms.squeeze(tuple(gone))) for part in value.parts
    )
    return Value(tuple(value.shape[axis] for axis in left), tuple(parts))


def _labelled(atoms: Atoms, value: Value, axis: int) -> Value:
    """A value one of whose parts owns an axis, whatever its length."""
    if value.owner(axis):
        return value
    size = value.shape[axis]
    part = along(axis, fixed(1) if size == 1 else atoms.fresh(size), len(value.shape))
    return Value(value.shape, (*value.parts, part))


def _own(value: Value, axis: int) -> Atom:
    part = value.owner(axis)
    assert part is not None
    return part.atoms


def _places(value: Value, axes: Iterable[int]) -> set[int]:
    return {axis % len(value.shape) for axis in axes} if value.shape else set()


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The fewest axes before and after a reshape that hold the same places, in order."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        mine: list[int] = []
        theirs: list[int] = []
        left = right = 1
        while not mine or left != right or not theirs:
            if (left <= right and i < len(before)) or j == len(after):
                left *= before[i]
                mine.append(i)
                i += 1
            else:
                right *= after[j]
                theirs.append(j)
                j += 1
            if left == right and (i == len(before) or j == len(after)):
                break
        blocks.append((mine, theirs))
    return blocks


def _merged(atoms: Atoms, value: Value, axes: Sequence[int], why: str) -> Value:
    """Neighbouring axes made one, or an axis of length 1 where there are none."""
    if not axes:
        return inserted(value, len(value.shape))
    start, size = axes[0], math.prod(value.shape[axis] for axis in axes)
    owned = [axis for axis in axes if value.shape[axis] > 1]
    shape = (*value.shape[:start], size, *value.shape[axes[-1] + 1 :])

    def moved(labels: Atom) -> Atom:
        """The labels with the axes made one: of its full length if they depend on any of them."""
        lengths = [labels.shape[axis] for axis in axes]
        if max(lengths) > 1:
            full = list(labels.shape)
            full[start : axes[-1] + 1] = [value.shape[axis] for axis in axes]
            labels = np.broadcast_to(labels, full)
            return labels.reshape(*full[:start], size, *full[axes[-1] + 1 :])
        return labels.reshape(*labels.shape[:start], 1, *labels.shape[axes[-1] + 1 :])

    def renumbered(part: Part, own: Iterable[int]) -> tuple[int, ...]:
        return tuple(axis if axis < start else axis - len(axes) + 1 for axis in own)

    others = [
        Part(renumbered(part, part.axes), moved(part.atoms)) for part in value.parts if not set(part.axes) & set(axes)
    ]
    if all(value.owner(axis) is None for axis in owned):
        return Value(shape, tuple(others))
    pieces: list[Atom] = []
    seen: set[int] = set()
    for axis in owned:
        if axis in seen:
            continue
        part = value.owner(axis)
        if part is None:  # any order is right, in each of the blocks before it in another way
            before = owned[: owned.index(axis) + 1]
            lengths = [length if place in before else 1 for place, length in enumerate(value.shape)]
            part = Part((axis,), atoms.fresh(*lengths))
        seen |= set(part.axes)
        pieces.append(part.atoms)
    if len(pieces) > 1 and all((piece < 0).all() for piece in pieces):
        labels = along(start, fixed(size), len(shape)).atoms
    else:
        labels = moved(_combined(atoms, pieces))
    return Value(shape, (*others, Part((start,), labels)))


def _cut(part: Part, place: int, lengths: Sequence[int]) -> Part:
    """One axis of a part cut into axes of these lengths, which it owns if it owned the axis."""
    labels, many = part.atoms, len(lengths)
    cut = list(lengths) if labels.shape[place] > 1 else [1] * many
    shape = (*labels.shape[:place], *cut, *labels.shape[place + 1 :])
    axes: list[int] = []
    for axis in part.axes:
        if axis == place:
            axes += [place + n for n, length in enumerate(lengths) if length > 1]
        else:
            axes.append(axis if axis < place else axis + many - 1)
    return Part(tuple(sorted(axes)), labels.reshape(shape))


def _told_apart(atoms: Atoms, part: Part, shape: Sequence[int]) -> list[Part]:
    """A part of several axes as parts of fewer, where its atoms say which axis they stand for."""
    context = [axis for axis in range(len(shape)) if axis not in part.axes]
    part = Part(part.axes, _squeezed(atoms, part.atoms, context))
    for many in range(1, len(part.axes)):
        outside, inside = part.axes[:many], part.axes[many:]
        if (part.atoms < 0).all() or _splits(atoms, part, outside, inside):
            pieces = _refined(atoms, part, outside, inside, "")
            return [piece for found in pieces for piece in _told_apart(atoms, found, shape)]
    return [part]


def _splits(atoms: Atoms, part: Part, outside: tuple[int, ...], inside: tuple[int, ...]) -> bool:
    """Whether some of the atoms that a part is made of stand for the first axes alone, and others for the rest."""
    found = _factors(atoms, part.atoms)
    outer = [factor for factor in found if _is_constant(factor, inside)]
    return 0 < len(outer) < len(found) and _distinct(outer, outside)
