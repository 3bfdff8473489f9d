"""LoRA adapters against PEFT's own merging, and the two paths between them by hand."""

import copy
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modeconn import Barrier, average, barrier_matrix, compare, error_barrier, layerwise_barrier, soup
from modeconn.cli.main import main
from modeconn.errors import ModeconnError, NetworkError, OptionError
from modeconn.weights.adapters import weights_of_adapter
from modeconn.weights.sources import weights_of

VOCABULARY = 23
Make = Callable[..., Path]


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=VOCABULARY, n_positions=8, bos_token_id=0, eos_token_id=0)
    )


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=8, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))


def square_embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(6, 6), nn.Flatten(), nn.ReLU(), nn.Linear(12, 12))


BASES = {"gpt2": gpt2, "llama": llama}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """PEFT warns of a square `Conv1D`, and transformers of what PEFT calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


@pytest.fixture(scope="session")
def bases(tmp_path_factory) -> dict[str, Path]:
    """Folders of base models."""
    root = tmp_path_factory.mktemp("bases")
    for name, make in BASES.items():
        seeded(0, make).save_pretrained(root / name)
    return {name: root / name for name in BASES}


@pytest.fixture
def make_adapter(tmp_path, bases) -> Make:
    """Makes the folder of an adapter whose factors, and all else that is trained, are random."""

    def make(name: str = "a", base: str = "gpt2", seed: int = 1, safe: bool = True, **config: Any) -> Path:
        from peft import LoraConfig, get_peft_model

        given = {"r": 2, "lora_alpha": 6, "target_modules": ["c_attn", "c_proj"]} | config
        network = get_peft_model(load(bases[base]), LoraConfig(**given))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for tensor in network.parameters():
                if tensor.requires_grad:
                    tensor.copy_(torch.randn_like(tensor))
        network.save_pretrained(tmp_path / name, safe_serialization=safe)
        return tmp_path / name

    return make


def load(folder: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def merged_by_peft(folder: Path, base: nn.Module | Path) -> nn.Module:
    from peft import PeftModel

    network = load(base) if isinstance(base, Path) else copy.deepcopy(base)
    return PeftModel.from_pretrained(network, folder).merge_and_unload().eval()


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# --- against PEFT


KINDS: dict[str, dict[str, Any]] = {
    "Conv1D of GPT-2, square ones too": {},
    "linear layers": {"base": "llama", "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "rsLoRA": {"use_rslora": True, "r": 3},
    "patterns": {
        "rank_pattern": {"h.0.attn.c_attn": 3, r"mlp\.c_proj": 1},
        "alpha_pattern": {"c_attn": 5, "h.1.mlp.c_proj": 11},
    },
    "trained whole": {"modules_to_save": ["ln_f"], "bias": "all"},
    "the output layer trained whole": {"base": "llama", "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embedding": {"base": "llama", "target_modules": ["embed_tokens", "k_proj"]},
    "Gaussian, in PyTorch's format": {"init_lora_weights": "gaussian", "safe": False},
    "some layers": {"layers_to_transform": [1], "layers_pattern": "h"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_network_is_that_of_peft(make_adapter: Make, bases, kind: str) -> None:
    base = bases[KINDS[kind].get("base", "gpt2")]
    folder = make_adapter(**KINDS[kind])
    weights, expected = weights_of(folder, "a"), merged_by_peft(folder, base).state_dict()
    unchanged = load(base).state_dict()
    assert set(weights.layout) <= set(expected)
    for name in weights.layout:
        assert weights.layout[name].dtype == weights.read(name).dtype
        assert torch.allclose(weights.read(name), expected[name], rtol=0, atol=1e-6), name
    changed = {name for name in weights.layout if not torch.equal(weights.read(name), unchanged[name])}
    assert changed >= set(weights.low_rank)
    assert weights.low_rank


@pytest.mark.parametrize("make", [conv, square_embedding])
def test_networks_of_all_kinds_are_merged_into_a_base_that_is_given(tmp_path, make) -> None:
    from peft import LoraConfig, get_peft_model

    base = seeded(0, make)
    network = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=["0", "3"], lora_alpha=3))
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if "lora_" in name:
                nn.init.normal_(tensor)
    network.save_pretrained(tmp_path / "a")
    edit(tmp_path / "a", base_model_name_or_path="somebody/network")
    weights, expected = weights_of_adapter(tmp_path / "a", "a", base), network.merge_and_unload().state_dict()
    for name in weights.layout:
        assert torch.allclose(weights.read(name), expected[name], rtol=0, atol=1e-6)
    assert any("which is model= (it names somebody/network)" in note for note in weights.notes)


def test_a_base_in_half_precision_keeps_it_with_a_note(make_adapter: Make, bases, tmp_path) -> None:
    folder = make_adapter()
    seeded(0, gpt2).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    edit(folder, base_model_name_or_path=str(tmp_path / "half"))
    weights = weights_of(folder, "a")
    full = {name: tensor.bfloat16() for name, tensor in load(bases["gpt2"]).state_dict().items()}
    for name, update in weights.low_rank.items():
        expected = update.merged(update.a(), update.b())
        assert expected.dtype == torch.float32
        assert torch.equal(update.base(), full[name])
        assert torch.equal(weights.read(name), expected.bfloat16())
    assert any("rounded to bfloat16" in note for note in weights.notes)


# --- the two paths, by hand


TEXT = torch.randint(VOCABULARY, (6, 8), generator=torch.Generator().manual_seed(0))
DATA = [{"input_ids": TEXT, "labels": TEXT}]


@torch.no_grad()
def loss_of(network: nn.Module) -> float:
    logits = network(input_ids=TEXT).logits[:, :-1].double()
    return float(cross_entropy(logits.reshape(-1, VOCABULARY), TEXT[:, 1:].reshape(-1)))


def factors_by_hand(folders: list[Path], base: Path, alpha: float) -> nn.Module:
    """PEFT's merging of an adapter whose tensors are interpolated one by one."""
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    between = folders[0].parent / "between"
    shutil.copytree(folders[0], between, dirs_exist_ok=True)
    save_file({name: torch.lerp(a[name], b[name], alpha) for name in a}, between / "adapter_model.safetensors")
    return merged_by_peft(between, base)


