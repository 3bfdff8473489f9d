"""Files by anyone's hand: regular files within limits, JSON of a known schema."""

import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeconn.reading import DEPTH, check, is_file, is_folder, open_file, parse_json, read_file, require_room

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class Place(TypedDict):
    name: str
    at: NotRequired[int]


@dataclass
class Record:
    name: str
    jobs: dict[str, list[str]] = field(default_factory=dict)


@settings(max_examples=30)
@given(JSON)
def test_plain_json_is_what_it_was(content: Any) -> None:
    assert parse_json(json.dumps(content)) == content
    assert parse_json(json.dumps(content).encode()) == content


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("depth", [DEPTH + 1, 100_000])
def test_deep_json_is_refused_and_never_ends_the_stack(opening: str, depth: int) -> None:
    closing = "".join({"[": "]", "{": "}"}[c] for c in opening[::-1] if c in "[{")
    with pytest.raises(ValueError, match=r"levels deep|Expecting"):
        parse_json(opening * depth + "1" + closing * depth)
    assert parse_json("[" * DEPTH + "]" * DEPTH)


@pytest.mark.parametrize(
    "text", ["9" * 30, "-" + "9" * 30, "1e999", "-1e999", "9" * 5000, "nul", "", '{"a": 1', '"\udcff"']
)
def test_what_is_no_number_or_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text.encode(errors="surrogateescape"))


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (True, int, "it must be a whole number; it is True"),
        (1.5, int, "it must be a whole number"),
        ("1", float, "it must be a number"),
        (None, str, "it must be text"),
        ([1, "a"], list[int], r"'\[1\]' must be a whole number; it is 'a'"),
        ({"a": {"b": 1}}, dict[str, dict[str, str]], "'a.b' must be text; it is 1"),
        ("x", Literal["a", "b"], "must be one of 'a', 'b'"),
        ([], Literal["a"], "must be one of"),
        ([], Place, "it must be an object"),
        ({}, Place, "it lacks name"),
        ({"name": "a", "at": "b"}, Place, "'at' must be a whole number"),
        ({"name": 5}, Record, "'name' must be text"),
        ({"name": "a", "jobs": {"b": 1}}, Record, "'jobs.b' must be a list"),
        ([1], tuple[str, int], "a list of that length"),
        ("a", int | None, "must be a whole number"),
    ],
)
def test_what_does_not_fit_a_schema_is_named(value: Any, kind: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check(value, kind)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, float),
        (None, int | None),
        ({"name": "a", "more": []}, Place),
        ({"name": "a"}, Record),
        (["a", 1], tuple[str, int]),
    ],
)
def test_what_fits_a_schema_is_let_be(value: Any, kind: Any) -> None:
    check(value, kind)


def test_only_regular_files_are_opened_and_no_name_is_too_odd(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for a writer
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name, why in (
        (tmp_path / "pipe", "a pipe or a device"),
        (tmp_path / "circle", os.strerror(errno.ELOOP)),
        (tmp_path, "a folder"),
        ("/dev/zero", "a pipe or a device"),
        ("a\0b", "no file can have this name"),
        ("x" * 300, os.strerror(errno.ENAMETOOLONG)),
        ("x/" * 3000, os.strerror(errno.ENAMETOOLONG)),
        ("\ud800", "no file can have this name"),
        ("", os.strerror(errno.ENOENT)),
    ):
        with pytest.raises(OSError, match=why):
            open_file(name)
        assert not is_file(name)
    assert is_folder(tmp_path)
    assert not is_folder("a\0b")
    (tmp_path / "x").write_bytes(b"12345")
    assert read_file(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="over 4 bytes"):
        read_file(tmp_path / "x", 4)


def test_a_file_is_read_whole_however_the_system_gives_it(tmp_path, monkeypatch) -> None:
    assert b"Pid:" in read_file("/proc/self/status")  # whose size is said to be 0
    (tmp_path / "x").write_bytes(bytes(range(256)) * 9)
    real = os.read
    monkeypatch.setattr(os, "read", lambda handle, size: real(handle, min(size, 7)))
    assert read_file(tmp_path / "x") == bytes(range(256)) * 9
    with pytest.raises(OSError, match="over 9 bytes"):
        read_file(tmp_path / "x", 9)


def test_a_bomb_is_what_unpacks_to_much_and_to_many_times_its_size() -> None:
    require_room(10**8, 1)
    require_room(10**10, 10**9)
    with pytest.raises(ValueError, match="over 200 times"):
        require_room(10**9, 10**6)
