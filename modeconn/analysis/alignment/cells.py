"""From atoms to groups: which units can change places, found by what distinguishes them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from modeconn.analysis.alignment.atoms import Atom, Atoms
from modeconn.analysis.alignment.labels import Part, Value
from modeconn.analysis.alignment.symmetry import Axis, Group, Symmetry, SymmetryError, moved
from modeconn.analysis.alignment.trace import Traced

Hashes = NDArray[np.uint64]


def symmetry_of(traced: Traced) -> Symmetry:
    """The groups of a network that was traced.

    1. Every label is written as the leaves that it is made of: a head and a dimension inside it.
    2. Leaves are distinguished by the labels that they stand in, and by the cells of the other leaves there, until
       nothing more is distinguished (colour refinement). Leaves of one cell can change places.
    3. A leaf that stands with one leaf of another cell alone is inside it: a unit in a block.
    4. Where a permutation would still have no place to take a unit to, the axis is pinned, and all begins anew.
    """
    while True:
        found, wrong = _attempt(traced)
        if wrong is None:
            return found
        traced.atoms.pin(wrong, "its units do not move by themselves")


def _attempt(traced: Traced) -> tuple[Symmetry, Atom | None]:
    """The groups, and the atoms to be pinned, if there are any that make them wrong."""
    labels = _Labels(traced.atoms, _rows(traced))
    cells = labels.cells()
    groups, unit_of, wrong = _groups(labels, cells)
    if wrong is not None:
        return Symmetry((), {}, {}, {}, {}), wrong
    tensors, written, read = (
        _axes(labels, unit_of, found) for found in (traced.parameters, traced.written, traced.read)
    )
    named = _named(groups, tensors)
    shapes = {name: value.shape for name, value in traced.parameters.items()}
    first: dict[int, str] = {}
    tied = {name: first.setdefault(id(value), name) for name, value in traced.parameters.items()}
    tied = {name: known for name, known in tied.items() if name != known}
    pinned = _pinned(traced, tensors)
    found = Symmetry(named, tensors, shapes, pinned, dict(traced.unknown), tied, written, read)
    return found, _without_place(found, traced)


@dataclass(frozen=True)
class _Row:
    """A part's labels, as places by rows of its context.

    Attributes:
        atoms: [rows, places].
        context: for each axis of the context the label of each row, [rows].
    """

    atoms: Atom
    context: tuple[Atom, ...]


def _rows(traced: Traced) -> list[_Row]:
    """The labels of all values, each once."""
    found: dict[tuple[bytes, ...], _Row] = {}
    blocks = (Value(shape, tuple(parts)) for shape, parts in traced.atoms.blocks)
    for value in (*traced.parameters.values(), *traced.seen, *blocks):
        for part in value.parts:
            if (part.atoms >= 0).any():
                row = _row(traced.atoms, value, part)
                found.setdefault((row.atoms.tobytes(), *(label.tobytes() for label in row.context)), row)
    return list(found.values())


def _row(atoms: Atoms, value: Value, part: Part) -> _Row:
    shape = part.atoms.shape
    context = [axis for axis, length in enumerate(shape) if length > 1 and axis not in part.axes]
    own = [axis for axis in range(len(shape)) if axis not in context]
    labels = atoms.find(part.atoms).transpose(*context, *own).reshape(int(np.prod([shape[a] for a in context])), -1)
    stands = []
    for axis in context:
        owner = value.owner(axis)
        known = owner is not None and max(n for a, n in enumerate(owner.atoms.shape) if a != axis) == 1
        line = atoms.find(owner.atoms.ravel()) if owner is not None and known else -1 - np.arange(shape[axis])
        place = [length if a == axis else 1 for a, length in enumerate(shape)]
        wide = np.broadcast_to(line.reshape(place), [shape[a] if a in context else 1 for a in range(len(shape))])
        stands.append(wide.transpose(*context, *own).ravel())
    return _Row(labels, tuple(stands))


class _Labels:
    """All labels of a network, written as leaves."""

    def __init__(self, atoms: Atoms, rows: Sequence[_Row]) -> None:
        self.atoms, self.rows = atoms, rows
        arrays = [array.ravel() for row in rows for array in (row.atoms, *row.context)]
        roots = np.unique(np.concatenate(arrays)) if arrays else np.empty(0, np.int64)
        leaves = [atoms.leaves(root) for root in roots.tolist()]
        wide = max((len(free) for free, _ in leaves), default=0)
        self._roots = roots
        self._leaves = np.full((len(roots), max(wide, 1)), -1, dtype=np.int64)
        for place, (free, _) in enumerate(leaves):
            self._leaves[place, : len(free)] = free
        # Places that stay are negative, and Python's hash of -1 is that of -2.
        numbers: dict[tuple[int, ...], int] = {}
        self._fixed = np.array([numbers.setdefault(stays, len(numbers)) for _, stays in leaves], dtype=np.int64)
        self.free = np.unique(self._leaves[self._leaves >= 0])

    def of(self, atoms: Atom) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Leaves [..., slots], -1 where there are fewer, and what stays [...], of an array of atoms."""
        places = np.searchsorted(self._roots, self.atoms.find(atoms))
        return self._leaves[places], self._fixed[places]

    def cells(self) -> Hashes:
        """The cell of each free leaf, as a number that leaves of one cell share."""
        cells = np.zeros(len(self.free), dtype=np.uint64)
        many = 0
        while len(np.unique(cells)) > many:
            many = len(np.unique(cells))
            sums = np.zeros_like(cells)
            for number, row in enumerate(self.rows):
                self._distinguish(number, row, cells, sums)
            cells = _mixed(cells, sums)
        return cells

    def _distinguish(self, number: int, row: _Row, cells: Hashes, sums: Hashes) -> None:
        """Add to each leaf's sum what it is seen with in these labels."""
        lines, codes = np.full(len(row.atoms), number, dtype=np.uint64), []
        for label in row.context:
            leaves, code = self._coded(label, cells)
            codes.append((leaves, code))
            lines = _mixed(lines, code)
        lines = _mixed(lines, _copies(np.stack(row.context, axis=1)) if row.context else np.zeros(1, np.uint64))
        leaves, code = self._coded(row.atoms, cells)  # [rows, places, slots], [rows, places]
        whole = _mixed(lines[:, None], code)
        for slot in range(leaves.shape[-1]):
            self._add(sums, leaves[..., slot], _mixed(whole, np.uint64(slot + 1)))
        for axis, (stands, _) in enumerate(codes):  # blocks are distinguished by what is inside them
            seen = _mixed(code.sum(axis=1, dtype=np.uint64), np.uint64(1000 + axis + 64 * number))
            for slot in range(stands.shape[-1]):
                self._add(sums, stands[:, slot], seen)

    def _coded(self, atoms: Atom, cells: Hashes) -> tuple[NDArray[np.int64], Hashes]:
        """Leaves, and one number for the cells of those that stand at each place with what stays there."""
        leaves, fixed = self.of(atoms)
        code = _mixed(fixed.astype(np.uint64), np.uint64(7))
        for slot in range(leaves.shape[-1]):
            there = leaves[..., slot]
            code = np.where(
                there >= 0,
                _mixed(code, cells[np.searchsorted(self.free, np.maximum(there, 0)) % max(len(cells), 1)]),
                code,
            )
        return leaves, code

    def _add(self, sums: Hashes, leaves: NDArray[np.int64], what: Hashes) -> None:
        there = leaves >= 0
        what = np.broadcast_to(what, leaves.shape)[there]
        np.add.at(sums, np.searchsorted(self.free, leaves[there]), what)


