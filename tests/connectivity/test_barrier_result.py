import json
import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from modeconn import Barrier
from modeconn.analysis.connectivity.samples import Ends, Samples
from modeconn.errors import DataError, OptionError

ALPHAS = np.array([0, 0.25, 0.5, 0.75, 1])
ERRORS = np.array([0.1, 0.3, 0.38, 0.4, 0.2])
N = 200


def samples(rates: np.ndarray, **options) -> Samples:
    """0 and 1 for each example, shuffled, so that exactly that fraction is 1."""
    generator = np.random.default_rng(0)
    sums = np.stack([generator.permutation(np.arange(N) < round(N * rate)) for rate in rates])
    return Samples(sums, np.broadcast_to(np.ones(N), sums.shape), **options)


def losses(offset: float | np.ndarray = 0.0) -> Samples:
    """Of three tokens each."""
    generator = np.random.default_rng(1)
    return Samples((generator.gamma(2, size=(5, N)) + offset).astype(np.float32), np.full((5, N), 3.0))


def make(**changes) -> Barrier:
    ends = Ends(1.5, 0.25, 0.5, 0.1, 2 / 3, 1 / 3, math.nan)
    result = Barrier(ALPHAS, {"error": samples(ERRORS), "loss": losses()}, "error", ends=ends)
    settings = {"measured": "classification", "calibration_batches": None, "versions": {"torch": "2"}}
    named = replace(result, names=("left", "right"), batchnorm="repair", notes=("one thing", "another"))
    return replace(named, settings=settings, **changes)


def same(one: Barrier, other: Barrier) -> bool:
    """Every field, to the last bit."""
    for name in one.metrics:
        a, b = one.samples[name], other.samples[name]
        if not (np.array_equal(a.sums, b.sums, equal_nan=True) and np.array_equal(a.counts, b.counts)):
            return False
        if (a.sums.dtype, a.counts.shape, a.per, a.exponential) != (b.sums.dtype, b.counts.shape, b.per, b.exponential):
            return False
    plain = [
        (list(r.metrics), r.alphas.tolist(), r.metric, r.higher_is_better, repr(r.ends), r.names, r.batchnorm, r.notes)
        for r in (one, other)
    ]
    return plain[0] == plain[1] and one.settings == other.settings


def test_both_barriers_are_those_of_the_first_metric_and_of_any_other_by_name():
    result = make()
    assert result.metrics == ("error", "loss")
    assert result.error == pytest.approx(ERRORS)
    assert result.barrier == pytest.approx(0.4 - 0.15)
    assert result.chord_barrier == pytest.approx(0.38 - 0.15)
    assert result.alpha_at_max == 0.75
    assert result.worst() == pytest.approx(0.4)
    assert result.end_values() == pytest.approx((0.1, 0.2))
    loss = result.samples["loss"].sums.astype(np.float64).sum(1) / (3 * N)
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert result.heights("loss").barrier == pytest.approx(loss.max() - (loss[0] + loss[-1]) / 2)


def test_sums_are_divided_once():
    """The mean of the examples' own means would be 0.55."""
    found = Samples(np.array([[1.0, 1.0]]), np.array([[1.0, 10.0]]))
    assert found.values.tolist() == [2 / 11]


def test_a_constant_added_to_the_loss_leaves_its_barriers_alone():
    one, other = make(), make(samples={"error": samples(ERRORS), "loss": losses(3 * 7.0)})
    assert other.loss == pytest.approx(one.loss + 7)
    assert other.heights("loss").barrier == pytest.approx(one.heights("loss").barrier, abs=1e-6)
    assert other.heights("loss").chord_barrier == pytest.approx(one.heights("loss").chord_barrier, abs=1e-6)


def test_an_accuracy_has_the_barrier_of_its_error():
    accuracy = replace(samples(ERRORS), sums=~samples(ERRORS).sums)
    error = make()
    result = make(samples={"accuracy": accuracy}, metric="accuracy", higher_is_better=frozenset({"accuracy"}))
    assert result.values() == pytest.approx(1 - ERRORS)
    assert (result.worst(), result.end_values()) == (pytest.approx(0.6), pytest.approx((0.9, 0.8)))
    for name in ("barrier", "chord_barrier", "alpha_at_max"):
        assert getattr(result, name) == pytest.approx(getattr(error, name))
    for definition in ("barrier", "chord_barrier"):
        assert result.interval(0.9, definition=definition) == pytest.approx(error.interval(0.9, definition=definition))
        assert result.cross_fitted(definition=definition) == pytest.approx(error.cross_fitted(definition=definition))


def test_perplexity_is_exp_of_the_mean_loss_and_not_the_mean_of_exp():
    loss = losses(3 * np.array([[0], [0], [2.0], [0], [0]]))
    perplexity = replace(loss, exponential=True)
    result = make(samples={"loss": loss, "perplexity": perplexity}, metric="perplexity")
    assert result.values() == pytest.approx(np.exp(result.loss))
    assert result.barrier == pytest.approx(np.exp(result.loss.max()) - np.exp(result.loss[[0, -1]]).mean())
    assert result.cross_fitted() == pytest.approx(result.barrier, rel=1e-3)
    low, high = result.interval()
    assert result.heights("loss").barrier < 2.5 < low < result.barrier < high


