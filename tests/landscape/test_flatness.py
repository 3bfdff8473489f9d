"""Worst cases and noise around a network, against closed forms and plain loops."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import modeconn
from modeconn.analysis.landscape.curvature.adaptive import AdaptiveSharpness, adaptive_sharpness
from modeconn.analysis.landscape.curvature.flatness import Flatness, flatness
from modeconn.errors import DataError, OptionError

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def made(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def squared(network: nn.Module, batch: Any) -> Tensor:
    return (network(batch[0]) - batch[1]).square().mean()


def regression() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    line = nn.Linear(4, 1, bias=False)
    return line, (X, X @ torch.tensor([[1.0], [-2.0], [0.5], [0.1]]) + 0.1 * torch.randn(24, 1))


def highest_rise(network: nn.Module, data: tuple[Tensor, Tensor], rho: float, adaptive: bool) -> float:
    """Of a quadratic loss in a ball, by the secular equation (a trust-region problem, More & Sorensen 1983)."""
    x, y = (part.double().numpy() for part in data)
    w = network.weight.detach().double().numpy().ravel()  # type: ignore[union-attr, operator]
    t = np.abs(w) if adaptive else np.ones_like(w)
    h = t[:, None] * (2 / len(x) * x.T @ x) * t
    g = t * (2 / len(x) * x.T @ (x @ w - y.ravel()))
    values, vectors = np.linalg.eigh(h)
    low, high = values[-1] + 1e-12, values[-1] + np.linalg.norm(g) / rho + 1
    for _ in range(200):
        middle = (low + high) / 2
        length = np.linalg.norm((vectors.T @ g) / (middle - values))
        low, high = (middle, high) if length > rho else (low, middle)
    d = vectors @ ((vectors.T @ g) / (low - values))
    return float(g @ d + d @ h @ d / 2)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("rho", [0.05, 1.0])
def test_the_worst_case_of_a_quadratic_loss(rho: float, adaptive: bool) -> None:
    network, data = regression()
    found = adaptive_sharpness(network, data, rho, adaptive=adaptive, loss=squared, steps=200, double=True)
    assert found.value == pytest.approx(highest_rise(network, data, rho, adaptive), rel=1e-6)
    assert found.loss == pytest.approx(float(squared(network, data).detach()), rel=1e-5)
    few = adaptive_sharpness(network, data, rho, adaptive=adaptive, loss=squared, steps=1, double=True)
    assert few.value <= found.value * (1 + 1e-9)


def test_at_a_minimum_ascent_begins_somewhere() -> None:
    network, (x, _) = regression()
    data = (x, network(x).detach())
    found = adaptive_sharpness(network, data, 0.5, adaptive=False, loss=squared, steps=100, double=True)
    top = np.linalg.eigvalsh((2 / 24 * x.T @ x).double().numpy())[-1]
    assert found.value == pytest.approx(top * 0.25 / 2, rel=1e-5)


def rescaled(network: nn.Sequential, c: float) -> nn.Sequential:
    other = copy.deepcopy(network)
    with torch.no_grad():
        other[0].weight.mul_(c)
        other[0].bias.mul_(c)
        other[2].weight.div_(c)
    return other


def test_adaptive_sharpness_does_not_see_the_scale_of_layers_and_eigenvalues_do() -> None:
    """Dinh et al. 2017: the same function with any sharpness."""
    network, other = made(), rescaled(made(), 5.0)
    torch.testing.assert_close(network(X), other(X))
    one, two = (adaptive_sharpness(net, (X, Y), 0.2, double=True) for net in (network, other))
    assert one.value == pytest.approx(two.value, rel=1e-4)
    plain, scaled = (adaptive_sharpness(net, (X, Y), 0.2, adaptive=False, double=True) for net in (network, other))
    assert scaled.value > 2 * plain.value
    assert modeconn.sharpness(other, (X, Y), 1).largest > 2 * modeconn.sharpness(network, (X, Y), 1).largest


def test_m_sharpness_is_the_mean_over_batches_alone() -> None:
    found = adaptive_sharpness(made(), (X, Y), 0.2, m=8)
    alone = [adaptive_sharpness(made(), (X[at : at + 8], Y[at : at + 8]), 0.2).value for at in (0, 8, 16)]
    np.testing.assert_allclose(found.rises, alone, rtol=1e-4)
    assert found.value == pytest.approx(np.mean(alone), rel=1e-4)
    assert found.error == pytest.approx(np.std(alone, ddof=1) / math.sqrt(3), rel=1e-3)
    assert found.value > adaptive_sharpness(made(), (X, Y), 0.2).value
    assert "mean over 3 groups of 8 examples" in str(found)
    assert found.measured_as == f"cross-entropy on {len(X)} examples"


def test_batches_of_m_in_which_no_label_counts_are_left_out() -> None:
    ignored = Y.clone()
    ignored[8:16] = -100
    found = adaptive_sharpness(made(), (X, ignored), 0.2, m=8)
    alone = [adaptive_sharpness(made(), (X[at : at + 8], Y[at : at + 8]), 0.2).value for at in (0, 16)]
    np.testing.assert_allclose(found.rises, alone, rtol=1e-4)


def test_an_adaptive_sharpness_is_read_back_and_drawn() -> None:
    network = made()
    before = copy.deepcopy(network.state_dict())
    seen: list[int] = []
    found = adaptive_sharpness(network, (X, Y), m=12, steps=3, report=lambda progress: seen.append(progress.done))
    assert seen == list(range(1, 9))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    again = AdaptiveSharpness.from_json(found.to_json())
    assert (again.to_json(), str(again)) == (found.to_json(), str(found))
    assert list(again.to_frame().columns) == ["batch", "rise"]
    again.plot()
    for options, said in (
        ({"rho": 0}, "rho must be"),
        ({"steps": 0}, "one step"),
        ({"m": 0}, "m must be"),
        ({"seed": 0.5}, "the seed must"),
    ):
        with pytest.raises(OptionError, match=said):
            adaptive_sharpness(network, (X, Y), **options)  # type: ignore[arg-type]


# --- noise


def direct(network: nn.Module) -> tuple[float, float]:
    with torch.no_grad():
        z = network(X)
    return float((z.argmax(1) != Y).double().mean()), float(nn.functional.cross_entropy(z.double(), Y))


def norms(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().double().norm() for parameter in network.parameters()]


def moved(found_on: str, norm: float, draws: int) -> list[list[Tensor]]:
    """The steps that noise made, as they are seen by a metric of one's own."""
    network, steps = made(), []

    def evaluate(noisy: nn.Module, batch: Any) -> dict[str, tuple[float, int]]:
        pairs = zip(noisy.parameters(), network.parameters(), strict=True)
        steps.append([(p - q).detach().double() for p, q in pairs])
        return {"one": (1.0, 1)}

    flatness(network, [(X, Y)], norm, relative_to=found_on, draws=draws, evaluate=evaluate)
    return [step for step in steps if any(bool(part.any()) for part in step)][-draws:]