def _mixed(one: Hashes, other: Hashes | np.uint64) -> Hashes:
    """A number for two, which other two do not have, as far as 64 bits tell (splitmix64's last steps)."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(one * np.uint64(0x9E3779B97F4A7C15) + other + np.uint64(0x632BE59BD9B4E019))
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def _copies(rows: Atom) -> Hashes:
    """For each row, how many equal ones came before it."""
    seen: dict[bytes, int] = defaultdict(int)
    found = []
    for row in rows:
        found.append(seen[row.tobytes()])
        seen[row.tobytes()] += 1
    return np.array(found, dtype=np.uint64)


@dataclass(frozen=True)
class _Units:
    """What a leaf is: for each one the number of its group, -1 if it stays, and which unit."""

    group: NDArray[np.int64]
    unit: NDArray[np.int64]


def _groups(labels: _Labels, cells: Hashes) -> tuple[list[Group], _Units, Atom | None]:
    """Groups by cells, those of blocks before what is inside them; or atoms that have to be pinned first."""
    _, cell = np.unique(cells, return_inverse=True)
    sizes = np.bincount(cell, minlength=1)
    inside = _owners(labels, cell, sizes)
    alias = np.arange(len(labels.free))
    parents: dict[int, int] = {}
    owner: dict[int, NDArray[np.int64]] = {}
    for number, candidates in inside.items():
        for other, of in candidates.items():
            if sizes[other] == sizes[number] and other < number:  # one in each block: it is the block
                alias[cell == number] = of
        deepest = [
            other
            for other in candidates
            if sizes[other] < sizes[number]
            and all(
                third in inside.get(other, {})
                for third in candidates
                if third != other and sizes[third] < sizes[number]
            )
        ]
        blocks = [other for other in candidates if sizes[other] < sizes[number]]
        if blocks and not deepest:
            return [], _Units(alias, alias), labels.free[cell == number]
        if blocks:
            parents[number], owner[number] = deepest[0], candidates[deepest[0]]
    aliased = {int(number) for number in np.unique(cell[alias != np.arange(len(alias))])}
    kept = [number for number in range(len(sizes)) if sizes[number] > 1 and number not in aliased]
    first = {number: int(np.flatnonzero(cell == number)[0]) for number in kept}

    def depth(number: int) -> int:
        return 1 + depth(parents[number]) if number in parents else 0

    order = sorted(kept, key=lambda number: (depth(number), first[number]))
    group = np.full(len(alias), -1)
    unit = np.zeros(len(alias), dtype=np.int64)
    groups: list[Group] = []
    for place, number in enumerate(order):
        leaves = np.flatnonzero(cell == number)
        parent, owners = None, None
        if number in parents:
            above = parents[number]
            while above in aliased:
                above = int(cell[alias[np.flatnonzero(cell == above)[0]]])
            parent = order.index(above)
            blocks_of = unit[alias[owner[number]]]
            leaves = leaves[np.argsort(blocks_of, kind="stable")]
            owners = np.sort(blocks_of)
        group[leaves], unit[leaves] = place, np.arange(len(leaves))
        groups.append(Group("", len(leaves), parent, owners))
    return groups, _Units(group[alias], unit[alias]), None


def _owners(
    labels: _Labels, cell: NDArray[np.int64], sizes: NDArray[np.int64]
) -> dict[int, dict[int, NDArray[np.int64]]]:
    """For each cell the others whose leaves its own stand with one of alone: that leaf, for each of its own."""
    together: dict[tuple[int, int], list[NDArray[np.int64]]] = defaultdict(list)
    for row in labels.rows:
        leaves, _ = labels.of(row.atoms)
        slots = [leaves[..., slot] for slot in range(leaves.shape[-1])]
        context = []
        for label in row.context:
            stands, _ = labels.of(label)
            context += [np.broadcast_to(stands[:, [slot]], row.atoms.shape) for slot in range(stands.shape[-1])]
        for one in slots:
            for other in (*slots, *context):
                both = (one >= 0) & (other >= 0) & (one != other)
                if other is one or not both.any():
                    continue
                pairs = np.searchsorted(labels.free, np.stack([one[both], other[both]], axis=1))
                pairs = np.unique(pairs, axis=0)
                of = cell[pairs]
                for kinds in np.unique(of, axis=0).tolist():
                    if kinds[0] != kinds[1] and min(sizes[kinds]) > 1:
                        together[kinds[0], kinds[1]].append(pairs[(of == kinds).all(axis=1)])
    found: dict[int, dict[int, NDArray[np.int64]]] = defaultdict(dict)
    for (number, by), lists in together.items():
        pairs = np.unique(np.concatenate(lists), axis=0)
        own, counts = np.unique(pairs[:, 0], return_counts=True)
        if len(own) == sizes[number] and (counts == 1).all():
            found[number][by] = pairs[np.argsort(pairs[:, 0]), 1]
    return found


def _axes(labels: _Labels, units: _Units, found: Mapping[str, Value]) -> dict[str, tuple[Axis, ...]]:
    """The axes of some tensors that move, by name."""
    axes = {
        name: tuple(axis for part in value.parts if len(part.axes) == 1 and (axis := _axis(labels, part, units)).units)
        for name, value in found.items()
    }
    return {name: one for name, one in axes.items() if one}


def _axis(labels: _Labels, part: Part, units: _Units) -> Axis:
    """A part of a parameter as units."""
    if (part.atoms < 0).all():
        return Axis(part.axes[0], (), part.atoms)
    leaves, fixed = labels.of(part.atoms)
    found: dict[int, Atom] = {}
    stays = fixed.copy()
    for slot in range(leaves.shape[-1]):
        there = leaves[..., slot]
        place = np.searchsorted(labels.free, np.maximum(there, 0)) % max(len(labels.free), 1)
        group = np.where(there >= 0, units.group[place] if len(units.group) else -1, -1)
        alone = (there >= 0) & (group < 0)
        stays = np.where(alone, stays * 1000003 + there, stays)
        for number in np.unique(group[group >= 0]).tolist():
            here = np.where(group == number, units.unit[place] + 1, 0)
            found[number] = np.maximum(found.get(number, here), here)
    pieces = []
    for number, unit in found.items():
        if (unit == 0).any():  # other places of this axis are of other groups: they are told apart by it
            stays = np.where(unit == 0, stays * 31 + number + 1, stays)
        pieces.append((number, unit - 1))
    narrow = [_narrowed(array, part.axes[0]) for array in (stays, *(unit for _, unit in pieces))]
    return Axis(
        part.axes[0], tuple((number, unit) for (number, _), unit in zip(pieces, narrow[1:], strict=True)), narrow[0]
    )


def _narrowed(labels: Atom, own: int) -> Atom:
    """Labels of length 1 along those axes, besides their own, on which they do not depend."""
    for axis, length in enumerate(labels.shape):
        first = labels.take([0], axis=axis)
        if axis != own and length > 1 and (labels == first).all():
            labels = first
    return labels


def _named(groups: Sequence[Group], tensors: Mapping[str, tuple[Axis, ...]]) -> tuple[Group, ...]:
    """Groups with the name of the first layer that computes them; those that move no tensor are left out."""
    names: dict[int, str] = {}
    for output in (True, False):
        for name, axes in tensors.items():
            for axis in axes:
                for number in axis.groups:
                    if (axis.axis == 0) == output:
                        names.setdefault(number, name.rpartition(".")[0] or name)
    taken: dict[str, int] = defaultdict(int)
    named = []
    for number, group in enumerate(groups):
        name = names.get(number, "unused")
        taken[name] += 1
        again = f" ({taken[name]})" if taken[name] > 1 else ""
        named.append(Group(f"{name}{again}", group.size, group.parent, group.owners))
    return tuple(named)


def _pinned(traced: Traced, tensors: Mapping[str, tuple[Axis, ...]]) -> dict[tuple[str, int], str]:
    """Why the axes of parameters do not move that do not."""
    found = {}
    for name, value in traced.parameters.items():
        moves = {axis.axis for axis in tensors.get(name, ())}
        for part in value.parts:
            if part.axes[0] not in moves:
                reasons = dict.fromkeys(_reason(traced.atoms, int(atom)) for atom in np.unique(part.atoms)[:64])
                found[name, part.axes[0]] = next(filter(None, reasons), "each of its places is told apart")
    return found


def _reason(atoms: Atoms, atom: int) -> str:
    return atoms.why(atom)


def _without_place(symmetry: Symmetry, traced: Traced) -> Atom | None:
    """The atoms of an axis that a permutation would take units to which have no place there; None if there is none."""
    for seed in range(3):
        permutations = symmetry.random(np.random.default_rng(seed))
        for name, axes in symmetry.tensors.items():
            shape = symmetry.shapes[name]
            try:
                moved(torch.empty(shape, device="meta"), axes, permutations)
            except SymmetryError:
                return np.concatenate([part.atoms.ravel() for part in traced.parameters[name].parts])
    return None
