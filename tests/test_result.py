"""JSON and CSV of all results, and that nothing is loaded before it is needed."""

import json
import math
import subprocess
import sys
from typing import Any, TypedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeconn.errors import DataError
from modeconn.result import from_jsonable, json_text, jsonable, load_study, parse_json, read_csv, save_study, write_csv

FLOATS = st.floats(width=64)


class _Toy(TypedDict):
    task: str


class _Seeded(TypedDict):
    seed: int


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@given(st.lists(st.lists(FLOATS, min_size=2, max_size=2)), FLOATS)
def test_numbers_survive_json_that_any_reader_takes(curve: list[list[float]], best: float) -> None:
    content = {"curve": np.array(curve), "of": {"best": np.float64(best)}}
    text = json_text(content)
    assert json.loads(text, parse_constant=_refuse) == jsonable(content) == parse_json(text)
    found = from_jsonable(parse_json(text))
    assert np.array_equal(found["curve"], content["curve"], equal_nan=True)
    assert type(found["of"]["best"]) is float
    assert np.array_equal(found["of"]["best"], best, equal_nan=True)


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_json_can_hold_is_left_as_it_is(content: Any) -> None:
    assert jsonable(content) == content
    assert json_text(content, indent=2) == json.dumps(content, indent=2)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (np.float32(0.1), float(np.float32(0.1))),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([True, False]), [True, False]),
        ((1, (math.nan, -math.inf)), [1, [None, "-inf"]]),
        ({"a": {"b": (np.float32(np.inf),)}}, {"a": {"b": ["inf"]}}),
    ],
)
def test_numpy_and_tuples_become_what_json_has(given: Any, written: Any) -> None:
    assert jsonable(given) == written
    assert type(jsonable(given)) is type(written)


def test_what_older_files_say_of_nan_is_read() -> None:
    words = from_jsonable(parse_json('[0.5, "nan", "inf", null]'))
    bare = from_jsonable(parse_json("[0.5, NaN, Infinity, NaN]"))
    assert np.array_equal(words, [0.5, math.nan, math.inf, math.nan], equal_nan=True)
    assert np.array_equal(bare, words, equal_nan=True)


@given(st.lists(st.tuples(st.integers(), FLOATS), min_size=1))
def test_numbers_survive_csv_with_nan_as_an_empty_field(rows: list[tuple[int, float]]) -> None:
    import tempfile
    from pathlib import Path

    written = [{"k": k, "loss": loss} for k, loss in rows]
    with tempfile.TemporaryDirectory() as folder:
        write_csv(Path(folder) / "a.csv", written)
        text = (Path(folder) / "a.csv").read_text()
    assert "nan" not in text
    found = read_csv({"k": int, "loss": float}, text)
    assert [row["k"] for row in found] == [k for k, _ in rows]
    assert np.array_equal([row["loss"] for row in found], [loss for _, loss in rows], equal_nan=True)


def test_a_study_is_read_back_and_damage_is_named(tmp_path) -> None:
    files = {"one.csv": {"k": int, "loss": float}, "two.csv": {"name": str}}
    tables = [[{"k": 1, "loss": math.nan}], [{"name": "x"}]]
    save_study(tmp_path / "study", files, tables, {"task": "toy", "best": math.nan})
    found, summary = load_study(tmp_path / "study", files, _Toy, "toy")
    assert repr(found) == repr(tables)
    assert summary == {"task": "toy", "best": None}
    with pytest.raises(DataError, match=r"cannot be read \(it lacks seed\); run it again"):
        load_study(tmp_path / "study", files, _Seeded, "toy")
    (tmp_path / "study" / "two.csv").unlink()
    with pytest.raises(DataError, match=r"holds no toy study: no file two\.csv"):
        load_study(tmp_path / "study", files, _Toy, "toy")


@pytest.mark.processes
def test_results_can_be_imported_read_and_printed_without_matplotlib() -> None:
    code = (
        "import sys, modeconn\n"
        "modeconn.Barrier, modeconn.InstabilityResult, modeconn.load_result, modeconn.soup, modeconn.barrier_matrix\n"
        "modeconn.layerwise_barrier, modeconn.feature_connectivity\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("k,split\n1", "a row ends too early"),
        ("k,split\n1,test\n2", "a row ends too early"),
        ("k,error\n1,0.5\n", "no column split"),
        ("", "no column k, split"),
    ],
)
def test_a_table_that_was_cut_off_is_refused(tmp_path, text: str, reason: str) -> None:
    """A text column would else be read from nothing as the word None."""
    save_study(tmp_path, {}, [], {"task": "a"})
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(DataError, match=f"cannot be read \\({reason}"):
        load_study(tmp_path, {"rows.csv": {"k": int, "split": str}}, _Toy, "small")
