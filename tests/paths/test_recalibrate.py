import pytest
import torch
from torch import nn

import modeconn
from cases import OWN
from modeconn.analysis.paths.recalibrate import recalibrate
from modeconn.errors import NetworkError
from modeconn.evaluation.modes import running_statistics_layers
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
    seen: dict[nn.Module, list[torch.Tensor]] = {layer: [] for layer in running_statistics_layers(network)}
    copy = make().train()
    for layer, original in zip(running_statistics_layers(copy), seen, strict=True):
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
    for layer in running_statistics_layers(a):
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
    assert all(layer.momentum == 0.1 and not layer._forward_hooks for layer in running_statistics_layers(network))


def test_a_batch_is_passed_as_one_says():
    inputs = torch.randn(80, 1, 8, 8)
    plain, named = make(), make()
    recalibrate(plain, inputs.split(32))
    recalibrate(named, [{"image": batch} for batch in inputs.split(32)], lambda batch: named(batch["image"]))
    assert all(torch.equal(x, y) for x, y in zip(plain.buffers(), named.buffers(), strict=True))


class Transposed(nn.BatchNorm1d):
    """Channels come last, as in networks of point clouds."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Ghost(nn.BatchNorm1d):
    """Normalizes each chunk of a batch by itself (Hoffer et al. 2017)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([super(Ghost, self).forward(chunk) for chunk in x.chunk(3)])


class Direct(nn.Module):
    """No layer of PyTorch's, but its two buffers and its function."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(5))
        self.register_buffer("running_var", torch.ones(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.batch_norm(x, self.running_mean, self.running_var, training=self.training)


KINDS = {
    "of torch": (nn.BatchNorm1d(5), (40, 5)),
    "momentum=None": (nn.BatchNorm1d(5, momentum=None), (40, 5)),
    "momentum=0": (nn.BatchNorm2d(5, momentum=0.0), (40, 5, 3, 3)),
    "three dims": (nn.BatchNorm3d(5, affine=False), (40, 5, 2, 2, 2)),
    "in all processes": (nn.SyncBatchNorm(5), (40, 5, 3)),
    "channels last": (Transposed(5), (40, 3, 5)),
    "ghost": (Ghost(5), (40, 5)),
    "own": (Direct(), (40, 5)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_batchnorm_gets_the_statistics_of_all_its_inputs(kind):
    layer, shape = KINDS[kind]
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    assert recalibrate(nn.Sequential(layer), inputs.split(17)) == ()
    channels = 2 if kind == "channels last" else 1
    expected = inputs.double().transpose(0, channels).flatten(1)
    torch.testing.assert_close(layer.running_mean.double(), expected.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.running_var.double(), expected.var(1, correction=0), rtol=1e-5, atol=0)


def test_a_layer_that_is_called_several_times_for_a_batch_pools_all_calls():
    layer = nn.BatchNorm1d(3)
    inputs = torch.randn(50, 3)
    recalibrate(nn.Sequential(layer), inputs.split(20), lambda batch: [layer(batch[:7]), layer(batch[7:])])
    torch.testing.assert_close(layer.running_var, inputs.var(0, correction=0), rtol=1e-5, atol=0)


def test_instance_norm_gets_the_means_over_examples():
    layer = nn.InstanceNorm2d(3, track_running_stats=True)
    inputs = torch.randn(50, 3, 4, 4) * 2 + 1
    assert recalibrate(nn.Sequential(layer), inputs.split(20)) == ()
    torch.testing.assert_close(layer.running_mean, inputs.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.running_var, inputs.var((2, 3)).mean(0), rtol=1e-5, atol=0)
    # PyTorch's own, with which it would have been trained on all examples in one batch:
    trained = nn.InstanceNorm2d(3, track_running_stats=True, momentum=1.0)
    trained(inputs)
    torch.testing.assert_close(layer.running_var, trained.running_var, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_buffers_in_half_precision_are_rounded_once(dtype):
    layer = nn.BatchNorm1d(4).to(dtype)
    inputs = (torch.randn(512, 4) * 3 + 20).to(dtype)
    recalibrate(nn.Sequential(layer), inputs.split(16))
    assert torch.equal(layer.running_mean, inputs.double().mean(0).to(dtype))
    assert torch.equal(layer.running_var, inputs.double().var(0, correction=0).to(dtype))


class Routed(nn.Module):
    """Two experts; each sees the examples of its sign alone."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.BatchNorm1d(3), nn.BatchNorm1d(3)])

    def forward(self, x: torch.Tensor) -> None:
        for chosen, expert in zip((x[:, 0] <= 0, x[:, 0] > 0), self.experts, strict=True):
            expert(x[chosen])


