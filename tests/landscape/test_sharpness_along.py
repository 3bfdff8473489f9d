"""Sharpness along paths and curves, and over trainings, against that of each network alone."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import modeconn
from modeconn.analysis.landscape.curvature.along import _steps_of, sharpness_along, sharpness_over
from modeconn.analysis.landscape.curvature.sharpness_series import SharpnessSeries
from modeconn.errors import DataError, OptionError

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def made(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    network(X)
    return network


def between(a: nn.Module, b: nn.Module, alpha: float) -> nn.Module:
    other = copy.deepcopy(a)
    states = a.state_dict(), b.state_dict()
    mixed = {
        name: (1 - alpha) * states[0][name] + alpha * states[1][name] if tensor.is_floating_point() else tensor
        for name, tensor in states[0].items()
    }
    other.load_state_dict(mixed)
    return other


@pytest.mark.parametrize("batchnorm", ["interpolate", "recalibrate"])
def test_points_of_a_path_are_networks_of_their_own(batchnorm: str) -> None:
    a, b = made(1), made(2)
    how = {"batchnorm": batchnorm, "calibration": [X]}
    found = sharpness_along(a, b, (X, Y), 2, alphas=[0, 0.3, 1], trace=2, **how)  # type: ignore[arg-type]
    alone = [modeconn.sharpness(between(a, b, alpha), (X, Y), 2, trace=2, **how) for alpha in (0, 0.3, 1)]  # type: ignore[arg-type]
    np.testing.assert_allclose(found.eigenvalues, [one.eigenvalues for one in alone], rtol=1e-3)
    np.testing.assert_allclose(found.trace, [one.trace for one in alone], rtol=1e-3)
    np.testing.assert_allclose(found.loss, [one.loss for one in alone], rtol=1e-5)
    assert found.over == "alpha"
    assert found.products == sum(one.products for one in found.points)


def test_points_of_a_curve_are_its_states() -> None:
    a, b = made(1), made(2)

    class Curve:
        def state_at(self, t: float) -> dict[str, Tensor]:
            return between(a, b, t**2).state_dict()

    found = sharpness_along(Curve(), data=(X, Y), alphas=3, model=made)
    alone = [modeconn.sharpness(between(a, b, t**2), (X, Y), 1).largest for t in (0, 0.5, 1)]
    np.testing.assert_allclose(found.largest, alone, rtol=1e-3)
    with pytest.raises(OptionError, match="give two networks, or a curve alone"):
        sharpness_along(Curve(), b, (X, Y), model=made)
    with pytest.raises(OptionError, match="give two networks, or a curve alone"):
        sharpness_along(a, data=(X, Y))


def test_a_fitted_curve_knows_its_network() -> None:
    curve = modeconn.fit_curve(made(1), made(2), (X, Y), epochs=1)
    found = sharpness_along(curve, data=(X, Y), alphas=3)
    alone = [modeconn.sharpness(curve.state_at(t), (X, Y), 1, model=made).largest for t in (0, 0.5, 1)]
    np.testing.assert_allclose(found.largest, alone, rtol=1e-3)


def test_checkpoints_are_in_their_order_and_at_their_steps(tmp_path: Path) -> None:
    networks = [made(seed) for seed in range(3)]
    files = [tmp_path / f"step-{step}.safetensors" for step in (5, 20, 100)]
    for network, file in zip(networks, files, strict=True):
        save_file(network.state_dict(), file)
    found = sharpness_over(files, (X, Y), model=made)
    assert (found.places, found.over) == ((5.0, 20.0, 100.0), "step")
    np.testing.assert_allclose(found.largest, sharpness_over(networks, (X, Y)).largest, rtol=1e-3)
    assert sharpness_over(networks, (X, Y)).over == "checkpoint"
    with pytest.raises(OptionError, match="give the folder of a stored state"):
        sharpness_over(tmp_path, (X, Y), model=made)
    for none in (networks[0], networks[0].state_dict(), None, 3):
        with pytest.raises(OptionError, match="is no training; give a "):
            sharpness_over(none, (X, Y), model=made)
    with pytest.raises(OptionError, match="absent does not exist"):
        sharpness_over(tmp_path / "absent", (X, Y), model=made)
    with pytest.raises(OptionError, match="there are no checkpoints"):
        sharpness_over([], (X, Y))


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["resnet20-5.pt", "resnet20-100.pt"], (5, 100)),
        (["epoch=01-val_loss=0.32.ckpt", "epoch=02-val_loss=0.27.ckpt"], (1, 2)),
        (["epoch=1-step=40.ckpt", "epoch=2-step=80.ckpt"], (40, 80)),
        (["Iter_300_0.91.pt", "Iter_600_0.93.pt"], (300, 600)),
        ([Path("model-7.pt")], (7,)),
        (["resnet20.pt", "vgg16.pt"], None),
        (["acc-0.91.pt", "acc-0.93.pt"], None),
        (["run1-2.pt", "run2-4.pt"], None),
        (["a/model-1.pt", "b/model-1.pt"], None),
        (["step-1.pt", {}], None),
    ],
)
def test_steps_are_read_from_names_only_where_they_are_plain(names: list[Any], places: tuple[int, ...] | None) -> None:
    assert _steps_of(names) == places


def test_a_stored_training_is_measured_at_all_its_states(tmp_path: Path) -> None:
    task = modeconn.get_task("digits-conv", width=0.25).shortened(8)
    run = modeconn.train(task, save_at=[0, 4], store=tmp_path / "store", workers=0)
    found = sharpness_over(run, examples=40)
    assert found.places == (0.0, 4.0, 8.0)
    again = sharpness_over(run.folders[8], examples=40)
    assert again.places == found.places
    np.testing.assert_allclose(again.largest, found.largest, rtol=1e-4)
    one = modeconn.sharpness(run.folders[4], k=1, examples=40)
    assert found.largest[1] == pytest.approx(one.largest, rel=1e-3)


def test_a_series_is_read_back_and_drawn() -> None:
    found = sharpness_along(made(1), made(2), (X, Y), 2, alphas=3, trace=1)
    again = SharpnessSeries.from_json(found.to_json())
    assert (again.to_json(), str(again)) == (found.to_json(), str(found))
    assert list(again.to_frame().columns) == [
        *("alpha", "rank", "eigenvalue", "residual", "trace", "trace_error", "loss")
    ]
    assert len(again.plot().lines) == 2
    with pytest.raises(DataError, match="not a series of sharpness"):
        SharpnessSeries.from_content({**found.content(), "loss": [1.0]})
