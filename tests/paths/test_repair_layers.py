import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

import modeconn
import networks
from modeconn.analysis.paths.recalibrate import recalibrate
from modeconn.analysis.paths.repair import channel_statistics, interpolate_statistics, repaired
from modeconn.analysis.paths.repair_layers import RepairedLayers, choose_repaired_layers
from modeconn.errors import NetworkError, OptionError
from modeconn.models import build_network

IMAGES = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def resnet(seed: int) -> nn.Module:
    return build_network("resnet-8", (3, 8, 8), 10, seed=seed).eval()


def mlp(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


def midpoint(a: nn.Module, b: nn.Module) -> nn.Module:
    middle, ends = copy.deepcopy(a), zip(a.state_dict().items(), b.state_dict().values(), strict=True)
    middle.load_state_dict({name: (x + y) / 2 if x.is_floating_point() else x for (name, x), y in ends})
    return middle


def outputs(network: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """By name, as plain hooks see them; those of the network itself under "logits"."""
    seen: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
        for name in names
    ]
    seen["logits"] = network(IMAGES)
    for hook in hooks:
        hook.remove()
    return seen


def mean_and_std(values: Tensor) -> Tensor:
    flat = values.transpose(0, 1).flatten(1)
    return torch.stack([flat.mean(1), flat.std(1, correction=0)])


@torch.no_grad()
def expected_and_found(make, names: list[str], kinds) -> dict[str, tuple[Tensor, Tensor]]:
    """By name, means and standard deviations: interpolated between the ends, and of the repaired network between."""
    a, b = make(0), make(1)
    middle = midpoint(a, b)
    chosen = choose_repaired_layers(middle, IMAGES, kinds=kinds)
    of_ends = [
        channel_statistics(end, [IMAGES], repaired_layers=choose_repaired_layers(end, IMAGES, kinds=kinds))
        for end in (a, b)
    ]
    seen_a, seen_b = outputs(a, names), outputs(b, names)
    with repaired(middle, [IMAGES], interpolate_statistics(*of_ends, 0.5), repaired_layers=chosen):
        seen = outputs(middle, names)
    return {
        name: ((mean_and_std(seen_a[name]) + mean_and_std(seen_b[name])) / 2, mean_and_std(seen[name]))
        for name in (*names, "logits")
    }


def close(pair: tuple[Tensor, Tensor]) -> bool:
    return torch.allclose(*pair, rtol=1e-3, atol=1e-4)


BLOCKS = ["3", "4", "5"]


def test_residual_blocks_have_the_statistics_of_the_ends_interpolated():
    found = expected_and_found(resnet, BLOCKS, "auto")
    assert all(close(found[name]) for name in BLOCKS)
    assert not close(found["logits"])


def test_without_blocks_a_network_with_batchnorm_is_only_recalibrated():
    found = expected_and_found(resnet, BLOCKS, ["layers"])
    assert not any(close(found[name]) for name in BLOCKS)
    a, b, middle = resnet(0), resnet(1), midpoint(resnet(0), resnet(1))
    recalibrated = copy.deepcopy(middle)
    for end in (a, b, recalibrated):  # the ends' BatchNorm outputs have means 0 and standard deviations 1 then
        recalibrate(end, [IMAGES])
    of_ends = [channel_statistics(end, [IMAGES]) for end in (a, b)]
    with torch.no_grad(), repaired(middle, [IMAGES], interpolate_statistics(*of_ends, 0.5)):
        torch.testing.assert_close(middle(IMAGES), recalibrated(IMAGES), rtol=1e-3, atol=1e-4)


def test_the_output_layer_of_an_mlp_has_the_statistics_of_the_ends_interpolated():
    assert close(expected_and_found(mlp, ["1"], "auto")["logits"])
    assert not close(expected_and_found(mlp, ["1"], ["layers"])["logits"])
    assert close(expected_and_found(mlp, ["1"], ["layers"])["1"])


@pytest.mark.parametrize(
    ("make", "kinds", "note"),
    [
        (resnet, "auto", "22 convolution, linear and BatchNorm layers and 3 residual blocks, without the output layer"),
        (resnet, ["blocks"], "3 residual blocks, without the output layer"),
        (resnet, ["output"], "1 convolution, linear and BatchNorm layers, with the output layer"),
        (mlp, "auto", "2 convolution, linear and BatchNorm layers, with the output layer"),
        (mlp, ["blocks"], "nothing, without the output layer"),
    ],
)
def test_what_is_rescaled_is_said(make, kinds, note):
    chosen = choose_repaired_layers(make(0), IMAGES, kinds=kinds)
    if "BatchNorm layers and" in note:
        note = note.replace("22", str(sum(isinstance(m, nn.Conv2d | nn.BatchNorm2d) for m in make(0).modules())))
    assert chosen.note == f"rescaled by REPAIR: {note}"


class Summed(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class WithASummingModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.sum = nn.Conv2d(3, 3, 1), Summed()

    def forward(self, x: Tensor) -> Tensor:
        return self.sum(self.layer(x), x)


@pytest.mark.parametrize(
    ("make", "blocks"),
    [
        (lambda: nn.Sequential(WithASummingModule(), nn.Conv2d(3, 2, 1)), ["0"]),
        (lambda: WithASummingModule(), []),  # the network itself is no block of it
        (lambda: nn.Sequential(nn.Sequential(WithASummingModule()), nn.Conv2d(3, 2, 1)), ["0.0"]),
        pytest.param(
            lambda: torchvision.models.resnet18(num_classes=3),
            [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["a module that sums", "the whole network", "nested", "torchvision"],
)
def test_residual_blocks_are_found_in_any_network(make, blocks):
    found = choose_repaired_layers(make().eval(), IMAGES, kinds=["blocks"])
    assert sorted(found.layers.values()) == sorted(blocks)


@pytest.mark.slow
def test_transformers_have_their_layers_repaired_alone():
    case = networks.by_name("gpt-2")
    network = case.network(0)
    chosen = choose_repaired_layers(network, case.batches()[0], lambda batch: network(**batch))
    assert isinstance(chosen, RepairedLayers)
    assert "residual" not in chosen.note
    assert chosen.note.endswith("without the output layer")


def test_the_choice_is_an_option_and_a_note_says_what_it_came_to():
    x, y = IMAGES, torch.arange(60) % 3
    barriers = {
        kinds: modeconn.error_barrier(
            mlp(0), mlp(1), (x, y), alphas=3, batchnorm="repair", calibration=[x], repair_layers=kinds
        )
        for kinds in ("auto", ("layers",), ("layers", "output"))
    }
    assert barriers["auto"].loss.tolist() == barriers["layers", "output"].loss.tolist()
    assert barriers["auto"].loss[1] != barriers["layers",].loss[1]
    assert any(note.startswith("rescaled by REPAIR: 2 convolution") for note in barriers["auto"].notes)
    with pytest.raises(OptionError, match="kind of layer"):
        modeconn.error_barrier(mlp(0), mlp(1), (x, y), batchnorm="repair", calibration=[x], repair_layers=["norms"])


def test_scripted_networks_are_refused():
    with pytest.raises(NetworkError, match=r"before torch\.jit"):
        choose_repaired_layers(torch.jit.script(mlp(0)), IMAGES)
