import pytest
import torch
from torch import nn

from cases import OWN
from modeconn.analysis.paths.recalibrate import recalibrate
from modeconn.evaluation.modes import batchnorm_layers
from modeconn.models import build_network


def make() -> nn.Module:
    return build_network("digits-conv", (1, 8, 8), 10, seed=0)


def test_a_first_layer_gets_the_mean_and_population_variance_of_all_its_inputs():
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))
    inputs = torch.randn(101, 3, 4, 4) * torch.tensor([1.0, 5.0, 0.1])[:, None, None] + 2
    recalibrate(network, inputs.split(30))  # the last batch is a short one
    expected = inputs.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(network[0].running_mean.double(), expected.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network[0].running_var.double(), expected.var(1, correction=0), rtol=1e-5, atol=0)


def test_deeper_layers_see_what_training_would_show_them():
    """Against a loop that writes down every layer's inputs in training mode."""
    network, batches = make(), torch.randn(90, 1, 8, 8, generator=torch.Generator().manual_seed(1)).split(40)
    seen: dict[nn.Module, list[torch.Tensor]] = {layer: [] for layer in batchnorm_layers(network)}
    copy = make().train()
    for layer, original in zip(batchnorm_layers(copy), seen, strict=True):
        layer.register_forward_pre_hook(lambda _, args, key=original: seen[key].append(args[0].detach()))
    for batch in batches:
        copy(batch)
    recalibrate(network, batches)
    for layer, inputs in seen.items():
        values = torch.cat(inputs).double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(layer.running_mean.double(), values.mean(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var.double(), values.var(1, correction=0), rtol=1e-4, atol=1e-6)


def test_nothing_but_statistics_changes():
    network = build_network(OWN[1].model, OWN[1].shape, 10, seed=0)
    network.train()
    network[1].eval()
    network[1].momentum = 0.3
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    recalibrate(network, [torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))])
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.running_mean", "1.running_var"}
    assert [module.training for module in network.modules()] == modes
    assert network[1].momentum == 0.3
    assert torch.equal(torch.random.get_rng_state(), state)  # dropout stayed off


def test_recalibration_forgets_what_was_there():
    inputs = torch.randn(64, 1, 8, 8)
    a, b = make(), make()
    for layer in batchnorm_layers(a):
        layer.running_mean.fill_(torch.nan)
        layer.running_var.fill_(torch.inf)
    recalibrate(a, inputs.split(32))
    recalibrate(b, inputs.split(32))
    assert all(torch.equal(x, y) for x, y in zip(a.buffers(), b.buffers(), strict=True))


def test_without_batches_or_batchnorm_nothing_happens():
    network = build_network("lenet-16", (1, 8, 8), 10, seed=0, norm="none")
    recalibrate(network, [torch.zeros(2, 1, 8, 8)])
    other = make()
    before = [buffer.clone() for buffer in other.buffers()]
    recalibrate(other, [])
    assert all(torch.equal(x, y) for x, y in zip(before, other.buffers(), strict=True))


def test_modes_return_after_an_error():
    network = make().train()
    with pytest.raises(RuntimeError):
        recalibrate(network, [torch.zeros(2, 5, 8, 8)])
    assert all(module.training for module in network.modules())
    assert all(layer.momentum == 0.1 and not layer._forward_hooks for layer in batchnorm_layers(network))


def test_a_batch_is_passed_as_one_says():
    inputs = torch.randn(80, 1, 8, 8)
    plain, named = make(), make()
    recalibrate(plain, inputs.split(32))
    recalibrate(named, [{"image": batch} for batch in inputs.split(32)], lambda batch: named(batch["image"]))
    assert all(torch.equal(x, y) for x, y in zip(plain.buffers(), named.buffers(), strict=True))
