"""Eigenvalues, traces and quadrature of matrices that are known by products, against NumPy's on the whole matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modeconn.analysis.landscape.curvature.lanczos import eigenpairs, order_of, quadrature
from modeconn.analysis.landscape.curvature.trace import estimate_trace


def matrix_with(values: Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues, float64."""
    n = len(values)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    matrix = q @ torch.diag(values.double()) @ q.T
    return (matrix + matrix.T) / 2


def spread(n: int, seed: int = 0) -> Tensor:
    """A few outliers on either side of a bulk, as Hessians have."""
    bulk = torch.randn(n - 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 4
    return torch.cat([torch.tensor([20.0, 9.0, 5.0, 3.0, 2.0, -12.0], dtype=torch.float64), bulk])


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
@pytest.mark.parametrize(("n", "k"), [(7, 7), (30, 1), (30, 29), (200, 5)])
def test_eigenvalues_are_those_of_the_whole_matrix(which: str, n: int, k: int) -> None:
    matrix = matrix_with(spread(n))
    found = eigenpairs(lambda v: matrix @ v, matrix, n, k, which=which, tolerance=1e-9)
    whole = np.linalg.eigvalsh(matrix.numpy())
    np.testing.assert_allclose(found.values, whole[order_of(whole, which)][:k], atol=1e-7)
    assert found.converged == k
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(k).double(), rtol=0, atol=1e-10)
    for value, vector, residual in zip(found.values, found.vectors, found.residuals, strict=True):
        assert float((matrix @ vector - value * vector).norm()) == pytest.approx(residual, abs=1e-12)


def test_the_basis_is_restarted_and_stays_within_its_bound() -> None:
    n, k = 400, 2
    matrix = matrix_with(torch.linspace(0, 1, n) ** 0.5)  # slow: the largest eigenvalues are close
    found = eigenpairs(lambda v: matrix @ v, matrix, n, k, tolerance=1e-6)
    assert found.products > 60  # more than the basis holds
    assert found.converged == k
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(matrix.numpy())[::-1][:k], atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_equal_eigenvalues_are_all_found(seed: int) -> None:
    values = torch.tensor([4.0, 4.0, 4.0, 3.0, 3.0, 2.9, *torch.linspace(-0.5, 0.5, 194).tolist()])
    matrix = matrix_with(values, seed)
    found = eigenpairs(lambda v: matrix @ v, matrix, 200, 5, seed=seed)
    np.testing.assert_allclose(found.values, [4, 4, 4, 3, 3], atol=1e-2)


def test_matrices_of_few_different_eigenvalues() -> None:
    for matrix in (torch.zeros(9, 9), 3 * torch.eye(9), torch.ones(9, 9)):
        found = eigenpairs(lambda v, matrix=matrix: matrix @ v, matrix, 9, 4)
        whole = np.linalg.eigvalsh(matrix.numpy())[::-1][:4]
        np.testing.assert_allclose(found.values, whole, atol=1e-5)
        assert found.converged == 4
        torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(4), rtol=0, atol=1e-5)


def test_what_was_found_is_given_where_products_run_out() -> None:
    matrix = matrix_with(spread(200))
    found = eigenpairs(lambda v: matrix @ v, matrix, 200, 5, tolerance=1e-9, most=8)
    assert found.products == 8 + 5
    assert found.converged < 5
    assert (found.residuals > 0).all()


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=12), st.integers(0, 2**20))
@settings(max_examples=25, deadline=None)
def test_residuals_bound_the_distance_to_an_eigenvalue(values: list[float], seed: int) -> None:
    matrix = matrix_with(torch.tensor(values), seed)
    found = eigenpairs(lambda v: matrix @ v, matrix, len(values), 1, seed=seed)
    whole = np.linalg.eigvalsh(matrix.numpy())
    assert np.abs(whole - found.values[0]).min() <= found.residuals[0] + 1e-9
    assert abs(found.values[0] - whole[-1]) <= 1e-3 * np.abs(whole).max() + 1e-9


def test_quadrature_has_the_moments_of_the_matrix() -> None:
    matrix = matrix_with(spread(60))
    start = torch.randn(60, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    nodes, weights = quadrature(lambda v: matrix @ v, start, 10)
    unit = start / start.norm()
    for power in range(20):  # of m steps, up to 2 m - 1
        expected = float(unit @ torch.linalg.matrix_power(matrix, power) @ unit)
        assert float((weights * nodes**power).sum()) == pytest.approx(expected, rel=1e-8)


def test_quadrature_of_few_eigenvalues_has_as_many_nodes() -> None:
    matrix = torch.diag(torch.tensor([2.0, 2.0, 5.0, 5.0, 5.0], dtype=torch.float64))
    nodes, weights = quadrature(lambda v: matrix @ v, torch.ones(5, dtype=torch.float64), 5)
    np.testing.assert_allclose(nodes, [2, 5])
    np.testing.assert_allclose(weights, [0.4, 0.6])


def test_the_trace_is_within_its_error_and_eigenvectors_reduce_it() -> None:
    values = spread(80)
    matrix = matrix_with(values)
    product = lambda v: matrix @ v  # noqa: E731
    plain = estimate_trace(product, matrix, 80, 40, seed=1)
    assert abs(plain.value - float(values.sum())) < 4 * plain.error
    known = eigenpairs(product, matrix, 80, 6, which="magnitude", tolerance=1e-6)
    better = estimate_trace(product, matrix, 80, 40, (known.values, known.vectors), seed=1)
    assert abs(better.value - float(values.sum())) < 4 * better.error
    assert better.error < plain.error / 3


def test_the_error_of_the_trace_is_that_over_samples() -> None:
    matrix = matrix_with(spread(30))
    found = [estimate_trace(lambda v: matrix @ v, matrix, 30, 10, seed=seed) for seed in range(200)]
    deviation = np.std([one.value for one in found], ddof=1)
    assert np.sqrt(np.mean([one.error**2 for one in found])) == pytest.approx(deviation, rel=0.15)
    assert np.isnan(estimate_trace(lambda v: matrix @ v, matrix, 30, 1).error)
