"""Scales of ReLU units: which groups have them, that the function stays, and that the canonical ones are found."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modeconn.analysis.alignment.cells import symmetry_of
from modeconn.analysis.alignment.rescaling import canonical_scales, rescaled, scalable_groups, unscalable_groups
from modeconn.analysis.alignment.symmetry import SymmetryError
from modeconn.analysis.alignment.trace import exported, trace
from modeconn.analysis.alignment.weight_matching import match_weights


class Residual(nn.Module):
    """A stream that two blocks add to, without norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 1)) for _ in range(2)
        )
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(torch.relu(x).mean((2, 3)))


class Joined(nn.Module):
    """Two branches that are concatenated, and read by one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([torch.relu(self.one(x)), nn.functional.leaky_relu(self.two(x), 0.1)], 1))


def convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), nn.PReLU(5), nn.Dropout(0.2)),
        *(nn.AvgPool2d(2), nn.Conv2d(5, 4, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(4 * 2 * 2, 7), nn.ReLU()),
        nn.Linear(7, 3),
    )


NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), (3, 4), 2),
    "no bias": (lambda: nn.Sequential(nn.Linear(4, 8, False), nn.ReLU(), nn.Linear(8, 3, False)), (3, 4), 1),
    "convolutional": (convolutional, (2, 3, 14, 14), 4),
    "residual": (Residual, (2, 3, 5, 5), 3),
    "joined": (Joined, (3, 3), 2),
}


@cache
def case(name):
    """A network in float64, an input, its symmetry and its scalable groups."""
    make, shape, _ = NETWORKS[name]
    torch.manual_seed(0)
    network, x = make().double().eval(), torch.randn(shape, dtype=torch.float64)
    program = exported(network, (x,))
    symmetry = symmetry_of(trace(program))
    return network, x, symmetry, scalable_groups(symmetry, program)


def scales(symmetry, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(symmetry.groups[one.group].size, generator=generator).double().exp() for one in groups]


def computed(network, state, x):
    return torch.func.functional_call(network, state, (x,))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_group_is_found_and_scales_leave_the_function(name):
    network, x, symmetry, groups = case(name)
    assert len(groups) == NETWORKS[name][2]
    state = network.state_dict()
    other = rescaled(symmetry, state, groups, scales(symmetry, groups, 1))
    assert max(float((other[key] - state[key]).abs().max()) for key in state) > 0.1
    torch.testing.assert_close(computed(network, other, x), network(x), rtol=1e-12, atol=1e-12)
    canonical = canonical_scales(symmetry, state, groups)
    torch.testing.assert_close(computed(network, canonical, x), network(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_differ_by_scales_become_equal(name, seed):
    network, _, symmetry, groups = case(name)
    state = network.state_dict()
    one = canonical_scales(symmetry, state, groups)
    other = canonical_scales(symmetry, rescaled(symmetry, state, groups, scales(symmetry, groups, seed)), groups)
    for key in state:
        torch.testing.assert_close(other[key], one[key], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_scales_and_permutations_together_are_recovered(name):
    network, _, symmetry, groups = case(name)
    a = network.state_dict()
    moved = symmetry.random(np.random.default_rng(3))
    b = rescaled(symmetry, symmetry.apply(a, moved), groups, scales(symmetry, groups, 5))
    a, b = (canonical_scales(symmetry, state, groups) for state in (a, b))
    back = match_weights(symmetry, a, b).permutations
    for key, tensor in symmetry.apply(b, back).items():
        torch.testing.assert_close(tensor, a[key], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_writes_a_unit_and_what_reads_it_have_one_norm(name):
    network, _, symmetry, groups = case(name)
    state = canonical_scales(symmetry, network.state_dict(), groups)
    for group in groups:
        size = symmetry.groups[group.group].size
        norms = []
        for places in (group.written, group.read):
            total = torch.zeros(size, dtype=torch.float64)
            for key, place in places:
                axis = next(one for one in symmetry.tensors[key] if one.axis == place)
                units = dict(axis.units)[group.group].ravel()
                lines = state[key].square().movedim(place, 0).reshape(len(units), -1).sum(1)
                for unit, line in zip(units, lines, strict=True):
                    if unit >= 0:
                        total[unit] += line
            norms.append(total)
        torch.testing.assert_close(*norms, rtol=1e-10, atol=0)


@given(st.lists(st.integers(2, 7), min_size=1, max_size=4), st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_canonical_scales_have_the_smallest_norm(widths, seed):
    """For any MLP, and against other scales that are near and far."""
    torch.manual_seed(seed)
    layers = []
    for before, after in zip([3, *widths], [*widths, 2], strict=True):
        layers += [nn.Linear(before, after), nn.ReLU()]
    network = nn.Sequential(*layers[:-1]).double()
    program = exported(network, (torch.randn(2, 3).double(),))
    symmetry = symmetry_of(trace(program))
    groups = scalable_groups(symmetry, program)
    best = canonical_scales(symmetry, network.state_dict(), groups)

    def norm(state):
        return sum(float(tensor.square().sum()) for tensor in state.values())

    assert norm(best) <= norm(network.state_dict()) * (1 + 1e-12)
    for power in (0.01, 1):
        others = [scale**power for scale in scales(symmetry, groups, seed)]
        assert norm(best) <= norm(rescaled(symmetry, best, groups, others)) * (1 + 1e-12)


def test_dead_units_keep_their_scale_and_do_not_count():
    """A unit that nothing reads, and one before it that it alone reads."""
    network, x, symmetry, groups = case("mlp")
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state["4.weight"][:, 0] = 0
    state["2.weight"][1:, 0] = 0
    one = canonical_scales(symmetry, state, groups)
    assert torch.equal(one["2.weight"][0, 0], state["2.weight"][0, 0])
    other = canonical_scales(symmetry, rescaled(symmetry, state, groups, scales(symmetry, groups, 2)), groups)
    torch.testing.assert_close(computed(network, one, x), computed(network, state, x), rtol=1e-12, atol=1e-12)
    for key, live in (("0.weight", (slice(1, None),)), ("2.weight", (slice(1, None),) * 2), ("4.weight", (...,))):
        torch.testing.assert_close(other[key][live], one[key][live], rtol=1e-10, atol=1e-10)


class Tied(nn.Module):
    """A matrix that writes units and, in another place, is read by them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x)) @ self.first.weight


