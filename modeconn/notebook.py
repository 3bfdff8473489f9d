"""What a notebook shows of a result: a table of its rows and its figure, as HTML."""

import base64
import contextlib
import html
import io
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modeconn.errors import ModeconnError

_ROWS = 20  # of a table, before its middle is left out


def html_of(title: str, rows: Sequence[Mapping[str, Any]], result: Any = None, notes: Iterable[str] = ()) -> str:
    """A title, a table, notes, and the figure of a result that has `plot`.

    >>> html_of("two", [{"name": "a<b", "error": 0.125}])
    '<p>two</p><table><tr><th>name</th><th>error</th></tr><tr><td>a&lt;b</td><td>0.125</td></tr></table>'
    """
    said = "".join(f"<p>Note: {html.escape(note)}.</p>" for note in notes)
    return f"<p>{html.escape(title)}</p>{_table(rows)}{said}{_picture(result)}"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = list(rows[0])
    half = _ROWS // 2
    left_out = len(rows) - 2 * half if len(rows) > _ROWS else 0
    lines = [_line("td", [_cell(row.get(column)) for column in columns]) for row in rows]
    if left_out:
        gap = f"... {left_out} more rows; to_frame() has them all ..."
        lines[half : len(rows) - half] = [f'<tr><td colspan="{len(columns)}">{gap}</td></tr>']
    return f"<table>{_line('th', columns)}{''.join(lines)}</table>"


def _line(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _cell(value: Any) -> str:
    """A value in four digits, and nothing for what is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _picture(result: Any) -> str:
    """The figure of a result as an inline PNG; nothing for a result that has none."""
    if not hasattr(result, "plot"):
        return ""
    with contextlib.suppress(ModeconnError):
        drawn = result.plot()
        figure = drawn if hasattr(drawn, "savefig") else drawn.figure
        content = io.BytesIO()
        figure.savefig(content, format="png", bbox_inches="tight")
        if "matplotlib.pyplot" in sys.modules:  # which would show it once more
            sys.modules["matplotlib.pyplot"].close(figure)
        return f'<img src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'
    return ""
