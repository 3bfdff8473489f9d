"""Further points where a surface bends, against grids."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import LinearNDInterpolator
from torch import nn

from modeconn import plane
from modeconn.analysis.landscape.planes.grid import grid
from modeconn.analysis.landscape.planes.refine import refine


def valley(points: np.ndarray) -> np.ndarray:
    """A narrow valley in a plain."""
    return 1.2 - np.exp(-40 * (points[:, 0] - 0.3) ** 2) * np.exp(-3 * (points[:, 1] + 0.2) ** 2)


SQUARE = [(-1.0, 1.0), (-1.0, 1.0)]
FULL = grid(SQUARE, (81, 81))


def mean_departure(points: np.ndarray, values: np.ndarray) -> float:
    return float(np.nanmean(np.abs(LinearNDInterpolator(points, values)(FULL) - valley(FULL))))


def test_refined_points_are_nearer_to_a_full_grid_than_an_even_grid_of_as_many():
    coarse = grid(SQUARE, (9, 9))
    points, values = refine(coarse, valley(coarse), 144, valley)
    even = grid(SQUARE, (15, 15))
    assert len(points) == len(even) == 225
    refined, evenly = (mean_departure(*of) for of in ((points, values), (even, valley(even))))
    assert refined < 0.5 * evenly
    assert refined < 0.25 * mean_departure(coarse, valley(coarse))


def test_further_points_lie_in_the_valley():
    coarse = grid(SQUARE, (7, 7))
    points, _ = refine(coarse, valley(coarse), 60, valley)
    further = points[len(coarse) :]
    assert np.mean(np.abs(further[:, 0] - 0.3) < 0.45) > 0.8


def test_a_flat_surface_needs_no_further_points():
    coarse = grid(SQUARE, (4, 4))
    points, values = refine(coarse, coarse @ [0.5, 0.25], 10, lambda at: at @ [0.5, 0.25])
    assert values == pytest.approx(points @ [0.5, 0.25])
    level, _ = refine(coarse, np.ones(16), 10, lambda at: np.ones(len(at)))
    assert len(level) == 16


def test_what_is_not_finite_is_left_aside():
    def split(points: np.ndarray) -> np.ndarray:
        return np.where(points[:, 0] > 0.4, np.nan, valley(points))

    coarse = grid(SQUARE, (6, 6))
    points, values = refine(coarse, split(coarse), 30, split)
    assert len(points) == 66
    assert np.isfinite(values[36:]).mean() > 0.7


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 30), seed=st.integers(0, 99))
def test_as_many_points_as_are_asked_for_none_twice_and_the_first_as_given(count, seed):
    coarse = grid(SQUARE, (5, 5))
    given_values = np.random.default_rng(seed).normal(size=25)
    draw = np.random.default_rng(seed + 1)
    points, values = refine(coarse, given_values, count, lambda at: draw.normal(size=len(at)))
    assert len(points) == len(values) == 25 + count
    assert (points[:25] == coarse).all()
    assert (values[:25] == given_values).all()
    assert len(np.unique(points.round(12), axis=0)) == len(points)
    assert (np.abs(points) <= 1).all()


def test_a_plane_of_networks_is_refined_where_its_loss_bends():
    inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    data = inputs, (inputs[:, 0] > 0).long()
    three = [nn.Linear(4, 2) for _ in range(3)]
    found = plane(*three, data, points=4, refine=9)
    full = plane(*three, data, points=4)
    assert len(found.x) == 25
    assert found.grid("loss").tolist() == full.grid("loss").tolist()
    kinds = [row["point"] for row in found.rows()]
    assert (kinds.count("grid"), kinds.count("refined"), kinds.count("network")) == (16, 9, 3)
