"""Weight matching: the permutations of b under which its weights have the highest inner product with a's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeconn.analysis.alignment.items import Item, assignment, gains, replaced
from modeconn.analysis.alignment.pieces import OfPair, Piece, best_of_pairs, cut_into_blocks, separable, within_block
from modeconn.analysis.alignment.symmetry import (
    Group,
    Permutations,
    Places,
    Symmetry,
    moved,
    subtree,
)

_MOST_PASSES = 100
_AGREES = {torch.float32: 1e-6, torch.float64: 1e-12}  # a gain is one if it is more than this part of the score


@dataclass(frozen=True)
class Match:
    """Permutations that were found, and how good they are.

    Attributes:
        permutations: for each group of the symmetry.
        score: what was maximised, with b permuted: the inner product of a's weights with b's; the sum of correlations
            of matched units; or the loss of the midpoint, negated.
        before: the same with b as it was.
        scores: of all that were tried: of weight matching one for each order, whose spread says how much it matters.
        passes: over all groups, of the best one.
        notes: what was decided.
    """

    permutations: Permutations
    score: float
    before: float
    scores: tuple[float, ...]
    passes: int
    notes: tuple[str, ...] = ()


@torch.no_grad()
def match_weights(
    symmetry: Symmetry,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    start: Sequence[Places] | None = None,
    tries: int = 5,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, all: None,
) -> Match:
    r"""Maximise \(\sum_t \langle a_t, \pi(b)_t \rangle\) over the permutations of all groups (Ainsworth et al. 2023).

    Coordinate descent: with all groups but one fixed the best permutation of that one is a linear assignment problem.
    Where units are in blocks, the best order inside is found for each pair of blocks, and then the best order of the
    blocks. Groups are visited in a random order until none gains; the problem is NP-hard and the order matters, so
    several are tried.

    Args:
        symmetry: of both networks.
        a, b: their parameters by name; float32 or float64, on one device. Buffers follow, but are not matched.
        start: permutations to begin with; the identity if None.
        tries: random orders, the best of which is kept; the last one begins with what is certain: it fixes the groups
            from the network's ends inwards, each by the tensors whose other axes are fixed by then.
        seed: of these orders.
        report: called with how many tries are done, and how many there are.
    """
    names = [name for name in symmetry.tensors if name in a and symmetry.tied.get(name, name) == name]
    items = [Item(a[name], b[name], symmetry.tensors[name]) for name in names]
    begin = symmetry.identity() if start is None else tuple(start)
    before = _score(items, symmetry.identity())
    found = []
    for number in range(max(tries, 1)):
        report(number, tries)
        generator = np.random.default_rng([seed, number])
        inwards = start is None and number == max(tries, 1) - 1
        first = _from_the_ends(symmetry.groups, items, begin, generator) if inwards else begin
        found.append(ascend(symmetry.groups, items, first, generator))
    best = found[0]
    for one in (*found[1:], (before, symmetry.identity(), 0)):
        if one[0] - best[0] > _tolerance(items) * abs(best[0]):
            best = one
    score, permutations, passes = best
    return Match(permutations, score, before, tuple(one[0] for one in found), passes)


def ascend(
    groups: Sequence[Group],
    items: Sequence[Item],
    start: Permutations,
    generator: np.random.Generator,
    most: int = _MOST_PASSES,
) -> tuple[float, Permutations, int]:
    """Coordinate descent over the groups that are in no other's blocks, until none gains.

    Args:
        groups: all of them; their numbers are those of the items' axes.
        items: what is to agree.
        start: permutations to begin with.
        generator: of the order in which groups are visited.
        most: passes.

    Returns:
        The score, the permutations and the number of passes.
    """
    families = _families(groups)
    concerned = {top: _concerned(items, families[top]) for top in families}
    beside = _neighbours(families, items)
    found, waiting, passes = start, set(families), 0
    while waiting and passes < most:
        passes += 1
        for place in generator.permutation(len(families)).tolist():
            top = list(families)[place]
            if top not in waiting:  # nothing has changed that it was the best for
                continue
            waiting.discard(top)
            tried, old, new = _improved(families[top], groups, concerned[top], found, generator)
            if new - old > _tolerance(items) * max(abs(old), abs(new)):
                found, waiting = tried, waiting | beside[top]
    return _score(items, found), found, passes


def _neighbours(families: Mapping[int, tuple[int, ...]], items: Sequence[Item]) -> dict[int, set[int]]:
    """For each group those on the other axes of its tensors, itself among them if it is on two axes of one."""
    top_of = {number: top for top, family in families.items() for number in family}
    found: dict[int, set[int]] = {top: set() for top in families}
    for item in items:
        there = [(axis.axis, top_of[number]) for axis in item.axes for number in axis.groups]
        for axis, top in there:
            found[top] |= {other for place, other in there if other != top or place != axis}
    return found


def _from_the_ends(
    groups: Sequence[Group], items: Sequence[Item], start: Permutations, generator: np.random.Generator
) -> Permutations:
    """Each group once, the next one always that of which most is certain: whose tensors have no other that is open."""
    families, found = _families(groups), start
    fixed: set[int] = set()
    while open_ := [top for top in families if top not in fixed]:
        certain = {
            top: [
                item
                for item in _concerned(items, families[top])
                if {group for axis in item.axes for group in axis.groups} <= fixed | set(families[top])
            ]
            for top in open_
        }
        top = max(open_, key=lambda top: sum(item.a.numel() for item in certain[top]) / groups[top].size)
        of = certain[top] or _concerned(items, families[top])
        found, _, _ = _improved(families[top], groups, of, found, generator)
        fixed |= set(families[top])
    return found


def _families(groups: Sequence[Group]) -> dict[int, tuple[int, ...]]:
    """The groups that are in no other's blocks, each with all that is in its own."""
    return {top: tuple(subtree(groups, top)) for top, group in enumerate(groups) if group.parent is None}


