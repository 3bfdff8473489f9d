import numpy as np
import pytest
from matplotlib.figure import Figure

from modeconn import Barrier, InstabilityResult
from modeconn.analysis.connectivity.samples import Samples
from modeconn.errors import OptionError
from modeconn.plots import instability_figure, paths_figure, plot_barrier, plot_instability, plot_path

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
    assert plot_instability(make(), ax=ax) is ax
    assert plot_path(make(), 0, ax=ax) is ax


def test_a_path_is_drawn_in_percent():
    drawn = line(plot_path(make(), 0), "test")
    assert drawn.get_ydata() == pytest.approx([0, 30.5, 0])


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
    assert "diverged" in plot_path(broken, 10).texts[0].get_text()
    instability_figure(broken).draw_without_rendering()
    paths_figure(broken).draw_without_rendering()


def test_a_single_replicate_has_no_band_but_a_figure():
    result = make()
    one = InstabilityResult([r for r in result.rows if not r["replicate"]], result.paths, SUMMARY | {"replicates": 1})
    instability_figure(one).draw_without_rendering()


def barrier(values=(0.1, 0.38, 0.4), metric="error", alphas=(0.0, 0.5, 1.0), **changes) -> Barrier:
    values = np.array(values)[:, None]
    return Barrier(np.array(alphas), {metric: Samples(values, np.ones_like(values))}, metric, **changes)


def test_a_barrier_has_its_curve_its_chord_and_both_heights_in_points():
    ax = barrier().plot()
    assert np.allclose(line(ax, "error").get_xydata(), [[0, 10], [0.5, 38], [1, 40]])
    assert np.allclose(line(ax, "between the ends").get_xydata(), [[0, 10], [1, 40]])
    assert np.allclose(line(ax, "mean of the ends").get_ydata(), 25)
    assert ax.get_title() == "barrier 15 points, over the chord 13"
    (arrow,) = ax.texts
    assert (arrow.xy, arrow.xyann) == ((1, pytest.approx(40)), (1, 25))
    assert ax.get_ylim()[0] == 0


def test_a_dip_of_an_accuracy_is_drawn_in_its_own_unit():
    ax = barrier((0.9, 0.5, 0.8), "accuracy", higher_is_better=frozenset({"accuracy"})).plot()
    assert np.allclose(line(ax, "accuracy").get_ydata(), [0.9, 0.5, 0.8])
    assert ax.get_title() == "barrier 0.35, over the chord 0.35"
    (arrow,) = ax.texts
    assert (arrow.xy, arrow.xyann) == ((0.5, 0.5), (0.5, pytest.approx(0.85)))
    assert ax.get_ylim()[0] > 0.3


@pytest.mark.parametrize(
    ("batchnorm", "said"),
    [("none", ""), ("interpolate", "interpolated"), ("recalibrate", "recalib"), ("repair", "rep")],
)
def test_a_barrier_says_which_ends_it_joins_and_what_was_done_to_batchnorm(batchnorm, said):
    ax = barrier(batchnorm=batchnorm, names=("left.pt", "right.pt")).plot()
    assert "0: left.pt, 1: right.pt" in ax.get_xlabel()
    title = ax.get_legend().get_title().get_text()
    assert said in title
    assert bool(title) == bool(said)


def test_a_barrier_goes_on_the_axes_it_is_given_and_any_metric_is_drawn():
    ax = Figure().subplots()
    assert plot_barrier(barrier(), ax=ax, metric="error") is ax
    with pytest.raises(OptionError, match="did you mean 'error'"):
        plot_barrier(barrier(), metric="eror")


@pytest.mark.parametrize("values", [(0.1, np.nan, 0.4), (0.2, np.inf, 0.4), (0.2, 0.2, 0.2)])
def test_a_curve_with_gaps_or_without_a_rise_has_no_arrow(values):
    ax = plot_barrier(barrier(values, "loss"))
    ax.figure.draw_without_rendering()
    assert not ax.texts


def test_a_path_beyond_its_ends_is_drawn_as_far_as_it_goes():
    ax = barrier((0.5, 0.1, 0.2, 0.1, 0.9), alphas=(-0.5, 0, 0.5, 1, 2.0)).plot()
    assert ax.get_xlim() == (-0.5, 2)
    assert ax.get_title() == "barrier 10 points, over the chord 10"
