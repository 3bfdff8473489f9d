"""Atoms: names for the places of an axis, made equal where an operator needs two places to move together."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Atom = NDArray[np.int64]  # of any shape


class Atoms:
    """A union-find over atoms, some of which are pairs of others.

    A permutation moves atoms. Places that carry the same atom move together, a pair moves as both of its atoms do (a
    head and a dimension inside it), and a pinned atom stays. Places that stay by themselves, such as the places of an
    axis of pixels, are negative numbers: `fixed(n)`.

    >>> atoms = Atoms()
    >>> a, b = atoms.fresh(3), atoms.fresh(3)
    >>> atoms.unify(a, b)
    >>> bool((atoms.find(a) == atoms.find(b)).all())
    True
    """

    def __init__(self) -> None:
        self.blocks: list[Any] = []  # what was taken apart into blocks and places inside them: shape and parts
        self._root = np.arange(1024, dtype=np.int64)
        self._pair: dict[int, tuple[int, int]] = {}
        self._why: dict[int, str] = {}
        self._place: dict[int, int] = {}
        self._count = 0

    def fresh(self, *shape: int) -> Atom:
        """New atoms, free to move."""
        size = int(np.prod(shape))
        while self._count + size > len(self._root):
            self._root = np.concatenate([self._root, np.arange(len(self._root), 2 * len(self._root))])
        self._count += size
        return np.arange(self._count - size, self._count).reshape(shape)

    def pairs(self, first: Atom, second: Atom) -> Atom:
        """Pairs of atoms, one for each two places; both arrays are broadcast."""
        first, second = np.broadcast_arrays(self.find(first), self.find(second))
        atoms = self.fresh(*first.shape)
        both = zip(first.ravel().tolist(), second.ravel().tolist(), strict=True)
        self._pair.update(zip(atoms.ravel().tolist(), both, strict=True))
        return atoms

    def find(self, atoms: Atom) -> Atom:
        """The representative of each atom; fixed places are their own."""
        free = atoms >= 0
        found = np.where(free, self._root[np.where(free, atoms, 0)], atoms)
        while True:
            further = np.where(free, self._root[np.where(free, found, 0)], found)
            if (further == found).all():
                break
            found = further
        self._root[atoms[free]] = found[free]
        return found

    def unify(self, first: Atom, second: Atom, why: str = "") -> None:
        """Make the atoms of two arrays, which are broadcast, equal place by place.

        Args:
            first, second: the atoms.
            why: said of atoms that get pinned because the others stay.
        """
        first, second = np.broadcast_arrays(self.find(first), self.find(second))
        differ = first != second
        for one, other in zip(first[differ].tolist(), second[differ].tolist(), strict=True):
            self._merge(one, other, why)

    def pin(self, atoms: Atom | Iterable[int], why: str) -> None:
        """Let these atoms stay where they are.

        Args:
            atoms: the atoms.
            why: what is said of it; the first reason is kept.
        """
        for atom in np.unique(self.find(np.asarray(atoms))).tolist():
            self._pin(atom, why)

    def halves(self, atoms: Atom) -> tuple[Atom, Atom] | None:
        """The first and the second atoms of an array of pairs; None if one of them is none."""
        roots = self.find(atoms)
        found = [self._pair.get(root) for root in roots.ravel().tolist()]
        if any(pair is None for pair in found):
            return None
        both = np.array(found, dtype=np.int64).reshape(*roots.shape, 2)
        return both[..., 0], both[..., 1]

    def leaves(self, atom: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What an atom is made of: the free atoms in order, and the numbers of the places that stay."""
        atom = self._find(atom)
        if atom < 0:
            return (), (atom,)
        if pair := self._pair.get(atom):
            (some, fixed), (others, more) = self.leaves(pair[0]), self.leaves(pair[1])
            return some + others, fixed + more
        return ((), (self._place.get(atom, -(2**40) - atom),)) if atom in self._why else ((atom,), ())

    def why(self, atom: int) -> str:
        """Why an atom is pinned, empty if it is not."""
        return self._why.get(self._find(atom), "")

    def _find(self, atom: int) -> int:
        if atom < 0:
            return atom
        while (root := int(self._root[atom])) != atom:
            self._root[atom] = self._root[root]  # halves the way: a vocabulary merged one by one is a long chain
            atom = root
        return atom

    def _merge(self, one: int, other: int, why: str) -> None:
        one, other = self._find(one), self._find(other)
        if one == other:
            return
        if one < 0 or other < 0:
            self._pin(max(one, other), f"it meets places that stay ({why})" if why else "")
            self._place.setdefault(max(one, other), min(one, other))  # the place that it is now, in every block
            return
        first, second = self._pair.get(one), self._pair.get(other)
        if first and second:
            self._root[other] = one
            self._merge(first[0], second[0], why)
            self._merge(first[1], second[1], why)
        elif (first and self._within(other, one)) or (second and self._within(one, other)):
            self._pin(one, why)  # an atom that is made of itself cannot move
            self._pin(other, why)
        else:
            kept, gone = (other, one) if second else (one, other)
            self._root[gone] = kept
            if reason := self._why.get(gone):
                self._pin(kept, reason)
            if gone in self._place:
                self._place.setdefault(kept, self._place[gone])

    def _pin(self, atom: int, why: str) -> None:
        atom = self._find(atom)
        if atom < 0 or atom in self._why:
            return
        self._why[atom] = why
        for half in self._pair.get(atom, ()):
            self._pin(half, why)

    def _within(self, atom: int, of: int) -> bool:
        of = self._find(of)
        return of == atom or any(self._within(atom, half) for half in self._pair.get(of, ()))


def fixed(size: int) -> Atom:
    """The places of an axis that stays: one number for each, all negative.

    >>> fixed(3).tolist()
    [-1, -2, -3]
    """
    return -1 - np.arange(size, dtype=np.int64)
