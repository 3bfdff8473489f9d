"""Tables of file formats on a page: columns of CSV files and keys of JSON files, from the code that reads them.

    ```{columns} instability.csv
    ```
    ```{json-keys} summary.json of a lottery
    ```
    ```{json-formats}
    ```

A column without a meaning in `column_meanings.py` is a warning, and so an error of the build.
"""

import importlib
import pkgutil
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.util import logging

import modeconn
from column_meanings import MEANINGS
from modeconn.analysis.instability import tables as instability
from modeconn.result import JsonResult
from modeconn.tickets import sweep_result as sweep
from modeconn.tickets import tables as tickets

_LOG = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives."""
    app.add_directive("columns", _Columns)
    app.add_directive("json-keys", _Keys)
    app.add_directive("json-formats", _Formats)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def csv_columns() -> dict[str, list[str]]:
    """The columns of every CSV file of a study, with those that options add."""
    dense = instability.columns_of({"measures": ["ends"], "align": "weights", "curvature_examples": 1})
    sparse = tickets.tables_of({"measures": ["ends"]}) | {
        f"{name}.csv": kept for name, kept in tickets.DETAILED.items()
    }
    files = {name: list(columns) for name, columns in dense.items()}
    files |= {name if name not in files else f"{name} of a lottery": list(columns) for name, columns in sparse.items()}
    return files | {"sweep.csv": list(sweep.COLUMNS)}


def json_schemas() -> dict[str, Any]:
    """The schema of every JSON file that results read again, by the format that it names; and of `summary.json`."""
    for module in pkgutil.walk_packages(modeconn.__path__, "modeconn."):
        if module.name.startswith("modeconn.analysis."):
            importlib.import_module(module.name)
    summaries = {
        "summary.json of instability": instability.Summary,
        "summary.json of a lottery": tickets.Summary,
        "summary.json of a sweep": sweep._Summary,
    }
    return summaries | {
        kind._FORMAT: kind._SCHEMA for kind in sorted(_kinds(JsonResult), key=lambda kind: kind._FORMAT)
    }


def keys_of(schema: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Keys of a schema and their types; those of nested objects after a dot, and those of lists of objects after []."""
    for key, kind in _fields(schema).items():
        optional = typing.get_origin(kind) is typing.NotRequired
        kind = typing.get_args(kind)[0] if optional else kind
        yield prefix + key, _words(kind) + (", may be missing" if optional else "")
        inner, path = _object_in(kind)
        if inner is not None:
            yield from keys_of(inner, f"{prefix}{key}{path}.")


def _kinds(base: type) -> Iterator[Any]:
    for kind in base.__subclasses__():
        if hasattr(kind, "_FORMAT"):
            yield kind
        yield from _kinds(kind)


def _fields(schema: Any) -> dict[str, Any]:
    return typing.get_type_hints(schema, include_extras=True)


def _object_in(kind: Any) -> tuple[Any, str]:
    """The object that a value is, or that its entries are, and how a path to it is written."""
    if typing.is_typeddict(kind):
        return kind, ""
    for part in typing.get_args(kind):
        inner, path = _object_in(part)
        if inner is not None:
            return inner, {list: "[]", dict: ".NAME"}.get(typing.get_origin(kind), "") + path
    return None, ""


def _words(kind: Any) -> str:
    """A type in words of JSON."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return "anything"
    if typing.is_typeddict(kind) or (isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")):
        return "object"
    if origin is typing.Literal:
        return "one of " + ", ".join(f'"{part}"' for part in parts)
    if origin in (typing.Union, types.UnionType):
        if float in parts:  # `modeconn.result.Number`
            return "number"
        return " or ".join(_words(part) for part in parts)
    if origin is list:
        return f"list: {_words(parts[0])}"
    if origin is tuple:
        return "list of " + ", ".join(_words(part) for part in parts)
    if origin is dict:
        return f"object, by name: {_words(parts[1])}"
    return {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}[kind]


# --- directives


class _Columns(Directive):
    """The columns of a CSV file, and what they mean."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        columns = csv_columns()[self.arguments[0]]
        for column in columns:
            if column not in MEANINGS:
                _LOG.warning("column %s of %s has no meaning in column_meanings.py", column, self.arguments[0])
        return [_table(["column", "meaning"], [(f"`{name}`", MEANINGS.get(name, "")) for name in columns], [30, 70])]


class _Keys(Directive):
    """The keys of a JSON file, and their types."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        rows = [(f"`{key}`", words) for key, words in keys_of(json_schemas()[self.arguments[0]])]
        return [_table(["key", "value"], rows, [45, 55])]


class _Formats(Directive):
    """The keys of every format that a result is written in."""

    def run(self) -> list[nodes.Node]:
        """Make a heading and a table for each."""
        found: list[nodes.Node] = []
        for name, schema in json_schemas().items():
            if not name.startswith("summary.json"):
                rows = [(f"`{key}`", words) for key, words in keys_of(schema)]
                found += [nodes.rubric("", name), _table(["key", "value"], rows, [45, 55])]
        return found


def _table(header: list[str], rows: list[Any], widths: list[int]) -> nodes.table:
    group = nodes.tgroup("", *[nodes.colspec(colwidth=width) for width in widths], cols=len(header))
    group += nodes.thead("", _row(header))
    group += nodes.tbody("", *[_row(row) for row in rows])
    return nodes.table("", group, classes=["colwidths-given"])


def _row(texts: Any) -> nodes.row:
    return nodes.row("", *[nodes.entry("", nodes.paragraph("", "", *_inline(text))) for text in texts])


def _inline(text: str) -> list[nodes.Node]:
    parts = re.split(r"`([^`]+)`", text)
    return [nodes.literal("", part) if number % 2 else nodes.Text(part) for number, part in enumerate(parts)]
