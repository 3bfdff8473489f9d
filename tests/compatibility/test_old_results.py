"""Results that version 0.1.0 wrote as JSON are read, and jobs have the names that it gave them."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from compatibility import studies

JSON = studies.MADE / "json"
_REPAIR = "REPAIR rescales other layers"
_TOGETHER = "by default the networks of a level train together, which rounds differently"
RENAMED = {
    "own loop": "the content of functions is part of the name, and seeds do not depend on the list of k",
    "dropout": "without augmentation, its seed is that of the order, as where all sources differ",
    **dict.fromkeys(("tickets without BatchNorm", "rate rewinding", "optimizer carried"), _REPAIR),
    "tickets by default": _TOGETHER,
}
NAMES = json.loads((studies.MADE / "names.json").read_bytes())


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """The same results, of the code that is tested."""
    return dict(studies.results())


def test_there_is_a_file_of_every_result(results: dict[str, Any]):
    assert {path.name for path in JSON.glob("*.txt")} == {f"{name}.txt" for name in results}


@pytest.mark.parametrize("name", sorted(path.stem for path in JSON.glob("*.txt")))
def test_a_result_of_the_old_code_is_read(name: str, results: dict[str, Any]):
    old = type(results[name]).from_json(JSON / f"{name}.json")
    rows = json.loads((JSON / f"{name}.rows.json").read_bytes())
    assert exact(old.rows()) == exact(rows)
    since = studies.MADE.parent / "printed_since" / f"json-{name}.txt"  # said in other words
    assert str(old) == (since if since.exists() else JSON / f"{name}.txt").read_text()
    again = type(old).from_json(old.to_json())
    assert exact(again.rows()) == exact(rows)
    assert str(again) == str(old)
    studies.assert_close(results[name].rows(), rows)


def test_what_is_no_number_was_written_in_several_ways():
    """So that the tests above are about all of them."""
    text = "".join(path.read_text() for path in sorted(JSON.glob("*.json")) if not path.name.endswith(".rows.json"))
    for word in ("null", '"nan"', '"inf"', '"-inf"'):
        assert word in text


@pytest.mark.slow
def test_jobs_have_the_names_that_they_had(tmp_path: Path):
    found = studies.names_of_jobs(tmp_path)
    assert found.keys() == NAMES.keys()
    changed = {study for study in found if set(NAMES[study]) != set(found[study])}
    assert changed == RENAMED.keys()
    assert all(
        name.startswith("path-")
        for study in found
        for name in set(NAMES[study]) ^ set(found[study])
        if RENAMED.get(study) == _REPAIR
    )


def test_tickets_that_train_one_by_one_have_the_names_that_they_had(tmp_path: Path):
    """And by default, what does not train beside others, and what does, cohorts apart, is as much as it was."""
    title, folder = "tickets by default", tmp_path / "by default"
    folder.mkdir()
    old = NAMES[title]
    assert RENAMED[title] == _TOGETHER
    assert studies.names_of_jobs(tmp_path, title, together="no") == {title: old}
    new = studies.names_of_jobs(folder, title)[title]
    counts = [Counter(name.partition("-")[0] for name in names) for names in (old, new)]
    cohorts = counts[1].pop("cohort")
    assert cohorts == 2 * (1 + 8)  # replicates; the dense networks, and levels
    assert counts[0] == counts[1]
    kept = {name for name in set(old) & set(new) if name.startswith("state-")}
    assert len(kept) == 2 * 2  # each replicate's trunk at k, and its other initialisation


def exact(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that can be compared, as NaN equals nothing."""
    return [{name: "NaN" if isinstance(x, float) and math.isnan(x) else x for name, x in row.items()} for row in rows]