@pytest.mark.parametrize(("relative_to", "expected"), [("network", None), ("nothing", 0.3)])
def test_noise_has_the_norm_that_is_said_and_differs(relative_to: str, expected: float | None) -> None:
    whole = math.sqrt(sum(float(norm**2) for norm in norms(made())))
    steps = moved(relative_to, 0.3, 3)
    for step in steps:
        length = math.sqrt(sum(float(part.square().sum()) for part in step))
        assert length == pytest.approx(0.3 * whole if expected is None else expected, rel=1e-4)
    assert not torch.allclose(steps[0][0], steps[1][0])


def test_noise_relative_to_filters_has_their_norms() -> None:
    network = made()
    for step in moved("filter", 0.3, 2):
        for part, parameter in zip(step, network.parameters(), strict=True):
            if parameter.ndim < 2:
                assert not part.any()
            else:
                expected = 0.3 * parameter.detach().double().norm(dim=1)
                torch.testing.assert_close(part.norm(dim=1), expected, rtol=1e-4, atol=1e-6)


def test_means_and_errors_are_those_over_draws() -> None:
    network = made()
    found = flatness(network, (X, Y), 0.5, draws=6, seed=3)
    error, loss = direct(network)
    assert found.value["error"] == pytest.approx(error)
    assert found.value["loss"] == pytest.approx(loss, rel=1e-5)
    losses = [row["loss"] for row in found.rows()]
    assert len(set(losses)) == 6
    assert found.mean("loss") == pytest.approx(np.mean(losses))
    assert found.standard_error("loss") == pytest.approx(np.std(losses, ddof=1) / math.sqrt(6))
    assert flatness(network, (X, Y), 0.5, draws=6, seed=3).to_json() == found.to_json()
    assert flatness(network, (X, Y), 0.5, draws=6, seed=4).rows() != found.rows()
    tiny = flatness(network, (X, Y), 1e-6, draws=2)
    assert tiny.mean("loss") == pytest.approx(loss, rel=1e-4)


def test_noise_that_is_small_raises_the_loss_by_the_trace() -> None:
    """The mean rise under noise of variance s^2 is s^2 tr(H) / 2 where the loss is quadratic."""
    network, data = regression()
    n, norm = 4, 0.2
    found = flatness(network, data, norm, relative_to="nothing", draws=400)
    trace = float(torch.trace(2 / 24 * X.T @ X))
    rise = found.mean() - found.value[found.metric]
    # Here the first-order term is not zero, and is part of the spread; its mean is.
    assert abs(rise - norm**2 / n * trace / 2) < 4 * found.standard_error()


def test_a_flatness_is_read_back_and_drawn() -> None:
    found = flatness(made(), (X, Y), draws=2)
    again = Flatness.from_json(found.to_json())
    assert (again.to_json(), str(again)) == (found.to_json(), str(found))
    assert list(again.to_frame().columns) == ["draw", *found.value]
    again.plot()
    with pytest.raises(DataError, match="not a flatness"):
        Flatness.from_content({**found.content(), "relative_to": "others"})
    for options, said in (
        ({"norm": 0.0}, "must be positive"),
        ({"relative_to": "filters"}, "did you mean 'filter'"),
        ({"draws": 0}, "at least one draw"),
    ):
        with pytest.raises(OptionError, match=said):
            flatness(made(), (X, Y), **options)  # type: ignore[arg-type]
