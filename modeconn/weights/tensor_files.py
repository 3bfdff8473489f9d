"""Files of tensors, each kind by one reader: safetensors, and PyTorch's. Nothing that a file names is called."""

import json
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from modeconn.errors import NetworkError
from modeconn.reading import open_file, require_room
from modeconn.weights.pickles import explain_refusal

DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64, "BOOL": torch.bool},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8},
}


def in_order(names: Iterable[str]) -> list[str]:
    """Names of tensors by the alphabet, and their numbers as numbers: files do not keep the network's order.

    >>> in_order(["layers.10.bias", "layers.2.weight", "layers.2.bias"])
    ['layers.2.bias', 'layers.2.weight', 'layers.10.bias']
    """
    return sorted(names, key=lambda name: (re.sub(r"\d+", lambda number: number[0].zfill(20), name), name))


def read_layout(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Names (in order), shapes and dtypes in a safetensors file, as meta tensors, and its metadata; no data are read.

    Raises:
        ValueError: it is damaged, is no such file, or has tensors that PyTorch has not.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            stored = {name: file.get_slice(name) for name in in_order(file.keys())}
            shapes = {name: (part.get_shape(), part.get_dtype()) for name, part in stored.items()}
            metadata = file.metadata() or {}
        if unknown := sorted({kind for _, kind in shapes.values()} - DTYPES.keys()):
            raise ValueError(f"it has tensors of the kinds {', '.join(unknown)}, which cannot be read")
        layout = {name: torch.empty(shape, dtype=DTYPES[kind], device="meta") for name, (shape, kind) in shapes.items()}
    except ValueError:
        raise
    except Exception as error:  # safetensors' own, and PyTorch's on a shape that it cannot count
        raise ValueError(str(error).partition("\n")[0]) from error
    return layout, metadata


def read_tensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in the bytes of a safetensors file, and its metadata.

    Raises:
        ValueError: it is damaged, is no such file, or has tensors that PyTorch has not.
    """
    try:
        found = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        return found, json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:  # safetensors' own, KeyError for an unknown type, and PyTorch's on a shape
        raise ValueError(str(error).partition("\n")[0]) from error


def speaking_of(origin: str, path: Path) -> str:
    """How a message that names a file begins: with what its network is called, unless the file's path says that too.

    >>> speaking_of("a", Path("runs/x.pt")), speaking_of("x.pt", Path("runs/x.pt"))
    ('a: ', '')
    """
    return "" if origin == str(path) or origin in path.parts else f"{origin}: "


def read_pickled(path: Path, origin: str) -> Mapping[Any, Any]:
    """The mapping in a file that `torch.save` wrote, its tensors mapped from the file where they can be.

    PyTorch unpickles it by `weights_only=True`. What training scripts keep beside weights without being tensors (NumPy
    arrays and numbers, a `Namespace`, paths, dates) is passed over: it becomes an empty object, whatever it was.

    Raises:
        NetworkError: it is damaged, holds something else, or would have to call something to be read.
    """
    try:
        # By its path it can be mapped; but a path that ends so is taken for safetensors by some versions of PyTorch.
        mapped = _can_be_mapped(path) and path.suffix != ".safetensors"
        with open_file(path) as file, warnings.catch_warnings(), torch.serialization.safe_globals(_passed_over()):
            warnings.simplefilter("ignore")  # what it warns of ends in an error here
            entries = torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise NetworkError(f"{speaking_of(origin, path)}{path} {explain_refusal(path, error)}") from error
    if not isinstance(entries, Mapping):
        raise NetworkError(f"{speaking_of(origin, path)}{path} holds a {type(entries).__name__}, not a state dict")
    return entries


class _Beside:
    """Stands for what is not read: made with any arguments, set to any state, and empty."""

    __slots__ = ()

    def __new__(cls, *_: object, **__: object) -> "_Beside":
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def _mapping(*_: object) -> dict[Any, Any]:
    return {}


_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
_PASSED_OVER: list[Any] = [
    *((_Beside, f"numpy.{name}") for name in ("dtype", "ndarray")),
    *(
        (_Beside, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    *((_Beside, f"numpy.{core}.numeric._frombuffer") for core in ("core", "_core")),
    *((_Beside, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *((_Beside, name) for name in ("argparse.Namespace", "types.SimpleNamespace", "uuid.UUID")),
    *((_Beside, f"datetime.{name}") for name in ("datetime", "date", "time", "timedelta", "timezone")),
    # What is in it may be tensors; what it makes of a missing key is not asked for.
    (_mapping, "collections.defaultdict"),
    *(
        (_Beside, f"{module}.{name}")
        for module in ("builtins", "__builtin__")
        for name in ("list", "dict", "int", "float")
    ),
]


def _passed_over() -> list[Any]:
    """What is passed over, apart from packages of which the caller has declared something safe to be called."""
    declared = [one[1] if isinstance(one, tuple) else one.__module__ for one in torch.serialization.get_safe_globals()]
    packages = {name.partition(".")[0] for name in declared} - {"builtins"}  # of which PyTorch declares exceptions
    return [entry for entry in _PASSED_OVER if entry[1].partition(".")[0] not in packages]


def _can_be_mapped(path: Path) -> bool:
    """Whether a PyTorch file is an archive whose parts are as they are in memory: packed ones would be noise.

    Raises:
        ValueError: a decompression bomb.
    """
    with open_file(path) as file:
        if not zipfile.is_zipfile(file):
            return False
        try:
            parts = zipfile.ZipFile(file).infolist()
        except zipfile.BadZipFile:  # PyTorch says what is wrong
            return False
        require_room(sum(part.file_size for part in parts), file.seek(0, 2))
        return all(part.compress_type == zipfile.ZIP_STORED for part in parts)
