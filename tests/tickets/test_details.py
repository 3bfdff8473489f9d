"""Levels that are asked for alone, and the tables that are kept if asked: paths between copies, curves of trainings."""

import math

import pytest

from modeconn import get_task, load_result, lottery
from modeconn.errors import OptionError

TASK = get_task("digits-conv", width=0.25, evaluate_every=8).shortened(24)
STUDY = {
    "rewind_iter": 8,
    "levels": 3,
    "fraction": 0.5,
    "replicates": 1,
    "alphas": 3,
    "fix": False,
    "barriers": ("instability",),
    "barriers_of": ("imp", "reinit"),
    "conditions": ("imp", "reinit"),
    "validation": 0,
    "workers": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("details")


@pytest.fixture(scope="module")
def whole(folder):
    return lottery(TASK, **STUDY, store=folder / "store", details=("paths", "curves"), out=folder / "whole")


def rows(table, **values):
    return [row for row in table if all(row[name] == value for name, value in values.items())]


@pytest.mark.slow
def test_levels_that_are_asked_for_are_those_of_the_whole_study(whole, folder):
    part = lottery(TASK, **STUDY, store=folder / "store", at_levels=[3])
    assert [(row["level"], row["condition"]) for row in part.rows] == [
        (0, "dense"), (1, "imp"), (2, "imp"), (3, "imp"), (3, "reinit"),
    ]  # fmt: skip
    for row in part.rows:
        (same,) = rows(whole.rows, level=row["level"], condition=row["condition"])
        measured = row["level"] in (0, 3)
        assert row["test_error"] == same["test_error"]
        assert (row["instability_test"] == same["instability_test"]) == measured


@pytest.mark.slow
def test_a_barrier_to_a_level_before_that_was_not_trained_is_not_measured(folder):
    options = STUDY | {"barriers": ("previous",), "store": folder / "store"}
    every, part = lottery(TASK, **options), lottery(TASK, **options, at_levels=[1, 3])
    for condition, levels in (("imp", (1, 3)), ("reinit", (1,))):
        for level in levels:
            (row,), (same,) = (rows(found.rows, level=level, condition=condition) for found in (part, every))
            assert row["barrier_to_previous"] == same["barrier_to_previous"]
    (row,) = rows(part.rows, level=3, condition="reinit")
    assert math.isnan(row["barrier_to_previous"])


@pytest.mark.slow
def test_paths_are_those_that_instability_is_of(whole):
    for row in whole.rows:
        place = {name: row[name] for name in ("replicate", "rewind_iter", "level", "condition")}
        path = rows(whole.paths, **place, split="test")
        assert [point["alpha"] for point in path] == [0, 0.5, 1]
        errors = [point["error"] for point in path]
        assert errors[0] == row["test_error"]
        assert max(errors) - (errors[0] + errors[-1]) / 2 == pytest.approx(row["instability_test"])


@pytest.mark.slow
def test_curves_end_where_the_network_does(whole):
    for row in whole.rows:
        place = {name: row[name] for name in ("replicate", "rewind_iter", "level", "condition")}
        curve = rows(whole.curves, **place, split="test")
        assert [point["iteration"] for point in curve] == ([8, 16, 24] if row["level"] == 0 else [16, 24])
        assert curve[-1]["error"] == row["test_error"]


@pytest.mark.slow
def test_they_are_written_and_read_and_leave_with_the_study(whole, folder):
    again = load_result(folder / "whole")
    assert (again.paths, again.curves) == (whole.paths, whole.curves)
    lottery(TASK, **STUDY, store=folder / "store", out=folder / "whole")
    assert not (folder / "whole" / "paths.csv").exists()
    assert load_result(folder / "whole").curves == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"at_levels": [4]}, "at-levels names level 4 of 3"),
        ({"at_levels": [0]}, "levels are whole numbers, from 1 on"),
        ({"details": ["path"]}, "unknown table 'path'; did you mean 'paths'"),
    ],
)
def test_others_are_refused(options, said, tmp_path):
    with pytest.raises(OptionError, match=said):
        lottery(TASK, **STUDY, **options, store=tmp_path)
