"""The weights of anyone's network, whatever it is given as: a module, a state dict, a file, or a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.weights.adapters import is_adapter, weights_of_adapter
from modeconn.weights.checkpoints import weights_of_path
from modeconn.weights.effective import weights_of_module
from modeconn.weights.state_dicts import Weights, weights_of_state_dict


def weights_of(
    source: nn.Module | Mapping[str, Tensor | Any] | str | Path,
    origin: str,
    key: str | None = None,
    base: nn.Module | None = None,
) -> Weights:
    """Open the weights of a module, a state dict, or a checkpoint on disk; the source is left unchanged and not copied.

    A module gives its effective weights by the names they have in `plain_copy`; a state dict and a file give the
    names they have, with masks of `torch.nn.utils.prune` applied. `match_names` then finds a network's names in them.

    Args:
        source: a module; a state dict, or a checkpoint that has one under `state_dict`, `model_state_dict` or
            `model`; the path of a `.safetensors`, `.pt`, `.pth`, `.ckpt` or `.bin` file, of a Hugging Face folder, or
            of a folder of a LoRA adapter, which is merged into its base model.
        origin: what messages and notes call it: `"a"`, `"runs/x.safetensors"`.
        key: of a checkpoint's state dict, where it has several, such as `"state_dict_ema"`.
        base: of an adapter, its base model with its weights; if None, the folder that the adapter names.

    Raises:
        NetworkError: nothing to be read there, quantised weights, a damaged file, or one that would have to be
            unpickled.

    >>> weights = weights_of(nn.Linear(2, 1), "a")
    >>> {name: tuple(tensor.shape) for name, tensor in weights.layout.items()}
    {'weight': (1, 2), 'bias': (1,)}
    """
    if isinstance(source, nn.Module):
        return weights_of_module(source, origin)
    if isinstance(source, Mapping):
        return weights_of_state_dict(source, origin, key)
    if is_adapter(source):
        return weights_of_adapter(source, origin, base)
    if isinstance(source, str | Path):
        return weights_of_path(Path(source), origin, key)
    raise NetworkError(
        f"{origin} is a {type(source).__name__}; give a torch.nn.Module, a state dict, or the path of a checkpoint"
    )
