"""Labels of a tensor in another shape: axes made one, and one cut into several."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from modeconn.analysis.alignment.atoms import Atom, Atoms, fixed
from modeconn.analysis.alignment.blocks import apart, combined, distinct, factors, is_constant, refined, squeezed
from modeconn.analysis.alignment.labels import Part, Value, along, inserted


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
        labels = moved(combined(atoms, pieces))
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
    part = Part(part.axes, squeezed(atoms, part.atoms, context))
    for many in range(1, len(part.axes)):
        outside, inside = part.axes[:many], part.axes[many:]
        if (part.atoms < 0).all() or _splits(atoms, part, outside, inside):
            pieces = refined(atoms, part, outside, inside, "")
            return [piece for found in pieces for piece in _told_apart(atoms, found, shape)]
    return [part]


def _splits(atoms: Atoms, part: Part, outside: tuple[int, ...], inside: tuple[int, ...]) -> bool:
    """Whether some of the atoms that a part is made of stand for the first axes alone, and others for the rest."""
    found = factors(atoms, part.atoms)
    outer = [factor for factor in found if is_constant(factor, inside)]
    return 0 < len(outer) < len(found) and distinct(outer, outside)
