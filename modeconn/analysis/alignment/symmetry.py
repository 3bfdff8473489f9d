"""The permutations of a network's units that leave its function as it is: their groups, and where they stand."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeconn.errors import ModeconnError

Places = NDArray[np.int64]
Permutations = tuple[Places, ...]  # for each group [size]: the unit of b that comes to each place


class SymmetryError(ModeconnError):
    """A specification, or a permutation, that does not fit a network."""


@dataclass(frozen=True)
class Group:
    """Units that can change places, by themselves or inside the blocks that they belong to.

    Attributes:
        name: the first layer that computes these units.
        size: how many there are in all.
        parent: the number of the group of the blocks that they are inside; None if they are in none.
        owners: [size], the block that each unit is inside; ascending.
    """

    name: str
    size: int
    parent: int | None = None
    owners: Places | None = None

    @property
    def inside(self) -> int:
        """How many of them there are in each block, and in all if there are no blocks."""
        return self.size if self.owners is None else int((self.owners == 0).sum())


@dataclass(frozen=True)
class Axis:
    """How one axis of a tensor is made of units.

    Arrays have the tensor's number of axes, and length 1 along those that they do not depend on. They depend on the
    axis itself, and on others where what stands inside a block is told by the block: its context.

    Attributes:
        axis: which.
        units: number of the group, and the unit at each place, -1 at those of other groups.
        fixed: what else tells the places apart; they keep it.
    """

    axis: int
    units: tuple[tuple[int, Places], ...]
    fixed: Places

    @property
    def groups(self) -> tuple[int, ...]:
        """The numbers of the groups whose units stand on it."""
        return tuple(group for group, _ in self.units)

    @property
    def context(self) -> tuple[int, ...]:
        """The other axes that the units depend on."""
        shape = np.broadcast_shapes(self.fixed.shape, *(units.shape for _, units in self.units))
        return tuple(axis for axis, length in enumerate(shape) if length > 1 and axis != self.axis)


@dataclass(frozen=True)
class Symmetry:
    """The groups of a network, and the axes of its tensors that they move.

    Attributes:
        groups: in the order of the network's layers; parents come before what is inside them.
        tensors: the axes that move, by the name of the parameter or buffer.
        shapes: of the tensors, by name; of those too that do not move.
        pinned: why an axis does not move, by tensor and axis.
        unknown: operators that the graph has and no rule is known for, with the module that they are in.
        tied: names of tensors that are another one, and that one's name.
        written: the axes of what layers compute, before a nonlinearity, by the node of the exported graph.
        read: the axes of what layers are given, behind it, by the node of the exported graph.
    """

    groups: tuple[Group, ...]
    tensors: Mapping[str, tuple[Axis, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    pinned: Mapping[tuple[str, int], str]
    unknown: Mapping[str, str]
    tied: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    read: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)

    def identity(self) -> Permutations:
        """Every unit in its place."""
        return tuple(np.arange(group.size) for group in self.groups)

    def random(self, generator: np.random.Generator) -> Permutations:
        """One of all permutations, each as likely."""
        found: list[Places] = []
        for group in self.groups:
            if group.parent is None:
                found.append(generator.permutation(group.size))
            else:
                inside = group.inside
                order = [generator.permutation(inside) for _ in range(group.size // inside)]
                found.append(_inside_blocks(found[group.parent], order))
        return tuple(found)

    def check(self, permutations: Sequence[Places]) -> None:
        """See whether these are permutations of this network's groups.

        Raises:
            SymmetryError: they are not; the message names the group.
        """
        if len(permutations) != len(self.groups):
            raise SymmetryError(f"there are {len(permutations)} permutations for {len(self.groups)} groups")
        for group, moved in zip(self.groups, permutations, strict=True):
            if not np.array_equal(np.sort(moved), np.arange(group.size)):
                raise SymmetryError(f"group {group.name!r} has {group.size} units, which this is no order of: {moved}")
            if group.parent is not None and group.owners is not None:
                blocks = permutations[group.parent]
                if not np.array_equal(group.owners[moved], blocks[group.owners]):
                    raise SymmetryError(f"units of group {group.name!r} leave their blocks")

    def apply(self, tensors: Mapping[str, Tensor], permutations: Sequence[Places]) -> dict[str, Tensor]:
        """Tensors whose units are in another order: unit i is what unit `permutations[group][i]` was.

        Args:
            tensors: by name; those that no group moves come back as they are.
            permutations: for each group.

        Raises:
            SymmetryError: a tensor has another shape than the network's.
        """
        return {name: self.moved(name, tensor, permutations) for name, tensor in tensors.items()}

    def moved(self, name: str, tensor: Tensor, permutations: Sequence[Places]) -> Tensor:
        """One tensor with its units in another order; see `apply`."""
        axes = self.tensors.get(name, ())
        if axes and tuple(tensor.shape) != self.shapes[name]:
            raise SymmetryError(
                f"{name} is {list(tensor.shape)}, and {list(self.shapes[name])} in the network that was aligned"
            )
        return moved(tensor, axes, permutations)


def moved(tensor: Tensor, axes: Sequence[Axis], permutations: Sequence[Places]) -> Tensor:
    """A tensor with the units of these axes in another order."""
    rows: dict[int, Places] = {}
    for axis in sorted(axes, key=lambda axis: len(axis.context)):
        places = _sources(axis, permutations, rows)
        if axis.context:
            where = torch.from_numpy(np.ascontiguousarray(places)).to(tensor.device)
            tensor = torch.take_along_dim(tensor, where, axis.axis)
        else:
            rows[axis.axis] = places.ravel()
            if not np.array_equal(rows[axis.axis], np.arange(tensor.shape[axis.axis])):
                tensor = tensor.index_select(axis.axis, torch.from_numpy(rows[axis.axis]).to(tensor.device))
    return tensor


def _sources(axis: Axis, permutations: Sequence[Places], rows: Mapping[int, Places]) -> Places:
    """The place that comes to each place of an axis: the one that has the units which come there.

    Args:
        axis: of a tensor.
        permutations: for each group.
        rows: the same for the axes of its context, which are in their new order by now.

    Raises:
        SymmetryError: there is no such place.
    """
    before = codes(axis, None)
    after = codes(axis, permutations)
    for other in axis.context:
        if before.shape[other] > 1 and other in rows:
            before = np.take(before, rows[other], axis=other)
    first, second = (np.argsort(array, axis=axis.axis, kind="stable") for array in (before, after))
    places = np.empty_like(first)
    np.put_along_axis(places, second, first, axis=axis.axis)
    if not np.array_equal(np.take_along_axis(before, places, axis=axis.axis), after):
        raise SymmetryError(f"axis {axis.axis} does not have the units that would come to it")
    return places


def codes(axis: Axis, permutations: Sequence[Places] | None, without: Sequence[int] = ()) -> Places:
    """One number for all that a place of an axis stands for, with its units in another order.

    Args:
        axis: of a tensor.
        permutations: for each group; None for the order that there is.
        without: groups that are left out.
    """
    _, ranks = np.unique(axis.fixed, return_inverse=True)
    found = ranks.reshape(axis.fixed.shape).astype(np.int64)
    for group, units in axis.units:
        if group not in without:
            there = units
            if permutations is not None:
                there = np.where(units >= 0, permutations[group][units], -1)
            found = found * (int(units.max()) + 2) + there + 1
    return found


def compose(first: Sequence[Places], second: Sequence[Places]) -> Permutations:
    """The permutations that apply the first, and then the second to what comes of it."""
    return tuple(one[other] for one, other in zip(first, second, strict=True))


def inverse(permutations: Sequence[Places]) -> Permutations:
    """The permutations that undo these."""
    return tuple(np.argsort(moved) for moved in permutations)


def _inside_blocks(blocks: Places, order: Sequence[Places]) -> Places:
    """A permutation of units in blocks: that of the blocks, and the order inside each block where it comes to stand."""
    inside = len(order[0])
    return np.concatenate([block * inside + order[place] for place, block in enumerate(blocks)])


def subtree(groups: Sequence[Group], top: int) -> Iterator[int]:
    """A group and all that is inside its blocks."""
    yield top
    for number, group in enumerate(groups):
        if group.parent == top:
            yield from subtree(groups, number)
