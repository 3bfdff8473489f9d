"""Learned permutations are never worse than their start, and are what a plain loop of the algorithm finds."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from modeconn.analysis.alignment.cells import symmetry_of
from modeconn.analysis.alignment.straight_through import learn_permutations
from modeconn.analysis.alignment.symmetry import Symmetry
from modeconn.analysis.alignment.trace import exported, trace
from modeconn.analysis.alignment.weight_matching import match_weights
from modeconn.errors import DataError, NetworkError, OptionError
from networks import Tied, with_statistics


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3))


def _batchnorm() -> nn.Module:
    return with_statistics(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))


def cross_entropy(network: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(network(batch[0]), batch[1])


class Pair:
    """Two networks that were trained a little on clusters, and batches of them."""

    def __init__(self, build: Any = _mlp, steps: int = 60) -> None:
        generator = torch.Generator().manual_seed(0)
        y = torch.arange(96) % 3
        x = torch.randn(3, 6, generator=generator)[y] + torch.randn(96, 6, generator=generator)
        self.batches = list(zip(x.split(24), y.split(24), strict=True))
        self.network, self.a, self.b = (
            self._trained(build, 1, steps),
            *(self._trained(build, seed, steps).state_dict() for seed in (1, 2)),
        )
        self.symmetry: Symmetry = symmetry_of(trace(exported(self.network, (x[:24],))))

    def _trained(self, build: Any, seed: int, steps: int) -> nn.Module:
        torch.manual_seed(seed)
        network = build()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for batch in itertools.islice(itertools.cycle(self.batches), steps):
            optimizer.zero_grad()
            cross_entropy(network, batch).backward()
            optimizer.step()
        return network.eval()

    def learn(self, **options: Any) -> Any:
        options = {"loss": cross_entropy, "batches": self.batches, **options}
        return learn_permutations(self.symmetry, self.network, self.a, self.b, **options)

    def weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: state[name] for name, _ in self.network.named_parameters()}

    def midpoint(self, permutations: Any) -> nn.Module:
        network = copy.deepcopy(self.network)
        moved = self.symmetry.apply(self.b, permutations)
        network.load_state_dict({name: (one + moved[name]) / 2 for name, one in self.a.items()})
        return network

    def loss(self, permutations: Any) -> float:
        """The mean loss of the midpoint over the batches."""
        with torch.no_grad():
            network = self.midpoint(permutations)
            return float(np.mean([cross_entropy(network, batch).item() for batch in self.batches]))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


def test_it_is_never_worse_than_weight_matching_and_here_it_is_better(pair):
    start = match_weights(pair.symmetry, pair.weights(pair.a), pair.weights(pair.b)).permutations
    match = pair.learn(epochs=10)
    assert -match.scores[0] == pytest.approx(pair.loss(start))
    assert match.score == max(match.scores) > match.scores[0]
    assert -match.score == pytest.approx(pair.loss(match.permutations))
    assert -match.before == pytest.approx(pair.loss(pair.symmetry.identity()))


@pytest.mark.parametrize("learning_rate", [1e-6, 1.0])
def test_a_step_too_small_or_too_large_ends_no_worse_than_it_began(pair, learning_rate):
    start = pair.symmetry.random(np.random.default_rng(3))
    match = pair.learn(epochs=2, learning_rate=learning_rate, start=start)
    assert -match.scores[0] == pytest.approx(pair.loss(start))
    assert match.score == max(match.scores)


def test_without_an_epoch_it_is_its_start(pair):
    start = pair.symmetry.random(np.random.default_rng(3))
    match = pair.learn(epochs=0, start=start)
    assert all(map(np.array_equal, match.permutations, start))
    assert match.scores == (match.score,)
    held = pair.learn(epochs=0, start=start, held=pair.batches[:1])
    with torch.no_grad():
        assert -held.score == pytest.approx(cross_entropy(pair.midpoint(start), pair.batches[0]).item())


def test_one_group_is_learned_as_by_a_plain_loop():
    """With one hidden layer each projection is exact: one assignment of latent units to b's."""
    pair = Pair(lambda: nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)))
    a, b = (
        [state[name].clone() for name in ("0.weight", "0.bias", "2.weight", "2.bias")] for state in (pair.a, pair.b)
    )
    latent = [one.clone().requires_grad_() for one in a[:3]]
    optimizer = torch.optim.Adam(latent, lr=0.1)
    order = np.arange(10)
    losses = []

    def projected() -> np.ndarray:
        with torch.no_grad():
            gain = latent[0] @ b[0].T + torch.outer(latent[1], b[1]) + latent[2].T @ b[2]
        return linear_sum_assignment(gain.numpy(), maximize=True)[1]

    def loss(batch: Any, weights: Any) -> Tensor:
        return F.cross_entropy((batch[0] @ weights[0].T + weights[1]).tanh() @ weights[2].T + weights[3], batch[1])

    def permuted() -> list[Tensor]:
        return [b[0][order], b[1][order], b[2][:, order], b[3]]

    for _ in range(4):
        for batch in pair.batches:
            order = projected()
            through = [hard + soft - soft.detach() for hard, soft in zip(permuted(), latent, strict=False)]
            optimizer.zero_grad()
            loss(batch, [(one + other) / 2 for one, other in zip(a, [*through, b[3]], strict=True)]).backward()
            optimizer.step()
        order = projected()
        middle = [(one + other) / 2 for one, other in zip(a, permuted(), strict=True)]
        losses.append(float(np.mean([loss(batch, middle).item() for batch in pair.batches])))
    match = pair.learn(epochs=4, learning_rate=0.1)
    assert [-score for score in match.scores[1:]] == pytest.approx(losses)
    assert len(set(losses)) > 1


