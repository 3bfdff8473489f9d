import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import cases
from modeconn.errors import NetworkError, OptionError
from modeconn.evaluation.modes import evaluating
from modeconn.models import build_network, source_fingerprint


def build(model, shape=(3, 32, 32), classes=10, seed=0, **options):
    return build_network(model, shape, classes, seed=seed, **options)


def outputs(network, shape=(3, 32, 32)):
    with torch.no_grad():
        return network(torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)))


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


def layers(network, *kinds):
    return [layer for layer in network.modules() if isinstance(layer, kinds)]


@cases.each_of(cases.NAMED + cases.LARGE + cases.OWN)
def test_a_network_has_the_size_and_outputs_of_its_definition(case):
    network = build(case.model, case.shape, case.classes, norm=case.norm)
    assert size(network) == case.parameters
    assert network.training
    with evaluating(network):
        assert outputs(network, case.shape).shape == (2, case.classes)


@cases.each_of(cases.NAMED + cases.OWN)
def test_the_seed_alone_decides_the_weights(case):
    first, again, other = (
        build(case.model, case.shape, case.classes, seed, norm=case.norm).state_dict() for seed in (5, 5, 6)
    )
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    weights = [name for name in first if first[name].ndim > 1]
    assert weights
    assert not any(torch.equal(first[name], other[name]) for name in weights)


@pytest.mark.parametrize("model", ["digits-conv", "cases:with_dropout", "cases:failing"])
def test_the_random_state_of_the_caller_neither_matters_nor_changes(model):
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        if model == "cases:failing":
            with pytest.raises(NetworkError):
                build(model)
        else:
            states.append(list(build(model, (1, 8, 8)).parameters()))
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(*pair) for pair in zip(*states, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_random_state_of_the_gpu_does_not_change():
    torch.cuda.manual_seed(1)
    before = torch.cuda.get_rng_state()
    build("digits-conv")
    assert torch.equal(torch.cuda.get_rng_state(), before)


NORM_LAYERS = {"batch": nn.BatchNorm2d, "layer": nn.GroupNorm, "group": nn.GroupNorm, "none": ()}


@pytest.mark.parametrize("model", ["conv-2", "resnet-20", "vgg-11", "digits-conv"])
@pytest.mark.parametrize("norm", NORM_LAYERS)
def test_every_convolution_has_the_norm_that_was_asked_for(model, norm):
    network = build(model, norm=norm, width=0.5)
    found = layers(network, nn.BatchNorm2d, nn.GroupNorm)
    channels = [conv.out_channels for conv in layers(network, nn.Conv2d)]
    assert found == layers(network, NORM_LAYERS[norm])
    assert sorted(layer.weight.numel() for layer in found) == sorted(channels if found else [])
    # A scale and a shift per channel take the place of a bias, which VGG keeps as well.
    without = size(build(model, norm="none", width=0.5))
    assert size(network) - without == (sum(channels) * (2 if "vgg" in model else 1) if found else 0)
    assert outputs(network).shape == (2, 10)


@pytest.mark.parametrize(
    ("norm", "shape", "axes"),
    [
        ("batch", (6, 16, 4, 4), (0, 2, 3)),  # every channel over the batch
        ("layer", (6, 16, 4, 4), (1, 2, 3)),  # every image by itself
        ("group", (6, 8, 2, 4, 4), (2, 3, 4)),  # eight groups of two channels in every image
    ],
)
def test_a_norm_standardizes_what_its_name_says(norm, shape, axes):
    layer = build("digits-conv", width=2.0, norm=norm)[1]
    x = np.random.default_rng(0).normal(3, 2, shape)
    expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    x, expected = x.reshape(6, 16, 4, 4), expected.reshape(6, 16, 4, 4)
    assert np.allclose(layer(torch.tensor(x, dtype=torch.float32)).detach(), expected, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 4, 6, 7, 8, 12, 16, 20, 24, 30])
def test_groups_are_eight_or_the_largest_number_below_that_divides_the_channels(channels):
    norm = layers(build("digits-conv", width=channels / 8, norm="group"), nn.GroupNorm)[0]
    assert norm.num_groups == max(g for g in range(1, 9) if channels % g == 0)


SCALES = {
    "glorot": lambda fan_in, fan_out: stats.norm(0, math.sqrt(2 / (fan_in + fan_out))),
    "kaiming": lambda fan_in, fan_out: stats.norm(0, math.sqrt(2 / fan_in)),
    "open-lth": lambda fan_in, fan_out: stats.norm(0, math.sqrt(2 / fan_in)),
    "own": lambda fan_in, fan_out: stats.uniform(-1 / math.sqrt(fan_in), 2 / math.sqrt(fan_in)),  # PyTorch's
}


