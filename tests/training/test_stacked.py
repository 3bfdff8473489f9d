"""Networks side by side against the same networks alone."""

import copy

import pytest
import torch
from torch import Tensor, nn

from cases import NAMED, OWN, each_of
from modeconn.errors import NetworkError
from modeconn.evaluation.modes import evaluating
from modeconn.models import build_network
from modeconn.training.cohort.stacked import StackedDropout, check_stacks, stack

# Tied weights, and a transformer's own parameters, are in no layer that can be stacked.
CASES = [case for case in (*NAMED, *OWN) if "tied" not in case.model and "vit" not in case.model]


def networks(case, count: int = 3) -> list[nn.Module]:
    """Narrow ones, with running statistics as if they had been trained."""
    found = []
    for seed in range(count):
        width = 1.0 if ":" in case.model else 0.25
        network = build_network(case.model, case.shape, case.classes, seed=seed, width=width, norm=case.norm)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.running_mean, 0, 0.3)
                nn.init.uniform_(layer.running_var, 0.5, 2)
        found.append(network)
    return found


@each_of(CASES)
def test_every_network_side_by_side_gives_what_it_gives_alone(case):
    members = networks(case)
    stacked = stack(members[0], 3)
    stacked.load([member.state_dict() for member in members])
    images = torch.randn(3, 4, *case.shape)
    with torch.no_grad(), evaluating(stacked.network):
        for inputs in (images, images[0]):
            found = stacked(inputs)
            assert found.shape == (3, 4, case.classes)
            for place, member in enumerate(members):
                expected = member.eval()(images[place] if inputs.ndim == 5 else images[0])
                rounding = 1e-4 * max(1.0, float(expected.abs().max()))
                torch.testing.assert_close(found[place], expected, rtol=1e-3, atol=rounding)
    check_stacks(members[0], images[0])


@each_of(CASES)
def test_states_come_out_as_they_went_in(case):
    members = networks(case)
    before = copy.deepcopy(members[0])
    stacked = stack(members[0], 3)
    stacked.load([member.state_dict() for member in members])
    for place, member in enumerate(members):
        expected, found = member.state_dict(), stacked.state(place)
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    stacked.state(0)[next(iter(expected))].zero_()  # a copy
    assert torch.equal(stacked.state(0)[next(iter(expected))], members[0].state_dict()[next(iter(expected))])
    assert type(members[0]) is type(before)
    assert all(torch.equal(a, b) for a, b in zip(members[0].parameters(), before.parameters(), strict=True))


def test_batchnorm_in_training_uses_each_members_own_statistics():
    case = next(case for case in NAMED if case.model == "digits-conv")
    members = networks(case)
    stacked = stack(members[0], 3)
    stacked.load([member.state_dict() for member in members])
    images = torch.randn(3, 4, *case.shape) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1, 1, 1)
    found = stacked(images)
    for place, member in enumerate(members):
        torch.testing.assert_close(found[place], member(images[place]), rtol=1e-3, atol=1e-4)
        for name, value in member.state_dict().items():
            torch.testing.assert_close(stacked.state(place)[name], value, rtol=1e-4, atol=1e-5)


def test_gradients_are_each_members_own():
    case = next(case for case in NAMED if case.model == "digits-conv")
    members = networks(case)
    stacked = stack(members[0], 3)
    stacked.load([member.state_dict() for member in members])
    images = torch.randn(3, 4, *case.shape)
    stacked(images).square().sum().backward()
    for place, member in enumerate(members):
        member(images[place]).square().sum().backward()
    for name, parameter in stacked.network.named_parameters():
        for place, member in enumerate(members):
            expected = member.get_parameter(name).grad
            found = stacked.part(name, parameter.grad, place)
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))


def test_dropout_keeps_its_rate_and_scale_and_is_off_in_evaluation():
    layer = StackedDropout(nn.Dropout(0.3), members=2)
    layer.generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    x = torch.ones(50, 2000)
    y = layer(x)
    kept = y != 0
    assert kept.float().mean() == pytest.approx(0.7, abs=0.01)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / 0.7))
    assert not torch.equal(kept[:, :1000], kept[:, 1000:])
    assert layer.eval()(x) is x


class Coupled(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x.flatten(1))
        return {
            "over classes": lambda: x.softmax(1),
            "noise": lambda: x + torch.rand(()),
            "training noise": lambda: nn.functional.dropout(x, 0.5, self.training),
        }[self.how]()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Coupled("over classes"), "treats channels differently"),
        (Coupled("noise"), "treats channels differently|random numbers of its own"),
        (Coupled("training noise"), "random numbers of its own"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1)), "treats channels differently"),
        (nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 10)), r"1 \(LayerNorm\) cannot be stacked"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.PReLU()), r"2 \(PReLU\) cannot be stacked"),
        (build_network("vit-4", (1, 8, 8), 10, seed=0, norm="layer"), "cannot be stacked: unknown weights"),
        (nn.Sequential(nn.Dropout2d(), nn.Flatten(), nn.Linear(64, 10)), r"0 \(Dropout2d\) cannot be stacked"),
    ],
    ids=lambda value: "" if isinstance(value, nn.Module) else value,
)
def test_what_cannot_be_stacked_is_refused(network, message):
    with pytest.raises(NetworkError, match=message):
        check_stacks(network, torch.randn(4, 1, 8, 8))


def test_tied_weights_are_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    network[2].weight = network[1].weight
    with pytest.raises(NetworkError, match="tied weights"):
        check_stacks(network, torch.randn(4, 1, 8, 8))


def test_a_layer_that_is_used_twice_is_refused():
    layer = nn.Linear(64, 64)
    with pytest.raises(NetworkError, match="tied weights"):
        check_stacks(nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.Linear(64, 10)), torch.randn(4, 1, 8, 8))


def test_counters_that_are_computed_with_are_refused_if_they_differ():
    """Without a momentum, BatchNorm's running statistics are means over all batches that it has seen."""
    case = next(case for case in NAMED if case.model == "digits-conv")
    members = networks(case, 2)
    for member in members:
        member[1].momentum = None
    members[1][1].num_batches_tracked += 1
    with pytest.raises(NetworkError, match=r"different 1\.num_batches_tracked"):
        stack(members[0], 2).load([member.state_dict() for member in members])


def test_counters_that_nothing_is_computed_from_are_each_members_own():
    case = next(case for case in NAMED if case.model == "digits-conv")
    members = networks(case)
    for place, member in enumerate(members):
        member[1].num_batches_tracked += (3, 0, 5)[place]
    stacked = stack(members[0], 3)
    for steps in (0, 1):
        stacked.load([member.state_dict() for member in members])
        images = torch.randn(3, 4, *case.shape)
        for _ in range(steps):
            stacked(images)
        found = [stacked.state(place)["1.num_batches_tracked"] for place in range(3)]
        assert [(int(one), one.dtype, one.shape) for one in found] == [
            (before + steps, torch.int64, ()) for before in (3, 0, 5)
        ]
