"""Weights that share memory without being equal tensors: they count, score and are pruned once."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.pruning.criteria import score
from modeconn.pruning.masks import Mask
from modeconn.pruning.prunable import prunable
from modeconn.pruning.prune import prune
from modeconn.weights.shared import shared_memory


class Autoencoder(nn.Module):
    """Its decoder is the encoder, transposed; and the encoder's upper half once more."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.again = nn.Linear(6, 4, bias=False), nn.Linear(6, 2, bias=False)
        self.decoder = nn.Linear(4, 6, bias=False)
        self.decoder.weight = nn.Parameter(self.encoder.weight.data.t())
        self.again.weight = nn.Parameter(self.encoder.weight.data[:2])

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.encoder(x))
        return self.decoder(torch.cat([hidden[:, :2] + self.again(x), hidden[:, 2:]], 1))


class OneWeight(nn.Module):
    """The same function of one weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 4, bias=False)
        self.encoder.weight = nn.Parameter(weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.encoder(x))
        hidden = torch.cat([hidden[:, :2] + self.encoder(x)[:, :2], hidden[:, 2:]], 1)
        return hidden @ self.encoder.weight


def _batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(n, 6), torch.randn(n, 6)) for n in (8, 5)]


@pytest.mark.parametrize("criterion", ["magnitude", "random", "snip", "grasp", "synflow"])
def test_scores_and_masks_are_those_of_the_one_weight(criterion: str) -> None:
    network, batches = Autoencoder(), _batches()
    one = OneWeight(network.encoder.weight.data)
    everything = {"encoder.weight": torch.rand(4, 6) < 0.8}
    found, expected = (score(net, criterion, batches, mask=everything) for net in (network, one))
    assert list(found) == ["encoder.weight"]
    assert torch.allclose(found["encoder.weight"], expected["encoder.weight"], rtol=1e-5, atol=1e-8)
    options = {"density": 0.5, "data": batches, "iterations": 2}
    mask = prune(network, criterion, **options)
    assert mask == prune(one, criterion, **options)
    assert (mask.kept, mask.total) == (12, 24)
    mask.apply(network)
    assert int((network.decoder.weight != 0).sum()) == 12
    assert torch.equal(network.again.weight, network.encoder.weight[:2])


def test_a_head_that_is_an_embedding_transposed_is_not_pruned() -> None:
    network = nn.ModuleDict({"tokens": nn.Embedding(5, 3), "body": nn.Linear(3, 3), "head": nn.Linear(5, 3)})
    network["head"].weight = nn.Parameter(network["tokens"].weight.data.t())
    assert list(prunable(network)) == ["body.weight"]
    backwards = nn.ModuleDict(dict(reversed(network.items())))
    assert list(prunable(backwards)) == ["body.weight"]
    assert prune(network, density=0.5).total == 9


@pytest.mark.parametrize(
    ("views", "shared"),
    [
        (lambda w: (w[:, :3], w[:, 3:]), {}),  # side by side in memory, and between each other
        (lambda w: (w[::2], w[1::2]), {}),
        (lambda w: (w, w), {}),  # the usual tie
        (lambda w: (w, w.reshape(6, 4)), {"b": ("a", torch.arange(24).reshape(6, 4))}),
        (lambda w: (w, w[1:3, ::2]), {"b": ("a", torch.tensor([[6, 8, 10], [12, 14, 16]]))}),
        (lambda w: (w.t(), w), {"b": ("a", torch.arange(24).reshape(6, 4).t())}),
        (lambda w: (w, torch.ones(1).expand(4, 6)), {}),
    ],
)
def test_what_is_shared(
    views: Callable[[Tensor], tuple[Tensor, Tensor]], shared: dict[str, tuple[str, Tensor]]
) -> None:
    found = shared_memory(dict(zip("ab", views(torch.randn(4, 6)), strict=True)))
    assert {name: first for name, (first, _) in found.items()} == {name: first for name, (first, _) in shared.items()}
    assert all(torch.equal(places, shared[name][1]) for name, (_, places) in found.items())


def test_what_cannot_be_pruned_apart_is_refused_by_name() -> None:
    memory = torch.randn(5, 4)
    parts = nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 3))
    parts[0].weight, parts[1].weight = nn.Parameter(memory[:3]), nn.Parameter(memory[2:])
    with pytest.raises(
        NetworkError, match=r"0\.weight and 1\.weight share some of their numbers in memory and not all"
    ):
        prune(parts, density=0.5)
    expanded = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    mask = prune(expanded, density=0.5)
    expanded[0].weight = nn.Parameter(torch.randn(1, 4).expand(3, 4))
    for refused in (lambda: prune(expanded, density=0.5), lambda: mask.apply(expanded), lambda: Mask.of(expanded)):
        with pytest.raises(NetworkError, match=r"0\.weight is an expanded tensor"):
            refused()


def test_an_expanded_bias_is_nobodys_matter() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    network[0].bias = nn.Parameter(torch.ones(1).expand(3))
    batches = [(torch.randn(5, 4), torch.randint(2, (5,)))]
    plain = copy.deepcopy(network)
    plain[0].bias = nn.Parameter(torch.ones(3))
    assert prune(network, "snip", density=0.5, data=batches) == prune(plain, "snip", density=0.5, data=batches)
