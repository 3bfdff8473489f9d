import sys

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from benchmarks import interval_coverage as benchmark
from modeconn.analysis.paths import confidence as statistics
from modeconn.analysis.paths.barrier import barrier_heights
from modeconn.analysis.paths.confidence import bootstrap_interval, cross_fitted
from modeconn.errors import OptionError

DEFINITIONS = ["barrier", "chord_barrier"]

ALPHAS = benchmark.ALPHAS


def losses(n: int = 200, seed: int = 0) -> np.ndarray:
    """Losses [31, n] on a ridge."""
    return benchmark.losses(0.3, 1.0)(np.random.default_rng(seed), n)[0]


def wrong(n: int = 200, seed: int = 0, height: float = 0.05) -> np.ndarray:
    """Wrong or not [31, n], on a low ridge."""
    return benchmark.ridge(height, (2, 2))(np.random.default_rng(seed), n)[0]


def plain(sums: np.ndarray, definition: str = "barrier", alphas: np.ndarray = ALPHAS) -> float:
    return getattr(barrier_heights(alphas, sums.mean(axis=1)), definition)


def curve(heights: np.ndarray, n: int) -> np.ndarray:
    """Outcomes [n_alphas, n] that are the same for all units."""
    return np.tile(np.asarray(heights, dtype=float)[:, None], (1, n))


# Coverage. The study is benchmarks/interval_coverage.py; here 160 data sets leave a standard error of 1.7 points.


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("name", "n", "most"),
    [
        ("ridge, 20 points", 360, 0.99),
        ("ridge, 2 points", 360, 1.0),
        ("plateau, 20 points", 200, 0.99),
        ("sharp peak, 2 points, chord", 360, 1.0),
        ("line 0.10 to 0.40", 360, 0.99),
        ("line 0.10 to 0.40, chord", 200, 0.99),
        ("flat, 4 % flip", 360, 0.99),
        ("flat, 8 % flip fast", 360, 0.99),
        ("losses, 0.3 over 1", 360, 0.99),
        ("losses, flat", 200, 0.99),
        ("perplexity, 2.1 over 20", 200, 1.0),
    ],
)
def test_95_percent_intervals_contain_the_true_barrier_about_95_times_in_100(name, n, most):
    scenario = benchmark.SCENARIOS[name]
    rng = np.random.default_rng(5)
    held = []
    for seed in range(160):
        low, high = bootstrap_interval(
            ALPHAS,
            *scenario.draw(rng, n),
            definition=scenario.definition,
            transform=scenario.transform,
            draws=200,
            seed=seed,
        )
        held.append(low <= scenario.truth + 1e-9 and high >= scenario.truth - 1e-9)
    assert 0.915 <= np.mean(held) <= most


@pytest.mark.simulation
def test_the_usual_percentile_interval_misses_the_0_of_a_flat_path_where_this_one_does_not():
    found = benchmark.study(benchmark.SCENARIOS["flat, 4 % flip"], 360, repetitions=60, draws=200)
    assert found.percentile < 0.2
    assert found.above + found.below < 0.12


@pytest.mark.parametrize("name", [name for name in benchmark.SCENARIOS if "perplexity" not in name])
def test_the_true_barriers_of_the_study_are_those_of_large_samples(name):
    scenario = benchmark.SCENARIOS[name]
    outcomes, _ = scenario.draw(np.random.default_rng(1), 20_000)
    outcomes = outcomes.astype(float)
    if scenario.definition == "barrier":
        excess = outcomes - (outcomes[0] + outcomes[-1]) / 2
    else:
        excess = outcomes - np.outer(1 - ALPHAS, outcomes[0]) - np.outer(ALPHAS, outcomes[-1])
    errors = excess.std(axis=1) / np.sqrt(excess.shape[1])
    assert (excess.mean(axis=1) - 4 * errors).max() <= scenario.truth <= (excess.mean(axis=1) + 4 * errors).max()
    assert errors.max() < 0.02


def test_the_study_prints_a_row_for_each_path_and_size(monkeypatch, capsys):
    arguments = ["x", "--units", "20", "30", "--repetitions", "2", "--draws", "20", "--only", "line"]
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark.main()
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + 2 * 2
    assert rows[2].startswith("line 0.10 to 0.40               20  0.150")


