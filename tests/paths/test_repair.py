import contextlib
import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from modeconn.analysis.paths.recalibrate import recalibrate
from modeconn.analysis.paths.repair import Statistics, channel_statistics, interpolate_statistics, repaired
from modeconn.errors import DataError, NetworkError


def mlp(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(12, 3)).eval()


def convnet(seed: int, norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for channels in (2, 5, 5):
            layers += [nn.Conv2d(channels, 5, 3, padding=1), nn.BatchNorm2d(5) if norm else nn.Identity(), nn.ReLU()]
        for layer in layers:
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 2)
                nn.init.normal_(layer.bias)
                layer.running_mean.normal_()  # of nobody: as if interpolated
                layer.running_var.uniform_(0.5, 2)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(5 * 16, 3)).eval()


def midpoint(a: nn.Module, b: nn.Module) -> nn.Module:
    middle, ends = copy.deepcopy(a), zip(a.state_dict().items(), b.state_dict().values(), strict=True)
    middle.load_state_dict({name: (x + y) / 2 if x.is_floating_point() else x for (name, x), y in ends})
    return middle


def vectors(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 + 1


CASES = pytest.mark.parametrize(
    ("make", "inputs"),
    [(mlp, vectors), (convnet, images), (lambda seed: convnet(seed, norm=True), images)],
    ids=["mlp", "convnet", "convnet with BatchNorm"],
)


def distance(found: dict[str, Statistics], wanted: dict[str, Statistics]) -> float:
    """The largest deviation of a mean or a standard deviation, in units of the wanted standard deviation."""
    assert found.keys() >= wanted.keys()
    return max(
        max(((found[name].mean - w.mean).abs() / w.std).max().item(), (found[name].std / w.std - 1).abs().max().item())
        for name, w in wanted.items()
    )


@CASES
@torch.no_grad()
def test_after_repair_one_batch_has_the_targets_statistics(make, inputs):
    a, b, batches = make(1), make(2), [inputs(300)]
    network = midpoint(a, b)
    targets = interpolate_statistics(channel_statistics(a, batches), channel_statistics(b, batches), 0.3)
    assert distance(channel_statistics(network, batches), targets) > 0.1
    with repaired(network, batches, targets):
        assert distance(channel_statistics(network, batches), targets) < 1e-5


@CASES
@torch.no_grad()
def test_after_repair_many_batches_nearly_have_the_targets_statistics_and_exactly_if_asked(make, inputs):
    a, b, batches = make(1), make(2), inputs(5000).split(250)
    network = midpoint(a, b)
    targets = interpolate_statistics(channel_statistics(a, batches), channel_statistics(b, batches), 0.3)
    with repaired(network, batches, targets):
        assert 1e-5 < distance(channel_statistics(network, batches), targets) < 0.01
    with repaired(network, batches, targets, exact=True):
        assert distance(channel_statistics(network, batches), targets) < 1e-5


@CASES
@pytest.mark.parametrize("exact", [False, True])
@torch.no_grad()
def test_a_networks_own_statistics_change_nothing(make, inputs, exact):
    network, batch = make(1), inputs(200)
    before = network(batch)
    with repaired(network, [batch], channel_statistics(network, [batch]), exact=exact):
        torch.testing.assert_close(network(batch), before, rtol=0, atol=1e-5)


def fused(network: nn.Module, targets: dict[str, Statistics], inputs: Tensor) -> nn.Module:
    """REPAIR as its authors state it, without BatchNorm: layer by layer, over all data, by new weights and biases."""
    network = copy.deepcopy(network).double()
    for name, target in targets.items():
        layer = network.get_submodule(name)
        seen: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _, args, output, seen=seen: seen.append(output))
        network(inputs.double())
        handle.remove()
        values = seen[0].transpose(0, 1).flatten(1).numpy()  # [channels, values]
        scale = target.std / torch.from_numpy(np.std(values, axis=1))
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias.copy_((layer.bias - torch.from_numpy(np.mean(values, axis=1))) * scale + target.mean)
    return network


