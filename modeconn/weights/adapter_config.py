"""What the configuration of a LoRA adapter says of the merged weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeconn.errors import NetworkError
from modeconn.weights.checkpoints import read_json

CONFIGURATION = "adapter_config.json"
MERGE = "merge it with peft (merge_and_unload), save that, and give its folder"
# Fields that say nothing of the merged weights, or that are read here. What others would say is not known.
_KNOWN = (
    *("auto_mapping", "base_model_name_or_path", "revision", "peft_type", "peft_version", "task_type"),
    *("inference_mode", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "fan_in_fan_out", "bias", "use_rslora", "modules_to_save", "init_lora_weights"),
    *("rank_pattern", "alpha_pattern", "megatron_config", "megatron_core", "qalora_group_size", "loftq_config"),
    *("eva_config", "corda_config", "lora_ga_config", "runtime_config", "ensure_weight_tying"),
)
_KEEPS_BASE = (True, False, None, "gaussian", "orthogonal", "eva")  # initialisations that leave the base as it is


@dataclass(frozen=True)
class AdapterConfig:
    """Ranks and scales of low-rank updates.

    Attributes:
        rank, alpha: of modules that no pattern is for.
        ranks, alphas: pattern of module names to what is so for these.
        root: whether the scale is alpha / sqrt(rank) (rsLoRA), and not alpha / rank.
        transposed: whether weights are [inputs, outputs], `fan_in_fan_out`.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    root: bool
    transposed: bool

    def rank_of(self, module: str) -> int:
        """The rank that a module of the base should have."""
        return int(_of_pattern(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        """The factor of its product."""
        rank = self.rank_of(module)
        return float(_of_pattern(self.alphas, module, self.alpha)) / (rank**0.5 if self.root else rank)


def read_adapter_config(folder: Path, origin: str) -> AdapterConfig:
    """Read the configuration of an adapter that is no more than low-rank updates.

    Raises:
        NetworkError: it is of another type, is more than that, such as DoRA, or cannot be read.
    """
    config = read_json(folder / CONFIGURATION)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise NetworkError(f"{origin} is an adapter of the type {kind}, and LORA alone is read: {MERGE}")
    more = [f"{name}={value!r:.40}" for name, value in config.items() if value and name not in _KNOWN]
    if config.get("init_lora_weights", True) not in _KEEPS_BASE:
        more.append(f"init_lora_weights={config['init_lora_weights']!r:.40}")
    if more:
        raise NetworkError(
            f"{origin} is more than low-rank updates of its base, by {', '.join(more)} in its {CONFIGURATION}: {MERGE}"
        )
    try:
        found = AdapterConfig(
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            ranks={str(key): int(value) for key, value in (config.get("rank_pattern") or {}).items()},
            alphas={str(key): float(value) for key, value in (config.get("alpha_pattern") or {}).items()},
            root=bool(config.get("use_rslora")),
            transposed=bool(config.get("fan_in_fan_out")),
        )
        if min([found.rank, *found.ranks.values()]) < 1:
            raise ValueError("a rank is less than 1")
        for pattern in (*found.ranks, *found.alphas):
            re.compile(pattern)
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise NetworkError(
            f"{origin}: ranks and alphas cannot be read from its {CONFIGURATION}: {type(error).__name__}: {error}"
        ) from error
    return found


def _of_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that a name, or the end of it after a dot, matches; as PEFT matches them."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)
