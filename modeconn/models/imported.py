"""Anyone's network by import path, `package.module:factory`."""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from modeconn.errors import NetworkError, did_you_mean


def build_imported(path: str, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Call the factory with those of `input_shape` and `classes` that it has parameters for.

    Raises:
        NetworkError: it cannot be imported or called, or does not give a module whose weights have shapes.
    """
    factory = import_function(path)
    try:
        network = factory(**factory_arguments(factory, input_shape, classes))
    except Exception as error:
        raise NetworkError(f"the network factory {path} failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"the network factory {path} gave {type(network).__name__}, not a torch.nn.Module")
    if any(map(nn.parameter.is_lazy, (*network.parameters(), *network.buffers()))):
        raise NetworkError(
            f"the network factory {path} gave lazy layers that have no shapes yet; pass a batch through it there"
        )
    return network


def factory_arguments(factory: Callable[..., Any], input_shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    """Those of `input_shape` and `classes` that a factory has parameters for."""
    parameters = inspect.signature(factory).parameters
    known = {"input_shape": input_shape, "classes": classes}
    return {name: value for name, value in known.items() if name in parameters}


def source_fingerprint(model: str, input_shape: tuple[int, int, int], classes: int) -> str | None:
    """Fingerprint of an imported network, for a run's name: with other code it is another network.

    None for our own names. It is a sha256 over the files that define the factory and the network's layers, except for
    PyTorch's own, and over the layers with their options and shapes. A function in yet another file, called by these,
    is not seen.

    Raises:
        NetworkError: it cannot be imported or built, or is not defined in a file.
    """
    if ":" not in model:
        return None
    module, factory = _import(model)
    with torch.random.fork_rng(devices=[]):
        network = build_imported(model, input_shape, classes)
    homes = {module.__name__, factory.__module__, *(type(layer).__module__ for layer in network.modules())}
    # The layers too, and not the code alone: a factory may read its widths from a file, or be a `functools.partial`.
    digest = hashlib.sha256(repr(network).encode())
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
    for home in sorted(homes):
        if home.split(".")[0] not in ("torch", "torchvision", "functools"):
            digest.update(_file_of(home).read_bytes())
    return digest.hexdigest()


def code_fingerprint(model: str) -> str | None:
    """sha256 of the file that an imported network's factory is in, of which nothing is run; None if it is not found."""
    place = find_code(model)
    return None if place is None else hashlib.sha256(place.read_bytes()).hexdigest()


def find_code(path: str) -> Path | None:
    """The file that `package.module:function` would be imported from; nothing is imported, not even the package."""
    places, found = _folders(), None
    for part in path.partition(":")[0].split("."):
        found = PathFinder.find_spec(part, places)
        if found is None:
            return None
        places = list(found.submodule_search_locations or ())
    return Path(found.origin) if found and found.origin and Path(found.origin).is_file() else None


def import_function(path: str) -> Callable[..., Any]:
    """Import the function that `package.module:function` names.

    Raises:
        NetworkError: it cannot be imported.
    """
    return _import(path)[1]


def _folders() -> list[str]:
    # A console script does not have the current folder on its path, where a researcher's module mostly is.
    here = os.getcwd()
    return sys.path if here in sys.path or "" in sys.path else [here, *sys.path]


def _file_of(module: str) -> Path:
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or file is None or not Path(file).is_file():
        raise NetworkError(f"{module!r} is not a file that worker processes can import; put the network into one")
    return Path(file)


def _import(path: str) -> tuple[ModuleType, Callable[..., Any]]:
    module_name, _, factory_name = path.partition(":")
    sys.path[:] = _folders()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise NetworkError(f"cannot import {module_name!r}, for {path}: {error}") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise NetworkError(
            f"module {module_name!r} has no function {factory_name!r}{did_you_mean(factory_name, known)}"
        )
    return module, factory
