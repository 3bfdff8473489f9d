"""Masks in another order of units: permuted with their network, and carried along a training and its pruning levels."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeconn import align, error_barrier, prune
from modeconn.errors import NetworkError
from modeconn.pruning.masks import Mask


def mlp(seed: int, width: int = 10) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def convolutional(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3)
    return nn.Sequential(*layers).eval()


class Attention(nn.Module):
    """Heads, whose units are in blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.fused, self.out = nn.Linear(6, 24), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.fused(x).view(*x.shape[:-1], 3, 2, 4).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(found.transpose(1, 2).flatten(2))


def attention(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Attention()


CASES = [(mlp, (7, 5)), (convolutional, (7, 1, 5, 5)), (attention, (7, 3, 6))]


@pytest.mark.parametrize(("make", "shape"), CASES, ids=["mlp", "convolutional", "attention"])
@torch.no_grad()
def test_a_mask_permuted_with_its_network_gives_the_same_function(make, shape) -> None:
    a, b, x = make(1), make(2), torch.randn(*shape)
    found = align(a, b, example=x)
    alignment = replace(found, permutations=found.symmetry.random(np.random.default_rng(0)))
    mask = prune(b, "magnitude", density=0.4)
    both, network = mask.permute(alignment), alignment.apply(b)
    both.apply(network)
    mask.apply(b)
    assert torch.allclose(network(x), b(x), atol=1e-5)
    assert both != mask
    assert both.permute(alignment.inverse()) == mask
    assert [layer.kept for layer in both.layers()] == [layer.kept for layer in mask.layers()]


def test_a_permuted_mask_is_that_of_the_permuted_network() -> None:
    a, b = mlp(1), mlp(2)
    alignment = align(a, b)
    assert prune(b, "magnitude", density=0.3).permute(alignment) == prune(alignment.apply(b), "magnitude", density=0.3)
    first, second = alignment.permutations
    mask = prune(b, "magnitude", density=0.3)
    assert torch.equal(mask.permute(alignment)["2.weight"], mask["2.weight"][second][:, first])


def test_a_mask_is_carried_to_another_initialisation() -> None:
    """Where the dense networks differ by order alone, it is the mask that pruning there would give."""
    dense = mlp(1)
    found = align(dense, dense, tries=1)
    order = replace(found, permutations=found.symmetry.random(np.random.default_rng(1)))
    other = order.apply(dense)
    carried = prune(dense, "magnitude", density=0.3).permute(align(other, dense))
    assert carried == prune(other, "magnitude", density=0.3)


def test_one_alignment_serves_a_whole_training_and_all_levels_of_pruning() -> None:
    """Found at the end: b's trajectory in a's order is as far along as it was, and b's masks go with it."""
    a, b = mlp(1), mlp(2)
    inputs, labels = torch.randn(40, 5), torch.randint(0, 3, (40,))
    trajectory = [copy.deepcopy(b.state_dict())]
    optimizer = torch.optim.SGD(b.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(b(inputs), labels).backward()
        optimizer.step()
        trajectory.append(copy.deepcopy(b.state_dict()))
    alignment = align(a, b)
    levels = [prune(b, "magnitude", density=density) for density in (0.8, 0.64, 0.5)]

    aligned = [alignment.apply(state) for state in trajectory]
    tickets = [level.permute(alignment) for level in levels]

    for before, after in zip(trajectory, aligned, strict=True):
        path = error_barrier(before, after, (inputs, labels), model=a, alphas=3)
        assert path.loss[0] == pytest.approx(path.loss[-1], rel=1e-5)
    for plain, permuted in zip(_from_the_start(trajectory), _from_the_start(aligned), strict=True):
        expected = alignment.apply(plain)  # a task vector is permuted as weights are
        assert all(torch.equal(tensor, permuted[name]) for name, tensor in expected.items())
    for ticket, smaller in itertools.pairwise(tickets):
        assert all(bool((ticket[name] | ~smaller[name]).all()) for name in ticket)
    assert tickets[-1] == prune(alignment.apply(b), "magnitude", density=0.5)


def test_a_mask_of_another_network_is_refused() -> None:
    alignment = align(mlp(1), mlp(2))
    with pytest.raises(NetworkError, match=r"0\.weight is \[9, 5\] and not \[10, 5\]; 2\.weight is"):
        Mask.of(mlp(1, 9)).permute(alignment)
    with pytest.raises(NetworkError, match=r"fc\.weight is no tensor of that network"):
        Mask({"fc.weight": torch.ones(2, 2, dtype=torch.bool)}).permute(alignment)


def _from_the_start(states: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [{name: state[name] - states[0][name] for name in state} for state in states]
