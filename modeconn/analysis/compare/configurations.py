"""Hugging Face folders: what differs in their configurations and tokenizers, without building anything."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeconn.errors import ModeconnError
from modeconn.reading import is_file, parse_json, read_file
from modeconn.weights.checkpoints import configuration_of

# What no weight is computed with: how it was initialised, trained, saved, and is called.
_NO_FUNCTION = re.compile(
    r"(use_cache|.*drop(out|path)?(_rate|_prob)?|.*_pdrop|initializer_(range|factor)|.*_token_id|architectures|"
    r"pretraining_tp|output_(attentions|hidden_states|router_logits)|return_dict.*|gradient_checkpointing|auto_map|"
    r"finetuning_task|task_specific_params|problem_type|unsloth_.*|_attn_implementation.*|tokenizer_class|"
    r"router_aux_loss_coef|max_length|id2label|label2id|num_labels|quantization_config)$"
)
_LABELS = ("id2label",)
_SHOWN = 60  # letters of a value


def compare_folders(folders: Sequence[Any], names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Differences of two Hugging Face folders that change what is computed, and notes on those that do not.

    Args:
        folders: whatever the networks were given as; nothing is said unless both are folders with a `config.json`.
        names: what they are called.
    """
    if not all(isinstance(folder, str | Path) and is_file(Path(folder) / "config.json") for folder in folders):
        return (), ()
    a, b = (_flat(configuration_of(folder)) for folder in folders)
    differences: list[str] = []
    notes: list[str] = []
    for key in sorted(a.keys() | b.keys()):
        one, other = a.get(key, "absent"), b.get(key, "absent")
        if one == other or (key not in a and b[key] is None) or (key not in b and a[key] is None):
            continue
        said = f"{key} is {_short(one)} in {names[0]} and {_short(other)} in {names[1]} (config.json)"
        harmless = _NO_FUNCTION.match(key.rpartition(".")[2]) or _NO_FUNCTION.match(key.partition(".")[0])
        (notes if harmless else differences).append(said)
    vocabularies = [_vocabulary(Path(folder)) for folder in folders]
    return (*differences, *_tokenizers(vocabularies, names)), tuple(notes)


def _tokenizers(vocabularies: Sequence[Mapping[str, int] | None], names: Sequence[str]) -> Iterator[str]:
    a, b = vocabularies
    if a is None or b is None or a == b:
        return
    if len(a) != len(b):
        yield f"the tokenizer has {len(a):,} tokens in {names[0]} and {len(b):,} in {names[1]}"
    moved = [token for token in a.keys() & b.keys() if a[token] != b[token]]
    others = a.keys() ^ b.keys()
    if moved or len(a) == len(b):
        yield f"the tokenizers differ: {len(moved):,} tokens have another number, {len(others):,} are in one only"


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """Token to number, of the tokenizer that is in a folder; None where there is none that can be read."""
    try:
        if is_file(folder / "tokenizer.json"):
            found = parse_json(read_file(folder / "tokenizer.json"), dict[str, Any])
            vocabulary = found.get("model", {}).get("vocab", {})
            if isinstance(vocabulary, list):  # of unigram models: pairs of a token and its score
                vocabulary = {pair[0]: number for number, pair in enumerate(vocabulary)}
            return {**vocabulary, **{token["content"]: token["id"] for token in found.get("added_tokens", [])}}
        if is_file(folder / "vocab.json"):
            vocabulary = parse_json(read_file(folder / "vocab.json"), dict[str, int])
            return dict(vocabulary)
        if is_file(folder / "vocab.txt"):
            lines = read_file(folder / "vocab.txt").decode().splitlines()
            return {token: number for number, token in enumerate(lines)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ModeconnError):
        pass
    return None


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by names such as `rope_parameters.rope_theta`."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and key not in _LABELS:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
