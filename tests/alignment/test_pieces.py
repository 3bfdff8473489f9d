"""The best order inside of two blocks, against all orders."""

import itertools

import numpy as np
import torch

from modeconn.analysis.alignment.pieces import Piece, best_of_pairs, separable
from modeconn.analysis.alignment.symmetry import Axis, Group

SIZES = (3, 2)
INSIDE = [Group("dims of queries", SIZES[0]), Group("dims of values", SIZES[1])]


def axis(*units: tuple[int, list[int]]) -> Axis:
    return Axis(0, tuple((group, np.array(of)[:, None]) for group, of in units), np.zeros((1, 1), dtype=np.int64))


def pieces(seed: int) -> list[Piece]:
    """Three tensors in two blocks: of one group, of two side by side, and of none."""
    draw = torch.Generator().manual_seed(seed)
    both = axis((0, [0, 1, 2, -1, -1, -1]), (1, [-1, -1, -1, 0, 1, -1]))  # the last row is nobody's
    return [
        Piece(*([torch.randn(*shape, generator=draw) for _ in range(2)] for _ in "ab"), axes)
        for shape, axes in (((3, 4), (axis((0, [2, 0, 1])),)), ((6, 5), (both,)), ((2, 2), ()))
    ]


def agreement(cut: list[Piece], one: int, other: int, orders: tuple[tuple[int, ...], ...]) -> float:
    """The inner product of a's block with b's, whose units are in these orders."""
    first, second, third = cut
    rows = [0, 1, 2]
    place = {unit: row for row, unit in enumerate([2, 0, 1])}
    moved = [place[orders[0][unit]] for unit in (2, 0, 1)]
    beside = [*orders[0], *(3 + unit for unit in orders[1]), 5]
    return sum(
        float((piece.a[one] * piece.b[other][index]).sum())
        for piece, index in ((first, moved), (second, beside), (third, rows[:2]))
    )


def test_the_order_inside_of_two_blocks_is_the_best_of_all():
    for seed in range(10):
        cut = pieces(seed)
        assert separable(INSIDE, cut)
        pair = best_of_pairs(INSIDE, cut)
        for one, other in itertools.product(range(2), repeat=2):
            value, orders = pair(one, other)
            every = itertools.product(*(itertools.permutations(range(size)) for size in SIZES))
            best = max(every, key=lambda tried: agreement(cut, one, other, tried))
            assert tuple(map(tuple, orders)) == best
            assert np.isclose(value, agreement(cut, one, other, best), rtol=0, atol=1e-5)


def test_groups_that_share_a_place_or_a_tensor_are_ordered_together():
    a = [torch.zeros(2, 2)]
    shared = Piece(a, a, (axis((0, [0, 1]), (1, [0, 1])),))
    crossed = Piece(a, a, (axis((0, [0, 1])), Axis(1, ((1, np.array([[0, 1]])),), np.zeros((1, 1), dtype=np.int64))))
    assert not separable(INSIDE, [shared])
    assert not separable(INSIDE, [crossed])
    assert not separable([INSIDE[0], Group("inside", 4, 0, np.array([0, 0, 1, 1]))], [])