# What the interval is made of.


def test_on_a_clear_peak_the_interval_is_the_bootstrap_t_of_its_excess():
    rng = np.random.default_rng(3)
    middle = rng.gamma(2, size=50)
    low, high = bootstrap_interval([0, 0.5, 1], [0 * middle, middle, 0 * middle], 1, draws=300, seed=7)

    n, error = 50, middle.std() / 50**0.5
    shifts, ratios = [], []
    for units in np.random.default_rng(7).integers(n, size=(300, n)):
        drawn = middle[units]
        shifts.append(drawn.mean() - middle.mean())
        ratios.append(shifts[-1] / max(drawn.std() / n**0.5, error / 3))
    assert high == pytest.approx(middle.mean() - np.quantile(ratios, 0.025) * error, rel=1e-9)
    above = -np.quantile(ratios, 0.025) * error
    missed = min(0.025, np.mean(np.array(shifts) < -above))
    margin = max(np.quantile(ratios, 0.975) * error, np.quantile(shifts, 0.95 + missed))
    assert low == pytest.approx(middle.mean() - margin, rel=1e-9)


def by_the_definition(alphas, sums, counts, definition, level, draws, seed):
    """The interval as its docstring says it, one unit and one draw at a time; and whether the ties made its low."""
    n, points = len(counts), range(len(alphas))

    def excess(units):
        values = sums[:, units].sum(axis=1) / counts[units].sum()
        if definition == "barrier":
            return values - (values[0] + values[-1]) / 2
        return values - [(1 - alpha) * values[0] + alpha * values[-1] for alpha in alphas]

    every = list(range(n))
    found, without = excess(every), np.array([excess(every[:i] + every[i + 1 :]) for i in every])
    influence = (n - 1) * (without.mean(axis=0) - without)
    error, best = influence.std(axis=0) / n**0.5, found.argmax()
    of_difference = [(influence[:, best] - influence[:, at]).std() / n**0.5 for at in points]
    near = [at for at in points if found[best] - found[at] <= 2.5 * of_difference[at]]
    shifts, ratios = [], []
    for units in np.random.default_rng(seed).integers(n, size=(draws, n)):
        drawn = influence[units]
        shift, own = drawn.mean(axis=0), np.maximum(drawn.std(axis=0) / n**0.5, error / 3)
        shifts.append(shift)
        ratios.append([shift[at] / own[at] if error[at] > 1e-12 else 0 for at in points])
    a = (1 - level) / 2
    above = np.maximum(-np.quantile(ratios, a, axis=0) * error, 0)
    below = np.maximum(np.quantile(ratios, 1 - a, axis=0) * error, 0)
    missed = np.mean([max(shift[at] + above[at] for at in near) < -1e-12 for shift in shifts])
    tied = np.quantile([max(shift[at] for at in near) for shift in shifts], level + min(a, missed))
    alone = max(below[at] for at in near)
    return max(0, found[best] - max(tied, alone)), max(found + above), tied > alone


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_the_interval_is_that_of_the_definition_computed_plainly(definition):
    by_ties = []
    # In the last few it matters that missed < 0 and not <= 0, that it adds, and that no more than a tail is added.
    for seed in (*range(20), 28, 83, 85, 137, 156):
        rng = np.random.default_rng(seed)
        n, points = int(rng.integers(5, 40)), int(rng.integers(3, 8))
        alphas = np.sort(np.concatenate([[0, 1], rng.random(points - 2)]))
        counts = rng.integers(1, 9, size=n).astype(float)
        heights = rng.choice([0.3, 0.8, 2]) * (rng.random((points, 1)) < rng.choice([0.5, 1]))
        spread = rng.gamma(0.7, size=(points, n)) - rng.choice([0, 0.7])
        spread *= (rng.random((points, 1)) < 0.8) * rng.choice([-1, 1])
        heights[[0, -1]], spread[[0, -1]] = 0, spread[[0, -1]] * rng.integers(0, 2)  # of half of them ends are exact
        sums, level = counts * (heights + spread), float(rng.choice([0.6, 0.9, 0.95]))
        low, high, ties = by_the_definition(alphas, sums, counts, definition, level, 150, seed)
        found = bootstrap_interval(alphas, sums, counts, definition=definition, level=level, draws=150, seed=seed)
        assert found == pytest.approx((low, high), rel=1e-9, abs=1e-11)
        by_ties += [ties] if low > 0 else []
    assert 0 < sum(by_ties) < len(by_ties)  # lower limits of both kinds


