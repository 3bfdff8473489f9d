"""Activation matching: the permutations of b under which its units are most correlated with a's on data."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeconn.analysis.alignment.activations import activations, batch_size, flat_batches
from modeconn.analysis.alignment.items import Item
from modeconn.analysis.alignment.symmetry import Axis, Permutations, Places, Symmetry, compose, moved
from modeconn.analysis.alignment.weight_matching import Match, ascend
from modeconn.errors import DataError, unknown

AT = ("read", "written")
_CONSTANT = 1e-12  # of the mean square: a variance that is rounding


def match_activations(
    symmetry: Symmetry,
    program: Any,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    batches: Iterable[Any],
    *,
    at: str = "read",
    start: Sequence[Places] | None = None,
    prefix: str = "",
    report: Callable[[int, int], None] = lambda done, all: None,
) -> Match:
    r"""Maximise \(\sum_u \rho(a_u, b_{\pi(u)})\) over the permutations of each group (Li et al. 2016).

    \(\rho\) is the correlation between a unit of a and one of b over all examples and over all positions in space or
    time, and over the places of its axis where the unit stands at several, as behind a flattening. Where several nodes
    of the graph show a group, as every layer of a residual stream does, their correlations are added. Each group is a
    linear assignment problem of its own; blocks are matched by their units, in the best order for each pair of blocks.

    A group that `at` does not show is matched where the other choice shows it (queries and keys are not read by any
    layer). What is left is matched by the weights while all else is held, and the notes name it: groups that no
    layer's activations show, and units that are constant on the data, whose correlation is 0 with all.

    Args:
        symmetry: of both networks.
        program: of `torch.export`: the graph that the symmetry was found in, or the same with a larger batch, as it
            runs with the batch size that it was exported with.
        a, b: their parameters and buffers by name.
        batches: of what the network is called with, read once: tensors, tuples of positional arguments, mappings of
            named ones, or tuples of both. They are put together to the program's batch size; examples that are left
            at the end are not used.
        at: `"read"`, where a layer is given the units, behind the nonlinearity; or `"written"`, where it computes them.
        start: where groups begin that are matched by their weights; the identity if None.
        prefix: what the names have in the program before those that the symmetry has.
        report: called with how many batches are read, and how many there are (0 if that is not known).

    Raises:
        OptionError: an unknown `at`.
        DataError: batches that are too few, do not fit, or give activations that are NaN or infinite.
        NetworkError: a tensor is missing.
    """
    if at not in AT:
        raise unknown("place of activations", at, AT)
    first, second = (_named(symmetry, state, prefix) for state in (a, b))
    correlations = _correlations(program, first, second, batches, _places(symmetry, at), report)
    items = [Item(one, torch.eye(len(one), dtype=one.dtype, device=one.device), (axis,)) for axis, one in correlations]
    begin = symmetry.identity() if start is None else tuple(start)
    score, found, passes = ascend(symmetry.groups, items, begin, np.random.default_rng(0))
    held = _correlated(symmetry, items, found)
    parameters = [name.removeprefix(prefix) for name in program.graph_signature.parameters]
    found = _by_weights(symmetry, {name: a[name] for name in parameters if name in a}, b, found, held)
    before = sum(float(one.trace()) for _, one in correlations)
    return Match(found, score, before, (score,), passes, tuple(_notes(symmetry, correlations, held)))


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a node's value shows units, all of the same groups.

    Attributes:
        node: its name.
        axes: of the value, which the places are on.
        places: [units, n], those of each on these axes, flattened.
        units: what the first axis of a correlation matrix stands for.
    """

    node: str
    axes: tuple[int, ...]
    places: Places
    units: Axis

    def read(self, value: Tensor) -> Tensor:
        """What each unit is at each position, [units, positions]."""
        front = value.movedim(self.axes, tuple(range(len(self.axes)))).flatten(0, len(self.axes) - 1)
        where = torch.from_numpy(self.places).to(value.device)
        return front[where].flatten(1).double()


