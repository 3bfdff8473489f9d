"""Malformed input: bytes, JSON, tables and arrays that are nearly right, or not at all."""

import functools
import io
import json
import struct
import zipfile
from typing import Any

import numpy as np
from hypothesis import strategies as st

DEEP = 100_000
# In place of any value in JSON; no two of one kind of harm.
STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 5, 2**31, 2**63, 10**25, -(10**400), 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "\0", "\udcff", "../../x", "/etc/passwd", "-", "é" * 300, "1e999", "$\\frac$", "x" * 5000),
    *([], {}, [[]], [{}], {"a": 1}, {"": None}, [1, 2, 3], ["a"], [[1, 2], [3]], [None]),
]
WORDS = [
    "",
    "x",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "9" * 30,
    "9" * 5000,
    "0x1",
    "1,5",
    "True",
    "None",
    "\0",
    "é",
    '"',
    "a\nb",
]
DTYPES = [
    "<f4",
    ">f4",
    "<f8",
    "<f2",
    "<f16",
    "<c8",
    "|u1",
    "<i8",
    ">i8",
    "<u8",
    "|b1",
    "|O",
    "<U3",
    "|S0",
    "<U0",
    "|V2",
    "<M8[s]",
    "<m8[s]",
]
SIZES = [0, 1, 2, 6, 7, 10**6, 2**31, 2**40, 2**63, 10**30, -1]


def mangled(content: bytes) -> st.SearchStrategy[bytes]:
    """Content that was cut, flipped, doubled, filled or replaced somewhere."""
    places = st.integers(0, max(0, len(content) - 1))

    def change(how: str, a: int, b: int, filling: bytes) -> bytes:
        low, high = sorted((a, b))
        return {
            "cut": content[:a],
            "begun": content[a:],
            "flipped": content[:a] + bytes(x ^ (1 + b % 255) for x in content[a : a + 1]) + content[a + 1 :],
            "removed": content[:low] + content[high:],
            "doubled": content[:high] + content[low:],
            "zeroed": content[:low] + bytes(high - low) + content[high:],
            "filled": content[:a] + filling + content[a + len(filling) :],
            "inserted": content[:a] + filling + content[a:],
            "replaced": filling,
        }[how]

    kinds = ["cut", "begun", "flipped", "removed", "doubled", "zeroed", "filled", "inserted", "replaced"]
    return st.builds(change, st.sampled_from(kinds), places, places, st.binary(max_size=40))


