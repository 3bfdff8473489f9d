import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeconn.analysis.paths.alphas import PAPER, choose_alphas, grid
from modeconn.errors import OptionError


@pytest.mark.parametrize("count", [3, 4, 11, 31, np.int64(5)])
def test_a_count_is_an_even_grid_with_both_ends(count):
    points = grid(count)
    assert len(points) == count
    assert (points[0], points[-1]) == (0, 1)
    assert np.allclose(np.diff(points), 1 / (count - 1))
    assert (0.5 in points) == (count % 2 == 1)


@given(st.integers(3, 500))
def test_a_grid_is_symmetric_and_ends_at_exactly_1(count):
    """A sum of steps ends at 0.9999999999999999."""
    points = grid(count)
    assert points[-1] == 1.0
    assert all(x == pytest.approx(1 - y, abs=1e-15) for x, y in zip(points, points[::-1], strict=True))


def test_the_papers_grid_has_30_points_and_not_the_middle():
    points = grid("paper")
    assert len(points) == PAPER == 30
    assert 0.5 not in points
    assert min(abs(point - 0.5) for point in points) == pytest.approx(0.017, abs=5e-4)


def test_adaptive_points_are_among_the_default_grid_which_has_the_middle():
    assert grid("adaptive") == grid(31)
    assert 0.5 in grid("adaptive")


@pytest.mark.parametrize("given", [[0.5], (0.5, 0, 1, 0.5), np.array([1, 0.5]), [0.5, 1.0, 0.0], iter([0.5])])
def test_a_list_is_sorted_and_gets_its_ends(given):
    assert grid(given) == (0.0, 0.5, 1.0)


@pytest.mark.parametrize("alphas", [2, 1, 0, -3, [], [0, 1], [1.0], True])
def test_a_path_has_a_point_between_its_ends(alphas):
    with pytest.raises(OptionError, match="at least 3 alphas"):
        grid(alphas)


@pytest.mark.parametrize("alphas", ["papers", "", 0.5, None, ["x"], [None], [[0.5]]])
def test_what_are_no_alphas_is_refused(alphas):
    with pytest.raises(OptionError, match="alphas are"):
        grid(alphas)


@pytest.mark.parametrize("alphas", [[-0.1, 0.5], [0.5, 1.5], [0.5, math.nan], [0.5, math.inf]])
def test_alphas_lie_between_the_ends(alphas):
    with pytest.raises(OptionError, match="between 0 and 1"):
        grid(alphas)


def test_beyond_the_ends_only_if_asked():
    assert grid([-0.5, 0.5, 1.5], extrapolate=True) == (-0.5, 0.0, 0.5, 1.0, 1.5)
    for alphas in ([0.5, math.nan], [0.5, -math.inf]):
        with pytest.raises(OptionError):
            grid(alphas, extrapolate=True)


@pytest.mark.parametrize("tolerance", [0, -1, math.nan, math.inf, "0.1", None])
def test_a_tolerance_is_a_positive_number(tolerance):
    with pytest.raises(OptionError, match="tolerance"):
        choose_alphas(31, tolerance)


@pytest.mark.parametrize(
    ("alphas", "settings"),
    [
        (11, {"alphas": "given"}),
        ([0.25], {"alphas": "given"}),
        ("paper", {"alphas": "paper"}),
        ("adaptive", {"alphas": "adaptive", "tolerance": 0.5}),
    ],
)
def test_a_result_says_how_its_alphas_were_chosen(alphas, settings):
    chosen = choose_alphas(alphas, 0.5)
    assert chosen.points == grid(alphas)
    assert chosen.settings == settings
    assert chosen.adaptive == (alphas == "adaptive")


def test_chosen_alphas_lie_beyond_the_ends_only_if_asked():
    assert choose_alphas([-1.0], extrapolate=True).points == (-1.0, 0.0, 1.0)
    with pytest.raises(OptionError, match="extrapolate=True"):
        choose_alphas([-1.0])
