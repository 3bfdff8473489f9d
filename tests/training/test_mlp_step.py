"""Steps of fully-connected networks that are written out give the bits of autograd, and others are left to it."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from modeconn.data import load_data
from modeconn.evaluation.compute import computing
from modeconn.tasks import get_task
from modeconn.training import trainer
from modeconn.training.mlp_step import written_out
from modeconn.training.noise import Noise
from modeconn.training.trainer import train_until
from trajectories import same

CPU = torch.device("cpu")
TASK = get_task("digits-conv", model="lenet-20-10", norm="none").shortened(60)  # 45 iterations an epoch, the last short
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.0, "weight_decay": 0.0},
    "momentum": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    "nesterov": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "nesterov": True},
    "adam": {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1},
}


@pytest.fixture(scope="module")
def data(data_dir):
    return load_data("digits", data_dir)


def network(*widths: int, first: nn.Module | None = None, **options: bool) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [first or nn.Flatten()]
    for inputs, outputs in zip((64, *widths), (*widths, 10), strict=True):
        layers += [nn.Linear(inputs, outputs, **options), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def both_ways(monkeypatch, task, data, stop, **options):
    """The same training with steps written out, which must be taken, and by autograd."""
    made, results = [], []
    for make in (written_out, lambda network: None):
        monkeypatch.setattr(trainer, "written_out", lambda network, make=make: made.append(make(network)) or made[-1])
        results.append(
            train_until(None, stop, task=task, data=data, noise=Noise.of(1), init_seed=0, device=CPU, **options)
        )
    assert made[0] is not None
    assert made[-1] is None
    return results


@pytest.mark.parametrize("masked", [False, True], ids=["dense", "masked"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_has_the_bits_of_autograd(optimizer, masked, data, monkeypatch):
    task = replace(TASK, **OPTIMIZERS[optimizer])
    mask = {"1.weight": torch.rand(20, 64, generator=torch.Generator().manual_seed(0)) < 0.3} if masked else None
    ours, reference = both_ways(monkeypatch, task, data, 60, mask=mask)
    assert same(ours.state, reference.state)
    if mask:
        assert not ours.state.model["1.weight"][~mask["1.weight"]].any()


def test_a_training_diverges_where_it_does_by_autograd(data, monkeypatch):
    ours, reference = both_ways(monkeypatch, replace(TASK, learning_rate=1e30, momentum=0.0), data, 60)
    assert ours.diverged_at == reference.diverged_at is not None
    assert same(ours.state, reference.state)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bfloat16_is_left_to_autograd(precision, data, monkeypatch):
    asked = []
    monkeypatch.setattr(trainer, "written_out", asked.append)
    train_until(None, 1, task=TASK, data=data, noise=Noise.of(1), init_seed=0, device=CPU, precision=precision)
    assert bool(asked) is (precision == "float32")


@pytest.mark.parametrize("widths", [(), (12,), (300, 100), (3, 5, 7, 9)])
def test_loss_and_gradients_are_those_of_autograd(widths):
    """Batch after batch of several sizes in the same memory; pixels that are not finite, too."""
    ours = network(*widths)
    reference = copy.deepcopy(ours)
    differentiate = written_out(ours)
    for seed, batch in enumerate((32, 7, 32, 1)):
        torch.manual_seed(seed)
        images, labels = torch.randn(batch, 1, 8, 8), torch.randint(10, (batch,))
        if seed == 2:
            images[3, 0, 4, 4], images[5, 0, 0, 0] = torch.inf, torch.nan
        with computing(CPU):
            loss = differentiate(images, labels)
            expected = cross_entropy(reference(images), labels)
            expected.backward()
        assert not loss.requires_grad
        torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=0, equal_nan=True)
        for found, wanted in zip(ours.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad, rtol=0, atol=0, equal_nan=True)
        ours.zero_grad()
        reference.zero_grad()


def test_weights_are_read_where_they_are_now():
    """Also after they were loaded in place, as states are restored."""
    ours, other = network(12), network(12)
    differentiate = written_out(ours)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    ours.load_state_dict(other.state_dict())
    images, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    assert torch.equal(differentiate(images, labels), cross_entropy(other(images), labels))


class _Named(nn.Sequential):
    """It may have a forward pass of its own."""


class _Layer(nn.Linear):
    """Likewise."""


def _changed(change) -> nn.Module:
    made = network(12, 12)
    return change(made) or made


OTHERS = {
    "dropout": lambda net: nn.Sequential(*net[:3], nn.Dropout(0.5), *net[3:]),
    "normalization": lambda net: nn.Sequential(*net[:2], nn.BatchNorm1d(12), *net[2:]),
    "other activation": lambda net: net.__setitem__(2, nn.ReLU6()),
    "activation last": lambda net: nn.Sequential(*net, nn.ReLU()),
    "no flattening": lambda net: net[1:],
    "flattens less": lambda net: net.__setitem__(0, nn.Flatten(2)),
    "no layers": lambda net: net[:1],
    "another class": lambda net: _Named(*net),
    "a layer of another class": lambda net: net.__setitem__(1, _Layer(64, 12)),
    "no module of layers": lambda net: net[1],
    "without bias": lambda net: network(12, bias=False),
    "a bias missing": lambda net: net.__setitem__(3, nn.Linear(12, 12, bias=False)),
    "a scale in place of a bias": lambda net: net.__setitem__(3, nn.Linear(12, 12, bias=False)) or (
        net[3].register_parameter("scale", nn.Parameter(torch.ones(12)))
    ),
    "shared": lambda net: net.__setitem__(4, nn.ReLU()) or setattr(net[5], "bias", nn.Parameter(torch.ones(10))) or (
        setattr(net[1], "bias", net[3].bias)
    ),
    "frozen": lambda net: net[3].requires_grad_(False) and None,
    "float64": lambda net: net.double(),
    "not contiguous": lambda net: setattr(net[3], "weight", nn.Parameter(torch.randn(12, 12).t())),
    "forward hook": lambda net: net[2].register_forward_hook(lambda *_: None) and None,
    "hook before": lambda net: net.register_forward_pre_hook(lambda *_: None) and None,
    "backward hook": lambda net: net[5].register_full_backward_hook(lambda *_: None) and None,
    "hook of a parameter": lambda net: net[5].weight.register_hook(lambda gradient: gradient) and None,
    "hook after a gradient": lambda net: net[5].weight.register_post_accumulate_grad_hook(lambda _: None) and None,
    "its own forward": lambda net: setattr(net, "forward", lambda images: images),
    "compiled": lambda net: net[1].compile(),
    "pruned by PyTorch": lambda net: nn.utils.prune.random_unstructured(net[1], "weight", 0.5) and None,
    "parametrized": lambda net: nn.utils.parametrizations.weight_norm(net[1]) and None,
    "meta device": lambda net: net.to("meta"),
}  # fmt: skip


@pytest.mark.parametrize("change", OTHERS)
def test_other_networks_are_left_to_autograd(change):
    assert written_out(network(12, 12)) is not None
    assert written_out(_changed(OTHERS[change])) is None


def test_the_type_that_new_tensors_have_does_not_matter():
    ours = network(12)
    reference = copy.deepcopy(ours)
    images, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    torch.set_default_dtype(torch.float64)
    try:
        loss = written_out(ours)(images, labels)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(loss, cross_entropy(reference(images), labels))


def test_hooks_into_all_modules_leave_it_to_autograd():
    with nn.modules.module.register_module_forward_pre_hook(lambda *_: None):
        assert written_out(network(12)) is None
    assert written_out(network(12)) is not None
