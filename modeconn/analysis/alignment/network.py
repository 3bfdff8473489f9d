"""A network's symmetry, and whether a permutation leaves what it computes as it is."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from modeconn.analysis.alignment.cells import symmetry_of
from modeconn.analysis.alignment.example import Call, Measured
from modeconn.analysis.alignment.specification import Specification, symmetry_of_specification
from modeconn.analysis.alignment.symmetry import Permutations, Places, Symmetry, SymmetryError
from modeconn.analysis.alignment.trace import exported, trace
from modeconn.evaluation.modes import evaluating
from modeconn.evaluation.structures import map_tensors, tensors_of
from modeconn.weights.state_dicts import aliases_of, state_tensors

# Of the largest output. Sums in another order round otherwise, and networks in float64 may compute in float32 inside.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
PREFIX = "network."


@dataclass(frozen=True, eq=False)
class Graph:
    """A network with what is known of it.

    Attributes:
        network: in evaluation mode when it is called.
        example: what it is called with.
        symmetry: its groups.
        program: of `torch.export`, with "network." before all names; None where a specification was given and the
            graph cannot be had.
    """

    network: nn.Module
    example: Call
    symmetry: Symmetry
    program: Any


def graph_of(network: nn.Module, example: Call, specification: Specification | None = None) -> Graph:
    """Find a network's groups, or take those of a specification; each is seen to leave the function as it is.

    Groups that were found and do not, because a rule of an operator is wrong, are pinned and named.

    Args:
        network: plain, on its device.
        example: what it is called with.
        specification: of your own, instead of the network's graph.

    Raises:
        ExportError: the graph cannot be had, and there is no specification.
        SymmetryError: a specification that changes the function; the group, and what the graph says of its axes.
    """
    program = None
    if specification is None:
        args, kwargs = example
        program = exported(Measured(network), args, kwargs)
        symmetry = _with_ties(_without_prefix(symmetry_of(trace(program))), network)
        return Graph(network, example, _pinned_wrong(network, example, symmetry), program)
    shapes = {name: tuple(tensor.shape) for name, tensor in state_tensors(network).items()}
    symmetry = symmetry_of_specification(specification, shapes)
    wrong = list(_changing(network, example, symmetry))
    if wrong:
        raise SymmetryError(
            f"the specification would change what the network computes: {', '.join(wrong)}"
            f"{_what_the_graph_says(network, example, symmetry, wrong)}"
        )
    return Graph(network, example, symmetry, program)


def difference(
    network: nn.Module,
    example: Call,
    symmetry: Symmetry,
    permutations: Sequence[Places],
    dtype: torch.dtype | None = None,
) -> float:
    """How far a permutation of a network's units changes its output: the largest change over the largest output.

    Args:
        network: with the weights that are permuted; left as it is.
        example: what it is called with.
        symmetry: of the network.
        permutations: for each group.
        dtype: to compute in; the network's own if None.
    """
    if dtype is not None:
        network = copy.deepcopy(network).to(dtype)
        example = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, example)
    state = {name: tensor.detach() for name, tensor in state_tensors(network).items()}
    args, kwargs = example
    with torch.no_grad(), evaluating(network), torch.random.fork_rng(devices=[]):
        measured = Measured(network)
        there = _outputs(measured, state, args, kwargs)
        here = _outputs(measured, symmetry.apply(state, permutations), args, kwargs)
    return change_of(there, here)


def change_of(there: Sequence[Tensor], here: Sequence[Tensor]) -> float:
    """The largest change of outputs over the largest output; the change itself where all outputs are 0."""
    largest = max((float(one.abs().max()) for one in there if one.numel()), default=0.0)
    changes = [(one - other).abs() for one, other in zip(there, here, strict=True)]
    most = max((float(change.max()) for change in changes if change.numel()), default=0.0)
    return most / largest if largest else most


def _outputs(network: nn.Module, state: Mapping[str, Tensor], args: Any, kwargs: Any) -> list[Tensor]:
    torch.manual_seed(0)
    args, kwargs = map_tensors(torch.clone, (args, dict(kwargs)))  # a network may write to its input
    named = {f"{PREFIX}{name}": tensor for name, tensor in state.items()}
    output = functional_call(network, named, args, kwargs, tie_weights=False)
    return [tensor.double() for tensor in tensors_of(output) if tensor.is_floating_point()]


def _pinned_wrong(network: nn.Module, example: Call, symmetry: Symmetry) -> Symmetry:
    """A symmetry without the groups that change the function, which are named with the unknown operators."""
    generator = np.random.default_rng(0)
    tolerance = TOLERANCE.get(next(network.parameters()).dtype, 1e-2) if symmetry.groups else 0.0
    if not symmetry.groups or difference(network, example, symmetry, symmetry.random(generator)) <= tolerance:
        return symmetry
    wrong = set(_changing(network, example, symmetry))
    gone = {number for number, group in enumerate(symmetry.groups) if group.name in wrong}
    for number, group in enumerate(symmetry.groups):  # what is inside blocks that do not move stays too
        if group.parent in gone:
            gone.add(number)
    return without_groups(symmetry, gone, "the function was seen to change")


def without_groups(symmetry: Symmetry, gone: set[int], why: str) -> Symmetry:
    """A symmetry in which some groups stay."""
    number = {old: new for new, old in enumerate(n for n in range(len(symmetry.groups)) if n not in gone)}
    pinned = dict(symmetry.pinned)

    def kept(tensors: Mapping[str, Any], say: bool) -> dict[str, Any]:
        found = {}
        for name, axes in tensors.items():
            left = []
            for axis in axes:
                units = tuple((number[group], units) for group, units in axis.units if group in number)
                fixed = axis.fixed
                for group, labels in axis.units:
                    if group in gone:
                        fixed = fixed * (symmetry.groups[group].size + 1) + labels
                        if say:
                            pinned[name, axis.axis] = why
                if units:
                    left.append(replace(axis, units=units, fixed=fixed))
            if left:
                found[name] = tuple(left)
        return found

    groups = tuple(
        replace(group, parent=None if group.parent is None else number[group.parent])
        for place, group in enumerate(symmetry.groups)
        if place not in gone
    )
    tensors = kept(symmetry.tensors, say=True)
    return replace(
        symmetry,
        groups=groups,
        tensors=tensors,
        pinned=pinned,
        written=kept(symmetry.written, say=False),
        read=kept(symmetry.read, say=False),
    )


def _changing(network: nn.Module, example: Call, symmetry: Symmetry) -> Iterator[str]:
    """The names of the groups whose permutation alone changes the function."""
    generator = np.random.default_rng(0)
    tolerance = TOLERANCE.get(next(network.parameters()).dtype, 1e-2)
    for number, group in enumerate(symmetry.groups):
        if difference(network, example, symmetry, _alone(symmetry, number, generator)) > tolerance:
            yield group.name


def _alone(symmetry: Symmetry, number: int, generator: np.random.Generator) -> Permutations:
    """One group in a random order, with all that is inside its blocks; inside blocks that stay, if it is in some."""
    group = symmetry.groups[number]
    found = list(symmetry.identity())
    if group.parent is not None and group.owners is not None:
        inside = group.inside
        starts = range(0, group.size, inside)
        found[number] = np.concatenate([start + generator.permutation(inside) for start in starts])
    else:
        found[number] = generator.permutation(group.size)
    for place, other in enumerate(symmetry.groups):
        if other.parent is not None and other.parent != group.parent and other.owners is not None:
            blocks = found[other.parent]
            inside = other.inside
            if not np.array_equal(blocks, np.arange(len(blocks))):
                found[place] = (blocks[:, None] * inside + np.arange(inside)).ravel()
    return tuple(found)


def _what_the_graph_says(network: nn.Module, example: Call, symmetry: Symmetry, wrong: Sequence[str]) -> str:
    """What is known of the axes of groups that change the function, if the graph can be had."""
    try:
        found = graph_of(network, example).symmetry
    except Exception:
        return ""
    says = []
    for number, group in enumerate(symmetry.groups):
        if group.name in wrong:
            for name, axes in symmetry.tensors.items():
                for axis in axes:
                    if number in axis.groups:
                        says.append(_says_of(found, name, axis.axis))
    return f"; the network's graph says: {'; '.join(dict.fromkeys(says))}" if says else ""


def _says_of(symmetry: Symmetry, name: str, axis: int) -> str:
    axes = (one for one in symmetry.tensors.get(name, ()) if one.axis == axis)
    groups = [symmetry.groups[number].name for one in axes for number in one.groups]
    if groups:
        return f"axis {axis} of {name} moves with {' and '.join(groups)}"
    return f"axis {axis} of {name} stays ({symmetry.pinned.get((name, axis), 'not used')})"


def _with_ties(symmetry: Symmetry, network: nn.Module) -> Symmetry:
    """A symmetry that also knows the further names of tensors that are tied."""
    state = state_tensors(network)
    tensors, shapes, tied = dict(symmetry.tensors), dict(symmetry.shapes), dict(symmetry.tied)
    for name, first in aliases_of(state).items():
        known, new = (first, name) if first in shapes else (name, first)
        if known in shapes and new not in shapes:
            shapes[new], tied[new] = shapes[known], known
            if known in tensors:
                tensors[new] = tensors[known]
    return replace(symmetry, tensors=tensors, shapes=shapes, tied=tied)


def _without_prefix(symmetry: Symmetry) -> Symmetry:
    """A symmetry by the network's own names."""

    def own(name: str) -> str:
        return name.removeprefix(PREFIX)

    return replace(
        symmetry,
        groups=tuple(replace(group, name=own(group.name)) for group in symmetry.groups),
        tensors={own(name): axes for name, axes in symmetry.tensors.items()},
        shapes={own(name): shape for name, shape in symmetry.shapes.items()},
        pinned={(own(name), axis): _own_why(why) for (name, axis), why in symmetry.pinned.items()},
        unknown={name: _own_why(why) for name, why in symmetry.unknown.items()},
        tied={own(name): own(known) for name, known in symmetry.tied.items()},
    )


def _own_why(why: str) -> str:
    return why.replace(f" in {PREFIX}", " in ").removesuffix(f" in {PREFIX[:-1]}")
