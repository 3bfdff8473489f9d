import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from modeconn import error_barrier
from modeconn.analysis.alphas import COARSE, FINEST, PAPER, check_tolerance, grid, refine
from modeconn.errors import OptionError

TOLERANCE = 0.001
DENSE = np.linspace(0, 1, 20_001)


def adaptive(curve, tolerance: float = TOLERANCE) -> dict[float, float]:
    """What `error_barrier` does with `alphas="adaptive"`: refined around the top of the curve and of its excess."""
    found = {alpha: float(curve(alpha)) for alpha in grid("adaptive")}
    while True:
        alphas = sorted(found)
        values = [found[alpha] for alpha in alphas]
        excess = [value - (1 - x) * values[0] - x * values[-1] for x, value in zip(alphas, values, strict=True)]
        wanted = {*refine(alphas, values, tolerance), *refine(alphas, excess, tolerance)}
        assert wanted.isdisjoint(found)
        if not wanted:
            return found
        found |= {alpha: float(curve(alpha)) for alpha in wanted}


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


def test_adaptive_points_begin_with_a_grid_that_has_the_middle():
    assert grid("adaptive") == grid(COARSE)
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
        check_tolerance(tolerance)


# A concave curve is the lowest of some straight lines.
LINES = st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 1)), min_size=1, max_size=6)


def lowest(lines):
    return lambda x: np.min([intercept + slope * (x - 0.5) for slope, intercept in lines], axis=0)


@given(LINES, st.sampled_from([0.03, 0.001, 0.0001]))
def test_the_top_of_a_concave_curve_is_known_to_the_tolerance(lines, tolerance):
    """Or, at the finest spacing, to what the steepest line rises in between."""
    curve = lowest(lines)
    found = adaptive(curve, tolerance)
    missed = curve(DENSE).max() - max(found.values())
    widths = np.diff(sorted(found))
    steepest = max(abs(slope) for slope, _ in lines)
    coarsened = bool((widths <= 1.5 * FINEST).any())
    assert missed <= (max(tolerance, 1.5 * FINEST * steepest) if coarsened else tolerance) + 1e-12


@given(LINES)
def test_so_is_the_top_over_the_chord(lines):
    curve = lowest(lines)
    found = adaptive(curve)
    ends = curve(0.0), curve(1.0)
    excess = lambda x, y: y - (1 - x) * ends[0] - x * ends[1]  # noqa: E731
    missed = excess(DENSE, curve(DENSE)).max() - max(excess(x, y) for x, y in found.items())
    slope = max(abs(slope) for slope, _ in lines) + abs(ends[1] - ends[0])
    assert missed <= max(TOLERANCE, 1.5 * FINEST * slope) + 1e-12


@given(st.floats(-0.2, 1.2), st.floats(0.2, 5))
def test_smooth_concave_tops_take_few_points(middle, width):
    """A grid as fine as the finest spacing has 129."""
    found = adaptive(lambda x: -(((x - middle) / width) ** 2))
    assert len(found) <= COARSE + 16
    assert min(np.diff(sorted(found))) >= 0.75 * FINEST


VALUES = st.one_of(st.floats(-1, 1), st.sampled_from([math.nan, math.inf, -math.inf]))


@given(st.lists(VALUES, min_size=3, max_size=12), st.data())
def test_new_points_lie_inside_wide_intervals_whatever_the_values(values, data):
    inner = st.lists(st.floats(0.01, 0.99), min_size=len(values) - 2, max_size=len(values) - 2, unique=True)
    alphas = [0.0, *sorted(data.draw(inner)), 1.0]
    wanted = refine(alphas, values, TOLERANCE)
    assert wanted == sorted(set(wanted))
    for point in wanted:
        (around,) = [(x, y) for x, y in itertools.pairwise(alphas) if x < point < y]
        assert point == sum(around) / 2
        assert around[1] - around[0] > 1.5 * FINEST


@given(st.integers(0, 10_000))
def test_refinement_ends_on_any_curve(seed):
    noise = np.random.default_rng(seed).normal(size=4097)
    assert len(adaptive(lambda x: noise[round(4096 * x)])) <= 8 / FINEST


