"""Masks: what they count and say, how they are kept in files, and which weights can be pruned at all."""

import copy
import pickle

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from cases import NAMED, with_tied_weights
from modeconn.errors import NetworkError
from modeconn.models import build_network
from modeconn.pruning.masks import Mask, MaskedLayer
from modeconn.pruning.prunable import prunable
from modeconn.pruning.prune import prune
from networks import by_name


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))


def _mask() -> Mask:
    first = torch.tensor([[True, False], [False, True], [True, True]])
    return Mask({"0.weight": first, "2.weight": torch.zeros(1, 3, dtype=torch.bool)})


# --- counts and words


def test_counts_and_layers() -> None:
    mask = _mask()
    assert (mask.kept, mask.total, mask.density) == (4, 9, 4 / 9)
    assert mask.layers() == [MaskedLayer("0.weight", 6, 4), MaskedLayer("2.weight", 3, 0)]
    assert [layer.density for layer in mask.layers()] == [4 / 6, 0]
    assert mask.emptied == ["2.weight"]
    assert repr(mask) == "Mask(4 of 9 weights in 2 layers)"


def test_the_table_names_layers_with_nothing_left() -> None:
    assert str(_mask()).splitlines() == [
        "layer     weights  kept  density",
        "0.weight        6     4   66.7 %",
        "2.weight        3     0    0.0 %  emptied",
        "total           9     4   44.4 %",
        "nothing is left of 2.weight",
    ]
    assert "emptied" not in Mask.of(_network()).describe()
    nothing = Mask({name: torch.zeros(2, dtype=torch.bool) for name in "ab"})
    assert str(nothing).endswith("\nnothing is left of a, b")
    assert repr(Mask({"a": nothing["a"]})) == "Mask(0 of 2 weights in 1 layer)"


def test_a_layer_of_no_weights_is_not_emptied() -> None:
    mask = Mask({"a": torch.ones(0, 3, dtype=torch.bool), "b": torch.ones(2, dtype=torch.bool)})
    assert (mask.density, mask.emptied, mask.layers()[0].density) == (1, [], 1)


def test_equality_copies_and_processes() -> None:
    mask = _mask()
    backwards = Mask(dict(reversed(list(mask.items()))))
    assert mask == backwards == copy.deepcopy(mask) == pickle.loads(pickle.dumps(mask))
    assert mask != Mask.of(_network())
    assert mask != Mask({"0.weight": mask["0.weight"]})
    assert mask != dict(mask)


def test_a_mask_has_tensors_of_its_own() -> None:
    given = {"a": torch.ones(2, dtype=torch.bool)}
    mask = Mask(given)
    given["a"][0] = False
    assert mask.kept == 2
    with pytest.raises(TypeError):
        mask["a"] = given["a"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ({}, "it is empty"),
        ({"a": torch.ones(2)}, "a is torch.float32"),
        ({"a": torch.ones(2, dtype=torch.bool), "b": [True]}, "b is list"),
    ],
)
def test_what_is_no_mask(kept: dict[str, Tensor], says: str) -> None:
    with pytest.raises(NetworkError, match=says):
        Mask(kept)


# --- on a network