def products_by_hand(folders: list[Path], base: Path, alpha: float) -> nn.Module:
    a, b = (merged_by_peft(folder, base) for folder in folders)
    with torch.no_grad():
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            p.lerp_(q, alpha)
    return a


def pair(make_adapter: Make, base: str) -> list[Path]:
    targets = {"gpt2": ["c_attn", "c_proj"], "llama": ["q_proj", "v_proj"]}[base]
    return [make_adapter(name, base, seed, target_modules=targets) for seed, name in enumerate("ab")]


@pytest.mark.parametrize("base", BASES)
def test_paths_by_products_and_by_factors_have_the_same_ends_and_other_middles(make_adapter, bases, base) -> None:
    folders, alphas = pair(make_adapter, base), (0.0, 0.25, 0.5, 1.0)
    results = {kind: error_barrier(*folders, DATA, alphas=alphas, adapter=kind) for kind in ("products", "factors")}
    for kind, by_hand in (("products", products_by_hand), ("factors", factors_by_hand)):
        expected = [loss_of(by_hand(folders, bases[base], alpha)) for alpha in alphas]
        assert results[kind].loss == pytest.approx(expected, abs=2e-5)
        assert results[kind].settings["adapter"] == kind
        assert any(f"interpolated by their {kind}" in note for note in results[kind].notes)
    one, other = (result.loss for result in results.values())
    assert one[[0, 3]].tolist() == other[[0, 3]].tolist()
    assert (np.abs(one - other)[[1, 2]] > 1e-3).all()
    assert error_barrier(*folders, DATA, alphas=alphas).loss.tolist() == one.tolist()  # the default


def test_products_do_not_depend_on_how_a_product_is_written_and_factors_do(make_adapter: Make) -> None:
    """(B M) (M^-1 A) is B A for every M: one network, of which the path by factors depends on M."""
    folders = pair(make_adapter, "gpt2")
    before = {kind: error_barrier(*folders, DATA, alphas=3, adapter=kind).loss[1] for kind in ("products", "factors")}
    file = folders[1] / "adapter_model.safetensors"
    turned, m = {}, torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    for name, tensor in load_file(file).items():
        turned[name] = m.T @ tensor if "lora_A" in name else (tensor @ m).contiguous()
    save_file(turned, file)
    after = {kind: error_barrier(*folders, DATA, alphas=3, adapter=kind).loss[1] for kind in before}
    assert after["products"] == pytest.approx(before["products"], abs=1e-5)
    assert abs(after["factors"] - before["factors"]) > 1e-3


