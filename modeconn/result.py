"""Results as JSON text: numbers that JSON has no word for, and files."""

import contextlib
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modeconn.errors import DataError, ModeconnError
from modeconn.execution.store import write_atomically, writing


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
