"""`sharpness` on anyone's network and data: against whole Hessians, and what it says, keeps and refuses."""

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call, hessian

import modeconn
from modeconn.analysis.landscape.curvature.sharpness_result import Sharpness
from modeconn.errors import DataError, NetworkError, OptionError

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def made(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def with_batchnorm(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))
    network(2 * X + 1)
    return network


def whole_hessian(network: nn.Module, x: Tensor = X, y: Tensor = Y) -> np.ndarray:
    network = copy.deepcopy(network).double().eval()
    named = dict(network.named_parameters())
    sizes = [parameter.numel() for parameter in named.values()]

    def value(flat: Tensor) -> Tensor:
        parts = {name: part.view(p.shape) for (name, p), part in zip(named.items(), flat.split(sizes), strict=True)}
        return nn.functional.cross_entropy(functional_call(network, parts, (x.double(),)), y)

    return hessian(value)(torch.cat([p.detach().reshape(-1) for p in named.values()])).numpy()


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("make", [made, with_batchnorm])
def test_eigenvalues_are_those_of_the_whole_hessian(make: Any, double: bool) -> None:
    network = make()
    whole = np.linalg.eigvalsh(whole_hessian(network))
    tolerance = 1e-8 if double else 1e-4
    found = modeconn.sharpness(network, (X, Y), 5, double=double, tolerance=tolerance, batch_size=7)
    np.testing.assert_allclose(found.eigenvalues, whole[::-1][:5], atol=1e-8 if double else 1e-5)
    assert found.largest == found.eigenvalues[0]
    low = modeconn.sharpness(network, (X, Y), 2, which="smallest", double=double, tolerance=tolerance)
    np.testing.assert_allclose(low.eigenvalues, whole[:2], atol=1e-8 if double else 1e-5)
    assert low.eigenvalues[0] < 0
    assert found.parameters == len(whole)
    assert found.measured_as == "cross-entropy on 24 examples"
    with torch.no_grad():
        expected = nn.functional.cross_entropy(copy.deepcopy(network).eval()(X), Y)
    assert found.loss == pytest.approx(float(expected), rel=1e-6)


def test_directions_are_eigenvectors_by_the_names_of_the_network(tmp_path: Path) -> None:
    network = made()
    found = modeconn.sharpness(network, (X, Y), 3, tolerance=1e-4, double=True)
    matrix = whole_hessian(network)
    flat = [torch.cat([part.reshape(-1) for part in direction.values()]).numpy() for direction in found.directions]
    np.testing.assert_allclose(np.stack(flat) @ np.stack(flat).T, np.eye(3), atol=1e-10)
    for direction, vector, row in zip(found.directions, flat, found.rows(), strict=True):
        assert {n: p.shape for n, p in direction.items()} == {n: p.shape for n, p in network.named_parameters()}
        residual = np.linalg.norm(matrix @ vector - row["eigenvalue"] * vector)
        assert residual == pytest.approx(row["residual"], abs=1e-8)
        assert residual <= 1e-4 * np.abs(found.eigenvalues).max() * 1.01
    first, *_ = found.save_directions(tmp_path / "vectors")
    assert load_file(first).keys() == found.directions[0].keys()


def test_the_trace_is_within_its_error() -> None:
    network = made()
    exact = float(np.trace(whole_hessian(network)))
    found = modeconn.sharpness(network, (X, Y), 2, trace=50)
    assert abs(found.trace - exact) < 4 * found.trace_error
    assert f"Trace {found.trace:.5g} +- {found.trace_error:.2g} (50 random vectors)." in str(found)
    whole = modeconn.sharpness(network, (X, Y), found.parameters, trace=1)  # nothing is left to chance
    assert whole.trace == pytest.approx(exact, abs=1e-4)
    assert np.isnan(whole.trace_error)


def test_gauss_newton_has_no_negative_eigenvalues() -> None:
    found = modeconn.sharpness(made(), (X, Y), 2, kind="gauss-newton", which="smallest", double=True)
    assert found.eigenvalues.min() > -1e-12
    assert str(found).startswith("Gauss-Newton matrix of cross-entropy on 24 examples, 43 parameters\n")


def test_every_form_of_a_network_gives_the_same(tmp_path: Path) -> None:
    network = made()
    expected = modeconn.sharpness(network, (X, Y), 3)
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=5)
    sources: list[tuple[Any, Any]] = [
        (network.state_dict(), (X, Y)),
        (tmp_path / "a.safetensors", loader),
        (copy.deepcopy(network).half().float(), [(X, Y)]),
    ]
    for source, data in sources:
        found = modeconn.sharpness(source, data, 3, model=made)
        np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, rtol=2e-3)


def test_recalibrated_statistics_are_those_that_are_measured_anew() -> None:
    network = with_batchnorm()
    anew = modeconn.recalibrate(network, [X]).network
    whole = np.linalg.eigvalsh(whole_hessian(anew))
    found = modeconn.sharpness(network, (X, Y), 2, batchnorm="recalibrate", calibration=[X], tolerance=1e-4)
    np.testing.assert_allclose(found.eigenvalues, whole[::-1][:2], atol=1e-5)
    plain = modeconn.sharpness(network, (X, Y), 2)
    assert abs(plain.eigenvalues[0] - found.eigenvalues[0]) > 1e-3
    assert "running statistics of 1 layer are used as they are" in " ".join(plain.notes)
    assert "interpolated" not in " ".join(plain.notes)


