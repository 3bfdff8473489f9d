"""The sequential test of a barrier: how often it errs, and that it bets as the theory says."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeconn.analysis.paths.sequential import MOST_STAKED, ThresholdDecision, begin_test

EXCESSES = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of errors that are 0 or 1


def run(excess, threshold, error_probability, order, chunk=25):
    """The test on a population [alphas, examples] drawn in an order."""
    test = begin_test(*excess.shape, threshold, error_probability)
    while test.decision is None:
        test = test.after(excess[np.ix_(test.open, order[test.drawn : test.drawn + chunk])])
    return test


def population(means, examples, generator):
    """Excesses whose means are exactly those given: so many examples of 1, and some pairs of 1 and -1."""
    rows = []
    for mean in means:
        row = np.zeros(examples)
        ones = round(mean * examples)
        churn = generator.integers(0, (examples - abs(ones)) // 2)
        row[: abs(ones)] = np.sign(ones)
        row[abs(ones) : abs(ones) + churn], row[abs(ones) + churn : abs(ones) + 2 * churn] = 1, -1
        rows.append(generator.permutation(row))
    return np.array(rows)


# --- the wealth is a supermartingale


def wealth(row, threshold):
    """W+ and W- after each example of an order, where neither is decided: [2, examples]."""
    test = begin_test(1, len(row), threshold, 1e-300)
    found = []
    for x in row:
        if test.decision is not None:
            break
        test = test.after(np.array([[x]]))
        found.append(np.exp(test.log_wealth[:, 0]))
    return np.array(found).T


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.sampled_from(EXCESSES), min_size=2, max_size=6), st.sampled_from([0.02, 0.25, 0.5]))
def test_over_all_orders_of_a_small_population_wealth_does_not_grow_where_its_null_holds(values, threshold):
    """The exact expectation after every number of examples, by going through all orders, which are equally likely."""
    mean = sum(values) / len(values)
    wealths = [wealth(order, threshold) for order in set(itertools.permutations(values))]
    for drawn in range(min(found.shape[1] for found in wealths)):
        up, down = np.mean([found[:, drawn] for found in wealths], axis=0)
        assert mean > threshold or up <= 1 + 1e-9
        assert mean < threshold or down <= 1 + 1e-9


@given(st.lists(st.sampled_from(EXCESSES), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_no_example_takes_all_of_the_wealth(values, threshold):
    found = np.log(wealth(values, threshold))
    steps = np.diff(found, axis=1, prepend=0)
    assert not np.isnan(found).any() or np.isinf(found).any()
    assert np.nanmin(steps, initial=0) >= math.log(1 - MOST_STAKED) - 1e-9


def test_stakes_are_those_of_the_moments_of_what_was_seen_and_of_one_example_more():
    """The wealth of both gamblers, one example after the other as the docstrings have it, beside that of the arrays."""
    generator = np.random.default_rng(10)
    excess, total, threshold = generator.choice([*EXCESSES, 0.0, 0.0], (5, 40)), 100, 0.1
    excess[3], excess[4] = 1, -1  # whose stakes are as high as may be
    test = begin_test(5, total, threshold, 1e-300)
    for part in np.split(excess, [7, 8, 30], axis=1):
        test = test.after(part)
    for row, drawn in enumerate(excess):
        log_up = log_down = 0.0
        for t, x in enumerate(drawn):
            seen = drawn[:t]
            rest = (total * threshold - seen.sum()) / (total - t)
            mean = (seen.sum() + threshold) / (t + 1)
            variance = ((seen**2).sum() + 0.25 + threshold**2) / (t + 1) - mean**2
            stake = (mean - rest) / (variance + (mean - rest) ** 2)
            log_up += math.log(1 + min(max(stake, 0), 0.75 / (1 + rest)) * (x - rest))
            log_down += math.log(1 - min(max(-stake, 0), 0.75 / (1 - rest)) * (x - rest))
        np.testing.assert_allclose(test.log_wealth[:, row], [log_up, log_down], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(test.sums, excess.sum(1))
    np.testing.assert_allclose(test.means, excess.mean(1))
    assert (test.counts.tolist(), test.drawn, test.decision, test.open.tolist()) == ([40] * 5, 40, None, list(range(5)))
    assert np.isnan(begin_test(3, total, threshold, 0.1).means).all()


# --- errors


@pytest.mark.simulation
@pytest.mark.parametrize("means", [[0.05], [0.05, 0.05, 0.05], [0.0, 0.05, -0.05]])
@pytest.mark.parametrize("of", ["below", "above"])
def test_a_decision_is_wrong_as_rarely_as_is_stated(means, of):
    """At the worst place: the mean of the highest alpha is the threshold, or one example below it.

    1,000 orders and populations. A binomial count of errors beyond its 99.9 % quantile would be a broken promise.
    """
    examples, threshold, p = 200, 0.05, 0.1
    generator = np.random.default_rng(5)
    shift = 0 if of == "below" else 1 / examples
    wrong = 0
    for _ in range(1000):
        excess = population([mean - shift for mean in means], examples, generator)
        wrong += run(excess, threshold, p, generator.permutation(examples)).decision == of
    assert wrong <= 1000 * p + 3.1 * math.sqrt(1000 * p * (1 - p))


def test_the_decision_is_that_of_the_full_count_on_populations_of_all_kinds():
    generator = np.random.default_rng(6)
    drawn = []
    for _ in range(300):
        alphas, examples = generator.integers(1, 12), int(generator.integers(50, 1500))
        threshold = float(generator.uniform(0.01, 0.2))
        means = generator.normal(threshold, 0.1, alphas).clip(-0.4, 0.4)
        excess = population(means, examples, generator)
        test = run(excess, threshold, 1e-4, generator.permutation(examples), chunk=50)
        assert test.decision == ("above" if excess.mean(1).max() >= threshold - 1e-12 else "below")
        drawn.append(test.drawn / examples)
    assert np.mean(drawn) < 0.7


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 3))
def test_when_all_examples_are_drawn_the_decision_is_exact(seed, examples, alphas):
    """With a probability of error that no wealth can reach; ties with the threshold are above."""
    generator = np.random.default_rng(seed)
    excess = generator.choice(EXCESSES, (alphas, examples))
    mean = excess.mean(1).max()
    threshold = mean if 0 < mean < 1 else 0.25
    test = run(excess, threshold, 1e-300, np.arange(examples), chunk=7)
    assert test.decision == ("above" if mean >= threshold else "below")
    above = run(excess, min(0.999, max(1e-3, mean + 1e-6)), 1e-300, np.arange(examples), chunk=7)
    assert above.decision == "below" or mean < 0 or mean >= 0.999


def test_what_is_far_from_the_threshold_takes_few_examples():
    generator = np.random.default_rng(7)
    high = population([0.1, 0.3, 0.1], 10_000, generator)
    stable = np.where(generator.random((31, 10_000)) < 0.005, generator.choice([-1.0, 1.0], (31, 10_000)), 0.0)
    assert run(high, 0.02, 1e-3, generator.permutation(10_000)).drawn <= 1000
    assert run(stable, 0.02, 1e-3, generator.permutation(10_000)).drawn <= 1000


def test_a_settled_alpha_is_not_asked_for_again_and_the_others_go_on():
    generator = np.random.default_rng(8)
    excess = population([-0.4, 0.021], 4000, generator)
    test = run(excess, 0.02, 1e-3, generator.permutation(4000))
    assert test.counts[0] < test.counts[1] == test.drawn
    assert test.decision == "above"


def test_the_size_of_chunks_changes_no_bet():
    generator = np.random.default_rng(9)
    excess = population([0.01, 0.02], 300, generator)
    at_once = begin_test(2, 300, 0.02, 1e-300).after(excess[:, :200])
    one_by_one = begin_test(2, 300, 0.02, 1e-300)
    for column in excess[:, :200].T:
        one_by_one = one_by_one.after(column[:, None])
    np.testing.assert_allclose(at_once.log_wealth, one_by_one.log_wealth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("excess", [np.zeros((2, 5)), np.zeros((3, 0)), np.zeros((3, 11)), np.full((3, 2), 1.5)])
def test_what_does_not_fit_is_refused(excess):
    with pytest.raises(ValueError, match=r"examples; got|lie in"):
        begin_test(3, 10, 0.02, 0.001).after(excess)


def test_nothing_is_measured_after_a_decision():
    test = run(np.ones((1, 10)), 0.02, 0.5, np.arange(10), chunk=10)
    with pytest.raises(ValueError, match="decided: above"):
        test.after(np.ones((1, 1)))


def test_a_decision_says_what_it_rests_on():
    decision = ThresholdDecision("below", 0.02, 0.001, examples=1000, drawn=300, counts=(300, 100, 200))
    assert str(decision) == (
        "The error barrier is below 2 points, decided from 300 of 1000 examples (20 % of a full count); an error has a "
        "probability of at most 0.001"
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("value", "decision", "drawn"), [(1.0, "above", 7), (-1.0, "below", 6)])
def test_what_the_others_cannot_change_any_more_is_decided(value, decision, drawn):
    """Of 10 examples and a threshold of 0.1, 6 ones leave a mean below -1 to the others, 5 minus ones one above 1."""
    test = begin_test(1, 10, 0.1, 1e-300)
    while test.decision is None:
        test = test.after(np.full((1, 1), value))
    assert (test.decision, test.drawn) == (decision, drawn)


def test_more_examples_than_are_left_are_refused():
    with pytest.raises(ValueError, match=r"give excesses \[3, n\] of at most 4 examples; got \[3, 5\]"):
        begin_test(3, 10, 0.02, 0.001).after(np.zeros((3, 6))).after(np.zeros((3, 5)))
