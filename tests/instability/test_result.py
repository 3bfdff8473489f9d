"""The result of an instability study in words and in files."""

import math

import numpy as np
import pytest
import scipy.stats

from modeconn import InstabilityResult, load_result

SUMMARY = {"task": "toy", "task_changes": "7 of 9 iterations", "iterations": 200, "replicates": 2, "copies": 3}
SUMMARY |= {"threshold": 0.02, "data_note": "", "diverged": []}


def make(heights: dict[str, dict[int, float]], **summary) -> InstabilityResult:
    rows = [
        {"replicate": r, "rewind_iter": k, "split": "test", "batchnorm": choice, "barrier": height + 0.001 * r}
        | {"error_a": 0.03, "error_b": 0.05}
        for choice, by_k in heights.items()
        for k, height in by_k.items()
        for r in (0, 1)
    ]
    return InstabilityResult(rows, [], SUMMARY | summary)


def test_the_table_has_points_and_verdicts():
    text = str(make({"none": {0: 0.3, 20: 0.01}}))
    rows = [line.split() for line in text.splitlines()]
    # The interval is 12.71, Student's t for one degree of freedom, times 0.05 points on either side.
    assert ["0", "0", "%", "4.00", "30.05", "0.07", "29.41", "to", "30.69", "no"] in rows
    assert ["20", "10", "%", "4.00", "1.05", "0.07", "0.41", "to", "1.69", "yes"] in rows
    assert "2 replicates, 3 pairs of copies each" in text
    assert "toy, 7 of 9 iterations" in text
    assert "stable (below 2 percentage points) from iteration 20 (10 % of training)." in text
    assert "BatchNorm" not in text


def test_what_is_never_stable_is_said():
    assert "at no measured iteration" in str(make({"none": {0: 0.3, 20: 0.03}}))


def test_two_choices_stand_in_one_table_and_are_explained():
    text = str(make({"interpolate": {0: 0.3}, "recalibrate": {0: 0.01}}))
    rows = [line.split() for line in text.splitlines()]
    assert ["interpolate", "0", "0", "%", "4.00", "30.05", "0.07", "29.41", "to", "30.69", "no"] in rows
    assert ["recalibrate", "0", "0", "%", "4.00", "1.05", "0.07", "0.41", "to", "1.69", "yes"] in rows
    assert "caused by stale BatchNorm statistics" in text


def test_a_stable_k_below_an_unstable_one_is_said_as_it_is():
    text = str(make({"none": {0: 0.0125, 3: 0.012, 5: 0.055, 9: 0.057}}))
    assert (
        "On test data the network does not stay stable: it is below 2 percentage points at 0, 3, above at 5, 9." in text
    )
    assert "no measured iteration" not in text


def of_replicates(by_k: dict[int, list[float]], **summary) -> InstabilityResult:
    rows = [
        {"replicate": r, "rewind_iter": k, "split": "test", "batchnorm": "none", "barrier": height, "copy_b": b}
        for k, heights in by_k.items()
        for r, height in enumerate(heights)
        for b in (2, 3)  # two pairs of one replicate are no two replicates
    ]
    replicates = max(map(len, by_k.values()))
    return InstabilityResult(rows, [], SUMMARY | {"replicates": replicates} | summary)


