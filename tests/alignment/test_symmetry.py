"""The groups that are found in a network's graph, and that their permutations leave its function as it is."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, LARGE, Architecture, randomized
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from modeconn.analysis.alignment.example import example_of
from modeconn.analysis.alignment.network import Graph, difference, graph_of
from modeconn.analysis.alignment.symmetry import Group, Symmetry, SymmetryError, compose, inverse
from modeconn.weights.state_dicts import state_tensors

_HEAVY = ("convnext", "mobilenetv3", "resnet10")
_EVERY = [pytest.param(name, marks=[pytest.mark.slow] * (name in _HEAVY)) for name in sorted(ARCHITECTURES)]


@pytest.fixture(scope="module")
def graphs() -> Mapping[str, Graph]:
    """What is known of each small network, found when it is first asked for."""
    return _Graphs()


class _Graphs(dict[str, Graph]):
    def __missing__(self, name: str) -> Graph:
        self[name] = _graph(ARCHITECTURES[name])
        return self[name]


def _graph(architecture: Architecture, double: bool = True) -> Graph:
    torch.manual_seed(0)
    network = randomized(architecture.make()) if double else architecture.make().eval()
    example = architecture.example()
    return graph_of(network, example_of(network, example, torch.device("cpu")))


@pytest.mark.parametrize("name", _EVERY)
def test_every_permutation_leaves_the_function_as_it_is(name: str, graphs: Mapping[str, Graph]) -> None:
    graph = graphs[name]
    tolerance = 1e-4 if ARCHITECTURES[name].rough else 1e-10
    for seed in range(3):
        permutations = graph.symmetry.random(np.random.default_rng(seed))
        assert difference(graph.network, graph.example, graph.symmetry, permutations) < tolerance


@pytest.mark.parametrize("name", _EVERY)
def test_groups_are_those_that_a_look_at_the_network_finds(name: str, graphs: Mapping[str, Graph]) -> None:
    expected = ARCHITECTURES[name].groups
    symmetry = graphs[name].symmetry
    assert symmetry.groups
    assert not symmetry.unknown
    if expected is not None:
        assert sorted((group.size, group.inside) for group in symmetry.groups) == sorted(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LARGE))
def test_every_permutation_of_a_large_network_leaves_its_function_as_it_is(name: str) -> None:
    graph = _graph(LARGE[name], double=False)
    assert len(graph.symmetry.groups) > 10
    assert not graph.symmetry.unknown
    permutations = graph.symmetry.random(np.random.default_rng(0))
    assert difference(graph.network, graph.example, graph.symmetry, permutations, torch.float64) < 1e-9


def test_a_wrong_permutation_is_seen(graphs: Mapping[str, Graph]) -> None:
    """The look at the function finds what the groups would not: an axis moved alone."""
    graph = graphs["mlp"]
    symmetry = graph.symmetry
    name = "1.bias"
    broken = Symmetry(symmetry.groups, {name: symmetry.tensors[name]}, symmetry.shapes, {}, {})
    assert difference(graph.network, graph.example, broken, symmetry.random(np.random.default_rng(0))) > 1e-3


@pytest.mark.parametrize("name", ["grouped", "experts", "llama"])
def test_units_in_blocks_move_with_their_blocks(name: str, graphs: Mapping[str, Graph]) -> None:
    symmetry = graphs[name].symmetry
    permutations = symmetry.random(np.random.default_rng(1))
    symmetry.check(permutations)
    number = next(n for n, group in enumerate(symmetry.groups) if group.parent is not None)
    swapped = list(permutations)
    swapped[number] = np.roll(permutations[number], 1)
    with pytest.raises(SymmetryError, match="leave their blocks"):
        symmetry.check(swapped)


class Reversed(nn.Module):
    """Adds the units in reverse order: each moves with its counterpart."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.one(x))
        return self.other(hidden + hidden.flip(1))


class Positional(nn.Module):
    """Tells its units apart by where they stand."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.relu(self.one(x)).cumsum(1))


class Partly(nn.Module):
    """Looks at two of its units a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.one(x))
        return self.other(hidden) + hidden[:, :2]


class Doubled(nn.Module):
    """Gives the same units to each of two groups of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 4), nn.Conv1d(8, 2, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.one(x))
        return self.other(torch.cat([hidden, hidden], 1)[..., None])[..., 0]


class Odd(nn.Module):
    """An operator that there is no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.renorm(self.one(x), 2, 0, 1.0))


@pytest.mark.parametrize(
    ("network", "sizes"),
    [(Reversed, [3]), (Positional, []), (Partly, [4]), (Doubled, [4]), (Odd, [])],
    ids=lambda one: str(one),
)
def test_units_that_are_told_apart_do_not_change_places(network: type[nn.Module], sizes: list[int]) -> None:
    torch.manual_seed(0)
    graph = graph_of(randomized(network()), ((torch.randn(4, 3, dtype=torch.float64),), {}))
    assert [group.size for group in graph.symmetry.groups] == sizes
    for seed in range(4):
        permutations = graph.symmetry.random(np.random.default_rng(seed))
        assert difference(graph.network, graph.example, graph.symmetry, permutations) < 1e-12


def test_what_has_no_rule_is_named_and_so_is_why_an_axis_stays() -> None:
    graph = graph_of(randomized(Odd()), ((torch.randn(4, 3, dtype=torch.float64),), {}))
    assert "one.weight" not in graph.symmetry.tensors
    assert list(graph.symmetry.unknown) == ["renorm"]
    assert graph.symmetry.pinned["one.weight", 0] == "renorm"
    positional = graph_of(randomized(Positional()), ((torch.randn(4, 3, dtype=torch.float64),), {}))
    assert "cumsum" in positional.symmetry.pinned["one.weight", 0]
    assert positional.symmetry.pinned["other.weight", 0] == "an output of the network"


def test_tied_tensors_move_together(graphs: Mapping[str, Graph]) -> None:
    graph = graphs["tied"]
    state = state_tensors(graph.network)
    moved = graph.symmetry.apply(state, graph.symmetry.random(np.random.default_rng(0)))
    assert torch.equal(moved["out.weight"], moved["embedding.weight"])
    assert not torch.equal(moved["out.weight"], state["out.weight"])


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_permutations_are_a_group(first: int, second: int) -> None:
    """Applying one after the other is applying their composition; the inverse undoes it."""
    blocks = np.repeat(np.arange(3), 2)
    symmetry = Symmetry((Group("h", 3), Group("d", 6, 0, blocks), Group("m", 5)), {}, {}, {}, {})
    one, other = (symmetry.random(np.random.default_rng(seed)) for seed in (first, second))
    symmetry.check(compose(one, other))
    for found, expected in zip(compose(one, inverse(one)), symmetry.identity(), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", ["residual", "grouped", "gpt2"])
def test_applying_a_composition_is_applying_twice(name: str, graphs: Mapping[str, Graph]) -> None:
    symmetry, state = graphs[name].symmetry, state_tensors(graphs[name].network)
    one, other = (symmetry.random(np.random.default_rng(seed)) for seed in (0, 1))
    twice = symmetry.apply(symmetry.apply(state, one), other)
    once = symmetry.apply(state, compose(one, other))
    back = symmetry.apply(symmetry.apply(state, one), inverse(one))
    assert all(torch.equal(twice[name], once[name]) for name in state)
    assert all(torch.equal(back[name], state[name]) for name in state)