@pytest.mark.parametrize(("make", "inputs"), [(mlp, vectors), (convnet, images)], ids=["mlp", "convnet"])
@torch.no_grad()
def test_the_output_is_that_of_the_papers_method_fused_into_weights(make, inputs):
    a, b, batches = make(1), make(2), inputs(1000).split(50)
    network, others = midpoint(a, b), inputs(64, seed=1)
    for part, exact in ((batches[:1], False), (batches, True)):
        targets = interpolate_statistics(channel_statistics(a, part), channel_statistics(b, part), 0.5)
        expected = fused(network, targets, torch.cat(part))(others.double())
        with repaired(network, part, targets, exact=exact):
            torch.testing.assert_close(network(others).double(), expected, rtol=1e-4, atol=1e-5)
        assert (network(others) - expected).abs().max() > 0.02


@torch.no_grad()
def test_with_batchnorm_it_is_recalibration_if_the_ends_are_recalibrated():
    """Then a BatchNorm layer's statistics are its shift and scale at the ends, and between them."""
    a, b, batch = convnet(1, norm=True), convnet(2, norm=True), images(400)
    for end in (a, b):
        for layer in end.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = 1e-12
        recalibrate(end, [batch])
    of_a = channel_statistics(a, [batch])
    torch.testing.assert_close(of_a["1"].mean.float(), a[1].bias, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_a["1"].std.float(), a[1].weight, rtol=1e-4, atol=1e-5)
    network, others = midpoint(a, b), images(50, seed=1)
    with repaired(network, [batch], interpolate_statistics(of_a, channel_statistics(b, [batch]), 0.5)):
        found = network(others)
    assert (found - network(others)).abs().max() > 0.1
    recalibrate(network, [batch])
    torch.testing.assert_close(found, network(others), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_batchnorm_layers_alone_give_recalibration_with_many_batches_too():
    network, batches, others = convnet(1, norm=True), images(900).split(300), images(50, seed=1)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    for layer in layers.values():
        layer.eps = 1e-12
    targets = {name: Statistics(layer.bias.double(), layer.weight.double()) for name, layer in layers.items()}
    with repaired(network, batches, targets):
        found = network(others)
    recalibrate(network, batches)
    torch.testing.assert_close(found, network(others), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    data = load_digits()
    inputs = torch.from_numpy(data.data).float() / 16
    targets = torch.from_numpy(data.target).long()
    ends = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = nn.Sequential(
                *(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()),
                nn.Linear(64, 10),
            )
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
            for _ in range(300):
                chosen = torch.randint(len(inputs), (100,))
                loss = functional.cross_entropy(network(inputs[chosen]), targets[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        ends.append(network.eval())
    return ends[0], ends[1], inputs, targets


@torch.no_grad()
def test_variance_collapses_between_independent_networks_and_repair_restores_it(trained):
    a, b, inputs, targets = trained
    network, batches = midpoint(a, b), inputs.split(300)
    wanted = interpolate_statistics(channel_statistics(a, batches), channel_statistics(b, batches), 0.5)

    def stds() -> list[float]:
        found = channel_statistics(network, batches)
        return [(found[name].std.mean() / w.std.mean()).item() for name, w in wanted.items()]

    def loss() -> float:
        return functional.cross_entropy(network(inputs), targets).item()

    collapsed, plain = stds(), loss()
    assert list(wanted) == ["0", "2", "4"]
    assert collapsed[0] > collapsed[1] > collapsed[2]
    assert collapsed[0] < 0.9
    assert collapsed[2] < 0.3
    with repaired(network, batches, wanted):
        assert stds() == pytest.approx([1, 1, 1], abs=0.01)
        assert loss() < plain - 0.2


@torch.no_grad()
def test_statistics_are_those_of_all_values_by_channel_in_every_kind_of_layer():
    torch.manual_seed(0)

    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Conv1d(2, 4, 3)
            self.norm = nn.BatchNorm1d(4)
            self.up = nn.ConvTranspose1d(4, 3, 3)
            self.tokens = nn.Linear(3, 5)
            self.space = nn.Conv3d(1, 2, 1)
            self.last = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.seen = {"line": self.line(x)}
            self.seen["norm"] = self.norm(self.seen["line"])
            self.seen["up"] = self.up(self.seen["norm"].relu())
            self.seen["tokens"] = self.tokens(self.seen["up"].transpose(1, 2))  # [batch, length, 5]
            self.seen["space"] = self.space(self.seen["tokens"][:, None, None])  # [batch, 2, 1, length, 5]
            return self.last(self.seen["space"].mean((1, 2, 3)))

    network, inputs = Kinds().eval(), torch.randn(30, 2, 8) + 3
    found = channel_statistics(network, inputs.split(13))
    network(inputs)
    assert list(found) == list(network.seen)
    for name, output in network.seen.items():
        values = (output if name == "tokens" else output.movedim(1, -1)).flatten(0, -2).double()
        torch.testing.assert_close(found[name].mean, values.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[name].std, values.std(0, correction=0), rtol=1e-5, atol=1e-7)
        assert found[name].std.dtype == torch.float64
    targets = {name: Statistics(now.mean + 1, now.std * 2) for name, now in found.items()}
    with repaired(network, [inputs], targets):
        assert distance(channel_statistics(network, [inputs]), targets) < 1e-5


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_statistics_do_not_depend_on_how_examples_are_divided(sizes):
    network, inputs = mlp(1), vectors(sum(sizes))
    whole, parts = channel_statistics(network, [inputs]), channel_statistics(network, inputs.split(sizes))
    for name, now in whole.items():
        torch.testing.assert_close(parts[name].mean, now.mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(parts[name].std, now.std, rtol=1e-5, atol=1e-6)


@given(st.floats(0, 1), st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 3), st.floats(0, 3))
def test_targets_lie_on_the_line_between_the_ends(alpha, mean_a, mean_b, std_a, std_b):
    a, b = (
        {"layer": Statistics(torch.tensor([mean]).double(), torch.tensor([std]).double())}
        for mean, std in ((mean_a, std_a), (mean_b, std_b))
    )
    target, mirrored = interpolate_statistics(a, b, alpha)["layer"], interpolate_statistics(b, a, 1 - alpha)["layer"]
    assert target.mean.item() == pytest.approx((1 - alpha) * mean_a + alpha * mean_b, abs=1e-6)
    assert target.std.item() == pytest.approx((1 - alpha) * std_a + alpha * std_b, abs=1e-6)
    assert mirrored.mean.item() == pytest.approx(target.mean.item(), abs=1e-6)
    for at, end in ((0, a), (1, b)):
        assert torch.equal(interpolate_statistics(a, b, at)["layer"].mean, end["layer"].mean)
        assert torch.equal(interpolate_statistics(a, b, at)["layer"].std, end["layer"].std)
    assert interpolate_statistics(a, b, 2 - alpha)["layer"].std.item() >= 0


def test_targets_are_for_layers_with_equally_many_channels_in_both_networks():
    def make(channels: int) -> Statistics:
        return Statistics(torch.zeros(channels), torch.ones(channels))

    assert list(interpolate_statistics({"x": make(2), "y": make(3)}, {"z": make(1), "y": make(3)}, 0.5)) == ["y"]
    with pytest.raises(NetworkError, match="'y' has 3 channels here and 4 there"):
        interpolate_statistics({"y": make(3)}, {"y": make(4)}, 0.5)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("where", ["nowhere", "inside", "forward", "batches"])
def test_afterwards_everything_is_as_before_also_after_an_error(where):
    class Net(nn.Sequential):
        pass

    network = Net(*convnet(1, norm=True), nn.Dropout(0.5), nn.Linear(3, 3)).train()
    network[1].eval()
    network[0].register_forward_hook(lambda layer, args, output: None)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    state = torch.random.get_rng_state()
    batch = images(60)
    targets = channel_statistics(network, [batch])
    targets = {name: Statistics(now.mean + 1, now.std * 2) for name, now in targets.items()}

    def batches() -> Iterator[Tensor]:
        yield batch
        if where == "batches":
            raise Interrupted

    def forward(inputs: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        network(inputs)
        if where == "forward":
            raise Interrupted
        return inputs

    ending = contextlib.nullcontext() if where == "nowhere" else pytest.raises(Interrupted)
    with ending, repaired(network, batches(), targets, forward):
        assert torch.is_grad_enabled()
        assert not any(module.training for module in network.modules())
        assert torch.equal(network(batch), network(batch))
        if where == "inside":
            raise Interrupted
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert [len(module._forward_hooks) for module in network.modules() if module._forward_hooks] == [1]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_gradients_flow_through_a_repaired_network():
    network, batch = mlp(1), vectors(50)
    own = channel_statistics(network, [batch])
    twice = {"4": Statistics(own["4"].mean * 2, own["4"].std * 2)}
    network(batch).sum().backward()
    expected = network[6].weight.grad.clone() * 2
    network.zero_grad()
    with repaired(network, [batch], twice):
        network(batch).sum().backward()
    torch.testing.assert_close(network[6].weight.grad, expected, rtol=1e-3, atol=1e-3)


class TwoInputs(nn.Module):
    """One encoder for both, a layer that is not called, and one of two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(inplace=True))
        self.unused = nn.Linear(3, 3)
        self.mix = nn.Linear(16, 8)
        self.alias = self.mix
        self.last = nn.Linear(8, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        both = torch.cat([self.encoder(left), self.encoder(right)], 1)
        return self.last(self.mix(both).relu_())


@pytest.mark.parametrize("parts", [1, 20])
@torch.no_grad()
def test_dict_batches_two_inputs_and_a_layer_that_is_called_twice(parts):
    torch.manual_seed(0)
    a, b = TwoInputs().eval(), TwoInputs().eval()
    whole = {"left": vectors(600), "right": vectors(600, seed=1) * 3 - 4}
    batches = [
        dict(zip(whole, pair, strict=True))
        for pair in zip(*(x.split(600 // parts) for x in whole.values()), strict=True)
    ]
    network = midpoint(a, b)
    of_a, of_b = (channel_statistics(end, batches, lambda batch, end=end: end(**batch)) for end in (a, b))
    assert list(of_a) == ["encoder.0", "encoder.2", "mix"]
    calls = torch.cat([a.encoder[0](whole["left"]), a.encoder[0](whole["right"])]).double()
    torch.testing.assert_close(of_a["encoder.0"].mean, calls.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(of_a["encoder.0"].std, calls.std(0, correction=0), rtol=1e-5, atol=1e-6)
    targets = interpolate_statistics(of_a, of_b, 0.5)
    assert distance(channel_statistics(network, batches, lambda batch: network(**batch)), targets) > 0.1
    with repaired(network, batches, targets, lambda batch: network(**batch)):
        found = channel_statistics(network, batches, lambda batch: network(**batch))
        # With one batch this is exact, as "mix", the only layer called once, depends on the others and on no other.
        assert distance(found, targets) < 1e-5


@torch.no_grad()
def test_a_layer_that_feeds_itself_is_left_alone_by_its_own_statistics():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.Linear(6, 6)
            self.last = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(4):
                x = self.cell(x).relu()
            return self.last(x)

    torch.manual_seed(0)
    network, batch = Recurrent().eval(), vectors(100)
    before = network(batch)
    with repaired(network, [batch], channel_statistics(network, [batch])):
        torch.testing.assert_close(network(batch), before, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_output_is_the_layer_called_last_wherever_it_is_defined_and_is_left_alone():
    class OutputFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 6)
            self.body = nn.Linear(6, 6)

        def forward(self, x: Tensor, times: int = 1) -> Tensor:
            for _ in range(times):
                x = self.head(self.body(x).relu())
            return x

    network = OutputFirst().eval()
    assert list(channel_statistics(network, [vectors(5)])) == ["body"]
    assert list(channel_statistics(network, [vectors(5)], lambda batch: network(batch, times=2))) == ["body"]
    assert channel_statistics(nn.Linear(6, 2), [vectors(5)]) == {}
    assert channel_statistics(nn.ReLU(), [vectors(5)]) == {}


@torch.no_grad()
def test_only_preactivations_are_rescaled():
    class Norm(nn.BatchNorm1d):
        def __init__(self, activation: nn.Module) -> None:
            super().__init__(6)
            self.drop, self.act = nn.Identity(), activation

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.drop(super().forward(x)))

    network = nn.Sequential(nn.Linear(6, 6), Norm(nn.ReLU()), nn.Linear(6, 6), Norm(nn.Identity()), nn.Linear(6, 2))
    assert list(channel_statistics(network, [vectors(20)])) == ["0", "2", "3"]


@torch.no_grad()
def test_targets_of_layers_that_are_not_called_and_layers_without_targets_are_ignored():
    network, batch = TwoInputs().eval(), [vectors(50), vectors(50, seed=1)]
    before = network.encoder[0](batch[0])
    targets = {"mix": Statistics(torch.zeros(8), torch.ones(8)), "unused": Statistics(torch.zeros(3), torch.ones(3))}
    with repaired(network, [batch], targets, lambda batch: network(*batch)):
        assert torch.equal(network.encoder[0](batch[0]), before)
        found = channel_statistics(network, [batch], lambda batch: network(*batch))
    assert distance(found, {"mix": targets["mix"]}) < 1e-5
    assert "unused" not in found


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
@torch.no_grad()
def test_a_dead_channel_gets_the_mean_and_stays_finite(exact, parts):
    network, batches = convnet(1), images(90).split(90 // parts)
    network[0].weight[2] = 0
    network[0].bias[2] = 0.1
    network[3].weight[1] = 0
    network[3].bias[1] = 0
    targets = {
        name: Statistics(torch.arange(5).double() + 1, torch.full((5,), 2.0).double()) for name in ("0", "3", "6")
    }
    with repaired(network, batches, targets, exact=exact):
        found = channel_statistics(network, batches)
        assert network(batches[0]).isfinite().all()
    for name, dead in (("0", 2), ("3", 1)):
        torch.testing.assert_close(found[name].mean, targets[name].mean, rtol=0, atol=0.05)
        assert found[name].std[dead] < 1e-5
        torch.testing.assert_close(found[name].std[dead - 1], targets[name].std[dead - 1], rtol=0.02, atol=0)


@torch.no_grad()
def test_rounding_is_not_taken_for_variance():
    network = nn.Sequential(nn.Linear(6, 1), nn.Linear(1, 2))
    network[0].weight.fill_(1e-7)
    network[0].bias.fill_(1.0)  # its output varies in the last bits only
    with repaired(network, [vectors(100)], {"0": Statistics(torch.zeros(1), torch.ones(1))}):
        assert network[0](vectors(100)).abs().max() < 1e-5
    network[0].weight.fill_(1e-30)
    network[0].bias.fill_(0)  # and here its variance is below the smallest float32
    with repaired(network, [vectors(100)], {"0": Statistics(torch.zeros(1), torch.ones(1))}):
        assert network[0](vectors(100)).abs().max() < 1e-5


@torch.no_grad()
def test_a_channel_that_is_dead_at_both_ends_is_silenced():
    network, batch = mlp(1), vectors(50)
    with repaired(network, [batch], {"0": Statistics(torch.full((12,), 3.0), torch.zeros(12))}):
        assert torch.equal(network[0](batch), torch.full((50, 12), 3.0))


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.05), (torch.float16, 0.01), (torch.float64, 1e-6)])
@torch.no_grad()
def test_other_precisions_keep_their_dtype_and_are_measured_in_at_least_float32(dtype, near):
    network, batch = mlp(1).to(dtype), vectors(4000).to(dtype)
    network[0].bias.fill_(30)  # so that sums in half precision would overflow or stall
    found = channel_statistics(network, [batch])
    values = network[0](batch).double()
    torch.testing.assert_close(found["0"].mean, values.mean(0), rtol=1e-5, atol=0)
    torch.testing.assert_close(found["0"].std, values.std(0, correction=0), rtol=1e-4, atol=0)
    targets = {name: Statistics(now.mean + 1, now.std * 2) for name, now in found.items()}
    with repaired(network, [batch], targets):
        assert network[0](batch).dtype == dtype
        assert distance(channel_statistics(network, [batch]), targets) < near


@torch.no_grad()
def test_autocast_is_the_callers():
    network, batch = mlp(1), vectors(500)

    def forward(inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(inputs)

    targets = {name: Statistics(s.mean + 1, s.std * 2) for name, s in channel_statistics(network, [batch]).items()}
    with repaired(network, [batch], targets, forward):
        assert forward(batch).dtype == torch.bfloat16
        assert distance(channel_statistics(network, [batch], forward), targets) < 0.02


@torch.no_grad()
def test_images_and_vectors_without_a_batch_have_channels_too():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(0))
    network.append(nn.Linear(4, 5)).append(nn.Linear(5, 2))
    image = torch.randn(2, 8, 8)
    found = channel_statistics(network, [image])
    values = network[0](image).flatten(1).double()
    torch.testing.assert_close(found["0"].mean, values.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["0"].std, values.std(1, correction=0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["4"].mean, network[:5](image).double())
    assert not found["4"].std.any()
    with repaired(network, [image], {"0": Statistics(torch.ones(3), torch.ones(3))}):
        assert distance(channel_statistics(network, [image]), {"0": Statistics(torch.ones(3), torch.ones(3))}) < 1e-5


@torch.no_grad()
def test_layers_inside_a_transformer_are_repaired_too():
    """PyTorch passes these by their layers' own forward where it can."""
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    network = nn.Sequential(nn.Linear(6, 8), block, nn.Linear(8, 2)).eval()
    batch = vectors(60).view(20, 3, 6)
    own = channel_statistics(network, [batch])
    assert list(own) == ["0", "1.linear1", "1.linear2"]
    targets = {name: Statistics(now.mean + 1, now.std * 2) for name, now in own.items()}
    with repaired(network, [batch], targets):
        assert distance(channel_statistics(network, [batch]), targets) < 1e-5


@torch.no_grad()
def test_a_call_without_values_counts_for_nothing():
    network, batch = mlp(1), vectors(40)
    own = channel_statistics(network, [batch])
    assert distance(channel_statistics(network, [batch[:0], batch, batch[:0]]), own) == 0
    with repaired(network, [batch, batch[:0]], own):
        assert network(batch[:0]).shape == (0, 3)
        assert distance(channel_statistics(network, [batch]), own) < 1e-5


@torch.no_grad()
def test_batches_of_one_are_refused_unless_layers_are_solved_one_by_one():
    network, batches = mlp(1), vectors(40).split(1)
    own = channel_statistics(network, batches)
    targets = {name: Statistics(now.mean + 1, now.std * 2) for name, now in own.items()}
    with pytest.raises(DataError, match="'0' has one value per channel and batch"), repaired(network, batches, targets):
        pass
    with repaired(network, batches, targets, exact=True):
        assert distance(channel_statistics(network, batches), targets) < 1e-5
    with repaired(network, [*vectors(40).split(20), vectors(1)], targets):  # one such batch among others is no harm
        pass


@torch.no_grad()
def test_a_layer_that_gives_the_same_one_value_in_every_batch_is_a_dead_channel():
    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.constant = nn.Linear(1, 6)
            self.mix, self.last = nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.mix(x + self.constant(torch.ones(1, 1))).relu())

    network, batches = Embedding().eval(), vectors(40).split(20)
    with repaired(network, batches, {"constant": Statistics(torch.arange(6.0), torch.ones(6))}):
        torch.testing.assert_close(network.constant(torch.ones(1, 1)), torch.arange(6.0)[None])


def test_nothing_to_measure_or_targets_for_something_else_are_errors():
    network, used_up = mlp(1), iter([])
    own = channel_statistics(network, [vectors(20)])
    with pytest.raises(DataError, match="no batches"):
        channel_statistics(network, used_up)
    with pytest.raises(DataError, match="no batches"), repaired(network, used_up, own):
        pass
    for targets, message in (
        ({"nobody": own["0"], "1": own["0"]}, r"\['1', 'nobody'\]"),
        ({"0": Statistics(torch.zeros(1), torch.ones(1))}, "'0' has 12 channels here and 1 there"),  # would broadcast
    ):
        with pytest.raises(NetworkError, match=message), repaired(network, [vectors(20)], targets):
            pass
    assert not any(module._forward_hooks for module in network.modules())
