"""The smallest stable k by bisection: the answer of the full study, from a part of it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeconn import get_task, instability
from modeconn.analysis.instability.bisection import search
from modeconn.analysis.instability.options import SEARCHED
from modeconn.cli.main import main
from modeconn.execution import Store
from modeconn.tasks import PRESETS, parse_iterations

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
    assert {(k, replicate) for k, replicates in found.items() for replicate in range(replicates)} == set(asked)
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
def test_where_the_mean_falls_the_answer_is_that_of_the_full_grid_though_replicates_disagree(rows):
    """But for means within rounding of the threshold."""
    rows = sorted(rows, key=sum, reverse=True)
    if any(abs(sum(row) / 3 - THRESHOLD) < 1e-9 for row in rows):
        return
    heights = dict(enumerate(rows))
    found = searched(heights, 3)
    answer = first_stable(heights, dict.fromkeys(heights, 3))
    assert next((k for k in sorted(found) if decided(heights[k], found[k]) == "stable"), None) == answer
    below = len(rows) - 1 if answer is None else answer - 1
    assert below < 0 or decided(heights[below], found[below]) == "unstable"


def decided(heights, replicates):
    """What the replicates measured say of the mean over all three, whatever the others are."""
    if sum(heights[:replicates]) / 3 >= THRESHOLD:
        return "unstable"
    return "stable" if replicates == 3 else None


def test_one_replicate_decides_where_it_says_enough():
    heights = {0: [0.07, 0.0, 0.0], 10: [0.07, 0.0, 0.0], 20: [0.05, 0.02, 0.0], 30: [0.0, 0.0, 0.001], 40: [0.0] * 3}
    assert searched(heights, 3) == {20: 2, 30: 3, 40: 1}
    heights[20] = [0.0] * 3
    assert searched(heights, 3) == {0: 1, 10: 1, 20: 3, 30: 1}


def test_a_replicate_that_misleads_is_found_out():
    """At 20 the first replicate looks stable and the mean is not; at 30 it is the other way."""
    heights = {10: [0.07, 0.0, 0.0], 20: [0.01, 0.04, 0.03], 30: [0.03, 0.0, 0.0], 40: [0.0] * 3}
    assert searched(heights, 3) == {10: 1, 20: 3, 30: 3, 40: 1}
    assert searched({0: [0.03, 0.0, 0.0], 10: [0.0] * 3, 20: [0.0] * 3}, 3) == {0: 3, 10: 3}


def test_a_copy_that_diverged_is_not_stable():
    heights = {0: [math.nan, 0.0], 10: [0.0, math.nan], 20: [0.0, 0.0]}
    assert searched(heights, 2) == {0: 1, 10: 2, 20: 2}
    heights[10] = [0.0, 0.0]
    assert searched(heights, 2) == {0: 1, 10: 2, 20: 1}


def test_it_goes_on_above_a_stable_k_whose_next_one_is_not():
    heights = {k: [height] for k, height in enumerate((0.3, 0.3, 0.001, 0.4, 0.001, 0.001))}
    found = searched(heights, 1)
    assert first_stable(heights, found) == 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Whatever the threshold, trainings and paths are the same."""
    return tmp_path_factory.mktemp("search") / "store"


OPTIONS = {"replicates": 2, "alphas": 3, "workers": 0, "device": "cpu", "calibration": 100}


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.05, 0.9, 1e-9])
def test_a_searched_study_gives_the_full_studys_answer_from_rows_that_are_the_same(threshold, store, data_dir):
    task = get_task("digits-conv").shortened(20)
    where = {"rewind_iters": "0,1,2,5,10", "threshold": threshold, "store": store, "data_dir": data_dir}
    where["together"] = "no"  # a search has other copies train together
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


# --- what it costs


def trained(ks, replicates_by_k, iterations, copies=2):
    """Iterations of a study: every replicate's trunk up to its last k, and from every k the copies."""
    total = 0
    for replicate in range(max(replicates_by_k.values())):
        measured = [k for k in ks if replicates_by_k.get(k, 0) > replicate]
        total += max(measured) + sum(copies * (iterations - k) for k in measured)
    return total


@pytest.mark.parametrize("task", PRESETS)
@pytest.mark.parametrize(("above", "share"), [(0.07, 0.25), (0.021, 1 / 3)])
def test_wherever_the_threshold_falls_at_most_a_third_of_the_full_grid_is_trained(task, above, share):
    """Where one replicate decides that a k is unstable, and where it takes all three."""
    iterations = PRESETS[task].iterations
    ks = parse_iterations(SEARCHED, iterations, 0)
    full = trained(ks, dict.fromkeys(ks, 3), iterations)
    for first in range(len(ks) + 1):
        found = searched({k: [above if i < first else 0.004] * 3 for i, k in enumerate(ks)}, 3)
        assert trained(ks, found, iterations) <= (share + 0.001) * full
        assert first_stable({k: [above if i < first else 0.004] * 3 for i, k in enumerate(ks)}, found) == (
            ks[first] if first < len(ks) else None
        )


@pytest.mark.slow
def test_a_search_trains_a_third_of_the_full_grid_and_finds_the_same_k(tmp_path, data_dir):
    """Counted in iterations, from what each left in its store: a study of its own for each."""
    task = get_task("digits-conv", model="lenet-16", norm="none", learning_rate=0.3).shortened(60)
    options = OPTIONS | {"rewind_iters": SEARCHED, "replicates": 3, "splits": ["test"], "data_dir": data_dir}
    answers, counted = [], []
    for name, search_it in (("full", False), ("found", True)):
        result = instability(task, search=search_it, store=tmp_path / name, threshold=0.035, **options)
        answers.append(result.stable_from(0.035)["test"]["none"])
        ks = parse_iterations(SEARCHED, 60, 0)
        by_k = result.summary["replicates_by_k"] or dict.fromkeys(ks, 3)
        store = Store(tmp_path / name, create=False)
        states = [store.describe(run) for run in store.names() if run.startswith("state-")]
        copies = sum(state["spec"]["iteration"] == 60 for state in states)
        assert copies == 2 * sum(by_k.values())
        counted.append(trained(ks, by_k, 60))
    assert answers[0] == answers[1]
    assert answers[0] is not None
    assert counted[1] <= counted[0] / 3


@pytest.mark.slow
def test_the_command_searches_a_grid_of_its_own(tmp_path, store, data_dir, capsys):
    options = ["--search", "--iterations", "20", "--replicates", "1", "--alphas", "3", "--workers", "0"]
    files = ["--store", str(store), "--data-dir", str(data_dir), "--out", str(tmp_path / "out")]
    assert main(["instability", *options, *files]) == 0
    # 0.1 % to 50 % of 20 iterations are 1, 2, 5 and 10 besides 0.
    assert "Found by bisection over 5 iterations" in capsys.readouterr().out
    assert main(["plot", str(tmp_path / "out")]) == 0