def test_a_flat_curve_asks_for_nothing():
    assert refine(grid(9), [0.3] * 9, TOLERANCE) == []
    assert len(adaptive(lambda x: 0.3 + 0.1 * x)) == COARSE


class Dial(nn.Module):
    """One number, so that any curve can be had on a path from 0 to 1."""

    def __init__(self, position: float) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.tensor(position, dtype=torch.float64))


def adaptive_barrier(curve, **options):
    evaluate = lambda network, batch: {"m": (curve(float(network.position)), 1.0), "n": (0, 1)}  # noqa: E731
    how = {"evaluate": evaluate, "alphas": "adaptive", "tolerance": 1e-4} | options
    return error_barrier(Dial(0.0), Dial(1.0), [torch.zeros(1)], **how)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_barrier_refines_around_its_top_or_around_the_dip_of_an_accuracy(sign):
    result = adaptive_barrier(lambda x: sign * (0.5 * x - (x - 0.3) ** 2), higher_is_better=sign < 0)
    ends = (-(0.3**2) + 0.5 - 0.7**2) / 2
    assert result.barrier == pytest.approx(0.5 * 0.55 - 0.25**2 - ends, abs=1e-4)
    assert abs(result.alpha_at_max - 0.55) < 0.01
    assert (result.settings["alphas"], result.settings["tolerance"]) == ("adaptive", 1e-4)


def test_it_refines_around_the_top_over_the_chord_too():
    """This curve is highest at its end, and farthest above the chord where its slope is 1."""
    result = adaptive_barrier(lambda x: math.log1p(20 * x) / math.log(21))
    top = (20 / math.log(21) - 1) / 20
    assert result.chord_barrier == pytest.approx(math.log1p(20 * top) / math.log(21) - top, abs=1e-4)
    assert result.barrier == pytest.approx(0.5)


def bumps(generator: np.random.Generator):
    """Two bumps on a chord, the narrower with a standard deviation of at least 0.03."""
    at, height = generator.uniform(0.1, 0.9, (2, 1)), generator.uniform(0.05, 0.8, (2, 1))
    width, ends = generator.uniform(0.03, 0.2, (2, 1)), generator.uniform(0.02, 0.4, 2)
    shape = lambda x: (height * np.exp(-((x - at) ** 2) / (2 * width**2))).sum(0)  # noqa: E731
    return lambda x: ends[0] * (1 - x) + ends[1] * x + shape(np.atleast_1d(x)) * np.sqrt(np.sin(np.pi * x))


def ridge(generator: np.random.Generator):
    """Up to a plateau that leans, and down again: what paths between unrelated networks look like."""
    up, down, tilt = generator.uniform(0.05, 0.45), generator.uniform(0.55, 0.95), generator.uniform(-0.05, 0.05)
    widths, ends, top = generator.uniform(0.01, 0.08, 2), generator.uniform(0.02, 0.3, 2), generator.uniform(0.3, 0.9)
    logistic = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    plateau = lambda x: logistic((x - up) / widths[0]) * logistic((down - x) / widths[1])  # noqa: E731
    return lambda x: ends[0] * (1 - x) + ends[1] * x + (top + tilt * x) * plateau(x)


def waves(generator: np.random.Generator):
    """A few cosines with up to three periods on the path."""
    frequency = np.arange(1, 7)[:, None]
    height, phase = generator.normal(size=(6, 1)) * 0.3 / frequency, generator.uniform(0, 2 * np.pi, (6, 1))
    return lambda x: 0.5 + (height * np.cos(np.pi * frequency * x + phase)).sum(0)


@pytest.mark.parametrize("kind", [bumps, ridge, waves])
def test_adaptive_points_are_never_less_honest_than_a_grid_of_31(kind):
    """How often the top found is lower than the grid's by more than the tolerance, on curves that are not concave."""
    generator = np.random.default_rng(1)
    even = np.array(grid(31))
    lower = []
    for _ in range(200):
        curve = kind(generator)
        lower.append(curve(even).max() - max(adaptive(lambda x, curve=curve: curve(np.array([x]))[0]).values()))
    assert sum(low > TOLERANCE for low in lower) == 0, f"{sum(low > TOLERANCE for low in lower)}, by {max(lower):.3f}"