class Squared(nn.Module):
    """Units by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        return self.out(x * x)


class Summed(nn.Module):
    """A sum over the units, of which none has a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.one(x)).sum(1)


class Mixed(nn.Module):
    """A stream that one branch of adds to what another does through a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.one(x)) + torch.sigmoid(self.two(x)))


def pair(layer):
    return nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3))


def depthwise():
    return nn.Sequential(nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 1, groups=6), nn.Conv2d(6, 3, 1))


@pytest.mark.parametrize(
    ("network", "shape", "why"),
    [
        (pair(nn.GELU()), (3, 4), "gelu in 1"),
        (pair(nn.Sigmoid()), (3, 4), "sigmoid in 1"),
        (pair(nn.Softmax(-1)), (3, 4), "softmax in 1"),
        (pair(nn.ReLU6()), (3, 4), "hardtanh in 1"),
        (pair(nn.LayerNorm(6)), (3, 4), "layer_norm in 1"),
        (pair(nn.BatchNorm1d(6)), (3, 4), "batch_norm in 1"),
        (depthwise(), (1, 2, 3, 3), "conv2d in 1"),
        (nn.Sequential(nn.Conv2d(4, 6, 1, groups=2), nn.ReLU(), nn.Conv2d(6, 3, 1)), (1, 4, 3, 3), "conv2d in 0"),
        (Tied(), (3, 5), "both written and read"),
        (Squared(), (3, 4), "mul"),
        (Summed(), (3, 4), "sum"),
        (Mixed(), (3, 4), "sigmoid"),
    ],
    ids=[
        "gelu",
        "sigmoid",
        "softmax",
        "relu6",
        "layernorm",
        "batchnorm",
        "depthwise",
        "grouped",
        "tied",
        "squared",
        "summed",
        "mixed",
    ],
)
def test_a_group_with_anything_else_on_its_way_is_refused(network, shape, why):
    program = exported(network, (torch.randn(shape),))
    symmetry = symmetry_of(trace(program))
    assert symmetry.groups
    assert scalable_groups(symmetry, program) == ()
    reasons = unscalable_groups(symmetry, program)
    assert set(reasons) == {group.name for group in symmetry.groups}
    assert any(why in reason for reason in reasons.values()), reasons


def test_other_groups_of_a_network_are_scaled():
    network = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x = torch.randn(3, 4).double()
    program = exported(network, (x,))
    symmetry = symmetry_of(trace(program))
    groups = scalable_groups(symmetry, program)
    assert [symmetry.groups[group.group].name for group in groups] == ["2"]
    assert unscalable_groups(symmetry, program) == {"0": "gelu in 1"}
    state = rescaled(symmetry, network.state_dict(), groups, scales(symmetry, groups, 0))
    torch.testing.assert_close(computed(network, state, x), network(x), rtol=1e-12, atol=1e-12)


def test_bad_scales_and_tensors_are_named():
    network, _, symmetry, groups = case("mlp")
    state = network.state_dict()
    with pytest.raises(SymmetryError, match="group '0' needs 8 positive scales"):
        rescaled(symmetry, state, groups, [torch.zeros(8), torch.ones(6)])
    with pytest.raises(SymmetryError, match=r"2\.weight is missing"):
        canonical_scales(symmetry, {key: state[key] for key in state if key != "2.weight"}, groups)
    with pytest.raises(SymmetryError, match=r"2\.bias is not finite"):
        canonical_scales(symmetry, state | {"2.bias": state["2.bias"] * torch.nan}, groups)
