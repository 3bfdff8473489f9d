"""A specification by hand: which axes of which parameters move together."""

from collections.abc import Mapping, Sequence

import numpy as np

from modeconn.analysis.alignment.symmetry import Axis, Group, Symmetry, SymmetryError

Specification = Mapping[str, Sequence[str | None]]  # of each tensor the group of each axis, None for one that stays


def symmetry_of_specification(specification: Specification, shapes: Mapping[str, Sequence[int]]) -> Symmetry:
    """The symmetry that a specification says, without a look at what the network computes.

    An axis may be several times as long as its group: each unit then has that many places side by side, as a channel
    has where an image was flattened.

    Args:
        specification: for each tensor the name of the group of each axis, None for one that stays.
        shapes: of the network's tensors, by name.

    Raises:
        SymmetryError: tensors or axes that the network does not have, or lengths that do not go together; all by name.

    >>> found = symmetry_of_specification({"0.weight": ("P", None), "1.weight": (None, "P")}, {"0.weight": (4, 2),
    ...     "1.weight": (3, 4)})
    >>> found.groups[0].name, found.groups[0].size
    ('P', 4)
    """
    _check(specification, shapes)
    lengths: dict[str, list[tuple[int, str]]] = {}
    for name, axes in specification.items():
        for axis, group in enumerate(axes):
            if group is not None:
                lengths.setdefault(group, []).append((shapes[name][axis], f"axis {axis} of {name}"))
    groups = []
    for group, found in lengths.items():
        size = min(length for length, _ in found)
        wrong = [f"{where} is {length}" for length, where in found if length % size]
        if wrong:
            raise SymmetryError(f"group {group!r} has {size} units, of which {', '.join(wrong)} is no multiple")
        groups.append(Group(group, size))
    number = {group.name: place for place, group in enumerate(groups)}
    tensors = {}
    for name, axes in specification.items():
        found_axes = []
        for axis, group in enumerate(axes):
            if group is not None:
                length, size = shapes[name][axis], groups[number[group]].size
                shape = [length if place == axis else 1 for place in range(len(axes))]
                places = np.arange(length).reshape(shape)
                many = length // size
                found_axes.append(Axis(axis, ((number[group], places // many),), places % many))
        if found_axes:
            tensors[name] = tuple(found_axes)
    every = {name: tuple(map(int, shape)) for name, shape in shapes.items()}
    return Symmetry(tuple(groups), tensors, every, {}, {})


def _check(specification: Specification, shapes: Mapping[str, Sequence[int]]) -> None:
    wrong = []
    for name, axes in specification.items():
        if name not in shapes:
            wrong.append(f"there is no {name}")
        elif isinstance(axes, str) or len(axes) != len(shapes[name]):
            wrong.append(f"{name} has {len(shapes[name])} axes, and {axes!r} is said of it")
    if wrong:
        raise SymmetryError(f"the specification does not fit the network: {'; '.join(wrong)}")
