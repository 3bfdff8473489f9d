"""Parts of several axes taken apart: blocks, and what is inside them."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from modeconn.analysis.alignment.atoms import Atom, Atoms, fixed
from modeconn.analysis.alignment.labels import Part, Value, along


def apart(atoms: Atoms, value: Value, inner: Iterable[int], why: str = "") -> Value:
    """Take apart the parts that own both some of these axes and others: those are blocks, these are inside them."""
    chosen = set(inner)
    parts: list[Part] = []
    for part in value.parts:
        inside = tuple(axis for axis in part.axes if axis in chosen)
        outside = tuple(axis for axis in part.axes if axis not in chosen)
        parts += refined(atoms, part, outside, inside, why) if inside and outside else [part]
    return Value(value.shape, tuple(parts))


def refined(atoms: Atoms, part: Part, outside: tuple[int, ...], inside: tuple[int, ...], why: str) -> list[Part]:
    """Blocks along some axes of a part, and what is inside along the others, which may move apart in each block."""
    rank, shape = part.atoms.ndim, part.atoms.shape
    if (part.atoms < 0).all():
        return [along(axis, fixed(shape[axis]), rank) for axis in part.axes if shape[axis] > 1]
    found = factors(atoms, part.atoms)
    outer = [first_of(factor, inside) for factor in found if is_constant(factor, inside)]
    inner = [factor for factor in found if not is_constant(factor, inside)]
    for factor in list(inner):
        if outer and distinct(outer, outside):
            break
        if not is_constant(factor, outside):  # it is itself a block and a place inside it
            block = atoms.fresh(*(1 if axis in inside else size for axis, size in enumerate(shape)))
            place = atoms.fresh(*shape)
            atoms.unify(factor, atoms.pairs(block, place), why)
            outer.append(block)
            inner = [place if other is factor else other for other in inner]
    if not outer or not distinct(outer, outside):  # blocks of the same units, side by side, which keep their order
        lengths = [size if axis in outside else 1 for axis, size in enumerate(shape)]
        outer.append(fixed(math.prod(lengths)).reshape(lengths))
    blocks = combined(atoms, outer)
    places = squeezed(atoms, combined(atoms, inner), outside)
    parts = [
        Part(axes, labels)
        for axes, labels in ((outside, blocks), (inside, places))
        if any(labels.shape[axis] > 1 for axis in axes)
    ]
    atoms.blocks.append((shape, parts))
    return parts


def factors(atoms: Atoms, labels: Atom) -> list[Atom]:
    """The arrays of atoms that an array of pairs is made of, as far as all its places have the same form."""
    halves = atoms.halves(labels) if (labels >= 0).all() else None
    if halves is None:
        return [atoms.find(labels)]
    return [factor for half in halves for factor in factors(atoms, half)]


def combined(atoms: Atoms, factors: Sequence[Atom]) -> Atom:
    """Pairs of pairs of several arrays of atoms, place by place."""
    first, *others = factors
    for other in others:
        first = atoms.pairs(first, other)
    return first


def distinct(factors: Sequence[Atom], axes: Sequence[int]) -> bool:
    """Whether arrays of atoms together tell all places along some axes apart."""
    rows = [np.moveaxis(factor, axes, range(len(axes))) for factor in np.broadcast_arrays(*factors)]
    size = math.prod(rows[0].shape[: len(axes)])
    codes = np.stack([row.reshape(size, -1)[:, 0] for row in rows])
    return len(np.unique(codes, axis=1).T) == size


def is_constant(labels: Atom, axes: Iterable[int]) -> bool:
    """Whether labels do not depend on some axes."""
    return bool((labels == first_of(labels, axes)).all())


def first_of(labels: Atom, axes: Iterable[int]) -> Atom:
    """The labels at the first place of some axes, which stay with length 1."""
    for axis in axes:
        labels = np.take(labels, [0], axis=axis)
    return labels


def squeezed(atoms: Atoms, labels: Atom, axes: Iterable[int]) -> Atom:
    """Labels of length 1 along those axes on which they do not depend."""
    labels = atoms.find(labels)
    for axis in axes:
        if labels.shape[axis] > 1 and is_constant(labels, [axis]):
            labels = first_of(labels, [axis])
    return labels


def constant_along(atoms: Atoms, labels: Atom, axes: Iterable[int], why: str) -> Atom:
    """Labels that do not depend on some axes any more."""
    for axis in axes:
        if labels.shape[axis] > 1:
            first = first_of(labels, [axis])
            atoms.unify(labels, first, why)
            labels = first
    return labels