def strange_json(text: str) -> st.SearchStrategy[bytes]:
    """A JSON text in which a value is another, lacks, or has another name; one that is deep; or mangled bytes."""
    content = json.loads(text)
    paths = list(_paths(content))

    def change(path: tuple[Any, ...], how: str, value: Any) -> bytes:
        if how == "deep":
            return (text[: len(text) // 2] + "[" * DEEP).encode()
        if how == "deep inside":
            return _replaced(content, path, "@").replace('"@"', "[" * 900 + "]" * 900).encode()
        if how == "whole":
            return json.dumps(value).encode(errors="surrogatepass")
        return _replaced(content, path, value, how).encode(errors="surrogatepass")

    hows = st.sampled_from(["value"] * 8 + ["gone", "gone", "renamed", "deep", "deep inside", "whole"])
    return st.one_of(st.builds(change, st.sampled_from(paths), hows, st.sampled_from(STRANGE)), mangled(text.encode()))


def strange_table(text: str) -> st.SearchStrategy[bytes]:
    """A CSV in which a field is another, a row or a column lacks or is there twice; or mangled bytes."""
    rows = [line.split(",") for line in text.splitlines()]

    def change(how: str, row: int, column: int, word: str) -> bytes:
        changed = [list(cells) for cells in rows]
        if how == "field":
            changed[row][column % len(changed[row])] = word
        elif how == "column":
            for cells in changed[1:]:
                cells[column % len(cells)] = word
        elif how == "row gone":
            del changed[row]
        elif how == "column gone":
            for cells in changed:
                del cells[column % len(cells)]
        elif how == "row twice":
            changed.insert(row, changed[row])
        elif how == "header":
            changed = changed[:1]
        elif how == "long":
            changed[row][0] = "x" * 200_000
        return "\n".join(map(",".join, changed)).encode(errors="surrogatepass")

    hows = st.sampled_from(["field"] * 4 + ["column"] * 3 + ["row gone", "column gone", "row twice", "header", "long"])
    places = st.integers(0, len(rows) - 1), st.integers(0, len(rows[0]) - 1)
    return st.one_of(st.builds(change, hows, *places, st.sampled_from(WORDS)), mangled(text.encode()))


def strange_arrays(arrays: dict[str, np.ndarray]) -> st.SearchStrategy[bytes]:
    """An .npz in which an array is another, has another header, lacks or is packed; or mangled bytes."""
    whole = archive({name: member(array) for name, array in arrays.items()})

    def change(name: str, how: str, dtype: str, shape: list[int], version: int, packed: bool, number: int) -> bytes:
        parts: dict[str, bytes] = {one: member(array) for one, array in arrays.items()}
        if how == "header":
            head = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': ({', '.join(map(str, shape))},), }}"
            parts[name] = header(head, version) + bytes(min(10**6, 8 * abs(number)))
        elif how == "broken header":
            parts[name] = header("{'descr'", version)
        elif how == "type":
            array = arrays[name].astype(np.float64)
            parts[name] = member((array + number).astype(dtype) if dtype[1] not in "OVMm" else array)
        elif how == "value":
            parts[name] = member(np.full_like(arrays[name], np.clip(number, -100, 100)))
        elif how == "shape":
            parts[name] = member(np.zeros([min(abs(size), 7) for size in shape], arrays[name].dtype))
        elif how == "gone":
            del parts[name]
        elif how == "text":
            parts[name] = b"abc"
        else:
            return bomb(name)
        return archive(parts, packed)

    hows = ["header"] * 6 + [
        "broken header",
        "type",
        "type",
        "type",
        "value",
        "value",
        "shape",
        "shape",
        "gone",
        "text",
        "bomb",
    ]
    return st.one_of(
        st.builds(
            change,
            *(st.sampled_from(list(arrays)), st.sampled_from(hows), st.sampled_from(DTYPES)),
            *(st.lists(st.sampled_from(SIZES), max_size=5), st.integers(1, 4), st.booleans()),
            st.sampled_from([0, 1, -1, 5, 300, 2**31, 2**62, -(2**63)]),
        ),
        mangled(whole),
    )


def strange_safetensors(content: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file whose header is another, or mangled bytes."""
    length = int.from_bytes(content[:8], "little")
    head, data = content[8 : 8 + length].decode(), content[8 + length :]
    changed = strange_json(head).map(lambda text: len(text).to_bytes(8, "little") + text + data)
    kinds = ["F32", "F64", "BF16", "F8_E4M3", "F8_E8M0", "F4", "C64", "BOOL", "U64", "X"]

    def entry(kind: str, shape: list[int], start: int, end: int) -> bytes:
        content = {**json.loads(head), "weight": {"dtype": kind, "shape": shape, "data_offsets": [start, end]}}
        text = json.dumps(content).encode()
        return len(text).to_bytes(8, "little") + text + data

    shapes = st.lists(st.sampled_from(SIZES), max_size=4)
    sizes = st.sampled_from([0, 4, 32, len(data), 2**40])
    return st.one_of(changed, mangled(content), st.builds(entry, st.sampled_from(kinds), shapes, sizes, sizes))


@functools.cache
def bomb(name: str) -> bytes:
    """An .npz of 300 kB with 300 MB of zeros."""
    text = "{'descr': '|u1', 'fortran_order': False, 'shape': (300000000,), }"
    return archive({name: header(text) + bytes(300_000_000)}, packed=True)


def member(array: np.ndarray) -> bytes:
    """An array as it is in an .npz."""
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def header(text: str, version: int = 1) -> bytes:
    """The beginning of an array in an .npz."""
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode()


def archive(parts: dict[str, bytes], packed: bool = False, ending: str = ".npy") -> bytes:
    """A zip archive of these parts."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED, compresslevel=1) as file:
        for name, part in parts.items():
            file.writestr(f"{name}{ending}", part)
    return out.getvalue()


def _paths(content: Any, path: tuple[Any, ...] = ()) -> Any:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _paths(value, (*path, key))


def _replaced(content: Any, path: tuple[Any, ...], value: Any, how: str = "value") -> str:
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if how == "value" or isinstance(inner, list):
        inner[path[-1]] = value
    else:
        old = inner.pop(path[-1])
        if how == "renamed":
            inner["another"] = old
    return json.dumps(copy)
