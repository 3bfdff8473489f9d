"""What a plane refuses, in one sentence, before anything is measured."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from modeconn import plane
from modeconn.errors import ModeconnError, NetworkError, OptionError

INPUTS = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
DATA = INPUTS, (INPUTS[:, 0] > 0).long()
A, B, C = (nn.Linear(4, 2) for _ in range(3))


def measured(net: nn.Module, batch: object) -> dict[str, tuple[float, int]]:
    pytest.fail("something was measured")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"points": 1}, "points must be a whole number of at least 2, or one for each axis; got 1"),
        ({"points": (3, 3, 3)}, "points must be"),
        ({"points": "21"}, "points must be"),
        ({"points": 2.5}, "points must be"),
        ({"points": True}, "points must be"),
        ({"points": [3, [2]]}, "points must be"),
        ({"points": np.array([[3, 3]])}, "points must be"),
        ({"points": 2000}, "are 4,000,000 points"),
        ({"margin": -0.1}, "margin must be a number of at least 0; got -0.1"),
        ({"margin": float("nan")}, "margin must be"),
        ({"refine": -1}, "refine must be a whole number"),
        ({"refine": 1.5}, "refine must be a whole number"),
        ({"batchnorm": "repair"}, "defined between two networks and not on a plane"),
        ({"batchnorm": "recalibrated"}, "did you mean 'recalibrate'"),
        ({"adapter": "factors"}, "a landscape takes adapters by their products"),
        ({"also": [[]]}, "got an empty list"),
        ({"also": [[A, 3]]}, "a trajectory is a list of networks"),
        ({"also": {"a": B}}, "two networks are called a"),
        ({"also": 5}, "also= is a network, or a list or mapping"),
        ({"also": None}, "also= is a network, or a list or mapping"),
        ({"checkpoint": 5}, "checkpoint must be the path of a folder"),
        ({"names": ["x", "y"]}, "give 3 different names"),
    ],
)
def test_options_that_cannot_be_used(how, said):
    with pytest.raises(OptionError, match=said):
        plane(A, B, C, DATA, **how)


def test_numbers_may_be_those_of_numpy():
    found = plane(A, B, C, DATA, points=np.array([3, 2]), workers=np.int64(0), refine=np.int64(1))
    assert found.shape == (3, 2)
    assert plane(A, B, C, DATA, points=np.int64(2)).shape == (2, 2)
    assert type(found).from_json(found.to_json()).shape == (3, 2)


@pytest.mark.parametrize("levels", [["a", "b"], 5, [1], [2, 1], [[1, 2]], [float("nan"), 1]])
def test_levels_that_are_not_ascending_numbers(levels):
    with pytest.raises(OptionError, match="levels must be at least two ascending numbers"):
        plane(A, B, C, DATA, points=2).plot(levels=levels)


def test_networks_that_span_no_plane():
    with pytest.raises(NetworkError, match="a and c have equal weights"):
        plane(A, B, copy.deepcopy(A), DATA, evaluate="classification")
    between = copy.deepcopy(A)
    with torch.no_grad():
        for p, q in zip(between.parameters(), B.parameters(), strict=True):
            p.lerp_(q, 0.3)
    with pytest.raises(NetworkError, match="on one line, so that no plane is spanned; take error_barrier"):
        plane(A, B, between, DATA)


def test_networks_that_are_not_finite_or_do_not_fit():
    broken = copy.deepcopy(C)
    with torch.no_grad():
        broken.weight[0, 0] = float("nan")
    with pytest.raises(NetworkError, match="weights are NaN or infinite: weight in c"):
        plane(A, B, broken, DATA)
    with pytest.raises(NetworkError, match="NaN or infinite: weight in also 1"):
        plane(A, B, C, DATA, also=broken)
    with pytest.raises(NetworkError):
        plane(A, B, nn.Linear(4, 3), DATA)
    with pytest.raises(ModeconnError, match="give data"):
        plane(A, B, C)
    bn = [nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)) for _ in range(3)]
    with pytest.raises(OptionError, match="needs calibration= data"):
        plane(*bn, DATA, batchnorm="recalibrate")


def test_an_own_metric_that_changes_its_names_is_refused():
    calls = iter(range(100))

    def moody(net: nn.Module, batch: object) -> dict[str, tuple[float, int]]:
        return {f"metric {next(calls) // 4}": (1.0, 1)}

    with pytest.raises(ModeconnError, match="evaluate g"):
        plane(A, B, C, DATA, evaluate=moody, points=3)