def test_half_precision_is_differentiated_in_float32() -> None:
    network = made().to(torch.bfloat16)
    whole = np.linalg.eigvalsh(whole_hessian(network.float()))
    network.to(torch.bfloat16)
    found = modeconn.sharpness(network, (X, Y), 1)
    assert found.largest == pytest.approx(whole[-1], rel=1e-3)


def test_nothing_of_the_callers_changes() -> None:
    network = with_batchnorm()
    network[0].requires_grad_(False)
    network(X).sum().backward()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gradients = [p.grad is not None and p.grad.clone() for p in network.parameters()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    found = modeconn.sharpness(network, (X, Y), 2, trace=2)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True, True, True]
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert gradient is False or torch.equal(parameter.grad, gradient)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert found.parameters == 28  # 25 are frozen, which is said
    assert "left out: 0.weight, 0.bias" in " ".join(found.notes)
    again = modeconn.sharpness(network, (X, Y), 2, trace=2)
    assert again.to_json() == found.to_json()


def test_the_result_is_read_back_and_drawn() -> None:
    found = modeconn.sharpness(made(), (X, Y), 3, trace=1)
    again = Sharpness.from_json(found.to_json())
    assert str(again) == str(found)
    assert again.to_json() == found.to_json()
    assert list(again.to_frame().columns) == ["rank", "eigenvalue", "residual"]
    assert again.plot().get_ylabel() == "eigenvalue of the Hessian"
    for bad in ({"kind": "other"}, {"residuals": [1.0]}, {"format": "modeconn barrier 1"}):
        with pytest.raises(DataError, match="not a sharpness"):
            Sharpness.from_content({**found.content(), **bad})


def test_eigenvectors_of_a_file_are_not_saved(tmp_path: Path) -> None:
    again = Sharpness.from_json(modeconn.sharpness(made(), (X, Y), 1).to_json())
    with pytest.raises(OptionError, match="has no eigenvectors"):
        again.save_directions(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_products_are_said() -> None:
    found = modeconn.sharpness(made(), (X, Y), 4, products=4, tolerance=1e-4)
    assert found.products == 8
    assert "residuals above the tolerance" in str(found)


def test_examples_are_the_first() -> None:
    found = modeconn.sharpness(made(), (X, Y), 1, examples=10)
    assert found.largest == pytest.approx(modeconn.sharpness(made(), (X[:10], Y[:10]), 1).largest, rel=1e-4)
    assert found.measured_as == "cross-entropy on 10 examples"
    assert "the first 10 examples are taken" in " ".join(found.notes)


def test_an_own_loss_needs_no_metric() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(x), self.b(x)

    def loss(network: nn.Module, batch: Any) -> Tensor:
        a, b = network(batch[0])
        return (a - b).square().mean()

    found = modeconn.sharpness(Two(), [(X,)], 1, loss=loss)
    assert found.measured_as == "loss=loss on 24 examples"
    assert found.largest > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 44}, "k=44 eigenvalues of a network with 43 parameters"),
        ({"k": 0}, "k must be a whole number of at least 1"),
        ({"loss": "mse"}, "loss= is a function"),
        ({"kind": "hesian"}, "did you mean 'hessian'"),
        ({"which": "top"}, "unknown order of eigenvalues"),
        ({"trace": -1}, "trace must be a number of random vectors"),
        ({"tolerance": 0}, "the tolerance is in"),
        ({"tolerance": 1e-7}, "beyond float32; take double=True"),
        ({"products": 3}, "at least k = 10"),
        ({"precision": "bfloat16"}, "leave out precision="),
        ({"batchnorm": "repair"}, "repair is for networks between two others"),
        ({"examples": 0}, "examples must be a whole number of at least 1"),
        ({"data": None}, "give data"),
        ({"data": "train"}, "give data"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        modeconn.sharpness(made(), **{"data": (X, Y), **options})


def test_whole_numbers_of_other_types_are_numbers() -> None:
    found = modeconn.sharpness(made(), (X, Y), np.int64(1), trace=True, seed=np.int32(0), tolerance=np.float32(0.001))
    assert Sharpness.from_json(found.to_json()).settings["seed"] == 0
    assert (len(found.eigenvalues), found.trace_samples) == (1, 1)


def test_networks_that_diverged_are_refused() -> None:
    network = made()
    with torch.no_grad():
        network[0].weight[0, 0] = torch.nan
    with pytest.raises((DataError, NetworkError), match=r"nan|NaN"):
        modeconn.sharpness(network, (X, Y), 1)


def test_progress_is_reported_after_each_product() -> None:
    seen: list[int] = []
    found = modeconn.sharpness(made(), (X, Y), 2, trace=3, report=lambda progress: seen.append(progress.done))
    assert seen == list(range(1, found.products + 1))


def test_a_stored_run_knows_its_training_data(tmp_path: Path) -> None:
    task = modeconn.get_task("digits-conv", width=0.25).shortened(6)
    run = modeconn.train(task, store=tmp_path / "store", workers=0)
    found = modeconn.sharpness(run.folders[6], k=1, examples=60)
    images, labels = next(iter(run.training.batches("train")))
    direct = modeconn.sharpness(run.network(), (images[:60], labels[:60]), 1)
    assert found.largest == pytest.approx(direct.largest, rel=1e-3)
    assert modeconn.sharpness(run, k=1, examples=60).largest == pytest.approx(found.largest, rel=1e-3)