def test_alphas_far_below_the_peak_do_not_widen_the_interval():
    sums = losses()
    far = np.random.default_rng(0).normal(-10, 1, size=(5, sums.shape[1]))
    alphas = np.insert(ALPHAS, 15, np.linspace(0.4675, 0.4925, 5))
    one = bootstrap_interval(ALPHAS, sums, 1)
    two = bootstrap_interval(alphas, np.insert(sums, [15] * 5, far, axis=0), 1)
    assert one == pytest.approx(two, rel=1e-9)


def test_which_alphas_may_be_the_highest_is_judged_by_paired_differences():
    """The examples differ by more than the alphas do, but by as much at every alpha of the middle."""
    rng = np.random.default_rng(0)
    best = 10 + rng.normal(0, 10, size=(1, 100))  # standard error 1
    lower = best - 1.5 + rng.normal(0, 1.5, size=(20, 100))  # of the differences: 0.15
    ends = np.zeros((1, 100))
    alone = bootstrap_interval([0, 0.5, 1], np.concatenate([ends, best, ends]), 1)
    among = bootstrap_interval(np.linspace(0, 1, 23), np.concatenate([ends, best, lower, ends]), 1)
    assert among == pytest.approx(alone, rel=1e-9)


def test_an_alpha_tied_with_exact_ends_is_not_given_a_higher_lower_limit():
    """Its own limit is at the 97.5 % quantile; that of the tied three would be at the 95 % quantile."""
    middle = np.random.default_rng(0).normal(size=400)
    middle += 2.3 * middle.std() / 20 - middle.mean()
    low, high = bootstrap_interval([0, 0.5, 1], [0 * middle, middle, 0 * middle], 1, draws=20_000)
    error = middle.std() / 20
    assert low == pytest.approx((2.3 - 1.96) * error, abs=0.06 * error)
    assert high == pytest.approx((2.3 + 1.96) * error, abs=0.06 * error)


def test_alphas_that_tie_with_the_peak_lower_the_lower_limit():
    rng = np.random.default_rng(0)
    ends, tied = np.zeros((1, 400)), 1 + rng.normal(size=(20, 400))
    tied -= tied.mean(axis=1, keepdims=True) - 1
    few, many = np.concatenate([ends, tied[:1], ends]), np.concatenate([ends, tied, ends])
    low_few, high_few = bootstrap_interval(np.linspace(0, 1, 3), few, 1)
    low_many, high_many = bootstrap_interval(np.linspace(0, 1, 22), many, 1)
    assert low_many < low_few - 0.02
    assert high_many == pytest.approx(high_few, abs=0.03)


def test_where_ends_are_equal_and_the_path_is_below_them_only_the_ends_count():
    """The barrier is half the difference between the ends, and its interval is the usual one for that difference."""
    rng = np.random.default_rng(2)
    held = []
    for seed in range(200):
        sums = np.stack([rng.normal(1, 1, 100), np.full(100, -9.0), rng.normal(1, 1, 100)])
        held.append(bootstrap_interval([0, 0.5, 1], sums, 1, draws=200, seed=seed)[0] == 0)
    assert 0.91 <= np.mean(held) <= 0.985


def test_the_lower_limit_is_that_of_the_noisiest_alpha_that_may_be_the_highest():
    middle = np.random.default_rng(0).normal(size=(2, 400))
    middle = 5 + (middle - middle.mean(axis=1, keepdims=True)) * [[0.1], [1]]
    middle[0] += 0.01
    sums = np.concatenate([np.zeros((1, 400)), middle, np.zeros((1, 400))])
    low, _ = bootstrap_interval([0, 0.3, 0.6, 1], sums, 1, draws=20_000)
    error = middle[1].std() / 20
    assert low == pytest.approx(5.01 - 1.96 * error, abs=0.06 * error)


# Laws.