def _sums(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """What correlations are computed from, added over positions: of activations [units, positions]."""
    return a.new_tensor(a.shape[1]), a.sum(1), b.sum(1), (a * a).sum(1), (b * b).sum(1), a @ b.T


def _correlation(sums: Sequence[Tensor]) -> Tensor:
    """The correlation of each unit of a with each of b, [units, units]; 0 with those that are constant."""
    count, *rest = sums
    a, b, aa, bb, ab = (one / count for one in rest)
    return (ab - a[:, None] * b) * _inverse_deviation(a, aa)[:, None] * _inverse_deviation(b, bb)


def _inverse_deviation(mean: Tensor, square: Tensor) -> Tensor:
    variance = square - mean**2
    return torch.where(variance > _CONSTANT * square, variance.rsqrt(), variance * 0)  # NaN stays


def _places(symmetry: Symmetry, at: str) -> list[_Place]:
    """Where groups are shown: at the nodes of this choice, and those that these do not show at the other's."""
    first, second = (
        [place for node, axes in nodes.items() for axis in axes for place in _on_axis(node, axis)]
        for nodes in ((symmetry.read, symmetry.written) if at == "read" else (symmetry.written, symmetry.read))
    )
    seen = {number for place in first for number in place.units.groups}
    return [*first, *(place for place in second if set(place.units.groups) - seen)]


def _on_axis(node: str, axis: Axis) -> Iterator[_Place]:
    """The places of an axis, apart for those of other groups: channels of one layer beside those of another."""
    shape = np.broadcast_shapes(axis.fixed.shape, *(units.shape for _, units in axis.units))
    axes = tuple(sorted((axis.axis, *axis.context)))
    fixed = np.broadcast_to(axis.fixed, shape).ravel()
    units = np.stack([np.broadcast_to(units, shape).ravel() for _, units in axis.units])
    for shown in np.unique(units >= 0, axis=1).T:
        there = np.flatnonzero(((units >= 0) == shown[:, None]).all(axis=0))
        if not shown.any():
            continue
        own = units[shown][:, there]
        order = np.lexsort((fixed[there], *own))
        found = np.unique(own, axis=1)
        found = found[:, np.lexsort(found)]
        numbers = [number for (number, _), is_shown in zip(axis.units, shown, strict=True) if is_shown]
        stands = tuple((number, row[:, None]) for number, row in zip(numbers, found, strict=True))
        first = Axis(0, stands, np.zeros((found.shape[1], 1), dtype=np.int64))
        yield _Place(node, axes, there[order].reshape(found.shape[1], -1), first)


@torch.no_grad()
def _correlations(
    program: Any,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    batches: Iterable[Any],
    places: Sequence[_Place],
    report: Callable[[int, int], None],
) -> list[tuple[Axis, Tensor]]:
    """What the units of a are correlated with those of b, added over the places that show the same ones.

    Raises:
        DataError: too few examples, or activations that are NaN or infinite.
    """
    of_node: dict[str, list[_Place]] = {}
    for place in places:
        of_node.setdefault(place.node, []).append(place)
    sums: dict[_Place, tuple[Tensor, ...]] = {}
    many = 0
    for inputs in flat_batches(program, _reported(batches, report)):
        many += 1
        for node, one, other in activations(program, a, b, inputs):
            for place in of_node.get(node, ()):
                new = _sums(place.read(one), place.read(other))
                old = sums.get(place, new)
                sums[place] = new if old is new else tuple(map(torch.add, old, new))
    if not many:
        raise DataError(
            f"there are fewer examples than the {batch_size(program)} of the batch that the network was exported with; "
            "give more data"
        )
    found: dict[tuple[Any, ...], tuple[Axis, Tensor]] = {}
    for place in places:
        correlation = _correlation(sums[place])
        if not correlation.isfinite().all():
            raise DataError(f"activations are NaN or infinite at {place.node}; see whether data and weights are finite")
        key = tuple((number, units.tobytes()) for number, units in place.units.units)
        before = found.get(key, (place.units, torch.zeros_like(correlation)))
        found[key] = (place.units, before[1] + correlation)
    return list(found.values())


def _correlated(symmetry: Symmetry, items: Sequence[Item], permutations: Permutations) -> list[NDArray[np.bool_]]:
    """For each group, the units that are correlated with what they are matched with, [size]."""
    found = [np.zeros(group.size, dtype=bool) for group in symmetry.groups]
    for item in items:
        matched = (item.a * moved(item.b, item.axes, permutations)).sum(1).cpu().numpy()
        for number, units in item.axes[0].units:
            found[number][units.ravel()[matched != 0]] = True
    return found


def _by_weights(
    symmetry: Symmetry,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    permutations: Permutations,
    held: Sequence[NDArray[np.bool_]],
) -> Permutations:
    """Match the units that are not held by the weights that they move."""
    free = {number for number, units in enumerate(held) if not units.all()}
    items = [
        Item(a[name].double(), symmetry.moved(name, b[name], permutations).double(), axes)
        for name, axes in symmetry.tensors.items()
        if name in a and name not in symmetry.tied and any(free & set(axis.groups) for axis in axes)
    ]
    # To move one unit that is held costs more than all weights can gain.
    bound = 1 + 2 * sum(float(item.a.norm() * item.b.norm()) for item in items)
    for number in {number for item in items for axis in item.axes for number in axis.groups}:
        stays = Axis(0, ((number, np.arange(len(held[number]))[:, None]),), np.zeros((len(held[number]), 1), np.int64))
        anchors = torch.diag(torch.from_numpy(held[number]).double()).to(items[0].a.device)
        items.append(Item(bound * anchors, anchors, (stays,)))
    _, found, _ = ascend(symmetry.groups, items, symmetry.identity(), np.random.default_rng(0))
    return compose(permutations, found)


def _notes(
    symmetry: Symmetry, correlations: Sequence[tuple[Axis, Tensor]], held: Sequence[NDArray[np.bool_]]
) -> Iterator[str]:
    """What the weights decided."""
    shown = {number for axis, _ in correlations for number in axis.groups}
    unseen = [group.name for number, group in enumerate(symmetry.groups) if number not in shown]
    if unseen:
        yield f"matched by the weights, as no layer's activations show them: {', '.join(unseen)}"
    constant = {symmetry.groups[number].name: int((~held[number]).sum()) for number in sorted(shown)}
    if any(constant.values()):
        units = ", ".join(f"{many} of {name}" for name, many in constant.items() if many)
        yield f"units that are constant on the data, matched by the weights: {units}"


def _named(symmetry: Symmetry, state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors by the names that the program has for them, the names of tied ones as well."""
    found = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    for name, known in symmetry.tied.items():
        for one, other in ((name, known), (known, name)):
            if one not in state and other in state:
                found[f"{prefix}{one}"] = state[other]
    return found


def _reported(batches: Iterable[Any], report: Callable[[int, int], None]) -> Iterator[Any]:
    many = len(batches) if isinstance(batches, Sized) else 0
    for number, batch in enumerate(batches):
        report(number, many)
        yield batch
