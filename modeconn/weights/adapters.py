"""LoRA adapters, as PEFT saves them: a folder of low-rank updates, read as the base model with these merged into it.

`peft` is not needed: such a folder is JSON and safetensors. Nothing is downloaded.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.reading import is_file
from modeconn.weights.adapter_config import CONFIGURATION, read_adapter_config
from modeconn.weights.adapter_tensors import match_tensors
from modeconn.weights.checkpoints import read_json, weights_of_path
from modeconn.weights.effective import weights_of_module
from modeconn.weights.names import find_names
from modeconn.weights.state_dicts import Weights

_ROUNDING = 0.01  # of the largest weight: by as much a base may differ that is stored in fewer bits
_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def is_adapter(source: Any) -> bool:
    """Whether something is the path of a folder with an `adapter_config.json`."""
    return isinstance(source, str | Path) and is_file(Path(source) / CONFIGURATION)


def base_of(path: str | Path) -> str:
    """The base model of an adapter: its folder, if that is here, or else the name that the configuration has for it.

    Raises:
        NetworkError: the configuration cannot be read, or names none.
    """
    named = read_json(Path(path) / CONFIGURATION).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise NetworkError(f"{path}: its {CONFIGURATION} names no base model (base_model_name_or_path)")
    for place in (Path(named), Path(path) / named):
        if is_file(place / "config.json"):
            return str(place.resolve())
    return named


def architecture_folder(source: Any) -> Path | None:
    """The Hugging Face folder that describes a network: itself, or that of an adapter's base; None for all else."""
    if not isinstance(source, str | Path):
        return None
    folder = Path(base_of(source)) if is_adapter(source) else Path(source)
    return folder if is_file(folder / "config.json") else None


def weights_of_adapter(path: str | Path, origin: str, base: nn.Module | None = None) -> Weights:
    """Open an adapter as a network: W0 + scale B A where it has factors (Hu et al. 2022), and else its base's weights.

    Each tensor is merged when it is read, in at least float32, and takes the base's type. The names are the base's,
    and `low_rank` holds the factors. What was trained whole (`modules_to_save`, biases) replaces the base's.

    Args:
        path: of its folder.
        origin: what messages call it.
        base: the base model with its weights; if None, it is read from the folder that the configuration names.

    Raises:
        NetworkError: a folder that cannot be read; a base that is not here, or that does not fit; an adapter that is
            more than low-rank updates, such as DoRA.
    """
    path = Path(path)
    config = read_adapter_config(path, origin)
    under, where = _base(path, origin, base)
    saved = weights_of_path(_file(path, origin), origin)
    tensors = match_tensors(saved, config, under, origin)
    if base is not None:
        _check_given(under, path, list(tensors.updates), origin)

    def read(name: str) -> Tensor:
        if name in tensors.updates:
            update = tensors.updates[name]
            return update.merged(update.a(), update.b()).to(under.layout[name].dtype)
        if name in tensors.whole:
            return saved.read(tensors.whole[name]).to(under.layout[name].dtype)
        return under.read(name)

    kinds = {under.layout[name].dtype for name in tensors.updates}
    notes = [
        f"a LoRA adapter of {len(tensors.updates)} weights, merged into its base model, {where}",
        *([tensors.note] if tensors.note else []),
        *(f"merged weights are rounded to {str(kind)[6:]}, the base's type" for kind in kinds if kind.itemsize < 4),
        *([f"the adapter's own, in place of the base's: {', '.join(tensors.whole)}"] if tensors.whole else []),
    ]
    return replace(under, read=read, origin=origin, notes=(*under.notes, *notes), low_rank=tensors.updates)


def factor_files(folders: Sequence[Any], names: Sequence[str]) -> tuple[list[Path], str]:
    """The files of adapters whose average, tensor by tensor, is an adapter's; and what that is, in words.

    Raises:
        NetworkError: no adapters, or adapters of several base models or with several ranks or scales.
    """
    for folder, name in zip(folders, names, strict=True):
        if not is_adapter(folder):
            raise NetworkError(f'{name} is no folder of an adapter, which adapter="factors" averages; leave it out')
    configs = [read_adapter_config(Path(folder), name) for folder, name in zip(folders, names, strict=True)]
    bases = [base_of(folder) for folder in folders]
    for name, base, config in zip(names, bases, configs, strict=True):
        if base != bases[0]:
            raise NetworkError(f"{names[0]} is an adapter of {bases[0]}, and {name} of {base}; give those of one model")
        if replace(config, transposed=configs[0].transposed) != configs[0]:
            raise NetworkError(
                f"{names[0]} and {name} differ in rank or alpha, so that the average of their factors is no adapter's; "
                'take adapter="products"'
            )
    note = (
        f"factors are averaged: this is adapter_model.safetensors of an adapter, with the {CONFIGURATION} of {names[0]}"
    )
    return [_file(Path(folder), name) for folder, name in zip(folders, names, strict=True)], note


def _file(folder: Path, origin: str) -> Path:
    """The file with the tensors of an adapter."""
    found = next((folder / name for name in _FILES if is_file(folder / name)), None)
    if found is None:
        raise NetworkError(f"{origin}: none of {', '.join(_FILES)} is in the folder {folder}")
    return found


def _base(path: Path, origin: str, given: nn.Module | None) -> tuple[Weights, str]:
    """The weights of the base model, and where they are from, in words."""
    called = f"the base model of {origin}"
    if given is not None:
        return weights_of_module(given, called), f"which is model= (it names {base_of(path)})"
    if (folder := architecture_folder(path)) is not None:
        return weights_of_path(folder, called), str(folder)
    raise NetworkError(
        f"{origin} is an adapter of the base model {base_of(path)}, which is no folder here with a config.json; "
        f"nothing is downloaded: give model= that model with its weights, or write its folder into its {CONFIGURATION} "
        "(base_model_name_or_path)"
    )


def _check_given(given: Weights, path: Path, updated: list[str], origin: str) -> None:
    """See that a base model that was given is not of the architecture alone, where its folder is here."""
    folder = architecture_folder(path)
    if folder is None:
        return
    stored = weights_of_path(folder, f"the base model of {origin}")
    for name, kept in find_names(updated, list(stored.layout))[0].items():
        own, other = given.read(name).float().cpu(), stored.read(kept).float()
        if own.shape != other.shape or not torch.allclose(
            own, other, rtol=0, atol=_ROUNDING * float(other.abs().max())
        ):
            raise NetworkError(
                f"{origin}: {name} is another one in model= than in its base model, {folder}; leave out model=, or "
                "give that model with its weights"
            )
