"""Pairs of tensors that are to agree, and what it gains to put one of b's units into the place of one of a's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeconn.analysis.alignment.symmetry import Axis, Permutations, Places, codes, moved


@dataclass(frozen=True)
class Item:
    """Two tensors that are to agree, and the axes of them that move."""

    a: Tensor
    b: Tensor
    axes: tuple[Axis, ...]


def assignment(gain: Tensor) -> Places:
    """The permutation p with the highest sum of gain[i, p[i]]; gain: [units of a, units of b]."""
    from scipy.optimize import linear_sum_assignment  # a heavy package, which other measures do not need

    _, columns = linear_sum_assignment(gain.double().cpu().numpy(), maximize=True)
    return np.asarray(columns, dtype=np.int64)


def gains(number: int, size: int, items: Sequence[Item], permutations: Permutations) -> Tensor:
    """Inner products of what each unit of a and each of b stands for, the others in their order: [size, size]."""
    total = torch.zeros(size, size, dtype=items[0].a.dtype, device=items[0].a.device)
    rest = replaced(permutations, {number: np.arange(size)})
    for item in items:
        for axis in item.axes:
            if number in axis.groups:
                others = tuple(other for other in item.axes if other is not axis)
                b = moved(moved(item.b, others, permutations), (axis,), rest)
                places = torch.from_numpy(places_of(axis, number)).to(b.device)
                one, other = (tensor.movedim(axis.axis, 0)[places.ravel()].reshape(size, -1) for tensor in (item.a, b))
                total += one @ other.T
    return total


def places_of(axis: Axis, number: int) -> Places:
    """Where each unit of a group stands on an axis, its places in the order of what else they stand for: [size, n]."""
    units = next(units for group, units in axis.units if group == number).ravel()
    rest = codes(axis, None, without=(number,)).ravel()
    there = np.flatnonzero(units >= 0)
    order = there[np.lexsort((np.broadcast_to(rest, units.shape)[there], units[there]))]
    return order.reshape(int(units.max()) + 1, -1)


def replaced(permutations: Permutations, to: Mapping[int, Places]) -> Permutations:
    """Permutations of which some are others."""
    return tuple(to.get(number, kept) for number, kept in enumerate(permutations))


def index_of(places: Places, tensor: Tensor) -> Tensor:
    """Places as a tensor where another one is."""
    return torch.from_numpy(np.ascontiguousarray(places)).to(tensor.device)
