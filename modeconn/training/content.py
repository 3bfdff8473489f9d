"""A hash of a function by all that decides what it computes: its code, and whatever it refers to, by content.

Code is the compiled code, so comments and layout do not count; another minor version of Python compiles otherwise. What
it refers to are defaults, closures, arguments of partials, attributes of callable objects, and the globals, functions,
classes and modules that it names, tensors and arrays by their bytes. All that comes from a library (the standard one,
`site-packages`, modeconn) counts by its name; what a file or a process holds does not count.
"""

import copyreg
import dis
import functools
import hashlib
import importlib
import importlib.util
import struct
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeconn.errors import OptionError

NAME = "modeconn_name"  # an attribute with a text, which then stands for the content

_ATOMS = (type(None), bool, int, float, complex, bytes, type(...), type(NotImplemented), range, slice)
# Of classes: what has no part in what they compute, or is made anew in every process.
_UNSEEN = {"__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "_abc_impl"}
_LIBRARIES = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
_OWN = Path(__file__).resolve().parents[1]


def content_hash(value: Any, what: str) -> str:
    """sha256 of a value by its content.

    Args:
        value: a function, mostly.
        what: the name that the caller knows it by, for errors.

    Raises:
        OptionError: something that it refers to has no content that could be read, such as an open file or a lock.

    >>> scaled = lambda rate: content_hash(lambda gradient: -rate * gradient, "train")
    >>> scaled(0.1) == scaled(0.1), scaled(0.1) == scaled(0.5)
    (True, False)
    """
    return _Hasher(what).digest(value).hex()


class _Hasher:
    """Digests of objects, each from those of its parts. An object that contains itself is named by its place above."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._known: dict[int, tuple[Any, bytes]] = {}  # with the object itself, so that its id stays its own
        self._open: list[int] = []

    def digest(self, value: Any) -> bytes:
        if type(value) in _ATOMS:
            return _hash("atom", type(value).__name__.encode(), repr(value).encode())
        if type(value) is str:
            return _hash("text", value.encode("utf-8", "surrogatepass"))
        key = id(value)
        if key in self._known:
            return self._known[key][1]
        if key in self._open:
            return _hash("within itself", str(len(self._open) - self._open.index(key)).encode())
        self._open.append(key)
        try:
            kind, parts = self._parts(value)
            found = _hash(kind, *parts)
        except OptionError:
            raise
        except Exception as error:  # of somebody's code that describes an object
            reason = "it contains too much" if isinstance(error, RecursionError) else f"{type(error).__name__}: {error}"
            raise OptionError(
                f"{self._what} refers to an object of type {type(value).__name__} that cannot be named by its content "
                f"({reason}), so results could not be told apart; give {self._what} a name in place of its content, "
                f'and another whenever it changes: {self._what}.{NAME} = "..."'
            ) from error
        finally:
            self._open.pop()
        self._known[key] = value, found
        return found

    def _parts(self, value: Any) -> tuple[str, Iterable[bytes]]:
        given = getattr(value, "__dict__", {}).get(NAME)
        if isinstance(given, str):
            return "named", [given.encode()]
        if isinstance(value, Tensor) and type(value) in (Tensor, torch.nn.Parameter) and value.layout == torch.strided:
            return "tensor", [str((value.dtype, list(value.shape), value.requires_grad)).encode(), _bytes(value)]
        if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
            return "array", [str((value.dtype.str, value.shape)).encode(), value.tobytes()]
        if isinstance(value, np.ndarray):
            return "objects", [str(value.shape).encode(), self.digest(value.ravel().tolist())]
        if type(value) in (list, tuple):
            return type(value).__name__, map(self.digest, value)
        if type(value) in (set, frozenset):
            return "set", sorted(map(self.digest, value))
        if type(value) in (dict, types.MappingProxyType):
            return "dict", [self.digest(part) for item in value.items() for part in item]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.CodeType):
            return "code", self._code(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.ModuleType):
            return self._module(value, vars(value))
        if isinstance(value, property):
            return "property", map(self.digest, (value.fget, value.fset, value.fdel))
        if isinstance(value, staticmethod | classmethod):
            return type(value).__name__, [self.digest(value.__func__)]
        if isinstance(value, functools.cached_property):
            return "cached property", [self.digest(value.func)]
        if isinstance(value, torch.Generator):
            return "generator", [_bytes(value.get_state())]
        return self._object(value)

    def _object(self, value: Any) -> tuple[str, Iterable[bytes]]:
        """Any other object: what `pickle` would keep of it, with classes and functions by their content."""
        reduce = copyreg.dispatch_table.get(type(value))
        reduced = reduce(value) if reduce else value.__reduce_ex__(4)
        if isinstance(reduced, str):  # a global, such as a built-in function; or a function behind a cache
            home = str(getattr(value, "__module__", ""))
            return "global", [home.encode(), reduced.encode(), self.digest(getattr(value, "__wrapped__", None))]
        contained = [list(part) if isinstance(part, Iterator) else part for part in reduced]  # of lists and dicts
        return "object", map(self.digest, contained)

    def _function(self, function: types.FunctionType) -> tuple[str, Iterable[bytes]]:
        home = str(function.__globals__.get("__name__", ""))
        cells = [self._cell(cell) for cell in function.__closure__ or ()]
        if _of_library(home):
            name = f"{home}.{function.__qualname__}".encode()
            # What a library made out of something of the user's, such as a decorated function, holds that.
            return "library", [name] if _found(home, function) else [name, *cells, self.digest(function.__dict__)]
        code, given = function.__code__, (function.__defaults__, function.__kwdefaults__, function.__dict__)
        return "function", [
            *self._code(code, function.__doc__),
            *map(self.digest, given),
            *cells,
            *self._referred(code, function.__globals__),
        ]

    def _cell(self, cell: types.CellType) -> bytes:
        try:
            content = cell.cell_contents
        except ValueError:  # nothing was assigned yet
            return _hash("empty cell")
        return self.digest(content)

    def _code(self, code: types.CodeType, doc: str | None = None) -> list[bytes]:
        constants = [
            None if index == 0 and doc is not None and c == doc else c for index, c in enumerate(code.co_consts)
        ]
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        return [code.co_code, code.co_exceptiontable, *map(self.digest, (constants, names, shape))]

    def _referred(self, code: types.CodeType, there: dict[str, Any]) -> Iterator[bytes]:
        """What code names, its inner functions included: globals, and of the user's modules what it takes from them."""
        read: set[str] = set()
        attributes: set[str] = set()
        imported: set[str] = set()
        for inner in _codes(code):
            before: list[Any] = [None, None]  # an import finds its level and its names on the stack
            for step in dis.get_instructions(inner):
                if step.opname == "EXTENDED_ARG":
                    continue
                if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                    read.add(step.argval)
                elif step.opname == "IMPORT_NAME":
                    imported.add("." * int(before[0] or 0) + step.argval)
                elif step.argval is not None and step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
                    attributes.add(step.argval)
                before = [before[1], step.argval]
        found = {name: there[name] for name in sorted(read & there.keys())}
        for name in sorted(imported):
            absolute = importlib.util.resolve_name(name, there.get("__package__"))
            if not _of_library(absolute):
                found[name] = importlib.import_module(absolute)
        for name, value in found.items():
            yield _hash("refers to", name.encode())
            yield self._named(value, attributes)

    def _named(self, value: Any, attributes: set[str]) -> bytes:
        if not isinstance(value, types.ModuleType):
            return self.digest(value)
        parts: list[bytes] = []
        if not _of_library(value.__name__):
            for name in sorted(attributes & vars(value).keys()):
                parts += [name.encode(), self._named(vars(value)[name], attributes)]
        return _hash("module", value.__name__.encode(), *parts)

    def _module(self, module: types.ModuleType, held: dict[str, Any]) -> tuple[str, Iterable[bytes]]:
        parts = {} if _of_library(module.__name__) else {k: v for k, v in held.items() if not k.startswith("__")}
        return "whole module", [module.__name__.encode(), self.digest(parts)]

    def _class(self, kind: type) -> tuple[str, Iterable[bytes]]:
        if _of_library(kind.__module__):
            return "library", [f"{kind.__module__}.{kind.__qualname__}".encode()]
        held = {name: value for name, value in vars(kind).items() if name not in _UNSEEN}
        return "class", [kind.__name__.encode(), *map(self.digest, (type(kind), kind.__bases__, held))]


def _hash(kind: str, *parts: bytes) -> bytes:
    """sha256 of parts, each with its length, so that no two lists of parts are one text."""
    found = hashlib.sha256()
    for part in (kind.encode(), *parts):
        found.update(struct.pack("<Q", len(part)))
        found.update(part)
    return found.digest()


def _bytes(tensor: Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


@functools.cache
def _of_library(name: str) -> bool:
    """Whether a module is no code of the user's."""
    if name.partition(".")[0] in sys.builtin_module_names:
        return True
    module = sys.modules.get(name)
    try:
        spec = None if module else importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    file = getattr(module, "__file__", None) or (spec.origin if spec else None)
    if not file or not Path(file).is_absolute():
        return name.partition(".")[0] in sys.stdlib_module_names and name != "__main__"
    path = Path(file).resolve()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return path.is_relative_to(_OWN) or any(path.is_relative_to(library) for library in _LIBRARIES)


def _found(home: str, function: types.FunctionType) -> bool:
    """Whether a module holds a function under its own name."""
    held: Any = sys.modules.get(home)
    for part in function.__qualname__.split("."):
        held = getattr(held, part, None)
    return held is function
