"""Tensors as what can move: which atom stands at which place of their axes.

A value's axes are labelled by parts. A part owns one axis or several axes together (the heads and the dimensions inside
them, before any operator tells them apart) and has an atom for each of their places; its atoms may differ along further
axes, its context (the dimensions inside a head move in another way in each head). An axis that no part owns is the same
at all its places, as after `expand`, so that any order of it is right.
"""

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


def permute(value: Value, order: Sequence[int]) -> Value:
    """The axes in another order."""
    order = [axis % len(value.shape) for axis in order]
    parts = [
        Part(tuple(sorted(order.index(axis) for axis in part.axes)), part.atoms.transpose(order))
        for part in value.parts
    ]
    return Value(tuple(value.shape[axis] for axis in order), tuple(parts))


def inserted(value: Value, axis: int) -> Value:
    """A new axis of length 1 at this place."""
    parts = (
        Part(tuple(own + (own >= axis) for own in part.axes), np.expand_dims(part.atoms, axis)) for part in value.parts
    )
    return Value((*value.shape[:axis], 1, *value.shape[axis:]), tuple(parts))


def lifted(value: Value, rank: int) -> Value:
    """New axes of length 1 in front."""
    new = rank - len(value.shape)
    if not new:
        return value
    parts = (
        Part(tuple(axis + new for axis in part.axes), part.atoms.reshape((1,) * new + part.atoms.shape))
        for part in value.parts
    )
    return Value((1,) * new + value.shape, tuple(parts))


def dropped(value: Value, axes: Iterable[int]) -> Value:
    """Without some axes, on which no label depends any more."""
    gone = set(axes)
    left = [axis for axis in range(len(value.shape)) if axis not in gone]
    parts = (
        Part(tuple(left.index(axis) for axis in part.axes), part.atoms.squeeze(tuple(gone))) for part in value.parts
    )
    return Value(tuple(value.shape[axis] for axis in left), tuple(parts))