def test_a_perplexity_beyond_all_numbers_is_infinite_without_a_warning():
    assert Samples(np.array([[800.0]]), np.ones((1, 1)), exponential=True).values.tolist() == [math.inf]


def test_a_loss_that_is_infinite_at_an_end_has_no_barrier_and_no_warning():
    result = make(samples={"loss": Samples(np.array([[math.inf], [1], [1], [1], [1]]), np.ones((5, 1)))}, metric="loss")
    assert not math.isfinite(result.barrier)


def test_a_flat_curve_has_barriers_of_exactly_0():
    for value in np.random.default_rng(0).uniform(size=50):
        flat = np.full((31, 1), value)
        result = make(alphas=np.linspace(0, 1, 31), samples={"loss": Samples(flat, np.ones((31, 1)))}, metric="loss")
        assert (result.barrier, result.chord_barrier) == (0, 0)


def test_what_lies_beyond_the_ends_is_shown_but_no_barrier():
    rates = np.array([0.9, *ERRORS, 0.8])
    outcomes = samples(rates)
    far = make(alphas=np.array([-1, *ALPHAS, 2]), samples={"error": outcomes})
    near = make(samples={"error": replace(outcomes, sums=outcomes.sums[1:-1], counts=outcomes.counts[1:-1])})
    assert far.error == pytest.approx(rates)
    assert far.heights() == near.heights()
    assert (far.worst(), far.end_values()) == (near.worst(), near.end_values())
    assert far.interval() == near.interval()
    assert far.cross_fitted() == near.cross_fitted()


@pytest.mark.parametrize("ask", ["values", "heights", "worst", "end_values", "plot"])
def test_an_unknown_metric_suggests_a_known_one(ask):
    with pytest.raises(OptionError, match="unknown metric 'eror'; did you mean 'error'"):
        getattr(make(), ask)(metric="eror")
    with pytest.raises(OptionError, match="Known: error, loss"):
        make().interval(metric="accuracy")


def test_json_there_and_back_is_exact():
    result = make(higher_is_better=frozenset({"error"}))
    back = Barrier.from_json(result.to_json())
    assert same(result, back)
    for level in (0.5, 0.95, 0.99):
        for metric in result.metrics:
            assert back.interval(level, metric) == result.interval(level, metric)
    assert back.to_json() == result.to_json()


@pytest.mark.parametrize("kind", ["bool", "uint8", "int64", "float32", "float64"])
def test_outcomes_of_any_type_survive(kind):
    sums = np.random.default_rng(0).uniform(0, 9, (5, 13)).astype(kind)
    counts = np.random.default_rng(1).integers(0, 4, (5, 13))
    result = make(samples={"m": Samples(sums, counts, "batch")}, metric="m")
    assert same(result, Barrier.from_json(result.to_json()))


def test_json_goes_through_a_file(tmp_path):
    result = make()
    text = result.to_json(tmp_path / "barrier.json")
    assert json.loads((tmp_path / "barrier.json").read_text()) == json.loads(text)
    for source in (tmp_path / "barrier.json", str(tmp_path / "barrier.json"), "\n" + text):
        assert same(result, Barrier.from_json(source))


def test_without_examples_values_stay_and_intervals_are_refused():
    result = make()
    text = result.to_json(examples=False)
    assert len(text) < len(result.to_json()) / 2
    back = Barrier.from_json(text)
    for name in result.metrics:
        assert np.array_equal(back.values(name), result.values(name))
        assert back.heights(name) == result.heights(name)
    for ask in (back.interval, back.cross_fitted):
        with pytest.raises(OptionError, match=r"without its examples \(examples=False\)"):
            ask()
    assert "interval" not in str(back)
    assert back.to_json() == back.to_json(examples=False) == text


def test_json_is_strict_and_readable_without_modeconn():
    broken = losses()
    broken.sums[2] = math.nan
    broken.sums[3] = math.inf
    result = make(samples={"error": samples(ERRORS), "loss": broken})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads(result.to_json(), parse_constant=refuse)
    assert content["values"]["error"] == pytest.approx(ERRORS)
    assert content["values"]["loss"][2:4] == [None, "inf"]
    assert content["heights"]["error"]["barrier"] == pytest.approx(result.barrier)
    assert content["heights"]["loss"]["barrier"] is None
    assert content["ends"]["loss_l2"] is None
    assert content["ends"]["l2"] == 1.5 == result.distance
    assert same(result, Barrier.from_json(result.to_json()))


