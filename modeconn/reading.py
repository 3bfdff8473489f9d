"""Files by anyone's hand, read within limits: regular files, plain JSON of a known schema, what unpacks to its size.

Whatever the system says of a file is an `OSError`, and whatever is wrong with its content a `ValueError`, so that each
reader turns two exceptions into one of ours.
"""

import dataclasses
import errno
import functools
import json
import math
import os
import reprlib
import stat
import types
from pathlib import Path
from typing import Any, BinaryIO, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

UNPACKED = 1 << 28  # bytes that anything may unpack to
RATIO = 200  # how many times its size packed content may unpack to, if that is more than UNPACKED
DEPTH = 100  # levels of lists and objects in JSON
LARGEST_TEXT = 1 << 30  # bytes of a JSON or CSV file
_INTEGERS = range(-(2**63), 2**64)


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file. A pipe or a device may never end, and opening one may wait for ever.

    Raises:
        OSError: there is none, or it is something else; whatever its name is made of.
    """
    return os.fdopen(_open(path)[0], "rb")


def read_file(path: str | Path, most: int = LARGEST_TEXT) -> bytes:
    """Read a regular file of at most so many bytes.

    Raises:
        OSError: it cannot be read, or is larger.
    """
    # By system calls: a store has many small files, and a file object costs more than reading one.
    handle, size = _open(path)
    try:
        # Python makes room for as much as is asked for, so that is not `most` where there is less.
        content = os.read(handle, min(size, most) + 1)
        # It grew, its size was not known, or the system gave less than it was asked for.
        while len(content) != size and len(content) <= most and (more := os.read(handle, max(size, len(content)))):
            content += more
    finally:
        os.close(handle)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has over {most:,} bytes, more than any such file")
    return content


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file of that name, which may be one that no file can have."""
    return _mode(path, stat.S_ISREG)


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder of that name, which may be one that no folder can have."""
    return _mode(path, stat.S_ISDIR)


def require_room(unpacked: int, packed: int) -> None:
    """Refuse a decompression bomb: over 256 MB that are over 200 times as large as the file they come from.

    Raises:
        ValueError: it is one.

    >>> require_room(10**9, 10**6)
    Traceback (most recent call last):
    ValueError: 1,000,000 bytes would unpack to 1,000,000,000, over 200 times as many; if that is right, unpack it first
    """
    if unpacked > max(UNPACKED, RATIO * packed):
        times = f"over {RATIO} times as many; if that is right, unpack it first"
        raise ValueError(f"{packed:,} bytes would unpack to {unpacked:,}, {times}")


def parse_json(content: str | bytes, kind: Any = Any, *, bare: bool = False) -> Any:
    """The content of a JSON text.

    Args:
        content: the text.
        kind: what it must be; see `check`.
        bare: whether bare NaN and Infinity, which are Python's and not JSON's, are numbers, as in a store's own files;
            or become null and "inf", as results write them since version 0.2.

    Raises:
        ValueError: it is no JSON, over 100 levels deep, has numbers beyond 64 bits, or is not of that kind.

    >>> parse_json('{"density": NaN, "loss": Infinity}', dict[str, float | str | None])
    {'density': None, 'loss': 'inf'}
    >>> parse_json('{"files": 5}', dict[str, list[str]])
    Traceback (most recent call last):
    ValueError: 'files' must be a list; it is 5
    """
    try:
        found = json.loads(content, cls=functools.partial(_decoder, bare))  # type: ignore[arg-type]
        _check_depth(content, found)
    except RecursionError as error:
        raise ValueError(f"it is more than {DEPTH} levels deep") from error
    check(found, kind)
    return found


def check(value: Any, kind: Any, name: str = "") -> None:
    """Check a JSON value against a schema, written as Python's types.

    Args:
        value: as `json.loads` gives it.
        kind: `Any`, `None`, `bool`, `int`, `float` (whole numbers too), `str`, `Literal`, `list[...]`, tuples,
            `dict[str, ...]`, unions of them, and for objects a `TypedDict` or a dataclass; further
            keys are let be.
        name: where the value stands, for the error.

    Raises:
        ValueError: it does not fit; says where and what is there.
    """
    if kind is Any or type(value) is kind:
        return  # as most values do
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        _check_any(value, get_args(kind), name)
    elif origin is Literal:
        _require(value in get_args(kind), name, f"one of {', '.join(map(repr, get_args(kind)))}", value)
    elif origin is tuple and Ellipsis not in get_args(kind):
        _require(isinstance(value, list) and len(value) == len(get_args(kind)), name, "a list of that length", value)
        for index, (part, of) in enumerate(zip(value, get_args(kind), strict=True)):
            check(part, of, f"{name}[{index}]")
    elif origin in (list, tuple):
        _require(isinstance(value, list), name, "a list", value)
        of = get_args(kind)[0]
        for index, part in enumerate(value):
            if type(part) is not of:
                check(part, of, f"{name}[{index}]")
    elif origin is dict:
        _require(isinstance(value, dict), name, "an object", value)
        of = get_args(kind)[1]
        for key, part in value.items() if of is not Any else ():
            if type(part) is not of:  # asked before the call, as all calls together take long in a large record
                check(part, of, _inside(name, key))
    elif is_typeddict(kind) or dataclasses.is_dataclass(kind):
        _require(isinstance(value, dict), name, "an object", value)
        kinds, required = _fields(kind)
        if missing := required - value.keys():
            raise ValueError(f"{repr(name) if name else 'it'} lacks {', '.join(sorted(missing))}")
        for key, of in kinds.items():
            if key in value and type(value[key]) is not of:
                check(value[key], of, _inside(name, key))
    else:
        right = (
            value is None if kind in (None, type(None)) else isinstance(value, (int, float) if kind is float else kind)
        )
        truth = isinstance(value, bool) and kind in (int, float)  # which Python takes for 0 and 1
        _require(right and not truth, name, _WORDS.get(kind, "null"), value)


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def _check_any(value: Any, kinds: tuple[Any, ...], name: str) -> None:
    if type(value) in kinds:
        return
    reasons = []
    for kind in kinds:
        try:
            return check(value, kind, name)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(reasons[0])


@functools.cache
def _decoder(bare: bool) -> json.JSONDecoder:
    """A decoder that `json.loads` would else make anew for each text."""
    words = {"NaN": None, "Infinity": "inf", "-Infinity": "-inf"}
    constant: Any = float if bare else words.__getitem__
    return json.JSONDecoder(parse_constant=constant, parse_int=_integer, parse_float=_finite)


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Kinds of an object's keys, and those that must be there."""
    if is_typeddict(kind):
        return get_type_hints(kind), kind.__required_keys__
    absent = dataclasses.MISSING
    required = (f.name for f in dataclasses.fields(kind) if f.default is absent and f.default_factory is absent)
    return get_type_hints(kind), frozenset(required)