@pytest.mark.parametrize("sizes", [(100,), (50, 50), (1,) * 100, (90, *(1,) * 10)])
def test_batches_without_examples_for_a_layer_and_with_one_count_as_what_they_are(sizes):
    network, inputs = Routed(), torch.randn(100, 3)
    inputs = inputs[inputs[:, 0].argsort()]
    recalibrate(network, inputs.split(list(sizes)))
    for expert, chosen in zip(network.experts, (inputs[:, 0] <= 0, inputs[:, 0] > 0), strict=True):
        torch.testing.assert_close(expert.running_mean, inputs[chosen].mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(expert.running_var, inputs[chosen].var(0, correction=0), rtol=1e-5, atol=1e-6)


class Frozen(nn.BatchNorm1d):
    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


class FrozenInside(nn.Sequential):
    """Keeps its BatchNorm in evaluation mode, as detectors do with their backbone's."""

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self[0].eval()
        return self


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main, self.aux = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.main(x) + (self.aux(x) if self.training else 0)


@pytest.mark.parametrize(
    ("network", "kept"),
    [
        (nn.Sequential(Frozen(3), nn.BatchNorm1d(3)), ("0",)),
        (FrozenInside(nn.BatchNorm1d(3), nn.BatchNorm1d(3)), ("0",)),
        (TwoHeads(), ("aux",)),
    ],
    ids=["frozen", "frozen by what is around it", "auxiliary head"],
)
def test_what_is_frozen_or_not_reached_keeps_what_it_had_and_is_named(network, kept):
    layers = running_statistics_layers(network)
    for layer in layers:
        layer.running_mean.fill_(7)
    assert recalibrate(network, torch.randn(50, 3).split(20)) == kept
    assert {name for layer, name in layers.items() if (layer.running_mean == 7).all()} == set(kept)


def test_scripted_layers_are_refused_by_name():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    for script in (torch.jit.script(network), nn.Sequential(torch.jit.script(network))):
        with pytest.raises(NetworkError, match=r"scripted or traced layers cannot be measured anew: (0\.)?1;"):
            recalibrate(script, [torch.randn(5, 3)])


def test_the_default_soup_of_layers_for_all_processes_is_that_of_ordinary_ones():
    x, y = torch.randn(60, 5), torch.randint(3, (60,))

    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))

    ordinary, synchronised = ([convert(make(seed)) for seed in (0, 1)] for convert in (nn.Sequential, _synchronised))
    found = modeconn.soup(synchronised, (x, y), gate=None, calibration=(x, y))
    expected = modeconn.soup(ordinary, (x, y), gate=None, calibration=(x, y))
    assert all(torch.equal(a, b) for a, b in zip(found.state.values(), expected.state.values(), strict=True))


def test_a_result_names_layers_that_were_not_reached():
    x, y = torch.randn(60, 3), torch.randint(3, (60,))
    result = modeconn.error_barrier(
        TwoHeads(), TwoHeads(), (x, y), alphas=3, batchnorm="recalibrate", calibration=(x, y)
    )
    assert any("kept: aux" in note for note in result.notes)


def _synchronised(network: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(network))