@pytest.mark.parametrize("model", ["lenet-300-100", "resnet-20", "conv-6", "digits-conv"])
@pytest.mark.parametrize("init", SCALES)
def test_weights_have_the_distribution_of_their_initialization(model, init):
    network = build(model, init=init, norm="none", width=0.5)
    for layer in layers(network, nn.Conv2d, nn.Linear):
        pixels = layer.weight[0, 0].numel()
        expected = SCALES[init](layer.weight.shape[1] * pixels, layer.weight.shape[0] * pixels)
        weights = layer.weight.detach().flatten().double().numpy()
        assert stats.kstest(weights, expected.cdf).pvalue > 1e-4
        spread = 5 * expected.std() / math.sqrt(2 * len(weights))
        assert weights.std() == pytest.approx(expected.std(), abs=spread)
        assert layer.bias.any() == (init == "own")


@pytest.mark.parametrize("width", [0.25, 1])  # 4 channels, 16 channels
def test_a_shortcut_halves_the_image_as_a_strided_convolution_does(width):
    """The gradient of strided 1x1 convolutions of few channels writes out of bounds (oneDNN, issue 6035)."""
    network = build("resnet-8", width=width, norm="none").to(memory_format=torch.channels_last)
    plain = build("resnet-8", width=width, norm="none").double()  # for which oneDNN has no kernels
    for block in [block for block in plain.children() if getattr(block, "every", 1) > 1]:
        block.every, block.shortcut[0].stride = 1, (2, 2)
    images = torch.rand(4, 3, 32, 32).to(memory_format=torch.channels_last)
    for one, x in ((network, images), (plain, images.double())):
        one(x).square().sum().backward()
    for found, expected in zip(network.parameters(), plain.parameters(), strict=True):
        assert (found.grad.double() - expected.grad).norm() <= 1e-4 * expected.grad.norm()
    strides = [layer.stride[0] for layer in layers(network, nn.Conv2d) if layer.kernel_size == (1, 1)]
    assert strides == ([1, 1] if width < 1 else [2, 2])


@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
def test_scales_of_norms_are_one_or_uniform_in_open_lth(norm):
    for init in SCALES:
        found = layers(build("resnet-20", init=init, norm=norm), nn.BatchNorm2d, nn.GroupNorm)
        scales = torch.cat([layer.weight.detach() for layer in found]).numpy()
        assert not any(layer.bias.any() for layer in found)
        if init == "open-lth":
            assert scales.min() >= 0
            assert scales.max() < 1
            assert stats.kstest(scales, "uniform").pvalue > 1e-3
        else:
            assert (scales == 1).all()


@pytest.mark.parametrize("model", ["lenet-300-100", "conv-4", "resnet-20", "vgg-11", "digits-conv"])
@pytest.mark.parametrize("width", [0.001, 0.25, 1.5])
def test_width_multiplies_the_channels(model, width):
    def channels(network):
        kind = nn.Linear if "lenet" in model else nn.Conv2d
        return [layer.weight.shape[0] for layer in layers(network, kind)][: -1 if "lenet" in model else None]

    plain, wide = build(model, norm="none"), build(model, norm="none", width=width)
    assert channels(wide) == [max(1, round(width * n)) for n in channels(plain)]
    assert outputs(wide).shape == (2, 10)


@pytest.mark.parametrize(("model", "hidden"), [("lenet-300-100", 2), ("lenet-30-20-10", 3), ("conv-4", 2)])
def test_dropout_is_between_the_fully_connected_layers(model, hidden):
    network = build(model, norm="none", dropout=0.3)
    assert [layer.p for layer in layers(network, nn.Dropout)] == [0.3] * hidden
    assert all(isinstance(b, nn.Linear) for a, b in pairwise(network) if isinstance(a, nn.Dropout))
    assert not torch.equal(outputs(network), outputs(network))
    with evaluating(network):
        assert torch.equal(outputs(network), outputs(network))
    assert not layers(build(model, norm="none"), nn.Dropout)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        *((model, {}) for model in ("resnet-0", "resnet-2", "resnet-21", "lenet-0", "lenet-300-0-100")),
        *((model, {}) for model in ("", "resnet20", "vgg-12", "conv-3", "lenet", "imagenet-resnet18")),
        *(("imagenet-resnet50", option) for option in ({"width": 2.0}, {"norm": "layer"}, {"dropout": 0.5})),
        *((model, {"shape": (3, 3, 3)}) for model in ("conv-4", "vgg-11", "digits-conv")),
        ("imagenet-inception-v3", {"shape": (3, 74, 74)}),
        ("vit-4", {}),
        *((model, {"norm": "layer"}) for model in ("vit-0", "vit-3", "vit-64")),
    ],
    ids=str,
)
def test_a_network_that_its_family_does_not_have_is_named(model, options):
    with pytest.raises(OptionError, match=f"network {model!r}"):
        build(model, **options)


def test_a_vision_transformer_sees_patches_in_no_order_but_by_their_positions():
    network = build("vit-8", norm="layer").double().eval()
    network.positions.data.zero_()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    rolled = images.roll(8, dims=3)  # the patches of each row change places
    with torch.no_grad():
        assert torch.allclose(network(images), network(rolled), rtol=0, atol=1e-12)
        assert not torch.allclose(network(images), network(images.roll(4, dims=3)), atol=1e-4)


