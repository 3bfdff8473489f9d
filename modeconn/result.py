"""The parts that all results share: tables of their rows, JSON and CSV files, and words.

NaN has one convention in files: null in JSON, an empty field in CSV. Infinities are `"inf"` and `"-inf"` in JSON, which
has no number for them; `float` reads both.
"""

import contextlib
import csv
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from modeconn.errors import DataError, OptionError
from modeconn.files import write_atomically, writing
from modeconn.reading import check, parse_json, read_file

Row = dict[str, Any]
# A number as `jsonable` writes it; None is NaN.
Number = float | Literal["inf", "-inf", "nan"] | None
Columns = Mapping[str, Callable[[str], Any]]  # name of a column to how its text is read


class Result:
    """Base of all results. Every one also has `__str__` and `plot`."""

    rows: Any  # of studies an attribute, of measurements between networks a method
    _COLUMNS: ClassVar[Iterable[str] | None] = None  # those of the first row if None

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame.

        Raises:
            OptionError: pandas is not installed.
        """
        return data_frame(self._rows(), self._COLUMNS)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):  # so that `dataclass` writes none, which would list all fields
            setattr(cls, "__repr__", cls.__repr__)  # noqa: B010

    def __repr__(self) -> str:
        said = "" if type(self).__str__ is object.__str__ else str(self).partition("\n")[0]
        return brief(f"{type(self).__name__}({said})")

    def _rows(self) -> list[Row]:
        rows: list[Row] = self.rows() if callable(self.rows) else self.rows
        return rows

    def _repr_html_(self) -> str:
        """What a notebook shows: a table of the rows, 20 at most, the notes, and the figure."""
        from modeconn.notebook import html_of

        return html_of(repr(self), self._shown_rows(), self, getattr(self, "notes", ()))

    def _shown_rows(self) -> list[Row]:
        """The rows that a notebook shows."""
        return self._rows()


class JsonResult(Result, ABC):
    """Base of results that one JSON text holds.

    A subclass names its format and itself, gives its fields as content for `jsonable`, and is made from them again.
    """

    _FORMAT: ClassVar[str]
    _NAME: ClassVar[str]  # in errors: "a barrier"
    _SCHEMA: ClassVar[Any]  # of the fields; see `modeconn.reading.check`

    def to_json(self, path: str | Path | None = None) -> str:
        """The result as JSON text, also written to a file if a path is given.

        Raises:
            StoreError: the file cannot be written.
        """
        text = json_text(self.content(), indent=1)
        if path is not None:
            write_text(text, Path(path))
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Self:
        """The result that `to_json` wrote, from its text or its file.

        Raises:
            DataError: there is no such file, or it is not such a result.
        """
        text = _text_of(source)
        with _refusing(cls._NAME):
            content = parse_json(text)
        return cls.from_content(content)

    def content(self) -> dict[str, Any]:
        """The content of the JSON text, its format first; `jsonable` makes it plain."""
        return {"format": self._FORMAT, **self._fields()}

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> Self:
        """The result of which `content` gave the JSON.

        Raises:
            DataError: it is not such a result.
        """
        with _refusing(cls._NAME):
            if content["format"] != cls._FORMAT:
                raise ValueError(f"it has the format {content['format']!r}")
            check(content, cls._SCHEMA)
            return cls._from_fields(content)

    @abstractmethod
    def _fields(self) -> dict[str, Any]: ...

    @classmethod
    @abstractmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self: ...


# --- JSON


def jsonable(content: Any) -> Any:
    """Nested content as JSON can hold it: arrays as lists, NaN as None, infinities as the words that `float` reads.

    >>> jsonable({"values": np.array([[0.5, np.nan], [np.inf, 1.0]]), "best": np.float32(0.25)})
    {'values': [[0.5, None], ['inf', 1.0]], 'best': 0.25}
    """
    if isinstance(content, np.ndarray | np.generic):
        return jsonable(content.tolist())
    if isinstance(content, Mapping):
        return {name: jsonable(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [jsonable(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None if math.isnan(content) else str(content)
    return content


def from_jsonable(content: Any) -> Any:
    """The numbers that `jsonable` wrote: a float, a float64 array from a list, or a dict of these.

    >>> from_jsonable({"values": [[0.5, None], ["inf", 1.0]], "best": 0.25})
    {'values': array([[0.5, nan],
           [inf, 1. ]]), 'best': 0.25}

    The word "nan", which modeconn 0.1 wrote for NaN, is read too.
    """
    if isinstance(content, dict):
        return {name: from_jsonable(value) for name, value in content.items()}
    numbers = np.array(content, dtype=np.float64)
    return numbers if numbers.ndim else float(numbers)


def array_of(content: Any, *shape: int) -> np.ndarray:
    """The float64 array that `jsonable` wrote.

    Raises:
        ValueError: it has another shape.

    >>> array_of([0.5, None], 2)
    array([0.5, nan])
    """
    numbers = np.array(content, dtype=np.float64)
    if numbers.shape != shape:
        raise ValueError(f"there are values of the shape {list(numbers.shape)}, where {list(shape)} are expected")
    return numbers


def json_text(content: Any, indent: int | None = None) -> str:
    """Nested content, as `jsonable` makes it, as JSON text."""
    return json.dumps(jsonable(content), indent=indent, allow_nan=False)


def write_text(text: str, path: Path) -> None:
    """Write a text and a final newline.

    Raises:
        StoreError: the file cannot be written.
    """
    with writing(path):
        write_atomically(path, text.encode() + b"\n")


def _text_of(source: str | Path) -> str:
    """The source itself if it is JSON text, or else the content of the file."""
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return source
    try:
        return read_file(source).decode()
    except (OSError, ValueError) as error:
        raise DataError(f"{source} cannot be read: {error}") from error


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn what fails on the content of a damaged or foreign file into a `DataError`."""
    try:
        yield
    except Exception as error:  # nothing but that content is at work here
        raise DataError(f"this is not {name} that to_json wrote: {error}") from error


