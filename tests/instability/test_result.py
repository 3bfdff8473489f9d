"""The result of an instability study in words and in files."""

import math

import pytest

from modeconn import InstabilityResult, load_result

SUMMARY = {"task": "toy", "task_changes": "7 of 9 iterations", "iterations": 200, "replicates": 2, "copies": 3}
SUMMARY |= {"threshold": 0.02, "data_note": "", "diverged": []}


def make(heights: dict[str, dict[int, float]], **summary) -> InstabilityResult:
    rows = [
        {"replicate": r, "rewind_iter": k, "split": "test", "batchnorm": choice, "barrier": height + 0.001 * r}
        for choice, by_k in heights.items()
        for k, height in by_k.items()
        for r in (0, 1)
    ]
    return InstabilityResult(rows, [], SUMMARY | summary)


def test_the_table_has_points_and_verdicts():
    text = str(make({"none": {0: 0.3, 20: 0.01}}))
    rows = [line.split() for line in text.splitlines()]
    assert ["0", "0", "%", "30.05", "0.07", "no"] in rows
    assert ["20", "10", "%", "1.05", "0.07", "yes"] in rows
    assert "2 replicates, 3 pairs of copies each" in text
    assert "toy, 7 of 9 iterations" in text
    assert "stable (below 2 points) from iteration 20 (10 % of training)." in text
    assert "BatchNorm" not in text


def test_what_is_never_stable_is_said():
    assert "at no measured iteration" in str(make({"none": {0: 0.3, 20: 0.03}}))


def test_two_choices_stand_side_by_side_and_are_explained():
    text = str(make({"interpolate": {0: 0.3}, "recalibrate": {0: 0.01}}))
    assert ["0", "0", "%", "30.05", "0.07", "no", "1.05", "0.07", "yes"] in [line.split() for line in text.splitlines()]
    assert "no ridge in the loss" in text


@pytest.mark.parametrize("line", str(make({"interpolate": {0: 0.3}, "recalibrate": {0: 1}})).splitlines())
def test_no_line_ends_in_spaces(line):
    assert line == line.rstrip()


def test_divergence_and_the_data_are_told():
    where = {"replicate": 1, "rewind_iter": 20, "copy": 2, "iteration": 55}
    text = str(make({"none": {0: 0.3, 20: float("nan")}}, diverged=[where], data_note="JPEG"))
    assert "Diverged: replicate 1, copy 2, k = 20; its loss was not finite at 55." in text
    assert "Data: JPEG" in text
    assert ["20", "10", "%", "-", "-", "no"] in [row.split() for row in text.splitlines()]


def test_nan_is_null_in_the_summary_and_read_from_older_files_too(tmp_path):
    copies = {"copy_a": 1, "copy_b": 2}
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