def test_an_unknown_network_gets_near_names():
    with pytest.raises(OptionError, match="did you mean 'resnet-20'"):
        build("resnet20")


BAD_FACTORIES = {
    "cases:without_parameters": "'cases:without_parameters' has no parameters",
    "cases:not_a_module": "cases:not_a_module gave str, not a torch.nn.Module",
    "cases:without_shapes": "cases:without_shapes gave lazy layers that have no shapes yet; pass a batch through",
    "cases:failing": "cases:failing failed: RuntimeError: out of paint",
    "cases:Case": "cases:Case failed: TypeError",  # it needs arguments that nobody gives
    "cases:absent": "'cases' has no function 'absent'",
    "cases:NAMED": "'cases' has no function 'NAMED'",
    "cases:": "'cases' has no function ''",
    "nowhere.to.be:found": "cannot import 'nowhere.to.be'",
    ":found": "cannot import ''",
}


@pytest.mark.parametrize(("model", "words"), BAD_FACTORIES.items(), ids=BAD_FACTORIES)
def test_a_bad_factory_is_named(model, words):
    with pytest.raises(NetworkError, match=words):
        build(model)


@pytest.mark.parametrize(
    ("name", "text"), [("raises_on_import", "raise KeyError('half')"), ("does_not_parse", "def make(:")]
)
def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch, name, text):
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for use in (build, code):
        with pytest.raises(NetworkError, match=f"cannot import '{name}'"):
            use(f"{name}:make")


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "found_here.py").write_text("from torch.nn import Linear\ndef make(): return Linear(2, 3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])  # as for a console script
    assert size(build("found_here:make")) == 9


def test_a_factory_keeps_its_own_initialization():
    plain = build("cases:with_dropout", (1, 8, 8), init="own")
    for options in ({"init": "glorot"}, {"init": "open-lth", "norm": "none", "width": 2.0, "dropout": 0.9}):
        other = build("cases:with_dropout", (1, 8, 8), **options)
        assert all(map(torch.equal, plain.parameters(), other.parameters()))
        assert [layer.p for layer in layers(other, nn.Dropout)] == [0.5]


def code(model: str) -> str | None:
    return source_fingerprint(model, (1, 8, 8), 10)


def test_our_own_networks_are_known_by_their_names_and_others_by_their_code():
    assert code("resnet-20") is None
    assert code("cases:with_dropout") == code("cases:with_dropout") != code("cases:fragile")


LAYERS = "from torch import nn\nclass Mine(nn.Linear):\n    GAIN = {gain}\n"
FACTORY = """import functools
from hands_on.layers import Mine
def net(width): return Mine(64, width)
make = functools.partial(net, width={width})
"""


@pytest.mark.parametrize("file", ["__init__", "inner", "layers"])
def test_an_edit_of_any_file_that_defines_a_network_makes_it_another(file, tmp_path, monkeypatch):
    """The package that hands the factory on, the file that has it, and the file of its layers."""
    home = tmp_path / "hands_on"
    home.mkdir()
    (home / "__init__.py").write_text("from hands_on.inner import make, net\n")
    (home / "layers.py").write_text(LAYERS.format(gain=1))
    (home / "inner.py").write_text(FACTORY.format(width=10))
    monkeypatch.syspath_prepend(tmp_path)

    def fresh() -> str | None:
        for name in [name for name in sys.modules if name.startswith("hands_on")]:
            del sys.modules[name]
        return code("hands_on.inner:make") if file == "inner" else code("hands_on:make")

    before = fresh()
    (home / f"{file}.py").write_text((home / f"{file}.py").read_text() + "# edited\n")
    assert fresh() != before


def test_a_partial_is_known_by_what_it_makes(tmp_path, monkeypatch):
    made = set()
    for width in (10, 12):
        (tmp_path / f"partial_{width}.py").write_text(FACTORY.format(width=width).replace("hands_on.layers", "mine"))
    (tmp_path / "mine.py").write_text(LAYERS.format(gain=1))
    monkeypatch.syspath_prepend(tmp_path)
    for width in (10, 12):
        made.add(code(f"partial_{width}:make"))
    assert len(made) == 2


def test_a_network_that_no_worker_could_import_is_refused(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "make", lambda: nn.Linear(2, 2), raising=False)
    with pytest.raises(NetworkError, match="worker processes can import"):
        code("__main__:make")


def test_a_function_written_with_a_dot_is_told_how():
    with pytest.raises(OptionError, match=r"'mynets\.MLP'; a function of yours is written with a colon: mynets:MLP"):
        build_network("mynets.MLP", (1, 8, 8), 10, seed=0)
    with pytest.raises(NetworkError, match="has no function 'WithDropout'; did you mean 'with_dropout'"):
        build_network("cases:WithDropout", (1, 8, 8), 10, seed=0)