# --- CSV, and the folders of studies


def write_csv(path: Path, rows: list[Row], columns: Iterable[str] | None = None) -> None:
    """Write rows, each a mapping from columns to values; the columns of the first row, if there is one, if None.

    Raises:
        StoreError: the file cannot be written.
    """
    text = io.StringIO()
    named = (rows[0] if rows else ()) if columns is None else columns
    writer = csv.DictWriter(text, list(named), lineterminator="\n")
    writer.writeheader()
    # An empty field is what pandas and R read as missing.
    blank = lambda value: "" if isinstance(value, float) and math.isnan(value) else value  # noqa: E731
    writer.writerows({name: blank(value) for name, value in row.items()} for row in rows)
    with writing(path):
        write_atomically(path, text.getvalue().encode())


def read_csv(columns: Columns, text: str, added: Collection[str] = ()) -> list[Row]:
    """The rows of a CSV file, each column read by its function; an empty field of a number is NaN.

    Columns that were `added` since may lack; they are read like empty fields.

    Raises:
        ValueError: a column is not there, or a row ends before it.
    """
    reader = csv.DictReader(io.StringIO(text))
    try:
        rows = list(reader)
    except csv.Error as error:  # a field that is too long, or a quote that is not closed
        raise ValueError(str(error)) from error
    if missing := [name for name in columns if name not in (*(reader.fieldnames or ()), *added)]:
        raise ValueError(f"no column {', '.join(missing)}")
    if any(None in row.values() for row in rows):
        raise ValueError("a row ends too early")
    return [
        {
            name: math.nan if kind is float and row.get(name, "") == "" else kind(row.get(name, ""))
            for name, kind in columns.items()
        }
        for row in rows
    ]


def whole(text: str) -> int:
    """Read a count or a position, which no study has more digits of than an array can be indexed by.

    Raises:
        ValueError: it is none.
    """
    if not 0 <= (value := int(text)) < 2**53:
        raise ValueError(f"{text!r:.30} is no count")
    return value


def one_of(*words: str) -> Callable[[str], str]:
    """A function that reads one of these words.

    >>> one_of("test", "train")("test")
    'test'
    """

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r:.30} is none of {', '.join(words)}")
        return text

    return read


def save_study(
    folder: Path, files: Mapping[str, Columns], tables: Iterable[list[Row]], summary: Mapping[str, Any]
) -> None:
    """Write the files of a study: its tables as CSV, and `summary.json`.

    Args:
        folder: of the files.
        files: the columns of each table, by the name of its file.
        tables: the rows of each.
        summary: for `jsonable`.

    Raises:
        StoreError: the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for (name, columns), rows in zip(files.items(), tables, strict=True):
            write_csv(folder / name, rows, columns)
        write_text(json_text(summary, indent=2), folder / "summary.json")


def load_study(
    folder: Path, files: Mapping[str, Columns], schema: Any, kind: str, added: Collection[str] = ()
) -> tuple[list[list[Row]], dict[str, Any]]:
    """The tables and the summary that `save_study` wrote.

    Args:
        folder: of the files.
        files: the columns of each table, by the name of its file.
        schema: of the summary; see `modeconn.reading.check`.
        kind: of study, for errors.
        added: columns that files of earlier versions lack.

    Raises:
        DataError: a file is not there, or is not one of such a study.
    """
    try:
        found = [read_csv(columns, read_file(folder / name).decode(), added) for name, columns in files.items()]
        if not found[0]:
            raise ValueError(f"{next(iter(files))} has no rows")
        summary = parse_json(read_file(folder / "summary.json"), schema)
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no {kind} study: no file {Path(error.filename).name}") from error
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise DataError(f"the study in {folder} cannot be read ({error}); run it again to write it anew") from error
    return found, summary


def data_frame(rows: list[Row], columns: Iterable[str] | None = None) -> Any:
    """Rows as a pandas DataFrame, with the columns of the first one if None.

    Raises:
        OptionError: pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise OptionError(
            "to_frame() makes a pandas DataFrame, and pandas is missing here: pip install pandas"
        ) from error
    return pandas.DataFrame(rows, columns=None if columns is None else list(columns))


# --- words


def brief(text: str, length: int = 180) -> str:
    """A text that is cut where it is longer than one reads at a glance.

    >>> brief("a b c d", 5)
    'a b …'
    """
    return text if len(text) <= length else f"{text[: length - 1]}…"


def count(number: int, word: str) -> str:
    """A number of things, in words.

    >>> count(1, "pair"), count(2, "pair")
    ('1 pair', '2 pairs')
    """
    return f"{number} {word}" + ("" if number == 1 else "s")


def unit_of(metric: str) -> tuple[int, str]:
    """The factor and the unit with which people read barriers of a metric: those of an error in points."""
    return (100, "percentage points") if metric == "error" else (1, metric)


def note_lines(notes: Iterable[str]) -> list[str]:
    """The last lines of a result in words: an empty one, and one for each note; none without notes."""
    lines = [f"Note: {note}." for note in notes]
    return ["", *lines] if lines else []


def study_title(summary: Mapping[str, Any]) -> str:
    """The task of a study, and how it differs from its preset."""
    return ", ".join(filter(None, (summary["task"], summary["task_changes"])))
