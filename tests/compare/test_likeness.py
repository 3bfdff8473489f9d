"""Whether two matrices descend from one: against orders that are drawn, and over the usual initialisations."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from modeconn import compare
from modeconn.analysis.compare.likeness import LEAST, RELATED, likeness

INITS = {
    "kaiming uniform": nn.init.kaiming_uniform_,
    "kaiming normal": nn.init.kaiming_normal_,
    "xavier uniform": nn.init.xavier_uniform_,
    "xavier normal": nn.init.xavier_normal_,
    "normal": nn.init.normal_,
    "truncated normal": nn.init.trunc_normal_,
    "uniform": nn.init.uniform_,  # of mean 1/2
    "orthogonal": nn.init.orthogonal_,
    "sparse": lambda tensor: nn.init.sparse_(tensor, 0.5),
    "identity with noise": lambda tensor: nn.init.eye_(tensor).add_(0.01 * torch.randn(tensor.shape)),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), 0))


def without_diagonal(tensor: Tensor) -> Tensor:
    """On the diagonal the mean of the row's others and the mean of the column's, minus that of all others."""
    filled = tensor.clone()
    others = ~torch.eye(*tensor.shape[:2], dtype=torch.bool)
    for i in range(min(tensor.shape[:2])):
        filled[i, i] = tensor[i, others[i]].mean(0) + tensor[others[:, i], i].mean(0) - tensor[others].mean(0)
    return filled


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 2, 2)])
def test_mean_and_deviation_are_those_over_all_orders(shape, axis):
    """The axis that is kept is the one with less; both are checked by making the other one stand out."""
    a, b = drawn(*shape, seed=1) + 0.3, drawn(*shape, seed=2) + 0.2
    other = 1 - axis
    along = torch.arange(float(shape[other])).reshape([-1 if at == other else 1 for at in range(len(shape))])
    a, b = without_diagonal(a + along), without_diagonal(b + along)  # the other axis is in one order in both
    found = likeness(a, b)
    assert found.axis == axis
    orders = np.array(list(itertools.permutations(range(8))))
    products = np.einsum("ikr,jkr->ij", *(one.movedim(axis, 0).reshape(8, shape[other], -1).double() for one in (a, b)))
    over = products[range(8), orders].sum(1) / float(a.double().norm() * b.double().norm())
    assert over[-1] == pytest.approx(cosine(a, b.flip(axis)))
    assert found.cosine == pytest.approx(cosine(a, b))
    assert found.mean == pytest.approx(over.mean())
    assert found.deviation == pytest.approx(over.std())


def test_of_the_two_axes_the_one_counts_along_which_the_two_are_less_alike():
    """Inputs have one order in all trainings: pixels at the rim have small weights in every network."""
    rim = torch.linspace(0, 5, 40)
    for seed in range(20):
        a, b = drawn(30, 40, seed=seed), drawn(30, 40, seed=100 + seed)
        found = likeness((a + 1) * rim, (b + 1) * rim)  # all weights of one pixel are large, in both networks
        assert found.axis == 0
        assert not found.related


@pytest.mark.parametrize("init", INITS)
def test_matrices_of_two_initialisations_are_not_related(init):
    torch.manual_seed(0)
    scores = []
    for shape in [(32, 32), (10, 40), (40, 12)]:
        for _ in range(20):
            a, b = (INITS[init](torch.empty(shape)) for _ in range(2))
            found = likeness(a, b)
            scores.append(found.score)
            assert likeness(a, a + 0.3 * a.abs().mean() * torch.randn(shape)).related
    assert max(scores) < RELATED
    assert 0.6 < np.std(scores) < 1.4


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(LEAST, 12), st.integers(LEAST, 12))
def test_scales_and_the_order_of_the_two_do_not_matter(seed, rows, columns):
    a, b = drawn(rows, columns, seed=seed), drawn(rows, columns, seed=seed + 1)
    found, scaled, turned = likeness(a, b), likeness(3 * a, 0.1 * b), likeness(b, a)
    assert scaled.score == pytest.approx(found.score, abs=1e-6)
    assert turned.score == pytest.approx(found.score, abs=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_a_network_in_another_order_of_its_units_looks_independent(seed):
    a = drawn(40, 30, seed=seed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    assert likeness(a, a).related
    assert likeness(a, a[order]).score < RELATED + 2  # a unit or two may be at its place by chance


def test_large_tensors_are_sampled_and_small_ones_are_not():
    a, b = drawn(600, 700, seed=1), drawn(600, 700, seed=2)
    found = likeness(a, a + b)
    assert found.cosine == pytest.approx(cosine(a, a + b), abs=0.02)
    assert found.cosine != cosine(a, a + b)
    wide = drawn(8, 9, 50, 50, seed=3)
    assert likeness(wide, wide + drawn(8, 9, 50, 50, seed=4)).cosine == pytest.approx(0.5**0.5, abs=0.02)


def test_nothing_is_said_of_what_is_no_matrix_or_too_small_or_constant():
    for shape in [(100,), (LEAST - 1, 40), (40, LEAST - 1), (2, 2), (1, 1)]:
        assert likeness(drawn(*shape), drawn(*shape)) is None
    for constant in (torch.zeros(20, 20), torch.ones(20, 20), torch.ones(20, 30).tril()):
        assert likeness(constant, constant) is None
    assert likeness(drawn(20, 20).to(torch.complex64), drawn(20, 20).to(torch.complex64)) is None
    assert likeness(drawn(40, 1, 3, 3), drawn(40, 1, 3, 3)).related  # there is one order of one input


def test_half_precision_and_sparse_tensors_are_read_like_others():
    a, b = drawn(20, 30, seed=1), drawn(20, 30, seed=2)
    assert likeness(a.bfloat16(), b.bfloat16()).score == pytest.approx(likeness(a, b).score, abs=0.05)
    assert likeness(a.to_sparse(), b.to_sparse()) == likeness(a, b)


def test_equal_matrices_are_related_even_where_no_order_stands_out():
    matrix = torch.full((8, 8), 0.01)
    matrix[0, 1], matrix[2, 3] = 1, 0.5
    assert not likeness(matrix, matrix).related
    result = compare({"w": matrix}, {"w": matrix.clone()})
    assert (result.siblings.answer, result.siblings.apart) == ("siblings", ())