OUTCOMES = hnp.arrays(float, st.tuples(st.integers(2, 8), st.integers(2, 30)), elements=st.integers(0, 4))


@settings(max_examples=60)
@given(OUTCOMES, st.sampled_from(DEFINITIONS), st.booleans())
def test_the_interval_contains_the_measured_barrier_and_nothing_negative(sums, definition, higher_is_better):
    alphas = np.linspace(0, 1, len(sums))
    low, high = bootstrap_interval(
        alphas, sums, 1, definition=definition, higher_is_better=higher_is_better, draws=50, level=0.5
    )
    measured = plain(-sums if higher_is_better else sums, definition, alphas)
    assert 0 <= low <= measured + 1e-12
    assert measured - 1e-12 <= high


@settings(max_examples=40)
@given(OUTCOMES)
def test_a_higher_level_gives_an_interval_that_contains_the_other(sums):
    alphas = np.linspace(0, 1, len(sums))
    narrow = bootstrap_interval(alphas, sums, 1, level=0.8, draws=100)
    wide = bootstrap_interval(alphas, sums, 1, level=0.99, draws=100)
    assert wide[0] <= narrow[0] + 1e-12
    assert narrow[1] <= wide[1] + 1e-12


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_what_an_example_adds_at_all_alphas_alike_changes_nothing(definition):
    sums = losses()
    noise = np.random.default_rng(1).normal(0, 5, size=sums.shape[1])
    assert bootstrap_interval(ALPHAS, sums, 1, definition=definition) == pytest.approx(
        bootstrap_interval(ALPHAS, sums + noise, 1, definition=definition), rel=1e-8
    )
    assert cross_fitted(ALPHAS, sums, 1, definition=definition) != 0


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("value", [0.0, 0.1, 2.3])
def test_outcomes_that_never_change_give_an_interval_of_no_length(definition, value):
    rng = np.random.default_rng(0)
    for row in (np.full(30, value), rng.random(30), rng.random(30) < 0.5):
        sums = np.tile(row, (31, 1))
        assert bootstrap_interval(ALPHAS, sums, 1, definition=definition) == (0.0, 0.0)
        assert cross_fitted(ALPHAS, sums, 1, definition=definition) == pytest.approx(0, abs=1e-15)


def test_a_curve_without_spread_gives_its_barrier_at_both_limits():
    sums = curve([0.1, 0.5, 0.3], 40)
    assert bootstrap_interval([0, 0.25, 1], sums, 1) == pytest.approx((0.3, 0.3))
    assert bootstrap_interval([0, 0.25, 1], sums, 1, definition="chord_barrier") == pytest.approx((0.35, 0.35))


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
def test_a_seed_decides_the_result(function):
    sums = losses()
    assert function(ALPHAS, sums, 1, seed=3) == function(ALPHAS, sums, 1, seed=3)
    assert function(ALPHAS, sums, 1, seed=3) != function(ALPHAS, sums, 1, seed=4)


def test_the_result_does_not_depend_on_how_many_weights_are_held_at_a_time(monkeypatch):
    sums = losses()
    whole = bootstrap_interval(ALPHAS, sums, 1, draws=250)
    monkeypatch.setattr(statistics, "_CHUNK", 7 * sums.shape[1])
    assert bootstrap_interval(ALPHAS, sums, 1, draws=250) == pytest.approx(whole, rel=1e-12)