def test_between_factors_of_either_sign_there_is_no_update(make_adapter: Make, bases) -> None:
    """-B and -A have the product of B and A, bit for bit, and the middle of their factors is 0."""
    folders = [make_adapter("a"), make_adapter("b")]
    file = folders[1] / "adapter_model.safetensors"
    save_file({name: -tensor for name, tensor in load_file(file).items()}, file)
    result = error_barrier(*folders, DATA, alphas=3, adapter="factors")
    assert result.distance == 0
    assert result.loss[1] == pytest.approx(loss_of(load(bases["gpt2"])), abs=2e-5)
    assert any("the factors that they are merged from differ" in note for note in result.notes)
    assert error_barrier(*folders, DATA, alphas=3).heights("loss").barrier == 0


@pytest.mark.parametrize("kind", ["products", "factors"])
def test_an_adapter_has_no_barrier_to_itself(make_adapter: Make, kind: str) -> None:
    folder = make_adapter()
    result = error_barrier(folder, folder, DATA, alphas=3, adapter=kind)
    assert (result.heights("loss").barrier, result.distance) == (0, 0)


def test_peft_models_are_modules_whose_factors_are_weights(make_adapter: Make, bases) -> None:
    from peft import PeftModel

    folders = pair(make_adapter, "llama")
    networks = [PeftModel.from_pretrained(load(bases["llama"]), folder).eval() for folder in folders]
    expected = error_barrier(*folders, DATA, alphas=3, adapter="factors")
    result = error_barrier(*networks, DATA, evaluate="next-token", alphas=3)
    assert result.loss == pytest.approx(expected.loss, abs=2e-5)
    assert any("which are interpolated apart" in note for note in result.notes)


def test_an_adapter_and_its_base_are_two_networks(make_adapter: Make, bases) -> None:
    folder = make_adapter()
    result = error_barrier(bases["gpt2"], folder, DATA, alphas=3)
    assert result.loss[[0, 2]] == pytest.approx(
        [loss_of(load(bases["gpt2"])), loss_of(merged_by_peft(folder, bases["gpt2"]))], abs=2e-5
    )


# --- wherever networks are taken


def test_the_average_of_products_is_a_network_and_that_of_factors_an_adapter(
    make_adapter: Make, bases, tmp_path
) -> None:
    folders = pair(make_adapter, "gpt2")
    network = load(bases["gpt2"])
    keys = network.load_state_dict(average(folders), strict=False)  # the head is tied to the embedding
    assert (keys.missing_keys, keys.unexpected_keys) in (([], []), (["lm_head.weight"], []))
    named = average(folders, model=lambda: load(bases["gpt2"]))
    assert load(bases["gpt2"]).load_state_dict(named).missing_keys == []
    assert loss_of(network) == pytest.approx(loss_of(products_by_hand(folders, bases["gpt2"], 0.5)), abs=2e-5)

    shutil.copytree(folders[0], tmp_path / "mean")
    mean = average(folders, adapter="factors")
    save_file(dict(mean), tmp_path / "mean" / "adapter_model.safetensors")
    assert any("adapter_config.json of a" in note for note in mean.notes)
    found = loss_of(merged_by_peft(tmp_path / "mean", bases["gpt2"]))
    assert found == pytest.approx(loss_of(factors_by_hand(folders, bases["gpt2"], 0.5)), abs=2e-5)


def test_matrix_soup_and_compare_take_adapters(make_adapter: Make, bases) -> None:
    folders = [*pair(make_adapter, "gpt2"), make_adapter("c", seed=7)]
    for kind in ("products", "factors"):
        matrix = barrier_matrix(folders, DATA, alphas=3, adapter=kind)
        expected = error_barrier(folders[0], folders[2], DATA, alphas=3, adapter=kind).heights("loss").barrier
        assert matrix.pairs[1].heights("loss").barrier == pytest.approx(expected, abs=1e-6)
    soups = soup(folders, DATA, "uniform", gate=None)
    merged = [merged_by_peft(folder, bases["gpt2"]).state_dict() for folder in folders]
    for name, tensor in soups.state.items():
        assert torch.allclose(tensor, sum(state[name] for state in merged) / 3, atol=1e-6)
    report = compare(*folders[:2])
    frozen = {"transformer.wte.weight", "transformer.h.0.ln_1.weight", "transformer.h.1.mlp.c_fc.weight"}
    assert frozen <= {tensor.name for tensor in report.tensors if tensor.equal}


