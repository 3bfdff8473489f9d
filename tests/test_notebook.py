"""Results in a notebook, without one: their HTML, their picture, and what they say of themselves in a line."""

import base64
import builtins
import html
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import matplotlib
import pytest
from made_results import NAMES, instability, results
from matplotlib import pyplot
from torch import nn

import modeconn
from modeconn import align, average, load_data
from modeconn.errors import OptionError
from modeconn.notebook import html_of
from modeconn.result import Result, brief


class Table(HTMLParser):
    """The cells of a table, by its rows, and whatever pictures there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.pictures: list[bytes] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(base64.b64decode(str(dict(attrs)["src"]).removeprefix("data:image/png;base64,")))
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.mark.parametrize("name", NAMES)
def test_every_result_shows_a_short_table_and_its_picture(name: str) -> None:
    shown = Table(results()[name]._repr_html_())
    assert 2 <= len(shown.rows) <= 22  # the head, and the line in place of the middle
    assert [picture[:4] for picture in shown.pictures] == [b"\x89PNG"]


@pytest.mark.parametrize("name", NAMES)
def test_every_result_says_in_a_line_what_it_is(name: str) -> None:
    said = repr(results()[name])
    assert said.startswith(f"{type(results()[name]).__name__}(")
    assert len(said) < 200
    assert not re.search(r"\n|array\(|tensor\(|Samples\(", said)


def test_a_pictures_figure_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeconn.style.in_notebook", lambda: True)  # where pyplot would show it a second time
    with matplotlib.rc_context():
        results()["barrier"]._repr_html_()
    assert not pyplot.get_fignums()


def test_long_tables_lose_their_middle_and_values_their_digits() -> None:
    rows = [{"name": f"<{i}>", "value": i / 3, "none": None, "missing": float("nan")} for i in range(50)]
    shown = Table(html_of("title", rows)).rows
    assert shown[0] == ["name", "value", "none", "missing"]
    assert [row[0] for row in shown[1:11]] == [f"<{i}>" for i in range(10)]
    assert shown[11] == ["... 30 more rows; to_frame() has them all ..."]
    assert [row[0] for row in shown[12:]] == [f"<{i}>" for i in range(40, 50)]
    assert shown[2][1:] == ["0.3333", "", ""]
    assert len(Table(html_of("title", rows[:20])).rows) == 21
    assert Table(html_of("title", [])).rows == []


def test_titles_and_notes_are_text_and_no_tags() -> None:
    result = instability(task="<script>", data_note="")
    assert "<script>" not in result._repr_html_()
    assert html.escape("<script>") in result._repr_html_()
    assert "<p>Note: a &lt; b.</p>" in html_of("", [], notes=["a < b"])


def test_a_study_shows_its_answer_and_not_every_pair() -> None:
    head, *rows = Table(instability()._repr_html_()).rows
    assert {"rewind_iter", "mean", "std", "stable"} <= set(head)
    assert len(rows) == 6  # of two splits and three k


def test_averages_and_alignments_show_their_rows_without_a_picture() -> None:
    networks = [nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(2)]
    mean, aligned = average(networks), align(*networks)
    for result in (mean, aligned):
        shown = Table(result._repr_html_())
        assert len(shown.rows) > 1
        assert not shown.pictures
        assert len(repr(result)) < 200
        assert "tensor(" not in repr(result)
    assert repr(mean) == "Average(4 tensors of average of 2 networks, weights uniform)"


def test_data_say_how_many_images_they_are() -> None:
    data = load_data("digits")
    assert repr(data) == "DataSet(digits: 1,437 train, 360 test images of 1 x 8 x 8, 10 classes)"
    assert repr(data.test) == "Split(360 images of 1 x 8 x 8)"
    assert repr(data.test.images) == "360 images of 1 x 8 x 8 in memory"


def test_long_names_are_cut() -> None:
    long = instability(task="x" * 500)
    assert len(repr(long)) < 200
    assert repr(long).endswith("…")
    assert brief("short") == "short"


def _kinds() -> Iterator[type[Result]]:
    """All results of the package."""
    for module in pkgutil.walk_packages(modeconn.__path__, "modeconn."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    waiting = [Result]
    while waiting:
        found = waiting.pop()
        waiting += found.__subclasses__()
        if not inspect.isabstract(found) and found is not Result:
            yield found


def test_no_result_is_shown_as_a_dump_of_its_fields() -> None:
    kinds = list(_kinds())
    assert len(kinds) > 20
    for kind in kinds:
        assert "__create_fn__" not in kind.__repr__.__qualname__, kind  # which a dataclass writes
        assert not hasattr(kind.__repr__, "__wrapped__"), kind


def test_without_pandas_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    for name in ("barrier", "instability", "sweep"):
        with pytest.raises(OptionError, match="pip install pandas"):
            results()[name].to_frame()