def test_batchnorm_normalises_by_each_batch():
    pair = Pair(_batchnorm)
    match = pair.learn(epochs=0)
    network = pair.midpoint(match.permutations).train()
    assert -match.score == pytest.approx(np.mean([cross_entropy(network, batch).item() for batch in pair.batches]))


def test_nothing_that_was_given_changes():
    pair = Pair(_batchnorm)
    before = copy.deepcopy((pair.a, pair.b, pair.network.state_dict()))
    pair.learn(epochs=2, learning_rate=0.1)
    after = (pair.a, pair.b, pair.network.state_dict())
    for one, other in zip(before, after, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(module.training for module in pair.network.modules())


def test_the_same_seed_finds_the_same(pair):
    one, other = (pair.learn(epochs=3, seed=4) for _ in range(2))
    assert one.scores == other.scores
    assert all(map(np.array_equal, one.permutations, other.permutations))


def test_tied_tensors_are_one():
    torch.manual_seed(0)
    one, other = Tied(), Tied()
    tokens = torch.randint(11, (8, 5))
    symmetry = symmetry_of(trace(exported(one, (tokens,))))
    batches = [(tokens, tokens)]

    def loss(network: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(network(batch[0]).flatten(0, 1), batch[1].flatten())

    match = learn_permutations(symmetry, one, one.state_dict(), other.state_dict(), batches, loss, epochs=3)
    back = symmetry.random(np.random.default_rng(0))
    moved = symmetry.apply(one.state_dict(), back)
    again = learn_permutations(symmetry, one, one.state_dict(), moved, batches, loss, epochs=0)
    assert match.score >= match.scores[0]
    assert -again.score == pytest.approx(loss(one, batches[0]).item())


def test_a_network_with_nothing_to_permute_stays_as_it_is():
    linear = Pair(lambda: nn.Linear(6, 3))
    match = linear.learn()
    assert match.permutations == ()
    assert match.score == match.before == pytest.approx(-linear.loss(()))


def test_progress_is_reported(pair):
    seen: list[tuple[int, int]] = []
    pair.learn(epochs=2, report=lambda done, all: seen.append((done, all)))
    assert seen == [(0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batches": []}, DataError, "no batch"),
        ({"batches": iter([])}, DataError, "only once"),
        ({"held": iter([])}, DataError, "only once"),
        ({"loss": lambda network, batch: network(batch[0]).sum() * torch.nan}, DataError, "NaN or infinite"),
        ({"epochs": -1}, OptionError, "epochs must be"),
        ({"learning_rate": 0.0}, OptionError, "learning rate must be"),
    ],
)
def test_what_does_not_serve(pair, options, error, message):
    with pytest.raises(error, match=message):
        pair.learn(**options)


def test_a_missing_tensor(pair):
    with pytest.raises(NetworkError, match=r"2\.bias is missing"):
        learn_permutations(
            pair.symmetry,
            pair.network,
            pair.a,
            {name: tensor for name, tensor in pair.b.items() if name != "2.bias"},
            pair.batches,
            cross_entropy,
        )