def texts() -> list[dict[str, Tensor]]:
    return DATA


@pytest.mark.slow
def test_adapters_at_the_command_line(make_adapter: Make, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    folders = pair(make_adapter, "gpt2")
    common = [*map(str, folders), "--adapter", "factors"]
    out = str(tmp_path / "out")
    assert main(["barrier", *common, "--data", "test_adapters:texts", "--alphas", "3", "--out", out]) == 0
    result = Barrier.from_json(tmp_path / "out" / "barrier.json")
    assert result.loss.tolist() == error_barrier(*folders, DATA, alphas=3, adapter="factors").loss.tolist()
    assert result.settings["adapter"] == "factors"
    assert main(["average", *common, "--out", str(tmp_path / "mean.safetensors")]) == 0
    mean = load_file(tmp_path / "mean.safetensors")
    assert mean.keys() == load_file(folders[0] / "adapter_model.safetensors").keys()


def test_a_base_that_is_not_here_is_given(make_adapter: Make, bases) -> None:
    folders = pair(make_adapter, "gpt2")
    for folder in folders:
        edit(folder, base_model_name_or_path="somebody/gpt2")
    with pytest.raises(NetworkError, match=r"base model somebody/gpt2.*nothing is downloaded.*model="):
        error_barrier(*folders, DATA, alphas=3)
    given = error_barrier(*folders, DATA, alphas=3, model=lambda: load(bases["gpt2"]))
    assert given.loss[1] == pytest.approx(loss_of(products_by_hand(folders, bases["gpt2"], 0.5)), abs=2e-5)
    mean = average(folders, model=load(bases["gpt2"]))
    network = load(bases["gpt2"])
    network.load_state_dict(mean)
    assert loss_of(network) == pytest.approx(given.loss[1], abs=2e-5)


def test_a_base_whose_folder_lacks_the_head_is_given_with_it(make_adapter: Make, bases, tmp_path) -> None:
    """The adapter's base folder is the body alone, by other names, and of another class."""
    seeded(0, gpt2).transformer.save_pretrained(tmp_path / "body")
    folder = make_adapter()
    edit(folder, base_model_name_or_path=str(tmp_path / "body"))
    found = error_barrier(folder, folder, DATA, alphas=3, model=lambda: seeded(0, gpt2))
    assert found.loss[0] == pytest.approx(loss_of(merged_by_peft(folder, bases["gpt2"])), abs=2e-5)


def test_a_base_beside_the_adapter_is_found(make_adapter: Make, bases, tmp_path) -> None:
    folder = make_adapter()
    shutil.copytree(bases["gpt2"], tmp_path / "moved")
    edit(folder, base_model_name_or_path="../moved")
    assert any(str(tmp_path / "moved") in note for note in weights_of(folder, "a").notes)


# --- what is refused


def refused(*parts: str, kind: type[ModeconnError] = NetworkError) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(parts))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, ("type IA3", "LORA alone is read", "merge_and_unload")),
        ({"use_dora": True}, ("use_dora=True", "merge_and_unload")),
        ({"init_lora_weights": "pissa_niter_4"}, ("init_lora_weights='pissa_niter_4'",)),
        ({"something_new": {"x": 1}}, ("something_new=",)),
        ({"r": None}, ("ranks and alphas cannot be read",)),
        ({"rank_pattern": {"c_attn": 0}}, ("a rank is less than 1",)),
        ({"r": 3}, ("factors of transformer.h.0.attn.c_attn", "its rank is 3")),
        ({"base_model_name_or_path": None}, ("names no base model",)),
    ],
)
def test_configurations_of_more_than_low_rank_updates_are_refused(make_adapter: Make, changes, said) -> None:
    folder = make_adapter()
    edit(folder, **changes)
    with refused(*said):
        weights_of(folder, "a")


