"""`align_many`: several networks in one order, that of one of them or a common one."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from modeconn import align, align_many, average
from modeconn.analysis.connectivity.alignments import Alignments
from modeconn.errors import NetworkError, OptionError


def mlp(seed: int, width: int = 10) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    ).double()


def shuffled(network: nn.Module, seed: int) -> nn.Module:
    """The network with its units in a random order."""
    found = align(network, network, tries=1)
    return replace(found, permutations=found.symmetry.random(np.random.default_rng(seed))).apply(network)


@pytest.fixture(scope="module", params=[1, "common"])
def four(request) -> tuple[list[nn.Module], Alignments]:
    networks = [mlp(seed) for seed in range(4)]
    return networks, align_many(networks, reference=request.param)


def test_around_every_circle_units_come_back_to_their_places(four):
    _, result = four
    for length in (2, 3, 4):
        for circle in itertools.permutations(range(4), length):
            steps = [result.between(b, a) for a, b in itertools.pairwise([*circle, circle[0]])]
            found = steps[0]
            for step in steps[1:]:
                found = found.then(step)
            assert found.moved == 0
    assert result.between("c", "c").moved == 0


@torch.no_grad()
def test_aligned_networks_compute_what_they_computed(four):
    networks, result = four
    x = torch.randn(7, 5, dtype=torch.double)
    for place, (name, network) in enumerate(zip("abcd", networks, strict=True)):
        state = result.apply(name)
        assert all(torch.equal(tensor, result.apply(place)[key]) for key, tensor in state.items())
        assert torch.allclose(torch.func.functional_call(network, state, x), network(x))
        other = result.between("b", name).apply(network)
        assert torch.allclose(other(x), network(x))


def test_merged_is_the_average_of_the_aligned(four):
    networks, result = four
    merged, expected = result.merged(), average([result.apply(place) for place in range(4)])
    assert merged.keys() == networks[0].state_dict().keys()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in expected.items())


def test_the_reference_stays_and_the_others_are_aligned_to_it_as_alone():
    networks = [mlp(seed) for seed in range(3)]
    result = align_many(networks, reference="b")
    assert result.reference == "b"
    assert result.alignments[1].moved == 0
    for place in (0, 2):
        alone = align(networks[1], networks[place])
        assert all(map(np.array_equal, alone.permutations, result.alignments[place].permutations))


@pytest.mark.parametrize("reference", [0, "common"])
def test_networks_that_differ_by_order_alone_are_found_equal(reference):
    networks = [mlp(0), *(shuffled(mlp(0), seed) for seed in (1, 2))]
    result = align_many(networks, reference=reference)
    states = [result.apply(place) for place in range(3)]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name])
        assert torch.equal(tensor, states[2][name])
    assert all(torch.equal(tensor, states[0][name]) for name, tensor in result.merged().items())


def test_a_common_order_gains_with_every_pass_and_says_so():
    """The score is the inner product of two networks' weights, the mean over all pairs, by plain code."""
    networks = [mlp(seed) for seed in range(4)]
    result = align_many(networks, reference="common")
    assert list(result.scores) == sorted(result.scores)
    assert result.scores[0] < result.scores[-1]

    def mean_score(states) -> float:
        flat = [torch.cat([tensor.flatten() for name, tensor in s.items() if name != "4.bias"]) for s in states]
        return float(np.mean([float(x @ y) for x, y in itertools.combinations(flat, 2)]))

    assert result.scores[0] == pytest.approx(mean_score([network.state_dict() for network in networks]))
    assert result.scores[-1] == pytest.approx(mean_score([result.apply(place) for place in range(4)]))
    text = str(result)
    assert text.startswith("4 networks aligned to a common order")
    assert f"{result.scores[0]:.6g} before, {result.scores[-1]:.6g} after {len(result.scores) - 1} passes" in text
    assert [row["network"] for row in result.rows()] == list("abcd")
    assert result.to_frame().columns.tolist() == ["network", "moved", "before", "score"]
    assert repr(result) == "Alignments(a, b, c, d; to common)"


def test_what_cannot_be_aligned_is_refused():
    networks = [mlp(0), mlp(1)]
    with pytest.raises(OptionError, match="at least two"):
        align_many(networks[:1])
    with pytest.raises(OptionError, match="unknown reference 'comon'; did you mean 'common'"):
        align_many(networks, reference="comon")
    with pytest.raises(OptionError, match="a common order is found from the weights"):
        align_many(networks, reference="common", method="activations")
    with pytest.raises(OptionError, match="needs data"):
        align_many(networks, method="activations")
    with pytest.raises(NetworkError, match=r"0\.weight"):
        align_many([*networks, mlp(2, 11)])
    with pytest.raises(OptionError, match="unknown network '7'"):
        align_many(networks).apply(7)