def test_the_order_of_the_examples_does_not_matter_but_by_chance():
    sums = wrong(300)
    order = np.random.default_rng(0).permutation(300)
    one = [bootstrap_interval(ALPHAS, sums, 1, seed=seed, draws=1000) for seed in range(8)]
    two = [bootstrap_interval(ALPHAS, sums[:, order], 1, seed=seed, draws=1000) for seed in range(8)]
    spread = np.std(one, axis=0) + 1e-4
    assert (np.abs(np.mean(one, axis=0) - np.mean(two, axis=0)) < 2 * spread).all()
    crossed = [np.mean([cross_fitted(ALPHAS, s, 1, seed=k) for k in range(40)]) for s in (sums, sums[:, order])]
    assert crossed[0] == pytest.approx(crossed[1], abs=2e-3)


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
def test_counts_of_one_can_be_written_in_any_form(function):
    sums = losses()
    expected = function(ALPHAS, sums, np.ones(sums.shape))
    forms = [1, 1.0, True, np.ones(sums.shape[1]), np.ones((31, 1), dtype=int), np.broadcast_to(True, sums.shape)]
    for counts in forms:
        assert function(ALPHAS, sums, counts) == expected


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
def test_outcomes_can_be_of_any_dtype(function):
    sums = wrong()
    expected = function(ALPHAS, sums.astype(np.float64), 1)
    for dtype in (bool, np.float32, np.int64):
        assert function(ALPHAS, sums.astype(dtype), 1) == expected
    assert function(ALPHAS.tolist(), sums.tolist(), [1] * 200) == expected


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_numbers_of_less_precision_and_other_layouts_give_to_the_bit_what_their_values_give(function, definition):
    rng = np.random.default_rng(0)
    alphas, counts = (ALPHAS**1.3).astype(np.float32), (rng.integers(1, 50, size=200) * 0.1).astype(np.float32)
    sums = (losses() * counts).astype(np.float32)
    expected = function(*(array.astype(np.float64) for array in (alphas, sums, counts)), definition=definition)
    assert function(alphas, sums, counts, definition=definition) == expected
    assert function(alphas, np.asfortranarray(sums), counts, definition=definition) == expected


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
def test_in_whatever_unit_a_loss_is_the_result_is_in_the_same(function):
    sums = losses() + ALPHAS[:, None]
    for unit in (1e-7, 1e7):
        assert np.array(function(ALPHAS, unit * sums, 1)) / unit == pytest.approx(function(ALPHAS, sums, 1), rel=1e-9)


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
def test_what_is_not_said_is_the_error_barrier_at_95_percent_by_2000_draws_or_10_splits_of_seed_0(function):
    sums = losses()
    said = {"level": 0.95, "draws": 2000} if function is bootstrap_interval else {"splits": 10}
    said |= {"definition": "barrier", "higher_is_better": False, "transform": statistics.identity, "seed": 0}
    assert function(ALPHAS, sums, 1) == function(ALPHAS, sums, 1, **said)