def test_apply_sets_pruned_weights_to_zero_and_nothing_else() -> None:
    network, mask = _network(), _mask()
    with torch.no_grad():
        network[0].weight[0, 1] = torch.nan  # times zero it would stay what it is
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert mask.apply(nn.DataParallel(network)) is None
    for name, tensor in network.state_dict().items():
        remains = mask.get(name, torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(tensor[remains], before[name][remains])
        assert not tensor[~remains].any()
    assert network[0].weight.requires_grad


def test_a_mask_that_does_not_fit_lists_names_and_shapes() -> None:
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    before = copy.deepcopy(network.state_dict())
    mask = Mask({**_mask(), "fc.weight": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(NetworkError) as error:
        mask.apply(network)
    assert "0.weight is [3, 2] in the mask and [4, 2] in the network" in str(error.value)
    assert "fc.weight is no parameter of the network" in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_mask_is_applied_to_what_was_made_in_inference_mode() -> None:
    with torch.inference_mode():
        network = _network()
    _mask().apply(network)
    assert not network[2].weight.any()
    assert network[0].weight.ne(0).equal(_mask()["0.weight"])


def test_a_mask_found_without_wrappers_fits_what_is_wrapped_inside() -> None:
    network = _network()
    wrapped = nn.Sequential(nn.DataParallel(network[0]), *network[1:])
    mask = prune(wrapped, density=0.5)
    assert list(mask) == ["0.weight", "2.weight"]
    mask.apply(wrapped)
    assert Mask({"0.weight": network[0].weight != 0, "2.weight": network[2].weight != 0}) == mask


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_scripted_network_is_refused_and_takes_a_mask() -> None:
    network = _network()
    scripted = torch.jit.script(network)
    with pytest.raises(NetworkError, match="the network is scripted"):
        prune(scripted, density=0.5)
    with pytest.raises(NetworkError, match="layer 0 is scripted"):
        prune(nn.Sequential(scripted, nn.Linear(1, 1)), density=0.5)
    mask = prune(network, density=0.5)
    mask.apply(scripted)
    assert int((scripted.state_dict()["0.weight"] != 0).sum()) == int(mask["0.weight"].sum())


def test_a_weight_that_the_network_computes_is_not_set() -> None:
    network = _network()
    torch_prune.l1_unstructured(network[0], "weight", 0.5)
    torch_prune.l1_unstructured(network[2], "weight", 0.5)
    with pytest.raises(NetworkError, match=r"the network computes 0\.weight, 2\.weight by a mask"):
        _mask().apply(network)
    torch_prune.remove(network[2], "weight")
    with pytest.raises(NetworkError, match=r"the network computes 0\.weight by a mask"):
        _mask().apply(network)
    Mask({"2.weight": _mask()["2.weight"]}).apply(network)
    assert not network[2].weight.any()


def test_the_mask_of_a_network_keeps_everything() -> None:
    mask = Mask.of(build_network("lenet-300-100", (1, 28, 28), 10, seed=0))
    assert (mask.kept, mask.total) == (266_200, 266_200)
    with pytest.raises(NetworkError, match="no linear or conv layer"):
        Mask.of(nn.BatchNorm1d(3))


def test_the_mask_of_a_network_pruned_by_pytorch_has_plain_names() -> None:
    network = torch_prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5)
    assert list(Mask.of(nn.Sequential(network))) == ["0.weight"]
    assert "weight_orig" in network.state_dict()


# --- which weights


# Weights without biases and BatchNorm; the first three as in the papers, ResNet-20's with projection shortcuts.
@pytest.mark.parametrize(
    ("model", "weights"), [("lenet-300-100", 266_200), ("vgg-16", 14_715_584), ("resnet-20", 270_896)]
)
def test_how_many_weights_the_papers_networks_have(model: str, weights: int) -> None:
    case = next(case for case in NAMED if case.model == model)
    with torch.device("meta"):
        network = build_network(model, case.shape, case.classes, seed=0, norm=case.norm)
    assert sum(weight.numel() for weight in prunable(network).values()) == weights


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("batchnorm", ["0.weight", "3.weight", "8.weight"]),
        (
            "layernorm",
            [f"layer.{name}.weight" for name in ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")]
            + ["head.weight"],
        ),
        ("tied", ["body.0.weight"]),  # the head is the embedding
        ("complex", ["weight"]),
        ("recurrent", ["head.weight"]),
        ("two inputs", ["body.0.weight", "head.weight"]),  # linear and bilinear
        (
            "gpt-2",
            [
                f"transformer.h.{block}.{name}.weight"
                for block in (0, 1)
                for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
            ],
        ),
    ],
)
@pytest.mark.slow
def test_which_weights_can_be_pruned(case: str, names: list[str]) -> None:
    names = [name.replace("in_proj.weight", "in_proj_weight") for name in names]
    assert list(prunable(by_name(case).network(0))) == names


def test_every_kind_of_layer() -> None:
    class RMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 1))

    class PatchEmbed(nn.Conv2d):
        """Embeds, but is a convolution."""

    class PatternEmbedding(RMSNorm):
        """Its name says what it is."""

    other = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True)
    layers: dict[str, nn.Module] = {
        **{"up": nn.ConvTranspose1d(2, 2, 3), "patch": PatchEmbed(1, 2, 3), "mix": nn.Bilinear(2, 2, 2)},
        **{"attention": other, "norm": RMSNorm(), "plane": nn.LayerNorm((2, 2)), "pattern": PatternEmbedding()},
        **{"bag": nn.EmbeddingBag(3, 2), "prelu": nn.PReLU(3), "lstm": nn.LSTM(2, 2)},
    }
    assert list(prunable(nn.ModuleDict(layers))) == [
        *("up.weight", "patch.weight", "mix.weight"),
        *(f"attention.{name}_proj_weight" for name in "qkv"),
        "attention.out_proj.weight",
    ]


