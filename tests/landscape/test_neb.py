"""The nudged elastic band, on surfaces whose saddle is known and between networks."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from trained import TRAIN, mlp, trained

from modeconn import fit_curve, neb
from modeconn.analysis.landscape.curves import elastic_band as elastic_band_module
from modeconn.analysis.landscape.curves.elastic_band import LOOK, elastic_band, redistributed
from modeconn.errors import NetworkError, OptionError

FEW = (TRAIN[0][:60], TRAIN[1][:60])


def mueller_brown(at: Tensor, place: float, step: int) -> Tensor:
    """The surface of Mueller & Brown (1979); its highest saddle between the two deepest minima is at -40.665."""
    heights = torch.tensor([-200.0, -100.0, -170.0, 15.0])
    a, b, c = (torch.tensor(v) for v in ([-1, -1, -6.5, 0.7], [0, 0, 11, 0.6], [-10, -10, -6.5, 0.7]))
    x, y = at[0] - torch.tensor([1, 0, -0.5, -1]), at[1] - torch.tensor([0, 0.5, 1.5, 1])
    return (heights * torch.exp(a * x**2 + b * x * y + c * y**2)).sum()


MINIMA = torch.tensor([[-0.558, 1.442], [0.623, 0.028]])


def between(count: int) -> Tensor:
    return torch.lerp(MINIMA[0], MINIMA[1], torch.linspace(0, 1, count)[:, None])


def test_the_saddle_of_a_known_surface_is_found() -> None:
    last = elastic_band(between(20), mueller_brown, [(150, 2e-4)] * 2, momentum=0.5)[-1]
    assert last.highest == pytest.approx(-40.665, abs=0.3)
    place = last.places[last.losses.argmax()]
    at = torch.lerp(*last.pivots[[int(place), int(place) + 1]], place % 1)
    torch.testing.assert_close(at, torch.tensor([-0.822, 0.624]), rtol=0, atol=0.05)
    # The straight line is far higher.
    assert max(float(mueller_brown(point, 0, 0)) for point in between(100)) > 0


def test_pivots_are_added_where_the_path_is_worst() -> None:
    first, *_, last = elastic_band(between(4), mueller_brown, [(80, 2e-4)] * 3, momentum=0.5, insert=0.05)
    assert len(last.pivots) > len(first.pivots) == 4
    assert last.highest == pytest.approx(-40.665, abs=0.3) != first.highest
    for band in (first, last):
        torch.testing.assert_close(band.pivots[[0, -1]], MINIMA, rtol=0, atol=0)
        for place in (0.0, 0.5, 1.7, 2.0):
            i = min(int(place), 2)
            point = torch.lerp(band.pivots[i], band.pivots[i + 1], place - i)
            expected = float(mueller_brown(point, 0, LOOK))
            assert band.losses[np.isclose(band.places, place)] == pytest.approx(expected, rel=1e-4)


def test_the_force_is_the_gradient_without_its_part_along_the_path() -> None:
    """By plain formulas, on a path that bends; the loss is a quadratic form, whose gradient is known."""
    draw = torch.Generator().manual_seed(0)
    path = torch.randn(5, 3, generator=draw, dtype=torch.float64)
    form = torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    found = elastic_band_module._force(path, lambda x, place, step: x @ form @ x / 2, 0)
    values = [float(x @ form @ x / 2) for x in path]
    for i in range(1, 4):
        along = path[i + 1] - path[i] if values[i + 1] > values[i - 1] else path[i] - path[i - 1]
        along = along / along.norm()
        gradient = form @ path[i]
        torch.testing.assert_close(found[i - 1], -(gradient - (gradient @ along) * along))
        assert abs(float(found[i - 1] @ along)) < 1e-12 < float(gradient @ along) ** 2


def test_a_path_across_a_slope_moves_and_its_ends_do_not() -> None:
    start = torch.stack([torch.linspace(0, 1, 5), torch.zeros(5)], 1)
    (along,) = elastic_band(start, lambda at, place, step: at[0] ** 2, [(5, 0.1)])
    torch.testing.assert_close(along.pivots, start)
    (across,) = elastic_band(start, lambda at, place, step: (at[1] - 1) ** 2, [(1, 0.1)], momentum=0.0)
    assert (across.pivots[1:-1, 1] > 0.05).all()
    assert (across.pivots[[0, -1]] == start[[0, -1]]).all()


def test_pivots_are_put_back_to_their_shares_of_the_length() -> None:
    path = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    torch.testing.assert_close(
        redistributed(path, torch.tensor([0, 0.25, 1.0])), torch.tensor([[0.0, 0.0], [1.75, 0.0], [3.0, 4.0]])
    )
    drawn = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    lengths = drawn.diff(dim=0).norm(dim=1)
    shares = torch.cat([torch.zeros(1), lengths.cumsum(0) / lengths.sum()])
    torch.testing.assert_close(redistributed(drawn, shares), drawn)  # they are where they were
    one = torch.ones(3, 2)
    assert torch.equal(redistributed(one, torch.tensor([0, 0.5, 1])), one)  # a path without length


def test_a_loss_that_is_not_finite_names_pivot_and_step() -> None:
    with pytest.raises(NetworkError, match=r"loss is nan at pivot 1 of 4 in step 2; choose lower learning rates"):
        elastic_band(
            between(5), lambda at, place, step: at.sum() * (math.nan if step == 2 and place else 1), [(9, 1.0)]
        )


def test_a_band_between_networks_is_low_where_the_segment_is_high() -> None:
    a, b = trained(mlp(1), 1), trained(mlp(2), 2)
    seen: list[Any] = []
    curve = neb(a, b, TRAIN, cycles=[(60, 0.1), (60, 0.02)], report=seen.append)
    assert curve.kind == "polychain"
    assert curve.losses[1] <= curve.losses[0]
    assert [progress.done for progress in seen] == list(range(1, 121))
    assert curve.length_ratio > 1
    result = curve.barrier(TRAIN, alphas=11)
    assert result.curve.worst("loss") < 0.6 * result.segment.worst("loss")
    assert "highest training loss" in str(curve)


def test_the_same_seed_gives_the_same_band() -> None:
    how: dict[str, Any] = {"cycles": [(3, 0.1)], "pivots": 2}
    one, again, other = (neb(mlp(1), mlp(2), FEW, seed=seed, batch_size=20, **how) for seed in (0, 0, 1))
    assert torch.equal(one.points[1]["0.weight"], again.points[1]["0.weight"])
    assert not torch.equal(one.points[1]["0.weight"], other.points[1]["0.weight"])


def test_what_is_not_trained_is_on_the_segment() -> None:
    a, b = mlp(1), mlp(2)
    a[0].weight.requires_grad_(False)
    curve = neb(a, b, FEW, cycles=[(2, 0.1)], pivots=3)
    torch.testing.assert_close(curve.points[3]["0.weight"], torch.lerp(a[0].weight, b[0].weight, 3 / 4))


def test_complex_weights_are_refused() -> None:
    from networks import by_name

    case = by_name("complex")
    with pytest.raises(NetworkError, match=r"some are complex; take modeconn\.fit_curve"):
        neb(*case.pair(), case.batches())
    assert fit_curve(*case.pair(), case.batches(), steps=2).losses


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"pivots": 0}, "at least one of pivots"),
        ({"cycles": 3}, "pairs of steps and a learning rate"),
        ({"cycles": []}, "at least one pair"),
        ({"cycles": [(0, 0.1)]}, "whole numbers of at least 1"),
        ({"cycles": [(5, 0)]}, "learning rates of cycles must be above 0"),
        ({"momentum": math.inf}, "momentum must be"),
        ({"insert": -1}, "insert must be"),
        ({"seed": "x"}, "seed must be"),
    ],
)
def test_options_that_cannot_be_used(how: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        neb(mlp(1), mlp(2), FEW, **how)