def _concerned(items: Sequence[Item], family: Sequence[int]) -> list[Item]:
    return [item for item in items if any(set(axis.groups) & set(family) for axis in item.axes)]


def _improved(
    family: tuple[int, ...],
    groups: Sequence[Group],
    items: Sequence[Item],
    found: Permutations,
    generator: np.random.Generator,
) -> tuple[Permutations, float, float]:
    """The best permutation of one group, and of what is in its blocks, with all others as they are.

    Returns:
        The permutations, and the score of the items before and after.
    """
    if not items:
        return found, 0.0, 0.0
    top = family[0]
    if len(family) > 1:
        tried = _blocks(top, family, groups, items, found, generator)
        return tried, _score(items, found), _score(items, tried)
    gain = gains(top, groups[top].size, items, found).double()
    order = assignment(gain)
    tried = replaced(found, {top: order})
    if any(sum(top in axis.groups for axis in item.axes) > 1 for item in items):
        return tried, _score(items, found), _score(items, tried)  # the gains are of one axis with the other held
    rows = torch.arange(len(order))
    old, new = (float(gain[rows, torch.from_numpy(one)].sum()) for one in (found[top], order))
    return tried, old, new


def _blocks(
    top: int,
    family: tuple[int, ...],
    groups: Sequence[Group],
    items: Sequence[Item],
    found: Permutations,
    generator: np.random.Generator,
) -> Permutations:
    """The best order of blocks, with the best order inside of each for each block that it can come from."""
    many = groups[top].size
    inner = family[1:]
    number = {old: new for new, old in enumerate(inner)}
    inside = tuple(within_block(groups[old], many, number) for old in inner)
    identity = replaced(found, {old: np.arange(groups[old].size) for old in family})
    cut = [piece for item in items for piece in cut_into_blocks(item, top, inner, groups, found, identity, number)]
    pair = best_of_pairs(inside, cut) if separable(inside, cut) else _climb_of_pairs(inside, cut, generator)
    found_of = [[pair(one, other) for other in range(many)] for one in range(many)]
    blocks = assignment(torch.tensor([[value for value, _ in row] for row in found_of], dtype=torch.float64))
    changed = {top: blocks}
    for old in inner:
        size = groups[old].size // many
        changed[old] = np.concatenate(
            [blocks[one] * size + found_of[one][blocks[one]][1][number[old]] for one in range(many)]
        )
    return replaced(found, changed)


def _climb_of_pairs(inside: Sequence[Group], cut: Sequence[Piece], generator: np.random.Generator) -> OfPair:
    """The best order inside of two blocks, by coordinate descent."""
    order = tuple(np.arange(group.size) for group in inside)

    def pair(one: int, other: int) -> tuple[float, Permutations]:
        items = [Item(piece.a[one], piece.b[other], piece.axes) for piece in cut]
        value, best, _ = ascend(inside, items, order, generator)
        return value, best

    return pair


def _score(items: Sequence[Item], permutations: Permutations) -> float:
    return sum(float((item.a * moved(item.b, item.axes, permutations)).sum(dtype=torch.float64)) for item in items)


def _tolerance(items: Sequence[Item]) -> float:
    return _AGREES.get(items[0].a.dtype, 1e-6) if items else 0.0
