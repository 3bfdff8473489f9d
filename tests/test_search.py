"""The smallest stable k by bisection: the answer of the full study, from a part of it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeconn import get_task, instability
from modeconn.analysis.search import search
from modeconn.cli import main

THRESHOLD = 0.02


def first_stable(heights, measured):
    """As `InstabilityResult.stable_from` on the k and replicates that were measured."""
    ks = sorted(measured)
    means = [sum(heights[k][: measured[k]]) / measured[k] for k in ks]
    unstable = [i for i, mean in enumerate(means) if not mean < THRESHOLD]
    later = ks[max(unstable, default=-1) + 1 :]
    return later[0] if later else None


def searched(heights, replicates):
    asked = []

    def measure(k, replicate):
        asked.append((k, replicate))
        return heights[k][replicate]

    found = search(sorted(heights), replicates, THRESHOLD, measure)
    assert len(asked) == len(set(asked)) == sum(found.values())
    return found


@given(st.integers(1, 12), st.integers(1, 4), st.data())
def test_where_instability_falls_the_answer_is_that_of_the_full_grid_and_confirmed(n, replicates, data):
    first = data.draw(st.integers(0, n))
    high, low = st.floats(THRESHOLD, 1), st.floats(0, THRESHOLD * 0.99)
    heights = {
        10 * i: data.draw(st.lists(low if i >= first else high, min_size=replicates, max_size=replicates))
        for i in range(n)
    }
    found = searched(heights, replicates)
    full = first_stable(heights, dict.fromkeys(heights, replicates))
    assert first_stable(heights, found) == full == (10 * first if first < n else None)
    for neighbour in (first - 1, first, first + 1):
        if first < n and 0 <= neighbour < n:
            assert 10 * neighbour in found
    assert len(found) <= math.ceil(math.log2(n + 1)) + 1


@given(st.lists(st.lists(st.floats(0, 0.2), min_size=3, max_size=3), min_size=1, max_size=12))
def test_each_decision_is_that_of_all_replicates(rows):
    """Whether instability falls or not; but for numbers within rounding of the threshold."""
    heights = dict(enumerate(rows))
    for k, replicates in searched(heights, 3).items():
        whole, part = sum(heights[k]) / 3, sum(heights[k][:replicates]) / replicates
        if abs(whole - THRESHOLD) > 1e-12:
            assert (part < THRESHOLD) == (whole < THRESHOLD)


def test_one_replicate_decides_where_it_says_enough():
    heights = {0: [0.07, 0.0, 0.0], 10: [0.07, 0.0, 0.0], 20: [0.05, 0.02, 0.0], 30: [0.0, 0.0, 0.001], 40: [0.0] * 3}
    assert searched(heights, 3) == {20: 2, 30: 3, 40: 3}
    heights[20] = [0.0] * 3
    assert searched(heights, 3) == {0: 1, 10: 1, 20: 3, 30: 3}


def test_a_copy_that_diverged_is_not_stable():
    heights = {0: [math.nan, 0.0], 10: [0.0, math.nan], 20: [0.0, 0.0]}
    assert searched(heights, 2) == {10: 2, 20: 2}
    heights[10] = [0.0, 0.0]
    assert searched(heights, 2) == {0: 1, 10: 2, 20: 2}


def test_it_goes_on_above_a_stable_k_whose_next_one_is_not():
    heights = {k: [height] for k, height in enumerate((0.3, 0.3, 0.001, 0.4, 0.001, 0.001))}
    found = searched(heights, 1)
    assert first_stable(heights, found) == 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Whatever the threshold, trainings and paths are the same."""
    return tmp_path_factory.mktemp("search") / "store"


OPTIONS = {"replicates": 2, "alphas": 3, "workers": 0, "device": "cpu", "calibration": 100}


@pytest.mark.parametrize("threshold", [0.05, 0.9, 1e-9])
def test_a_searched_study_gives_the_full_studys_answer_from_rows_that_are_the_same(threshold, store, data_dir):
    task = get_task("digits-conv").shortened(20)
    where = {"rewind_iters": "0,1,2,5,10", "threshold": threshold, "store": store, "data_dir": data_dir}
    found = instability(task, search=True, **OPTIONS, **where)
    full = instability(task, **OPTIONS, **where)
    choice = full.choices[0]
    assert found.choices[0] == choice == ("test", "interpolate")
    if threshold != 0.05:  # all are stable, or none; in between instability need not fall with every k
        expected = {0.9: 0, 1e-9: None}[threshold]
        assert [result.stable_from(threshold)["test"]["interpolate"] for result in (found, full)] == [expected] * 2
    assert all(row in full.rows for row in found.rows)
    assert len(found.rows) < len(full.rows)
    by_k = found.summary["replicates_by_k"]
    assert {row["rewind_iter"] for row in found.rows} == set(by_k)
    assert full.summary["replicates_by_k"] is None
    assert "Found by bisection over 5 iterations" in str(found)
    assert "bisection" not in str(full)


def test_the_command_searches_a_grid_of_its_own(tmp_path, store, data_dir, capsys):
    options = ["--search", "--iterations", "20", "--replicates", "1", "--alphas", "3", "--workers", "0"]
    files = ["--store", str(store), "--data-dir", str(data_dir), "--out", str(tmp_path / "out")]
    assert main(["instability", *options, *files]) == 0
    # 0.1 % to 50 % of 20 iterations are 1, 2, 5 and 10 besides 0.
    assert "Found by bisection over 5 iterations" in capsys.readouterr().out
    assert main(["plot", str(tmp_path / "out")]) == 0