def test_both_ends_are_on_the_chord_to_the_bit():
    rng = np.random.default_rng(0)
    for seed in range(50):
        ends = np.array([[0.1], [0.7]]) + rng.random((2, 7))
        assert bootstrap_interval([0, 1], ends, 1, definition="chord_barrier", draws=50, seed=seed) == (0, 0)
        assert cross_fitted([0, 1], ends, 1, definition="chord_barrier", seed=seed) == 0


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_accuracy_gives_what_the_error_gives(function, definition):
    for seed in range(20):
        sums = wrong(30 + 10 * seed, seed, height=0.2)
        error = function(ALPHAS, sums, 1, definition=definition)
        accuracy = function(ALPHAS, ~sums, 1, definition=definition, higher_is_better=True)
        assert accuracy == pytest.approx(error, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
def test_a_path_walked_from_b_to_a_gives_the_same(function):
    alphas = ALPHAS**2
    sums = losses() + ALPHAS[:, None]
    for definition in DEFINITIONS:
        there = function(alphas, sums, 1, definition=definition)
        assert function(1 - alphas[::-1], sums[::-1], 1, definition=definition) == pytest.approx(there, rel=1e-9)


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
def test_a_linear_transform_stretches_the_result(function):
    sums, counts = benchmark.tokens(np.random.default_rng(0), 100)
    plainly = np.array(function(ALPHAS, sums, counts))
    assert np.array(function(ALPHAS, sums, counts, transform=lambda r: 3 * r + 7)) == pytest.approx(3 * plainly)
    assert np.array(
        function(ALPHAS, sums, counts, transform=lambda r: 7 - 3 * r, higher_is_better=True)
    ) == pytest.approx(3 * plainly)


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
def test_for_small_differences_perplexity_is_the_loss_times_its_slope(function):
    rng = np.random.default_rng(0)
    counts = rng.integers(20, 200, size=300)
    sums = counts * (2 + 1e-4 * losses(300))
    loss, perplexity = (np.array(function(ALPHAS, sums, counts, transform=t)) for t in (statistics.identity, np.exp))
    assert perplexity == pytest.approx(np.exp(2) * loss, rel=1e-3)


def test_the_curve_is_the_ratio_of_the_totals_and_not_the_mean_of_the_ratios():
    counts = np.array([1.0, 9.0] * 20)
    sums = np.stack([0 * counts, np.array([1.0, 0.0] * 20), 0 * counts])
    low, high = bootstrap_interval([0, 0.5, 1], sums, counts)
    assert low < 0.1 < high < 0.5
    assert cross_fitted([0, 0.5, 1], sums, counts, splits=200) == pytest.approx(0.1, abs=0.01)


def test_longer_sequences_weigh_more_in_the_standard_error_of_a_ratio():
    """Against the delta method: the variance of sum / count is that of (sum - ratio count) / mean count, over n."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 100, size=2000).astype(float)
    middle = counts * (5 + rng.normal(size=2000))
    ratio = middle.sum() / counts.sum()
    error = (middle - ratio * counts).std() / counts.mean() / 2000**0.5
    low, high = bootstrap_interval([0, 0.5, 1], [0 * counts, middle, 0 * counts], counts, draws=4000)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.06)


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
def test_units_that_count_nowhere_are_left_out(function):
    sums, counts = benchmark.tokens(np.random.default_rng(0), 50)
    more = function(ALPHAS, np.insert(sums, [0, 20, 50], 0, axis=1), np.insert(counts, [0, 20, 50], 0))
    assert more == function(ALPHAS, sums, counts)


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
def test_inputs_are_left_unchanged(function):
    alphas, sums, counts = ALPHAS.copy(), losses(), np.ones(200)
    before = [array.copy() for array in (alphas, sums, counts)]
    for array in (alphas, sums, counts):
        array.setflags(write=False)
    function(alphas, sums, counts)
    assert all((x == y).all() for x, y in zip((alphas, sums, counts), before, strict=True))


# The cross-fitted estimate.


@pytest.mark.simulation
def test_on_flat_paths_the_cross_fitted_barrier_is_0_on_average_and_the_measured_one_is_not():
    rng = np.random.default_rng(0)
    for definition in DEFINITIONS:
        data = [benchmark.SCENARIOS["flat, 4 % flip"].draw(rng, 360) for _ in range(400)]
        crossed = [cross_fitted(ALPHAS, *d, definition=definition, seed=i) for i, d in enumerate(data)]
        measured = [plain(sums, definition) for sums, _ in data]
        assert abs(np.mean(crossed)) < 3 * np.std(crossed) / 20 < 0.002
        assert np.mean(measured) > 0.008


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.integers(2, 9), st.sampled_from(DEFINITIONS))
def test_the_cross_fitted_barrier_of_a_curve_without_noise_is_its_barrier(values, n, definition):
    alphas = np.linspace(0, 1, len(values))
    expected = getattr(barrier_heights(alphas, values), definition)
    assert cross_fitted(alphas, curve(values, n), 1, definition=definition) == pytest.approx(expected, abs=1e-12)


def test_of_two_examples_each_chooses_for_the_other():
    sums = np.array([[0, 0], [5, 1], [2, 3], [0, 0.5]])
    # The first chooses alpha 0.3, where the second exceeds its ends' mean by 1 - 0.25; the second 0.7: 2 - 0.
    assert cross_fitted([0, 0.3, 0.7, 1], sums, 1) == pytest.approx((0.75 + 2) / 2)


def test_where_one_half_chooses_two_alphas_the_other_measures_both():
    sums = np.array([[0, 0], [5, 1], [5, 3], [0, 0]])
    assert cross_fitted([0, 0.3, 0.7, 1], sums, 1) == pytest.approx(((1 + 3) / 2 + 5) / 2)


def test_a_tie_is_a_tie_however_it_is_rounded():
    sums = np.array([[0, 0], [0.3, 1], [0.1 + 0.2, 3], [0, 0]])
    assert sums[1, 0] != sums[2, 0]
    assert cross_fitted([0, 0.3, 0.7, 1], sums, 1) == pytest.approx(((1 + 3) / 2 + 0.3) / 2)


def test_alpha_is_chosen_among_half_of_the_examples_and_more_splits_are_averaged():
    sums = wrong(101)
    by_split = [cross_fitted(ALPHAS, sums, 1, splits=1, seed=seed) for seed in range(200)]
    by_many = [cross_fitted(ALPHAS, sums, 1, splits=25, seed=seed) for seed in range(8)]
    assert np.mean(by_many) == pytest.approx(np.mean(by_split), abs=0.003)
    assert np.std(by_many) < np.std(by_split) / 2


def test_halves_are_equal_and_the_first_is_larger_by_the_odd_one_in_ten_splits_of_seed_0():
    sums, alphas = np.random.default_rng(3).integers(0, 50, (4, 7)).astype(float), np.array([0, 0.2, 0.7, 1])
    first = np.random.default_rng(0).permuted(np.tile([True, False, True, False, True, False, True], (10, 1)), axis=1)
    found = []
    for half in (*first, *~first):
        one, other = (sums[:, part].mean(axis=1) for part in (half, ~half))
        found.append(other[np.argmax(one)] - (other[0] + other[-1]) / 2)
    assert cross_fitted(alphas, sums, 1) == pytest.approx(np.mean(found))


# Bad input.


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, float("nan")])
def test_a_level_that_is_no_probability_is_refused(level):
    with pytest.raises(OptionError, match=r"level must be between 0 and 1, such as 0.95; got"):
        bootstrap_interval(ALPHAS, losses(), 1, level=level)


@pytest.mark.parametrize("function", [bootstrap_interval, cross_fitted])
def test_what_cannot_be_resampled_is_refused(function):
    with pytest.raises(OptionError, match=r"unknown definition 'cord_barrier'; did you mean 'chord_barrier'"):
        function(ALPHAS, losses(), 1, definition="cord_barrier")
    with pytest.raises(
        OptionError, match=r"^unknown definition 'barier'; did you mean .* Known: barrier, chord_barrier$"
    ):
        function(ALPHAS, losses(), 1, definition="barier")
    with pytest.raises(OptionError, match="cannot resample one example"):
        function(ALPHAS, losses(1), 1)
    with pytest.raises(OptionError, match="cannot resample one example"):
        function(ALPHAS, losses(3), [0, 5, 0])
    with pytest.raises(OptionError, match="cannot resample no examples"):
        function(ALPHAS, losses(0), 1)
    with pytest.raises(OptionError, match=r"sums must be \[n_alphas, units\], here \[31, units\]; got \[200, 31\]"):
        function(ALPHAS, losses().T, 1)
    with pytest.raises(OptionError, match=r"sums must be .* got \[31\]"):
        function(ALPHAS, losses()[:, 0], 1)
    with pytest.raises(OptionError, match=r"counts must be \[units\] or \[31, 200\]; got \[31\]"):
        function(ALPHAS, losses(), np.ones(31))
    with pytest.raises(ValueError, match="alphas must ascend"):
        function(ALPHAS[::-1], losses(), 1)


def test_no_draws_and_no_splits_are_refused():
    with pytest.raises(OptionError, match="draws must be at least 1; got 0"):
        bootstrap_interval(ALPHAS, losses(), 1, draws=0)
    with pytest.raises(OptionError, match="splits must be at least 1; got 0"):
        cross_fitted(ALPHAS, losses(), 1, splits=0)


def test_one_draw_and_one_split_are_enough():
    low, high = bootstrap_interval(ALPHAS, losses(), 1, draws=1)
    assert 0 < low <= plain(losses()) <= high
    assert cross_fitted(ALPHAS, losses(), 1, splits=1) > 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.inf, np.nan, 1e6])
def test_values_that_are_not_finite_give_no_interval_and_no_warning(bad):
    sums = losses()
    sums[10, 3] = bad * 200
    low, high = bootstrap_interval(ALPHAS, sums, 1, transform=np.exp)
    assert np.isnan(low)
    assert np.isnan(high)
    assert not np.isfinite(cross_fitted(ALPHAS, sums, 1, transform=np.exp))


@pytest.mark.parametrize("n", [2, 3])
def test_two_examples_are_enough_to_run(n):
    low, high = bootstrap_interval(ALPHAS, losses(n), 1)
    assert 0 <= low <= plain(losses(n)) <= high < np.inf
