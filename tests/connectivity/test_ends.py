"""How the ends of a path differ, against plain code (Frankle et al. 2020, appendix G)."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from modeconn import error_barrier

X = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0.5).long()
THREE = [0.5]  # as few alphas as can be


def trained(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(15):
        optimizer.zero_grad()
        cross_entropy(network(X), Y).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    return trained(1), trained(2)


def plain(a: nn.Module, b: nn.Module) -> dict[str, float]:
    with torch.no_grad():
        p, q = (torch.cat([w.flatten() for w in net.parameters()]).double().numpy() for net in (a, b))
        logits = [net(X).double() for net in (a, b)]
    cosine = p @ q / math.sqrt((p @ p) * (q @ q))
    labels = [found.argmax(1) for found in logits]
    errors = [float((found != Y).double().mean()) for found in labels]
    disagreement = float((labels[0] != labels[1]).double().mean())
    losses = [(found.exp().sum(1).log() - found[range(len(Y)), Y]).numpy() for found in logits]
    return {
        "l2": math.sqrt(((p - q) ** 2).sum()),
        "cosine": 1 - cosine,
        "angular": math.acos(cosine) / (math.pi / 2),
        "disagreement": disagreement,
        "disagreement_over_error": disagreement / (sum(errors) / 2),
        "disagreement_over_possible": disagreement / min(1, sum(errors)),
        "loss_l2": math.sqrt(((losses[0] - losses[1]) ** 2).sum()),
    }


def test_all_measures_are_those_of_plain_code(pair):
    ends = error_barrier(*pair, (X, Y), alphas=THREE).ends
    expected = plain(*pair)
    assert 0 < expected["disagreement"] < 1
    for name, value in expected.items():
        assert getattr(ends, name) == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("size", [1, 7, 300])
def test_they_depend_neither_on_the_batch_size_nor_on_which_end_is_a(pair, size):
    there = error_barrier(*pair, (X, Y), alphas=THREE, batch_size=size).ends
    back = error_barrier(*pair[::-1], (X, Y), alphas=THREE).ends
    for name, value in vars(there).items():
        assert value == pytest.approx(getattr(back, name), rel=1e-5), name


def test_a_network_and_itself_do_not_differ(pair):
    ends = error_barrier(pair[0], pair[0], (X, Y), alphas=THREE).ends
    assert list(vars(ends).values()) == [0] * 7


def test_networks_without_errors_have_no_disagreement_to_divide(pair):
    with torch.no_grad():
        labels = pair[0](X).argmax(1)
    ends = error_barrier(pair[0], pair[0], (X, labels), alphas=THREE).ends
    assert ends.disagreement == 0
    assert math.isnan(ends.disagreement_over_error)
    assert math.isnan(ends.disagreement_over_possible)


class Says(nn.Module):
    """Gives the same classes whatever it sees."""

    def __init__(self, labels: list[int], classes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(nn.functional.one_hot(torch.tensor(labels), classes).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits + 0 * x


@pytest.mark.parametrize(
    ("a", "b", "classes", "most"),
    [
        ([1, 0, 0, 0], [0, 1, 0, 0], 2, 0.5),  # 1 of 4 wrong, each: as different as they can be
        ([1, 1, 1, 0], [1, 1, 0, 1], 2, 0.5),  # 3 of 4: of two classes, both say the wrong one for at least two
        ([1, 1, 1, 0], [2, 2, 0, 1], 3, 1.0),  # of three, they can differ everywhere
        ([1, 1, 1, 0], [1, 1, 0, 1], 3, 1.0),
    ],
)
def test_the_most_possible_disagreement_is_what_two_such_networks_can_reach(a, b, classes, most):
    labels = torch.zeros(4, dtype=torch.int64)
    ends = error_barrier(Says(a, classes), Says(b, classes), (torch.zeros(4, classes), labels), alphas=THREE).ends
    assert ends.disagreement == np.mean(np.array(a) != np.array(b))
    assert ends.disagreement_over_possible == pytest.approx(ends.disagreement / most)


def test_opposite_networks_disagree_as_much_as_is_possible():
    a, b = nn.Linear(6, 2, bias=False), nn.Linear(6, 2, bias=False)
    with torch.no_grad():
        b.weight.copy_(-a.weight)
        labels = (a(X)[:, 1] > a(X)[:, 0]).long()
    labels[:30] = 1 - labels[:30]  # errors 0.1 and 0.9
    ends = error_barrier(a, b, (X, labels), alphas=[0.4]).ends
    assert ends.disagreement == 1
    assert ends.disagreement_over_error == pytest.approx(2)
    assert ends.disagreement_over_possible == pytest.approx(1)
    assert (ends.cosine, ends.angular) == (pytest.approx(2), pytest.approx(2, abs=1e-3))


def test_no_more_than_all_examples_can_be_labelled_differently():
    """Two networks that are always wrong, each in its own way."""
    a, b = nn.Linear(6, 3), nn.Linear(6, 3)
    with torch.no_grad():
        a.bias.copy_(torch.tensor([99.0, 0, -99]))
        b.bias.copy_(torch.tensor([0, 99.0, -99]))
    ends = error_barrier(a, b, (X, torch.full((300,), 2)), alphas=THREE).ends
    assert (ends.disagreement, ends.disagreement_over_error, ends.disagreement_over_possible) == (1, 1, 1)


def test_tokens_disagree_where_they_are_labelled():
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 9)) for _ in range(2))
    ids = torch.randint(9, (8, 7))
    labels = torch.where(torch.rand(8, 7) < 0.3, -100, torch.randint(9, (8, 7)))
    ends = error_barrier(a, b, (ids, labels), alphas=THREE).ends
    with torch.no_grad():
        logits = [net(ids).double() for net in (a, b)]
    counted = labels != -100
    differ = (logits[0].argmax(2) != logits[1].argmax(2))[counted]
    assert ends.disagreement == pytest.approx(float(differ.double().mean()))
    means = []
    for found in logits:
        each = cross_entropy(found.transpose(1, 2), labels, reduction="none", ignore_index=-100)
        means.append((each.sum(1) / counted.sum(1)).numpy())
    assert ends.loss_l2 == pytest.approx(np.linalg.norm(means[0] - means[1]), rel=1e-5)


def test_what_cannot_be_compared_is_not_a_number():
    ends = error_barrier(nn.Linear(6, 1), nn.Linear(6, 1), (X, X[:, :1])).ends
    assert math.isnan(ends.disagreement)
    assert ends.loss_l2 > 0
    own = lambda network, batch: {"loss": (network(batch[0]).sum(), len(batch[0]))}  # noqa: E731
    ends = error_barrier(nn.Linear(6, 1), nn.Linear(6, 1), (X, Y), evaluate=own).ends
    assert math.isnan(ends.loss_l2)
    assert ends.l2 > 0