def test_the_interval_is_students_over_replicates():
    heights = [0.011, 0.016, 0.024, 0.019]
    low, high = of_replicates({0: heights}).interval["test"]["none"][0]
    expected = scipy.stats.ttest_1samp(heights, 0.0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert of_replicates({0: [0.0, 0.1]}).interval["test"]["none"][0][0] == 0
    for without in ([0.01], [0.01, math.nan]):
        assert np.isnan(of_replicates({0: without}).interval["test"]["none"]).all()


@pytest.mark.simulation
def test_the_interval_covers_the_mean_over_initialisations():
    rng = np.random.default_rng(0)
    draws = rng.gamma(4.0, 0.005, (4000, 3))  # skewed, as instabilities are; their mean is 2 points
    intervals = of_replicates(dict(enumerate(draws.tolist()))).interval["test"]["none"]
    covered = ((intervals[:, 0] <= 0.02) & (intervals[:, 1] >= 0.02)).mean()
    assert 0.92 < covered < 0.97


def test_an_answer_that_replicates_do_not_give_is_undecided():
    result = of_replicates({0: [0.3, 0.31, 0.29], 12: [0.002, 0.0445, 0.009], 40: [0.001, 0.002, 0.003]})
    assert result.verdicts("test", "none", 0.02) == ["no", "undecided", "yes"]
    assert result.stable_from(0.02) == {"test": {"none": 12}}
    text = str(result)
    assert "is, by the mean, stable (below 2 percentage points) from iteration 12" in text
    assert (
        "Undecided at 12: the interval over 3 replicates holds 2 percentage points; more replicates make it narrower."
        in text
    )
    assert [row["stable"] for row in result.by_iteration(0.02)] == result.verdicts("test", "none", 0.02)
    assert "one replicate gives no interval" in str(of_replicates({0: [0.3]}))


def test_copies_that_learned_nothing_or_are_the_same_are_warned_of():
    chance, same = {"chance": {"test": 0.9}}, {"identical_pairs": ["replicate 0, k = 0, copies (1, 2)"]}
    result = make({"none": {0: 0.01, 20: 0.01}}, **chance)
    assert "Note" not in str(result)
    rows = [row | {"error_a": 0.97, "error_b": 0.91} if row["rewind_iter"] == 20 else row for row in result.rows]
    text = str(InstabilityResult(rows, [], result.summary | same))
    assert "copies from k = 20 have a test error of 94 %, near that of a network that learned nothing (90 %)" in text
    assert "1 pair of copies ended in the same weights (replicate 0, k = 0, copies (1, 2))" in text
    assert "error 4 to 94 %" in result_legend(InstabilityResult(rows, [], result.summary))


def result_legend(result: InstabilityResult) -> str:
    return " ".join(text.get_text() for text in result.plot().get_legend().get_texts())


def test_a_search_answers_only_for_what_was_searched():
    result = make({"interpolate": {0: 0.3, 20: 0.01}, "recalibrate": {0: 0.2, 20: 0.01}}, replicates=3)
    searched = result.summary | {"replicates_by_k": {0: 1, 20: 3}, "rewind_iters": [0, 5, 10, 20]}
    result = InstabilityResult(result.rows, [], searched)
    assert result.stable_from() == {"test": {"interpolate": 20}}
    text = str(result)
    assert "1 to 3 replicates, 3 pairs of copies each" in text
    assert text.count("not searched\n") == 2
    assert "stable (below 2 percentage points) from iteration 20" in text
    assert text.count("the network is") == 1
    assert "not searched: test data with recalibrated running statistics." in text


def test_what_was_read_from_the_store_is_said():
    assert "12 of 14 measurements read from the store, 2 computed." in str(
        make({"none": {0: 0.3}}, measurements={"read": 12, "computed": 2})
    )


@pytest.mark.parametrize("line", str(make({"interpolate": {0: 0.3}, "recalibrate": {0: 1}})).splitlines())
def test_no_line_ends_in_spaces(line):
    assert line == line.rstrip()


def test_divergence_and_the_data_are_told():
    where = {"replicate": 1, "rewind_iter": 20, "copy": 2, "iteration": 55}
    text = str(make({"none": {0: 0.3, 20: float("nan")}}, diverged=[where], data_note="JPEG"))
    assert "Diverged: replicate 1, copy 2, k = 20; its loss was not finite at 55." in text
    assert "Data: JPEG" in text
    assert ["20", "10", "%", "4.00", "-", "-", "-", "no"] in [row.split() for row in text.splitlines()]


def test_nan_is_null_in_the_summary_and_read_from_older_files_too(tmp_path):
    copies = {"copy_a": 1, "copy_b": 2, "iteration": 200}
    names = ("chord_barrier", "alpha_at_max", "error_a", "error_b", "loss_barrier", "l2_distance")
    made = make({"none": {0: 0.3, 20: math.nan}}, best=math.nan)
    rows = [row | copies | dict.fromkeys(names, math.nan) for row in made.rows]
    result = InstabilityResult(rows, [], made.summary).save(tmp_path / "a")
    text = (tmp_path / "a" / "summary.json").read_text()
    assert '"best": null' in text
    (tmp_path / "a" / "summary.json").write_text(text.replace("null", "NaN"))
    again = load_result(tmp_path / "a")
    assert (again.summary["best"], str(again)) == (None, str(result))
    again.save(tmp_path / "b")
    for name in ("instability.csv", "paths.csv"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert (tmp_path / "b" / "summary.json").read_text() == text
