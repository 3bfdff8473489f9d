"""Projections on planes, and principal directions of trajectories, against plain NumPy."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modeconn import Run, plane, train, trajectory_plane
from modeconn.analysis.landscape.planes.frame import frame_of_steps, frame_through
from modeconn.analysis.landscape.planes.members import members_of
from modeconn.analysis.landscape.planes.principal import principal_directions, products_of
from modeconn.errors import NetworkError, OptionError
from modeconn.weights.state_dicts import Weights

INPUTS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
DATA = INPUTS, (INPUTS[:, 0] > 0).long()


def weights(vector: np.ndarray) -> Weights:
    """A vector as a network of two tensors."""
    tensors = {"first": torch.tensor(vector[:2]), "second": torch.tensor(vector[2:]).reshape(-1, 1)}
    return Weights({name: t.to("meta") for name, t in tensors.items()}, tensors.__getitem__, "here")


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def vector(module: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().flatten().double() for p in module.parameters()]).numpy()


NAMES = ("first", "second")
VECTORS = st.lists(st.lists(st.floats(-4, 4), min_size=6, max_size=6), min_size=4, max_size=4)


@given(rows=VECTORS)
def test_what_is_left_is_orthogonal_to_the_axes(rows):
    p, q, r, w = np.array(rows)
    try:
        frame = frame_through([weights(one) for one in (p, q, r)], "abc", NAMES)
    except NetworkError:
        return
    u = (q - p) / np.linalg.norm(q - p)
    v = (r - p) - ((r - p) @ u) * u
    v /= np.linalg.norm(v)
    ((x, y), distance), *_ = frame.places([weights(w)])
    near = p + x * u + y * v
    scale = 1 + np.abs(rows).max()
    assert abs((w - near) @ u) < 1e-6 * scale
    assert abs((w - near) @ v) < 1e-6 * scale
    assert distance == pytest.approx(np.linalg.norm(w - p - ((w - p) @ u) * u - ((w - p) @ v) * v), abs=1e-6 * scale)


@given(rows=VECTORS, s=st.floats(-3, 3), t=st.floats(-3, 3))
def test_a_point_of_the_plane_is_found_again_where_it_is(rows, s, t):
    p, q, r, _ = np.array(rows)
    try:
        frame = frame_through([weights(one) for one in (p, q, r)], "abc", NAMES)
    except NetworkError:
        return
    place = frame.triangle @ (s, t)
    point = p + s * (q - p) + t * (r - p)
    (found, distance), *_ = frame.places([weights(point)])
    scale = 1 + np.abs(rows).max() * (1 + abs(s) + abs(t))
    assert found == pytest.approx(tuple(place), abs=1e-5 * scale)
    assert distance < 1e-6 * scale
    mixed = np.array(frame.coefficients(found)) @ [p, q, r]
    assert mixed == pytest.approx(point, abs=1e-5 * scale)


def test_a_small_distance_beside_large_weights_is_not_lost():
    p, q, r = 1e4 * np.eye(6)[:3]
    beside = p + (q - p) * 0.3 + np.array([0, 0, 0, 1e-6, 0, 0])
    frame = frame_through([weights(one) for one in (p, q, r)], "abc", NAMES)
    (_, distance), *_ = frame.places([weights(beside)])
    assert distance == pytest.approx(1e-6, rel=1e-3)


@pytest.mark.parametrize("shift", [0.0, 1e-9])
def test_three_networks_on_one_line_are_refused(shift):
    p, q = np.random.default_rng(0).normal(size=(2, 6))
    r = p + 0.4 * (q - p) + shift * np.arange(6)
    with pytest.raises(NetworkError, match=r"^x, y, z are on one line.*error_barrier"):
        frame_through([weights(one.astype(np.float32)) for one in (p, q, r)], "xyz", NAMES)


def test_fine_tunes_in_half_precision_span_a_plane():
    """They differ by little more than its last bits, and points between them are computed in float32."""
    draw = np.random.default_rng(0)
    base = draw.normal(size=600)
    rows = [torch.tensor(base + 0.01 * draw.normal(size=600)).bfloat16().double().numpy() for _ in range(3)]
    three = []
    for row in rows:
        tensor = torch.tensor(row).bfloat16()
        three.append(Weights({"w": tensor.to("meta")}, {"w": tensor}.__getitem__, "here"))
    frame = frame_through(three, "abc", ["w"])
    assert frame.triangle[0, 0] == pytest.approx(np.linalg.norm(rows[1] - rows[0]))


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2)])
def test_two_equal_networks_are_named(pair):
    rows = list(np.random.default_rng(0).normal(size=(3, 6)))
    rows[pair[1]] = rows[pair[0]]
    with pytest.raises(NetworkError, match=f"{'xyz'[pair[0]]} and {'xyz'[pair[1]]} have equal weights"):
        frame_through([weights(one) for one in rows], "xyz", NAMES)


def test_axes_that_are_not_orthogonal_are_projected_on_all_the_same():
    origin, one, other, w = np.random.default_rng(1).normal(size=(4, 6))
    frame = frame_of_steps(weights(origin), [weights(one), weights(other)], NAMES)
    expected, *_ = np.linalg.lstsq(np.stack([one, other]).T, w - origin, rcond=None)
    (found, distance), *_ = frame.places([weights(w)])
    assert found == pytest.approx(tuple(expected))
    assert distance == pytest.approx(np.linalg.norm(w - origin - np.stack([one, other]).T @ expected))
    assert frame.lengths == pytest.approx((np.linalg.norm(one), np.linalg.norm(other)))
    assert frame.cosine == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), states=st.integers(3, 8))
def test_principal_directions_are_those_of_numpys_decomposition(seed, states):
    rows = np.random.default_rng(seed).normal(size=(states, 7)) * np.arange(1, 8)
    centred = rows - rows.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    gram = products_of([weights(row) for row in rows], NAMES)
    assert gram == pytest.approx(centred @ centred.T, abs=1e-9 * np.abs(gram).max())
    found = principal_directions(gram, 2)
    assert found.explained == pytest.approx(singular[:2] ** 2 / (singular**2).sum())
    ours = found.coefficients @ rows
    for direction, expected in zip(ours, directions[:2], strict=True):
        assert abs(direction @ expected) == pytest.approx(1, abs=1e-6)
        assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-6)
        assert (rows[-1] - rows[0]) @ direction >= -1e-6 * np.abs(rows).max()


def test_a_trajectory_is_drawn_where_numpy_says():
    states = [network(seed) for seed in range(6)]
    found = trajectory_plane(states, DATA, points=3)
    rows = np.stack([vector(state) for state in states])
    centred = rows - rows.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    assert [axis.explained for axis in found.axes] == pytest.approx(singular[:2] ** 2 / (singular**2).sum(), rel=1e-6)
    for place, row in zip(found.paths()["trajectory"], rows, strict=True):
        moved = row - rows[-1]
        coordinates = directions[:2] @ moved
        assert (abs(place.x), abs(place.y)) == pytest.approx(tuple(np.abs(coordinates)), abs=1e-5)
        assert place.distance == pytest.approx(np.linalg.norm(moved - directions[:2].T @ coordinates), abs=1e-5)
    assert found.paths()["trajectory"][-1].distance == 0
    assert [axis.length for axis in found.axes] == pytest.approx([1, 1], rel=1e-5)


def test_the_plane_around_the_mean_goes_through_the_average_of_all_states():
    states = [network(seed) for seed in range(4)]
    found = trajectory_plane(states, DATA, points=3, around="mean")
    mean = copy.deepcopy(states[0]).eval()
    tensors = [state.state_dict() for state in states]
    mean.load_state_dict(
        {
            name: torch.stack([of[name].double() for of in tensors]).mean(0).to(tensor.dtype)
            for name, tensor in tensors[0].items()
        }
    )
    with torch.no_grad():
        expected = nn.functional.cross_entropy(mean(DATA[0]), DATA[1])
    (own,) = [place for place in found.places if place.values]
    assert own.values["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert sum(place.x for place in found.paths()["trajectory"]) == pytest.approx(0, abs=1e-5)


def test_a_trajectory_of_too_few_states_or_on_one_line_is_refused():
    a, b = network(0), network(1)
    with pytest.raises(OptionError, match="at least 3 states"):
        trajectory_plane([a, b], DATA)
    between = copy.deepcopy(a)
    with torch.no_grad():
        for p, q in zip(between.parameters(), b.parameters(), strict=True):
            p.add_(0.25 * (q - p))
    with pytest.raises(NetworkError, match="on one line"):
        trajectory_plane([a, a, a], DATA)
    with pytest.raises(OptionError, match="unknown place of the plane 'first'"):
        trajectory_plane([a, b, between], DATA, around="first")
    with pytest.raises(OptionError, match="a trajectory is a list of networks"):
        trajectory_plane(a, DATA)


def test_networks_and_trajectories_are_projected_by_name():
    three = [network(seed) for seed in range(3)]
    beside = network(7)
    path = [network(seed) for seed in (8, 9)]
    found = plane(*three, DATA, points=2, also={"SWA": beside, "training": path})
    rows = np.stack([vector(one) for one in three])
    u = (rows[1] - rows[0]) / np.linalg.norm(rows[1] - rows[0])
    v = (rows[2] - rows[0]) - ((rows[2] - rows[0]) @ u) * u
    v /= np.linalg.norm(v)
    for place, one in zip(found.places[3:], [beside, *path], strict=True):
        moved = vector(one) - rows[0]
        assert (place.x, place.y) == pytest.approx((moved @ u, moved @ v), rel=1e-6)
        assert place.distance == pytest.approx(np.linalg.norm(moved - (moved @ u) * u - (moved @ v) * v), rel=1e-6)
        assert place.values == {}
    assert [place.name for place in found.places] == ["a", "b", "c", "SWA", "0", "1"]
    assert [place.name for place in found.paths()["training"]] == ["0", "1"]
    inside = [found.x.min() < place.x < found.x.max() for place in found.places]
    assert all(inside)


def test_one_network_beside_needs_no_list():
    three = [network(seed) for seed in range(3)]
    for also in (network(5), network(5).state_dict(), [network(5)]):
        found = plane(*three, DATA, points=2, also=also)
        assert [place.name for place in found.places][3:] == ["also 1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Run:
    store = tmp_path_factory.mktemp("store")
    how = {"iterations": 8, "workers": 0, "store": store, "data_dir": data_dir, "device": "cpu"}
    return train("digits-conv", save_at="0,2,4,6", **how)


def test_a_stored_run_is_its_states_on_its_own_data(run, data_dir):
    """The states are read from their files; the folder of the last one and the run are the same trajectory."""
    found = trajectory_plane(run, points=2)
    states = [run.network(iteration) for iteration in (0, 2, 4, 6, 8)]
    as_modules = trajectory_plane(states, run.training.batches("test"), points=2)
    assert [place.name for place in found.paths()["trajectory"]] == ["0", "2", "4", "6", "8"]
    for metric in found.metrics:
        assert found.values[metric] == pytest.approx(as_modules.values[metric], rel=1e-5)
    by_folder = trajectory_plane(str(run.folders[8]), points=2, data_dir=data_dir)
    assert by_folder.values["loss"].tolist() == found.values["loss"].tolist()
    (own,) = [place for place in found.places if place.values]
    assert own.name == "iteration 8"


def test_a_run_beside_a_plane_is_its_trajectory(run, data_dir):
    ends = [run.network(iteration) for iteration in (0, 4, 8)]
    found = plane(*ends, run.training.batches("test"), points=2, also={"run": run})
    path = found.paths()["run"]
    assert [place.name for place in path] == ["0", "2", "4", "6", "8"]
    assert [place.distance < 1e-5 for place in path] == [True, False, True, False, True]
    assert (path[0].x, path[0].y) == pytest.approx((0, 0), abs=1e-5)


def test_files_of_one_name_in_several_folders_are_told_apart(tmp_path):
    files = [tmp_path / folder / "net.pt" for folder in ("one", "two", "three")]
    networks = [nn.Linear(4, 2) for _ in files]
    for file, network in zip(files, networks, strict=True):
        file.parent.mkdir()
        torch.save(network.state_dict(), file)
    assert [member.name for member in members_of(files[1:], ["net.pt"])] == [str(file) for file in files[1:]]
    assert [member.name for member in members_of(files[:1], ["net.pt"])] == [str(files[0])]
    assert [member.name for member in members_of(files[:1], ["other.pt"])] == ["net.pt"]
