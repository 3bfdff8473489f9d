"""Results as JSON text: numbers that JSON has no word for, and files."""

import contextlib
import csv
import io
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modeconn.errors import DataError, ModeconnError
from modeconn.files import write_atomically, writing


def jsonable(values: np.ndarray) -> Any:
    """An array as nested lists, with NaN and infinities as the words that `float` reads.

    >>> jsonable(np.array([[0.5, np.nan], [np.inf, 1.0]]))
    [[0.5, 'nan'], ['inf', 1.0]]
    """
    if values.ndim:
        return [jsonable(value) for value in values]
    value = float(values)
    return value if math.isfinite(value) else str(value)


def from_jsonable(values: Any) -> np.ndarray:
    """The array that `jsonable` wrote, float64.

    >>> from_jsonable([[0.5, "nan"], ["inf", 1.0]])
    array([[0.5, nan],
           [inf, 1. ]])
    """
    return np.array(values, dtype=np.float64)


def write_text(text: str, path: str | Path | None) -> str:
    """The text, also written to a file if a path is given.

    Raises:
        StoreError: the file cannot be written.
    """
    if path is not None:
        with writing(Path(path)):
            write_atomically(Path(path), text.encode() + b"\n")
    return text


@contextlib.contextmanager
def reading(source: str | Path, kind: str, what: str) -> Iterator[dict[str, Any]]:
    """The content of a JSON text, or of a file of it, whose `format` is `kind`; messages call it `what`.

    Raises:
        DataError: there is no such file, it is something else, or what is inside fails on it.
    """
    text = source
    if not (isinstance(source, str) and source.lstrip().startswith("{")):
        try:
            text = Path(source).read_text()
        except (OSError, ValueError) as error:
            raise DataError(f"{source} cannot be read: {error}") from error
    try:
        content = json.loads(str(text))
        if content["format"] != kind:
            raise ValueError(f"it has the format {content['format']!r}")
        yield content
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, zlib.error, ModeconnError) as error:
        raise DataError(f"this is not {what} that to_json wrote: {error}") from error


Row = dict[str, Any]


def write_csv(path: Path, rows: list[Row], columns: Iterable[str] | None = None) -> None:
    """Write rows, each a mapping from columns to values; the columns of the first row if None.

    Raises:
        StoreError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0] if columns is None else columns), lineterminator="\n")
    writer.writeheader()
    # An empty field is what pandas and R read as missing.
    blank = lambda value: "" if isinstance(value, float) and math.isnan(value) else value  # noqa: E731
    writer.writerows({name: blank(value) for name, value in row.items()} for row in rows)
    with writing(path):
        write_atomically(path, text.getvalue().encode())


def read_csv(columns: dict[str, Callable[[str], Any]], text: str) -> list[Row]:
    """The rows of a CSV file, each column read by its function; an empty field of a number is NaN."""
    rows = csv.DictReader(io.StringIO(text))
    return [
        {name: math.nan if kind is float and row[name] == "" else kind(row[name]) for name, kind in columns.items()}
        for row in rows
    ]


def count(number: int, word: str) -> str:
    """A number of things, in words.

    >>> count(1, "pair"), count(2, "pair")
    ('1 pair', '2 pairs')
    """
    return f"{number} {word}" + ("" if number == 1 else "s")