def _require(fits: bool, name: str, wanted: str, value: Any) -> None:
    if not fits:
        raise ValueError(f"{repr(name) if name else 'it'} must be {wanted}; it is {reprlib.repr(value)}")


def _inside(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _integer(text: str) -> int:
    value = int(text)
    if value not in _INTEGERS:
        raise ValueError(f"it has a whole number of {len(text)} digits, beyond 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it has the number {text[:20]}, beyond 64 bits")
    return value


def _check_depth(content: str | bytes, found: Any) -> None:
    opening = (b"[", b"{") if isinstance(content, bytes) else ("[", "{")
    if sum(map(content.count, opening)) <= DEPTH:  # type: ignore[arg-type]
        return  # it cannot be deeper than it has brackets
    level = [found]
    for _ in range(DEPTH):
        inner = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list))
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(f"it is more than {DEPTH} levels deep")


def _open(path: str | Path) -> tuple[int, int]:
    """A descriptor of a regular file, and its bytes as far as the system knows."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in its name, or what no file system can encode
        raise OSError(errno.EINVAL, f"no file can have this name ({error})") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise OSError(errno.EINVAL, f"it is {kind}, not a file")
    return handle, status.st_size


def _mode(path: str | Path, wanted: Any) -> bool:
    try:
        return bool(wanted(os.stat(path).st_mode))
    except (OSError, ValueError):
        return False
