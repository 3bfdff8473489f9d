"""Figures that people work with: several results on one axes, logarithmic axes, their own styles, legends, files."""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from made_results import NAMES, instability, lottery, results
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from modeconn.errors import OptionError
from modeconn.style import BAND, STYLE, Files, draw_legend, save_figure

SEVERAL = [name for name in NAMES if name not in ("matrix", "compare")]  # of which several go on one axes


@pytest.fixture(autouse=True)
def _as_it_comes() -> Iterator[None]:
    """Whatever a test or another file has set."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield
    assert not pyplot.get_fignums()  # nothing is kept for ever


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


@pytest.mark.parametrize("name", NAMES)
def test_every_result_draws_on_anyones_axes_and_returns_them(name: str) -> None:
    ax = Figure().subplots()
    assert results()[name].plot(ax) is ax
    assert isinstance(results()[name].plot(), Axes)
    bare = results()[name].plot(annotate=False)
    assert bare.get_title() == ""
    bare.figure.draw_without_rendering()


@pytest.mark.parametrize("name", SEVERAL)
def test_several_results_are_told_apart_by_label_and_colour(name: str) -> None:
    ax = results()[name].plot(label="first")
    title, before = ax.get_title(), len(ax.lines)
    colors = {to_rgb(line.get_color()) for line in ax.lines}
    results()[name].plot(ax, label="second")
    results()[name].plot(ax)
    assert ax.get_title() == title  # not that of the last
    shown = legend(ax)
    assert len(shown) == len(set(shown))
    assert any(text.startswith("first") for text in shown)
    assert any(text.startswith("second") for text in shown)
    new = [line for line in ax.lines[before:] if not line.get_label().startswith("_")]
    others = {to_rgb(line.get_color()) for line in new}
    assert len(others) == 2  # one of each result
    far = [np.linalg.norm(np.subtract(one, other)) for one in others for other in colors]
    assert min(far) > 0.25


@pytest.mark.parametrize("name", SEVERAL)
def test_a_colour_and_options_of_lines_are_obeyed(name: str) -> None:
    ax = results()[name].plot(color="crimson", lw=3, annotate=False)
    curves = [line for line in ax.lines if line.get_linewidth() == 3]
    assert curves
    assert {line.get_color() for line in curves} == {"crimson"}


def test_lines_of_one_colour_have_dashes_or_markers_of_their_own() -> None:
    ax = instability().plot(color="crimson")
    dashes = {line.get_label(): line.get_linestyle() for line in ax.lines}
    assert dashes["test; error 10 %"] == "-"
    assert dashes["train; error 10 %"] == "--"
    markers = {line.get_label(): line.get_marker() for line in lottery().plot(color="crimson").lines}
    assert markers["IMP"] != markers["random pruning"]


def test_splits_that_are_asked_for_are_drawn() -> None:
    assert [text for text in legend(instability().plot(splits=["train"])) if "error" in text] == ["train; error 10 %"]
    path = instability().plot_path(0, splits=["test"], label="A")
    assert [line.get_label() for line in path.lines] == ["A"]
    with pytest.raises(OptionError, match="unknown split of this study 'tset'; did you mean 'test'"):
        instability().plot(splits=["tset"])


def test_marks_of_k_and_density_are_those_of_all_results() -> None:
    ax = instability((0, 10, 100)).plot()
    instability((0, 5, 4000)).plot(ax)
    assert ax.get_xticks().tolist() == [0, 5, 10, 100, 4000]
    left, right = ax.get_xlim()
    assert left < 0
    assert right > 4000
    assert ax.get_xlabel() == "rewinding iteration k (symlog scale)"


@pytest.mark.parametrize("name", [name for name in SEVERAL if name != "sweep"])
def test_a_logarithmic_axis_shows_all_that_is_positive(name: str) -> None:
    ax = results()[name].plot()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax.set_yscale("log")
        ax.figure.draw_without_rendering()
    low, high = ax.get_ylim()
    labeled = [line for line in ax.lines if not line.get_label().startswith("_")]
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in labeled])
    values = values[values > 0]
    assert 0 < low <= values.min()
    assert high >= values.max()


def test_a_linear_axis_begins_at_zero_where_nothing_lies_below() -> None:
    barrier = results()["barrier"].plot()
    assert barrier.get_ylim()[0] == 0
    raised = instability().plot_path(0)
    assert raised.get_ylim()[0] == 0
    below = instability((0,), scale=0.001).plot()  # a deviation larger than the mean
    below.figure.draw_without_rendering()
    assert below.get_ylim()[0] < 0


def test_what_the_user_has_set_stays() -> None:
    matplotlib.rcParams.update({"font.size": 17, "figure.figsize": (7, 2), "figure.dpi": 55, "axes.grid": True})
    ax = results()["barrier"].plot()
    assert ax.figure.get_size_inches().tolist() == [7, 2]
    assert ax.figure.get_dpi() == 55
    assert ax.xaxis.label.get_fontsize() == 17
    assert ax.get_legend().get_texts()[0].get_fontsize() == pytest.approx(17 * 0.833, rel=1e-3)  # "small" of it
    assert matplotlib.rcParams["font.size"] == 17
    assert matplotlib.rcParamsDefault["axes.spines.top"] != STYLE["axes.spines.top"]
    assert not ax.spines["top"].get_visible()  # which the user left as it is
    with pyplot.style.context("dark_background"):
        assert to_rgb(results()["features"].plot().get_facecolor()) == (0, 0, 0)


def test_nothing_of_the_users_settings_is_changed() -> None:
    before = dict(matplotlib.rcParams)
    for result in results().values():
        result.plot()
    assert dict(matplotlib.rcParams) == before


def test_a_legend_says_what_the_band_is_and_everything_once() -> None:
    ax = instability().plot(label="A")
    instability().plot(ax, label="B")
    assert legend(ax).count(BAND) == 1
    assert legend(ax).count("2 points") == 1
    one = instability()
    one = type(one)([row for row in one.rows if not row["replicate"]], one.paths, one.summary | {"replicates": 1})
    assert BAND not in legend(one.plot())  # there is none


def test_a_legend_of_much_stands_beside_the_axes_and_the_figure_grows_for_it() -> None:
    ax = lottery().plot()
    narrow = ax.figure.get_figwidth()
    for name in ("A", "B"):
        lottery(shift=0.02).plot(ax, label=name)
    ax.figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent().x0 > ax.get_window_extent().x1
    assert ax.figure.get_figwidth() > narrow
    assert not ax.get_legend().get_frame_on()
    given = Figure(figsize=(3, 3)).subplots()  # without a layout that makes room
    for name in ("A", "B", "C"):
        lottery().plot(given, label=name)
    assert given.figure.get_figwidth() == 3
    assert given.get_legend().get_window_extent().x0 < given.get_window_extent().x1


def test_titles_of_legends_that_differ_are_left_out() -> None:
    ax = Figure().subplots()
    ax.plot([0, 1], label="a")
    for title in ("statistics interpolated", "statistics interpolated"):
        draw_legend(ax, title)
    assert ax.get_legend().get_title().get_text() == "statistics interpolated"
    draw_legend(ax, "statistics recalibrated")
    assert ax.get_legend().get_title().get_text() == ""


def test_pyplot_has_the_figure_where_it_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib.rcParams["interactive"] = True
    ax = results()["barrier"].plot()
    assert ax.figure.number in pyplot.get_fignums()
    pyplot.close(ax.figure)
    matplotlib.rcParams["interactive"] = False
    monkeypatch.setattr("modeconn.style.in_notebook", lambda: True)
    ax = results()["barrier"].plot()
    assert ax.figure.number in pyplot.get_fignums()
    pyplot.close(ax.figure)


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_files_have_the_format_the_width_and_the_same_bytes(ending: str, tmp_path: Path) -> None:
    def write(name: str) -> bytes:
        (file,) = save_figure(instability().plot().figure, tmp_path / name, Files([ending], width=3.25, log=True))
        assert file == tmp_path / f"{name}.{ending}"
        return file.read_bytes()

    content = write("one")
    assert content == write("two")
    if ending == "svg":
        assert b'width="234pt" height="175.5pt"' in content  # of 4 by 3 inches
        assert b">instability (percentage points)<" in content  # text stays text


def test_where_things_are_is_found_once_and_every_further_file_costs_one_drawing(tmp_path: Path, monkeypatch) -> None:
    """And it stays the file that a layout engine gives that leaves everything where the first file had it."""
    figure, expected = instability().plot().figure, io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(io.BytesIO(), format="png")
        figure.set_layout_engine("none")
        figure.savefig(expected, format="pdf", metadata={"CreationDate": None})
    draw, drawn = Figure.draw, []
    monkeypatch.setattr(Figure, "draw", lambda self, renderer: drawn.append(self) or draw(self, renderer))
    with matplotlib.rc_context({"figure.constrained_layout.use": True}):
        _, file = save_figure(instability().plot().figure, tmp_path / "two", Files(["png", "pdf"]))
    assert len(drawn) == 1 + 2  # first for the layout alone
    assert file.read_bytes() == expected.getvalue()


def test_a_narrow_figure_has_its_long_legend_below_the_axes(tmp_path: Path) -> None:
    ax = lottery().plot(label="a name that is long enough")
    lottery(shift=0.02).plot(ax, label="another one")
    figure: Any = ax.figure
    save_figure(figure, tmp_path / "narrow", Files(["png"], width=3.25))
    assert figure.get_figwidth() == 3.25
    assert ax.get_legend() is None
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len({text.get_text() for text in legend.get_texts()}) >= 6
    assert legend.get_window_extent().y1 < ax.get_window_extent().y0
    assert ax.get_window_extent().width > 0.7 * figure.bbox.width


def test_a_heat_map_has_no_logarithmic_axes(tmp_path: Path) -> None:
    figure: Any = results()["matrix"].plot().figure
    save_figure(figure, tmp_path / "matrix", Files(["png"], log=True))
    assert {ax.get_yscale() for ax in figure.axes} == {"linear"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"formats": ["pgn"]}, "unknown format 'pgn'; did you mean 'png'"), ({"width": 0}, "in inches, above 0")],
)
def test_files_that_cannot_be_are_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Files(**asked)


def test_made_results_are_of_every_kind_that_draws() -> None:
    assert tuple(results()) == NAMES
    kinds = {type(result).__name__ for result in results().values()}
    assert kinds >= {"Barrier", "BarrierMatrix", "LayerwiseBarrier", "FeatureConnectivity", "Soup", "Durations"}
    assert kinds >= {"PairReport", "InstabilityResult", "LotteryResult", "SweepResult"}