@pytest.mark.parametrize(
    "harm",
    [
        lambda c: c.update(format="modeconn barrier 0"),
        lambda c: c.pop("samples"),
        lambda c: c["ends"].pop("l2"),
        lambda c: c["samples"]["loss"]["sums"].update(zlib="AAAA"),
        lambda c: c["samples"]["loss"]["sums"].update(zlib=c["samples"]["loss"]["sums"]["zlib"][:-8]),
        lambda c: c["samples"]["loss"]["sums"].update(shape=[3, 3]),
        lambda c: c["samples"]["loss"]["sums"].update(dtype="object"),
        lambda c: c.update(ends=[1]),
        lambda c: c.update(samples=[]),
        lambda c: c.update(names=["a"]),
        lambda c: c.update(metric="nope"),
        lambda c: c.update(alphas=c["alphas"][1:]),
        lambda c: c.update(alphas="abc"),
    ],
)
def test_a_damaged_result_is_refused(harm):
    content = json.loads(make().to_json())
    harm(content)
    with pytest.raises(DataError, match="not a barrier that to_json wrote"):
        Barrier.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["{}", "{", '{"format": 1}', "  {]", make().to_json()[:-40]])
def test_what_is_no_result_is_refused(text):
    with pytest.raises(DataError, match="not a barrier that to_json wrote"):
        Barrier.from_json(text)


@pytest.mark.parametrize("name", ["missing.json", "", "[1, 2]", "."])
def test_a_file_that_is_not_there_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        Barrier.from_json(name)


def test_a_frame_has_a_row_for_each_alpha():
    result = make()
    frame = result.to_frame()
    assert list(frame.columns) == ["alpha", "error", "loss"]
    assert frame["alpha"].tolist() == ALPHAS.tolist()
    assert frame["loss"].tolist() == result.loss.tolist()


def test_in_words_it_shows_numbers_in_points_uncertainty_distance_and_notes():
    text = str(make())
    assert text.startswith("path from left to right, 5 alphas")
    rows = [line.split() for line in text.splitlines()]
    assert ["error", "%", "10", "20", "40", "0.75", "25", "23"] in rows
    low, high = make().interval(0.95)
    assert f"95 % interval {100 * low:.3g} to {100 * high:.3g} over examples" in text
    assert f"cross-fitted {100 * make().cross_fitted():.3g}" in text
    assert "L2 1.5, cosine distance 0.25, angular distance 0.5 (1 is orthogonal)." in text
    assert "predictions differ on 10 % of examples, 33.3 % of the maximum given both error rates" in text
    assert text.endswith("Note: one thing.\nNote: another.")


def test_one_example_and_no_labels_leave_those_lines_out():
    ends = replace(make().ends, disagreement=math.nan)
    one = Samples(np.ones((5, 1)), np.ones((5, 1)), "batch")
    text = str(make(samples={"m": one}, metric="m", ends=ends, notes=()))
    assert "interval" not in text
    assert "label" not in text
    assert "Note" not in text


# --- its figure


def line(ax, label: str):
    return next(drawn for drawn in ax.lines if drawn.get_label() == label)


def drawable(values=(0.1, 0.38, 0.4), metric="error", alphas=(0.0, 0.5, 1.0), **changes) -> Barrier:
    values = np.array(values)[:, None]
    return Barrier(np.array(alphas), {metric: Samples(values, np.ones_like(values))}, metric, **changes)


def test_a_barrier_has_its_curve_its_chord_and_both_heights_in_points():
    ax = drawable().plot()
    assert np.allclose(line(ax, "error").get_xydata(), [[0, 10], [0.5, 38], [1, 40]])
    assert np.allclose(line(ax, "between the ends").get_xydata(), [[0, 10], [1, 40]])
    assert np.allclose(line(ax, "mean of the ends").get_ydata(), 25)
    assert ax.get_title() == "barrier 15 points, over the chord 13"
    (arrow,) = ax.texts
    assert (arrow.xy, arrow.xyann) == ((1, pytest.approx(40)), (1, 25))
    assert ax.get_ylim()[0] == 0


def test_a_dip_of_an_accuracy_is_drawn_in_its_own_unit():
    ax = drawable((0.9, 0.5, 0.8), "accuracy", higher_is_better=frozenset({"accuracy"})).plot()
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
    ax = drawable(batchnorm=batchnorm, names=("left.pt", "right.pt")).plot()
    assert "0: left.pt, 1: right.pt" in ax.get_xlabel()
    title = ax.get_legend().get_title().get_text()
    assert said in title
    assert bool(title) == bool(said)


def test_a_barrier_goes_on_the_axes_it_is_given_and_any_metric_is_drawn():
    ax = Figure().subplots()
    assert drawable().plot(ax, metric="error") is ax
    with pytest.raises(OptionError, match="did you mean 'error'"):
        drawable().plot(metric="eror")


@pytest.mark.parametrize("values", [(0.1, np.nan, 0.4), (0.2, np.inf, 0.4), (0.2, 0.2, 0.2)])
def test_a_curve_with_gaps_or_without_a_rise_has_no_arrow(values):
    ax = drawable(values, "loss").plot()
    ax.figure.draw_without_rendering()
    assert not ax.texts


def test_a_path_beyond_its_ends_is_drawn_as_far_as_it_goes():
    ax = drawable((0.5, 0.1, 0.2, 0.1, 0.9), alphas=(-0.5, 0, 0.5, 1, 2.0)).plot()
    assert ax.get_xlim() == (-0.5, 2)
    assert ax.get_title() == "barrier 10 points, over the chord 10"
