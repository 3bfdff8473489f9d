"""Networks whose groups were once wrong, or that could not be followed: each is looked at on other inputs too."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from architectures import randomized
from torch import Tensor, nn

from modeconn import align
from modeconn.analysis.alignment.cells import symmetry_of
from modeconn.analysis.alignment.example import Measured
from modeconn.analysis.alignment.network import _without_prefix, difference
from modeconn.analysis.alignment.symmetry import Symmetry
from modeconn.analysis.alignment.trace import exported, trace


class Two(nn.Module):
    """Two linear layers, a vector, positions, a mask, and a function of them all."""

    mask: Tensor

    def __init__(self, function: Callable[["Two", Tensor], Tensor], hidden: int = 8, wide: int = 8) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, hidden), nn.Linear(wide, 2)
        self.vector = nn.Parameter(torch.zeros(wide))
        self.positions = nn.Parameter(torch.zeros(1, 16, wide))
        self.register_buffer("mask", torch.arange(hidden) % 2 == 0)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Topk(nn.Module):
    """A module whose name is that of an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.topk = Two(lambda net, x: net.other(torch.tanh(net.one(x))[..., None].expand(-1, -1, 5).cumsum(1).mean(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.topk(x)


def _groups(network: nn.Module, examples: Sequence[Tensor]) -> tuple[list[int], Symmetry]:
    """The sizes of the groups that are found with the first example, which leave the output for each as it is.

    The look at the function, which pins groups that were seen to change it, is left out: weights may hide a change.
    """
    torch.manual_seed(0)
    network = randomized(network)
    own = _without_prefix(symmetry_of(trace(exported(Measured(network), (examples[0].double(),)))))
    for example in examples:
        for seed in range(3):
            permutations = own.random(np.random.default_rng(seed))
            assert difference(network, ((example.double(),), {}), own, permutations) < 1e-10
    return sorted(group.size for group in own.groups), own


_FEATURES = [torch.randn(2, 3), torch.randn(7, 3)]


def _last_four(net: Two, x: Tensor) -> Tensor:
    return net.other(torch.tanh(net.one(x)).narrow(1, -4, 4))


def test_the_last_places_of_an_axis_are_counted_from_its_end() -> None:
    sizes, symmetry = _groups(Two(_last_four, wide=4), _FEATURES)
    assert 4 in sizes
    assert not symmetry.unknown


def test_a_vector_may_be_the_weight_of_a_layer() -> None:
    sizes, symmetry = _groups(Two(lambda net, x: nn.functional.linear(torch.tanh(net.one(x)), net.vector)), _FEATURES)
    assert sizes == [8]
    assert not symmetry.unknown


def test_what_is_chosen_by_a_mask_stays_and_is_named() -> None:
    sizes, symmetry = _groups(Two(lambda net, x: net.other(torch.tanh(net.one(x))[:, net.mask]), wide=4), _FEATURES)
    assert not sizes
    assert set(symmetry.unknown) == {"index"}


def test_the_name_of_a_module_is_not_that_of_an_operator() -> None:
    assert _groups(Topk(), _FEATURES)[0] == []


def test_parameters_that_are_not_used_are_no_groups() -> None:
    network = Two(lambda net, x: net.other(torch.relu(net.one(x))))
    assert _groups(network, _FEATURES)[0] == [8]


def _at_positions(net: Two, x: Tensor) -> Tensor:
    return net.other(torch.tanh(net.one(x) + net.positions[:, : x.shape[1]])).mean(1)


class Rows(nn.Module):
    """Positions as a matrix, as many of whose rows are added as the sequence is long."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 8), nn.Linear(8, 2)
        self.positions = nn.Parameter(torch.zeros(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.tanh(self.one(x) + self.positions[: x.shape[1]])).mean(1)


@pytest.mark.parametrize("network", [Rows, lambda: Two(_at_positions)])
@pytest.mark.parametrize("length", [1, 5, 16])
def test_positions_behind_the_end_of_the_example_stay(network: Callable[[], nn.Module], length: int) -> None:
    """A longer sequence looks at them; what is inside them moves as inside those that the example looks at."""
    examples = [torch.randn(2, many, 3) for many in (length, 1, 9, 16)]
    assert _groups(network(), examples)[0] == [8]


def _written_to_empty(net: Two, x: Tensor) -> Tensor:
    hidden = torch.empty(len(x), 8, dtype=x.dtype)
    hidden[:, :4] = torch.tanh(net.one(x))
    hidden[:, 4:] = 1.0
    return net.other(hidden)


def _masked_by_writing(net: Two, x: Tensor) -> Tensor:
    mask = torch.ones(8, dtype=x.dtype)
    mask[3] = 0
    return net.other(torch.tanh(net.one(x)) * mask)


def test_what_is_written_to_a_part_of_a_new_tensor_stays() -> None:
    sizes, symmetry = _groups(Two(_written_to_empty, hidden=4), _FEATURES)
    assert not sizes
    assert set(symmetry.unknown) == {"copy"}
    assert not _groups(Two(_masked_by_writing), _FEATURES)[0]


class FixedHeads(nn.Module):
    """Attention whose heads are scaled by numbers that are not learned, so that they stay."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(3, 12) for _ in range(3))
        self.out = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (3, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scale = torch.arange(1.0, 4, dtype=x.dtype)[:, None, None]
        mixed = torch.softmax(q @ k.transpose(-1, -2) * scale, -1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


def test_what_is_inside_the_first_two_blocks_that_stay_is_told_apart() -> None:
    assert _groups(FixedHeads(), [torch.randn(2, 5, 3), torch.randn(1, 7, 3)])[0] == [4] * 6


class Masked(nn.Module):
    """Takes a mask between positions beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # [batch, positions, 4], [positions, positions]
        return self.other(torch.relu(mask @ self.one(x)))


def test_an_example_of_two_inputs_has_no_target_and_its_mask_is_not_cut() -> None:
    torch.manual_seed(0)
    found = align(Masked(), Masked(), example=(torch.randn(3, 5, 4), torch.ones(5, 5)))
    assert [group.size for group in found.groups] == [6]


def test_instance_norm_has_a_rule() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.ReLU(), nn.Conv2d(6, 2, 3))
    found = align(network, network, example=torch.randn(2, 3, 8, 8))
    assert [group.size for group in found.groups] == [6]
    assert "1.weight[0]" in str(found)