def test_a_tied_weight_is_there_once() -> None:
    network = with_tied_weights()
    assert list(prunable(network)) == ["first.weight", "last.weight"]
    network.second.weight = nn.Parameter(network.first.weight.data)  # another parameter in the same place
    assert list(prunable(network)) == ["first.weight", "last.weight"]


# --- files


def test_a_file_gives_back_the_mask_in_its_order(tmp_path) -> None:
    mask = Mask({"z": torch.tensor([True, False]), "a": torch.tensor([[False], [True]]), "m": torch.tensor([True])})
    mask.save(tmp_path / "mask.safetensors")
    with safetensors.safe_open(tmp_path / "mask.safetensors", "pt") as file:
        assert {"format": "modeconn-mask", "version": "1"}.items() <= file.metadata().items()
    loaded = Mask.load(str(tmp_path / "mask.safetensors"))
    assert loaded == mask
    assert list(loaded) == ["z", "a", "m"]
    plain = safetensors.torch.load_file(tmp_path / "mask.safetensors")
    assert all(torch.equal(plain[name], entry) for name, entry in mask.items())


def test_a_file_of_booleans_by_another_hand_is_a_mask(tmp_path) -> None:
    safetensors.torch.save_file(dict(_mask()), tmp_path / "theirs.safetensors")
    assert Mask.load(tmp_path / "theirs.safetensors") == _mask()


def _with_notes(**notes: str) -> bytes:
    return safetensors.torch.save({"a": torch.ones(2, dtype=torch.bool)}, notes)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read the mask"),
        (b"", "damaged"),
        (b"not a mask at all", "damaged"),
        (_with_notes()[:-1], "damaged"),
        (_with_notes(layers="["), "damaged"),
        (safetensors.torch.save({"a": torch.ones(2)}), "a is torch.float32"),
        (safetensors.torch.save({}), "it is empty"),
        (_with_notes(format="modeconn-mask", version="2"), "version '2'"),
        (_with_notes(format="modeconn-soup"), "format 'modeconn-soup'"),
    ],
    ids=["missing", "empty", "text", "cut", "order", "numbers", "no layers", "version", "format"],
)
def test_files_that_are_no_masks(tmp_path, content: bytes | None, says: str) -> None:
    path = tmp_path / "mask.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NetworkError, match=says) as error:
        Mask.load(path)
    assert str(path) in str(error.value)


def test_a_place_that_cannot_be_written(tmp_path) -> None:
    with pytest.raises(NetworkError, match="cannot write the mask"):
        _mask().save(tmp_path / "missing" / "mask.safetensors")
