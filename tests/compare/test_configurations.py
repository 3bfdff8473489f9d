"""Hugging Face folders: configurations and tokenizers beside the weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modeconn import compare

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
    "torch_dtype": "float32",
    "bos_token_id": 1,
}


def folder(path: Path, seed: int = 0, tokens: dict[str, int] | None = None, **config: Any) -> Path:
    """A folder in Hugging Face's form, with weights in two shards."""
    path.mkdir()
    draw = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (50, 16),
        **{f"model.layers.{i}.mlp.up_proj.weight": (32, 16) for i in range(30)},
        "lm_head.weight": (50, 16),
    }
    tensors = {name: torch.randn(*shape, generator=draw) for name, shape in shapes.items()}
    homes = {name: f"model-0000{1 + (place > 3)}-of-00002.safetensors" for place, name in enumerate(tensors)}
    for home in set(homes.values()):
        save_file({name: tensor for name, tensor in tensors.items() if homes[name] == home}, path / home)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))
    (path / "config.json").write_text(json.dumps(LLAMA | config))
    if tokens is not None:
        (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens}, "added_tokens": []}))
    return path


def test_equal_configurations_say_nothing(tmp_path) -> None:
    a, b = folder(tmp_path / "a", tokens={"x": 0}), folder(tmp_path / "b", 1, tokens={"x": 0})
    result = compare(a, b)
    assert (result.differences, result.notes) == ((), ())
    assert result.siblings.answer == "not siblings"
    layers = [f"model.layers.{number}" for number in range(30)]
    assert [block.name for block in result.blocks] == ["lm_head", "model.embed_tokens", *layers]
    assert "\nmodel.layers.29 " in str(result)  # blocks, as layers are many
    assert "\nmodel.layers.29.mlp" not in str(result)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rope_theta": 500000.0}, "rope_theta is 10000.0 in a and 500000.0 in b (config.json)"),
        ({"rope_scaling": {"factor": 8.0}}, "rope_scaling"),
        ({"num_attention_heads": 4}, "num_attention_heads is 2 in a and 4 in b (config.json)"),
        ({"num_key_value_heads": 1}, "num_key_value_heads is 2 in a and 1 in b (config.json)"),
        ({"vocab_size": 51}, "vocab_size is 50 in a and 51 in b (config.json)"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is False in a and True in b (config.json)"),
        ({"model_type": "mistral"}, "model_type is llama in a and mistral in b (config.json)"),
    ],
)
def test_what_changes_the_function_is_a_difference(tmp_path, changed, said) -> None:
    result = compare(folder(tmp_path / "a"), folder(tmp_path / "b", **changed))
    assert any(said in difference for difference in result.differences)
    assert result.verdict == "do not average"
    assert said in result.reason or said in str(result)
    assert len(result.tensors) == 32  # compared none the less


def test_what_does_not_is_a_note_or_nothing(tmp_path) -> None:
    changed = {"attention_dropout": 0.1, "torch_dtype": "bfloat16", "bos_token_id": 2, "use_cache": None}
    result = compare(folder(tmp_path / "a"), folder(tmp_path / "b", **changed))
    assert result.differences == ()
    assert result.verdict == "average"  # equal weights
    assert [note.split()[0] for note in result.notes] == ["attention_dropout", "bos_token_id"]


def test_tokenizers_are_compared_token_by_token(tmp_path) -> None:
    tokens = {"x": 0, "y": 1, "z": 2}
    a = folder(tmp_path / "a", tokens=tokens)
    more = folder(tmp_path / "more", tokens=tokens | {"w": 3})
    moved = folder(tmp_path / "moved", tokens={"x": 0, "y": 2, "z": 1})
    assert compare(a, more).differences == ("the tokenizer has 3 tokens in a and 4 in more",)
    assert compare(a, moved).differences == ("the tokenizers differ: 2 tokens have another number, 0 are in one only",)
    (moved / "tokenizer.json").write_text("{")
    assert compare(a, moved).differences == ()  # what cannot be read says nothing
    (moved / "tokenizer.json").unlink()
    (moved / "vocab.txt").write_text("x\ny\nw\n")
    assert compare(a, moved).differences == ("the tokenizers differ: 0 tokens have another number, 2 are in one only",)
    (moved / "vocab.txt").unlink()
    (moved / "vocab.json").write_text(json.dumps(tokens))
    assert compare(a, moved).differences == ()


def test_of_unigram_models_the_place_is_the_number(tmp_path) -> None:
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b")
    for path, pieces in ((a, ["x", "y"]), (b, ["y", "x"])):
        content = {"model": {"vocab": [[piece, -1.0] for piece in pieces]}, "added_tokens": [{"content": "s", "id": 2}]}
        (path / "tokenizer.json").write_text(json.dumps(content))
    assert compare(a, b).differences == ("the tokenizers differ: 2 tokens have another number, 0 are in one only",)