def test_dora_as_peft_saves_it_is_refused(make_adapter: Make) -> None:
    with refused("a is more than low-rank updates", "use_dora=True"):
        weights_of(make_adapter(use_dora=True), "a")


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda name: name.replace("lora_A", "lora_magnitude_vector"), ("no factors of low-rank updates",)),
        (lambda name: name.replace("lora_A.weight", "lora_A.bias"), ("no factors of low-rank updates",)),
        (lambda name: name.replace("c_attn", "c_other"), ("which has no transformer.h.0.attn.c_other.weight",)),
        (lambda name: None if "h.0.attn.c_attn.lora_A" in name else name, ("damaged", "h.0.attn.c_attn is missing")),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(make_adapter: Make, rename, said) -> None:
    folder = make_adapter()
    file = folder / "adapter_model.safetensors"
    save_file({new: tensor for name, tensor in load_file(file).items() if (new := rename(name))}, file)
    with refused("a ", *said):
        weights_of(folder, "a")


def test_another_base_is_refused_by_shapes_and_by_weights(make_adapter: Make, bases, tmp_path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    folders = pair(make_adapter, "gpt2")
    wide = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=12, n_head=2, vocab_size=VOCABULARY, n_positions=8))
    wide.save_pretrained(tmp_path / "wide")
    edit(folders[1], base_model_name_or_path=str(tmp_path / "wide"))
    with refused("a is an adapter of .*gpt2, and b of .*wide", "model="):
        error_barrier(*folders, DATA, alphas=3)
    with refused(r"factors of transformer.h.0.attn.c_attn are \[2, 8\] and \[24, 2\]", r"base's weight is \[12, 36\]"):
        weights_of(folders[1], "b")
    with refused("another one in model= than in its base model", "leave out model="):
        error_barrier(folders[0], folders[0], DATA, alphas=3, model=lambda: seeded(5, gpt2))


def test_a_tied_weight_is_not_updated_alone(make_adapter: Make, bases) -> None:
    folder = make_adapter(target_modules=["wte"])
    with refused("changes transformer.wte.weight, which its base model ties"):
        weights_of_adapter(folder, "a", load(bases["gpt2"]))


def test_square_weights_of_which_nothing_says_how_they_are_stored_are_refused(make_adapter: Make) -> None:
    folder = make_adapter()
    edit(folder, fan_in_fan_out=False)
    with refused("fan_in_fan_out=False", "c_attn", "square weights transformer.h.0.attn.c_proj"):
        weights_of(folder, "a")


def test_what_has_no_path_by_factors_is_refused(make_adapter: Make, bases, tmp_path) -> None:
    a, b = pair(make_adapter, "gpt2")
    how = {"alphas": 3, "adapter": "factors"}
    with refused("gpt2 is none", kind=OptionError):
        error_barrier(a, bases["gpt2"], DATA, **how)
    said = ("rank of transformer.h.0.attn.c_attn.weight is 2 in a and 3 in c", "and 7 more differences; take adapter=")
    with refused(*said):
        error_barrier(a, make_adapter("c", r=3), DATA, **how)
    with refused("scale of .* is 3 in a and 1 in d"):
        error_barrier(a, make_adapter("d", lora_alpha=2), DATA, **how)
    with refused("has factors in a alone"):
        error_barrier(a, make_adapter("e", target_modules=["c_attn"]), DATA, **how)
    with refused("differ in rank or alpha", 'adapter="products"'):
        average([a, tmp_path / "d"], adapter="factors")
    with refused("gpt2 is no folder of an adapter"):
        average([a, bases["gpt2"]], adapter="factors")
    with refused("without a network: leave out model=", kind=OptionError):
        average([a, b], adapter="factors", model=gpt2)
    for call in (
        lambda: soup([a, b], DATA, adapter="factors"),
        lambda: layerwise_barrier(a, b, DATA, **how),
        lambda: error_barrier(a, b, DATA, align="weights", **how),
        lambda: barrier_matrix([a, b], DATA, align="weights", **how),
    ):
        with refused("by their products", 'leave out adapter="factors"', kind=OptionError):
            call()
    for call in (lambda: error_barrier(a, b, DATA, alphas=3, adapter="factor"), lambda: average([a], adapter="factor")):
        with refused("way to interpolate adapters", "products", kind=OptionError):
            call()


def test_a_folder_without_its_weights_is_refused(make_adapter: Make) -> None:
    folder = make_adapter()
    (folder / "adapter_model.safetensors").unlink()
    with refused("a: none of adapter_model.safetensors, adapter_model.bin"):
        weights_of(folder, "a")


def test_files_are_left_alone(make_adapter: Make) -> None:
    folder = make_adapter()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    weights = weights_of(folder, "a")
    read: list[Tensor] = [weights.read(name) for name in weights.layout]
    assert read
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
