"""What a `Plane` says, saves and draws."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import nn

from modeconn import directions, plane, trajectory_plane
from modeconn.analysis.landscape.planes.plane_drawing import levels_of
from modeconn.analysis.landscape.planes.plane_result import Plane
from modeconn.errors import DataError, OptionError

INPUTS = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
DATA = INPUTS, (INPUTS[:, 0] > 0).long()


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()


@pytest.fixture(scope="module")
def found() -> Plane:
    three = [network(seed) for seed in range(3)]
    also = {"SWA": network(7), "training": [network(8), network(9)]}
    return plane(*three, DATA, points=(4, 3), refine=2, also=also)


@pytest.fixture(scope="module")
def line() -> Plane:
    return directions(network(0), DATA, points=5)


@pytest.fixture(scope="module")
def principal() -> Plane:
    return trajectory_plane([network(seed) for seed in range(4)], DATA, points=3)


@pytest.mark.parametrize("name", ["found", "line", "principal"])
def test_json_gives_the_same_result_again(name, request, tmp_path):
    one = request.getfixturevalue(name)
    text = one.to_json(tmp_path / "plane.json")
    for again in (Plane.from_json(text), Plane.from_json(tmp_path / "plane.json")):
        assert again.to_json() == text
        assert str(again) == str(one)
        assert again.shape == one.shape
        assert np.array_equal(again.grid("loss"), one.grid("loss"))


def test_nan_and_infinity_survive_json(found):
    values = {name: of.copy() for name, of in found.values.items()}
    values["loss"][0], values["loss"][1] = np.nan, np.inf
    again = Plane.from_json(replace(found, values=values).to_json())
    assert math.isnan(again.values["loss"][0])
    assert again.values["loss"][1] == math.inf
    assert str(again)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("x"),
        lambda content: content.update(metric="height"),
        lambda content: content.update(shape=[40, 30]),
        lambda content: content["metrics"].update(loss=[1.0]),
        lambda content: content.update(format="modeconn barrier 1"),
        lambda content: content.update(axes=[]),
    ],
)
def test_damaged_json_is_refused(found, damage):
    content = json.loads(found.to_json())
    damage(content)
    with pytest.raises(DataError, match="this is not a plane that to_json wrote"):
        Plane.from_json(json.dumps(content))


def test_the_text_says_the_lowest_and_the_highest_and_every_network(found):
    text = str(found)
    x, y, loss = found.everywhere("loss")
    at = int(np.argmin(loss))
    assert f"{loss[at]:.4g}" in text
    assert f"({x[at]:.3g}, {y[at]:.3g})" in text
    assert f"{loss.max():.4g}" in text
    for name in "abc":
        assert f"{found.place(name).values['loss']:.4g}" in text
    assert f"SWA is at ({found.place('SWA').x:.3g}, {found.place('SWA').y:.3g})" in text
    assert f"{found.place('SWA').distance:.3g} from the plane" in text
    assert "training, 2 states: " in text
    assert "4 x 3 points and 2 more" in text


def test_rows_have_every_point_and_network_once(found, line):
    rows = found.rows()
    assert [row["point"] for row in rows] == ["grid"] * 12 + ["refined"] * 2 + ["network"] * 3 + ["projected"] * 3
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert rows[14]["name"] == "a"
    assert rows[14]["loss"] == found.place("a").values["loss"]
    assert rows[-1]["name"] == "training 1"
    assert math.isnan(rows[-1]["loss"])
    assert "y" not in line.rows()[0]
    assert len(list(csv.DictReader(io.StringIO(found.to_frame().to_csv())))) == len(rows)


def test_rows_go_from_left_to_right_and_up(found):
    assert found.grid("loss").shape == (3, 4)
    assert found.grid("loss")[1, 2] == found.values["loss"][6]
    assert (np.diff(found.x[:4]) > 0).all()
    assert (found.y[:4] == found.y[0]).all()
    assert found.y[4] > found.y[0]


@pytest.mark.parametrize("name", ["found", "line", "principal"])
@pytest.mark.parametrize("metric", ["error", "loss"])
def test_everything_is_drawn_and_says_what_was_done_to_statistics(name, metric, request):
    one = request.getfixturevalue(name)
    for kind in ("contour", "surface"):
        for log in (None, True, False):
            ax = one.plot(kind, metric, log=log)
            ax.figure.canvas.draw()
            assert "statistics interpolated" in ax.get_title()
    labels = [text.get_text() for text in request.getfixturevalue("found").plot().texts]
    assert labels[:3] == ["a", "b", "c"]
    assert any("away" in label for label in labels)


def test_values_that_are_not_finite_are_grey_and_a_constant_can_be_drawn(found):
    values = {name: of.copy() for name, of in found.values.items()}
    values["loss"][3] = np.inf
    values["loss"][5] = np.nan
    for kind in ("contour", "surface"):
        replace(found, values=values).plot(kind, "loss").figure.canvas.draw()
    same = {"loss": np.full(len(found.x), 2.0), "error": np.full(len(found.x), np.nan)}
    places = tuple(replace(place, values={}) for place in found.places)
    for metric in same:
        for kind in ("contour", "surface"):
            replace(found, values=same, places=places).plot(kind, metric).figure.canvas.draw()


def test_a_loss_that_explodes_keeps_its_valley():
    values = np.append(np.linspace(0.1, 2, 50), [1e9, 1e12])
    levels, above = levels_of(values, "loss")
    assert above
    assert levels[-1] == pytest.approx(1000)
    assert np.diff(np.log(levels)) == pytest.approx(np.full(15, np.diff(np.log(levels))[0]))
    assert (levels < 2).sum() >= 5
    even, cut = levels_of(values, "loss", log=False)
    assert cut
    assert even[-1] < 10
    errors, beyond = levels_of(np.array([0.0, 0.5, 0.9]), "error")
    assert not beyond
    assert (errors[0], errors[-1]) == (0.0, 0.9)


def test_pictures_can_share_their_levels(found):
    ax = found.plot("contour", "loss", levels=[0.0, 0.5, 0.6], colorbar=False)
    assert len(ax.figure.axes) == 1
    ax = found.plot("contour", "loss", levels=[0.0, 0.5, 0.6])
    assert "0.6 and above in the last colour" in ax.figure.axes[1].get_ylabel()


def test_what_cannot_be_drawn_is_named(found):
    with pytest.raises(OptionError, match="did you mean 'contour'"):
        found.plot("contours")
    with pytest.raises(OptionError, match="unknown metric 'height'"):
        found.plot(metric="height")
    with pytest.raises(OptionError, match="levels must be at least two ascending numbers"):
        found.plot(levels=[1.0, 0.5])
    with pytest.raises(OptionError, match="unknown network 'd'"):
        found.place("d")


def test_the_legend_is_below_the_label_of_a_flat_plane():
    first = network(0)
    states = []
    for at in range(5):  # nearly on one line
        state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
        state["0.weight"] += at
        state["3.weight"][0, 0] += 0.3 * (at - 2) ** 2
        states.append(state)
    ax = trajectory_plane(states, DATA, points=3, model=first).plot()
    FigureCanvasAgg(ax.figure).draw()  # type: ignore[arg-type]
    legend, label = ax.get_legend().get_window_extent(), ax.xaxis.label.get_window_extent()
    assert legend.y1 < label.y0
