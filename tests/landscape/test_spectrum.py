"""The density of a Hessian's eigenvalues, against all of them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modeconn.analysis.landscape.curvature.hessian import curvature_of
from modeconn.analysis.landscape.curvature.spectrum import SpectralDensity, spectral_density
from modeconn.errors import DataError, OptionError

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(30) % 3


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def eigenvalues() -> np.ndarray:
    curvature = curvature_of(made().double(), [(X, Y)])
    matrix = torch.stack([curvature.product(v) for v in torch.eye(curvature.dimension).double()])
    return np.linalg.eigvalsh(matrix.numpy())


def test_moments_and_range_are_those_of_all_eigenvalues() -> None:
    found, whole = spectral_density(made(), (X, Y), probes=40, steps=15, double=True), eigenvalues()
    assert found.parameters == len(whole)
    np.testing.assert_allclose(found.weights.sum(1), 1)
    for power in (1, 2, 3):
        of_probes = (found.weights * found.nodes**power).sum(1)
        error = of_probes.std(ddof=1) / np.sqrt(len(of_probes))
        assert abs(found.moment(power) - (whole**power).mean()) < 4 * error
    assert whole[0] - 1e-6 <= found.range[0]
    assert found.range[1] == pytest.approx(whole[-1], rel=1e-6)


def test_with_all_steps_every_node_is_an_eigenvalue() -> None:
    found, whole = spectral_density(made(), (X, Y), probes=20, steps=100, double=True), eigenvalues()
    assert abs(found.negative - (whole < -found.width).mean()) < 0.05
    assert abs(found.near_zero - (np.abs(whole) <= found.width).mean()) < 0.05
    heavy = found.nodes[found.weights > 1e-6]
    assert np.abs(heavy[:, None] - whole).min(1).max() < 1e-8


def test_the_density_is_one_and_is_that_of_gaussians() -> None:
    found = spectral_density(made(), (X, Y), probes=3)
    grid = found.grid()
    assert np.trapezoid(found.density(grid), grid) == pytest.approx(1, abs=1e-3)
    two = SpectralDensity(np.array([[0.0, 2.0]]), np.array([[0.25, 0.75]]), 10, "a loss")
    x = np.array([0.3, 1.9])
    expected = [0.25 * np.exp(-(v**2) / 2) + 0.75 * np.exp(-((v - 2) ** 2) / 2) for v in x] / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(two.density(x, 1.0), expected)
    with pytest.raises(OptionError, match="must be positive"):
        two.density(x, 0.0)


def test_a_hessian_of_zeros_has_all_eigenvalues_at_zero() -> None:
    def linear(network: nn.Module, batch: Any) -> torch.Tensor:
        return network(batch[0]).mean()

    found = spectral_density(nn.Linear(4, 2), (X, Y), loss=linear, probes=2)
    assert found.near_zero == 1
    assert not found.nodes.any()
    assert "between 0 and 0" in str(found)
    found.plot()


def test_the_result_is_read_back_and_drawn() -> None:
    found = spectral_density(made(), (X, Y), probes=2, steps=5, kind="gauss-newton")
    again = SpectralDensity.from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert str(again) == str(found)
    assert list(again.to_frame().columns) == ["value", "density"]
    ax = again.plot()
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "eigenvalue of the Gauss-Newton matrix"
    for bad in ({"kind": "other"}, {"weights": [[1.0]]}, {"nodes": []}):
        with pytest.raises(DataError, match="not a spectral density"):
            SpectralDensity.from_content({**found.content(), **bad})
    seen: list[int] = []
    spectral_density(made(), (X, Y), probes=2, steps=3, report=lambda progress: seen.append(progress.done))
    assert seen == [1, 2, 3, 4, 5, 6]


def test_bad_options_are_refused() -> None:
    with pytest.raises(OptionError, match="at least one random vector"):
        spectral_density(made(), (X, Y), probes=0)
    with pytest.raises(OptionError, match="at least 2 steps"):
        spectral_density(made(), (X, Y), steps=1)
    with pytest.raises(OptionError, match="the seed must be"):
        spectral_density(made(), (X, Y), seed=0.5)
