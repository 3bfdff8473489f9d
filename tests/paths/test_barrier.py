import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from modeconn.analysis.paths.barrier import barrier_heights

VALUES = st.lists(st.floats(0, 1), min_size=3, max_size=40)


def grid(values: list[float]) -> np.ndarray:
    return np.linspace(0, 1, len(values))


@given(VALUES)
def test_barriers_are_those_of_the_definitions(values):
    alphas = grid(values)
    heights = barrier_heights(alphas, values)
    ends = (values[0] + values[-1]) / 2
    assert heights.barrier == pytest.approx(max(values) - ends)
    chords = [v - ((1 - a) * values[0] + a * values[-1]) for a, v in zip(alphas, values, strict=True)]
    assert heights.chord_barrier == pytest.approx(max(chords))
    assert values[list(alphas).index(heights.alpha_at_max)] == max(values)


@given(VALUES)
def test_barriers_do_not_depend_on_which_end_is_a(values):
    there, back = barrier_heights(grid(values), values), barrier_heights(grid(values), values[::-1])
    assert there.barrier == pytest.approx(back.barrier)
    assert there.chord_barrier == pytest.approx(back.chord_barrier)


@given(VALUES)
def test_barriers_are_never_negative_and_differ_by_at_most_half_the_gap(values):
    heights = barrier_heights(grid(values), values)
    assert heights.barrier >= 0
    assert heights.chord_barrier >= -1e-15
    gap = abs(values[0] - values[-1])
    assert abs(heights.barrier - heights.chord_barrier) <= gap / 2 + 1e-12


def test_the_chord_barrier_is_the_largest_excess_and_not_the_excess_at_the_largest_value():
    heights = barrier_heights([0, 0.5, 1], [0.10, 0.38, 0.40])
    assert heights.chord_barrier == pytest.approx(0.13)
    assert heights.barrier == pytest.approx(0.15)


_SHAPES, _ORDER = "^alphas and values must be two vectors of one length; got", "^alphas must ascend from 0 to 1$"


@pytest.mark.parametrize(
    ("alphas", "values", "said"),
    [
        ([0, 1], [0.1], _SHAPES),
        ([0], [0], _SHAPES),
        ([[0, 1]], [[0, 0]], _SHAPES),
        ([[0, 1], [0, 1]], [[0, 0], [0, 0]], _SHAPES),
        ([0, 0.5], [0.1, 0.1], _ORDER),
        ([0, 0.5, 0.5, 1], [0] * 4, _ORDER),
        ([1, 0], [0, 0], _ORDER),
    ],
)
def test_what_is_no_path_is_refused(alphas, values, said):
    with pytest.raises(ValueError, match=said):
        barrier_heights(alphas, values)


def test_values_of_less_precision_are_computed_with_in_double_precision():
    values = np.array([0.1, 0.7, 0.2], dtype=np.float32)
    found = barrier_heights(np.array([0, 0.3, 1], dtype=np.float32), values)
    assert found == barrier_heights([0.0, float(np.float32(0.3)), 1.0], [float(value) for value in values])
    assert barrier_heights([0, 1], np.array([200, 100], dtype=np.uint8)).barrier == 50


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_where_a_value_is_not_finite_no_barrier_is_and_nothing_is_warned_of(bad):
    for place in range(3):
        values = [0.1, 0.2, 0.3]
        values[place] = bad
        assert not np.isfinite(barrier_heights([0, 0.5, 1], values).barrier)


def test_of_equal_values_the_first_is_the_highest():
    assert barrier_heights([0, 0.25, 0.5, 1], [0, 1, 1, 0]).alpha_at_max == 0.25
