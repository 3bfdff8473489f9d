import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeconn.analysis.paths.combination import combination
from modeconn.weights.state_dicts import Weights


def weights(**tensors: torch.Tensor) -> Weights:
    layout = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    return Weights(layout, tensors.__getitem__, "here")


NUMBERS = st.lists(st.floats(-3, 3), min_size=3, max_size=3)


@given(coefficients=NUMBERS, rows=st.lists(NUMBERS, min_size=3, max_size=3))
def test_it_is_the_sum_in_double_precision(coefficients, rows):
    networks = [weights(w=torch.tensor(row)) for row in rows]
    expected = [math.fsum(c * row[i] for c, row in zip(coefficients, rows, strict=True)) for i in range(3)]
    assert combination(networks, coefficients).read("w").tolist() == pytest.approx(expected, abs=1e-4)


def test_a_single_coefficient_of_one_is_that_network_itself():
    a, b, c = (weights(w=torch.randn(3), n=torch.tensor(i)) for i in range(3))
    for index, network in enumerate((a, b, c)):
        assert combination([a, b, c], [float(i == index) for i in range(3)]) is network


def test_integers_are_the_first_networks_and_half_precision_is_widened():
    a, b = (weights(w=torch.full((2,), i / 3).half(), n=torch.tensor([i])) for i in (1, 2))
    point = combination([a, b], [0.25, 0.75])
    assert int(point.read("n")) == 1
    assert point.read("w").dtype == point.layout["w"].dtype == torch.float32
    assert point.read("w").tolist() == pytest.approx([1.75 / 3] * 2, rel=1e-3)


def test_equal_infinities_stay():
    mask = torch.tensor([0.0, -math.inf])
    a, b = weights(mask=mask), weights(mask=mask.clone())
    assert combination([a, b], [0.3, 0.7]).read("mask").tolist() == [0, -math.inf]
    direction = weights(mask=torch.zeros(2))
    assert combination([a, direction], [1.0, 2.5]).read("mask").tolist() == [0, -math.inf]


def test_no_network_is_changed():
    a, b = weights(w=torch.ones(2)), weights(w=torch.zeros(2))
    combination([a, b], [0.5, 0.5]).read("w").add_(1)
    assert a.read("w").tolist() == [1, 1]
