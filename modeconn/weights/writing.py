"""State dicts as safetensors files."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from modeconn.errors import StoreError
from modeconn.files import replacing, writing
from modeconn.weights.state_dicts import aliases_of


def write_weights(state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as a safetensors file, with texts about it in its metadata.

    A tied tensor is written once, and its other names in the metadata, as `safetensors.torch.save_model` does;
    `safetensors.torch.load_model` and modeconn read it so.

    Raises:
        StoreError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    aliases = aliases_of(state)
    tensors = {name: tensor.contiguous() for name, tensor in state.items() if name not in aliases}
    with writing(path), replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {"format": "pt", **(metadata or {}), **aliases})
        except SafetensorError as error:
            raise StoreError(f"cannot write {path}: {error}; choose another folder") from error
