"""State dicts as safetensors files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeconn.errors import StoreError
from modeconn.files import replacing, writing
from modeconn.weights.state_dicts import Weights, aliases_of
from modeconn.weights.tensor_files import DTYPES


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


def stream_weights(weights: Weights, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write weights as a safetensors file in the memory of one tensor: each is read, written and let go.

    Tied tensors are written as by `write_weights`.

    Raises:
        StoreError: the file cannot be written, or has no such type of tensor.
    """
    path = Path(path)
    names = [name for name in weights.layout if name not in weights.aliases]
    # Wide types first, so that every tensor begins at a multiple of its own element's size.
    names.sort(key=lambda name: -weights.layout[name].dtype.itemsize)
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {}), **weights.aliases}}
    end = 0
    for name in names:
        shape = weights.layout[name]
        if shape.dtype not in kinds:
            raise StoreError(f"cannot write {path}: {name} is {shape.dtype}, which safetensors files do not have")
        begin, end = end, end + shape.numel() * shape.dtype.itemsize
        entries[name] = {"dtype": kinds[shape.dtype], "shape": list(shape.shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with writing(path), replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in names:
            tensor = weights.read(name).to("cpu", weights.layout[name].dtype)
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            del tensor
