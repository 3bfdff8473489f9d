import numpy as np
import pytest
from matplotlib.figure import Figure

from modeconn import InstabilityResult
from modeconn.analysis.instability.figures import instability_figure, paths_figure
from modeconn.errors import OptionError

ALPHAS = [0.0, 0.5, 1.0]
SUMMARY = {"task": "toy", "replicates": 2, "copies": 2, "threshold": 0.02, "iterations": 100}
SUMMARY |= {"data_note": "", "diverged": [], "task_changes": ""}


def make(ks=(0, 10, 100), choices=("interpolate", "recalibrate"), **summary) -> InstabilityResult:
    rows, paths = [], []
    for replicate in (0, 1):
        for k in ks:
            for split in ("test", "train"):
                for choice in choices:
                    height = 0.3 / (1 + k) + 0.01 * replicate
                    place = {"replicate": replicate, "rewind_iter": k, "copy_a": 1, "copy_b": 2}
                    place |= {"split": split, "batchnorm": choice}
                    rows.append(place | {"barrier": height})
                    paths += [place | {"alpha": a, "error": height * (a == 0.5), "loss": 1.0} for a in ALPHAS]
    return InstabilityResult(rows, paths, SUMMARY | summary)


def line(ax, label: str):
    return next(drawn for drawn in ax.lines if drawn.get_label() == label)


def test_the_curve_is_the_mean_in_points_and_the_band_one_deviation():
    result = make()
    ax = result.plot()
    assert np.allclose(line(ax, "test").get_xydata(), np.c_[[0, 10, 100], 100 * result.mean["test"]["interpolate"]])
    band = ax.collections[0].get_paths()[0].vertices
    at_zero = band[band[:, 0] == 0, 1]
    assert np.ptp(at_zero) == pytest.approx(200 * result.std["test"]["interpolate"][0])
    assert np.allclose(line(ax, "2 points").get_ydata(), 2)


def test_a_plot_goes_on_the_axes_it_is_given():
    ax = Figure().subplots()
    assert make().plot(ax) is ax
    assert make().plot_path(0, ax) is ax


def test_a_path_is_drawn_in_percent():
    drawn = line(make().plot_path(0), "test")
    assert drawn.get_ydata() == pytest.approx([0, 30.5, 0])


def test_a_k_that_was_not_measured_has_no_path():
    with pytest.raises(OptionError, match="unknown rewinding iteration '7'"):
        make().plot_path(7)


def test_figures_have_a_panel_for_each_k_and_choice():
    assert len(instability_figure(make()).axes) == 2
    assert len(paths_figure(make()).axes) == 6
    assert len(paths_figure(make(choices=("none",))).axes) == 3


@pytest.mark.parametrize("ks", [(0,), (5,), (0, 5), (5, 10), (0, 1, 2, 60_000)])
def test_any_set_of_k_can_be_drawn(ks):
    figure = instability_figure(make(ks=ks))
    figure.draw_without_rendering()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][-1] in {str(ks[-1]), "60K"}


def test_notes_and_divergence_are_on_the_figure():
    diverged = [{"replicate": 0, "rewind_iter": 10, "copy": 1, "iteration": 55}]
    figure = instability_figure(make(data_note="CIFAR-10 (JPEG-compressed)", diverged=diverged))
    text = figure.get_supxlabel()
    assert "JPEG-compressed" in text
    assert "1 copy diverged" in text
    assert "k = 10" in text


def test_a_k_at_which_everything_diverged_says_so():
    result = make()
    missing = [row | {"barrier": np.nan} if row["rewind_iter"] == 10 else row for row in result.rows]
    paths = [row for row in result.paths if row["rewind_iter"] != 10]
    broken = InstabilityResult(missing, paths, result.summary)
    assert "diverged" in broken.plot_path(10).texts[0].get_text()
    instability_figure(broken).draw_without_rendering()
    paths_figure(broken).draw_without_rendering()


def test_a_single_replicate_has_no_band_but_a_figure():
    result = make()
    one = InstabilityResult([r for r in result.rows if not r["replicate"]], result.paths, SUMMARY | {"replicates": 1})
    instability_figure(one).draw_without_rendering()
