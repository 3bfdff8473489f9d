"""What operators ask of the labels of tensors.

Every function leaves the values it is given as they are and makes atoms equal where the operator has to be given places
that move together. Nothing here reads a number of a tensor.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from modeconn.analysis.alignment.atoms import Atom, Atoms, fixed
from modeconn.analysis.alignment.blocks import apart, constant_along, squeezed
from modeconn.analysis.alignment.labels import Part, Value, along, dropped, inserted, lifted, permute


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
    return Value(shape, tuple(parts)) if keep else dropped(Value(shape, tuple(parts)), gone)


def over(atoms: Atoms, value: Value, axes: Iterable[int], why: str = "") -> Value:
    """What an operator gives that treats all places of some axes alike, as a softmax over them does."""
    chosen = _places(value, axes)
    value = apart(atoms, value, chosen, why)
    parts = []
    for part in value.parts:
        if not chosen & set(part.axes):
            part = Part(part.axes, constant_along(atoms, part.atoms, chosen, why))
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
    return dropped(take(atoms, value, axis, [place % value.shape[axis]], why), {axis})


def expand(value: Value, shape: Sequence[int]) -> Value:
    """Axes of length 1 made longer, and new ones in front."""
    new = len(shape) - len(value.shape)
    sizes = [value.shape[axis - new] if size == -1 else size for axis, size in enumerate(shape)]
    return Value(tuple(sizes), lifted(value, len(shape)).parts)


def join(atoms: Atoms, values: Sequence[Value], axis: int, why: str) -> Value:
    """Values one after the other along an axis that they have, as `torch.cat`."""
    axis = axis % len(values[0].shape)
    values = [_labelled(atoms, apart(atoms, value, {axis}, why), axis) for value in values]
    sizes = [value.shape[axis] for value in values]
    others = [
        Value(
            (*value.shape[:axis], 1, *value.shape[axis + 1 :]),
            tuple(
                Part(part.axes, constant_along(atoms, part.atoms, {axis}, why))
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


def _together(atoms: Atoms, one: Value, other: Value, why: str) -> Value:
    rank = max(len(one.shape), len(other.shape))
    one, other = lifted(one, rank), lifted(other, rank)
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
        parts.append(Part(part.axes, squeezed(atoms, labels, context)))
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


def _placed(value: Value, names: str, letters: str) -> Value:
    """A value with an axis for each letter, of length 1 for those that it does not have."""
    order = sorted(range(len(names)), key=lambda axis: letters.index(names[axis]))
    value = permute(value, order)
    for place, letter in enumerate(letters):
        if letter not in names:
            value = inserted(value, place)
    return value


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
