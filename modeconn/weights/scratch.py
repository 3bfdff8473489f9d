"""A network of our own that takes other weights again and again, as if it had never had others."""

import contextlib
import copy
import enum
import types
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from modeconn.weights.computed import with_history
from modeconn.weights.state_dicts import state_tensors

_MACHINERY = frozenset(vars(nn.Module())) - {"training"}
_CONSTANTS = (
    *(int, float, complex, bool, str, bytes, type(None), type, enum.Enum, range),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, types.FunctionType, types.BuiltinFunctionType),
)


class Scratch:
    """A network that is given weights after weights, and computes with each what a fresh copy with them would.

    A network is more than its weights: modules merge, cache and count, in attributes, in buffers that are not saved, in
    `train()` and in hooks of `load_state_dict`. So before weights are written, all but the weights is put back to what
    it was when this was made; afterwards load hooks are called, where there are any, and the network is switched to
    evaluation mode by `train()`. Nothing of that costs anything for modules that have none.

    Attributes:
        network: ours to write to; between writes in evaluation mode.
        ways: how weights can be written, the most natural first: as `load_state_dict` does in the mode that the network
            was given in; in training mode; past the load hooks. One for networks whose modules do not look.
        way: the one that is used.
        simple: whether modules see neither modes nor loading and hold nothing but constants.

    >>> scratch = Scratch(nn.Linear(2, 1))
    >>> with scratch.rewriting():
    ...     _ = nn.init.zeros_(scratch.network.weight)
    >>> scratch.network.training, scratch.ways
    (False, ('as given',))
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        sees_modes = any(map(_sees_modes, network.modules()))
        self._sees_loading = any(map(_sees_loading, network.modules()))
        in_training = [] if not sees_modes or network.training else ["in training mode"]
        self.ways: Sequence[str] = ("as given", *in_training, *(["past hooks"] if self._sees_loading else []))
        self.way = self.ways[0]
        if not sees_modes:
            network.eval()  # once for all
        self._sees_modes = sees_modes
        self.remember()
        self.simple = not sees_modes and not self._sees_loading and not self._copied

    def remember(self) -> None:
        """Take the network as it is now for what every write begins with."""
        # Scripted modules keep their attributes elsewhere, where nobody can look.
        modules = [module for module in self.network.modules() if not isinstance(module, torch.jit.ScriptModule)]
        self._tensors = [(module, dict(module._parameters), dict(module._buffers)) for module in modules]
        self._constants: list[tuple[nn.Module, dict[str, Any]]] = []
        found: list[tuple[dict[str, Any], str, Any]] = []  # a home, a name and what may change within
        for module in modules:
            own = {name: value for name, value in vars(module).items() if name not in _MACHINERY}
            self._constants.append((module, {name: value for name, value in own.items() if _is_constant(value)}))
            found += [(vars(module), name, value) for name, value in own.items() if not _is_constant(value)]
            unsaved = module._non_persistent_buffers_set
            found += [(module._buffers, name, module._buffers[name]) for name in unsaved]
        self._copied = [(home, name, value) for (home, name, _), value in zip(found, self._copies(found), strict=True)]

    @contextlib.contextmanager
    def rewriting(self) -> Iterator[None]:
        """Context in which weights are written to the network, in place; its modules notice that they changed."""
        self._put_back()
        if self.way == "in training mode":
            self.network.train()
        yield
        if self._sees_loading and self.way != "past hooks":
            weights = {name: tensor.detach().clone() for name, tensor in state_tensors(self.network).items()}
            self.network.load_state_dict(weights, strict=False)
        if self._sees_modes:
            self.network.eval()

    @property
    def changed(self) -> bool:
        """Whether constants of modules, such as flags, are others than those that every write begins with."""
        return any(
            any(vars(module).get(name) is not value for name, value in constants.items())
            for module, constants in self._constants
        )

    def _put_back(self) -> None:
        for module, parameters, buffers in self._tensors:
            homes: Any = (module._parameters, parameters), (module._buffers, buffers)
            for home, tensors in homes:
                for name in home.keys() - tensors.keys():
                    del home[name]
                home.update(tensors)
        kept = {(id(home), name) for home, name, _ in self._copied}
        for module, constants in self._constants:
            own = vars(module)
            for name in [name for name in own if name not in _MACHINERY and name not in constants]:
                if (id(own), name) not in kept:
                    del own[name]
            own.update(constants)
        for (home, name, _), value in zip(self._copied, self._copies(self._copied), strict=True):
            home[name] = value

    def _copies(self, found: Sequence[tuple[dict[str, Any], str, Any]]) -> list[Any]:
        """Copies of attributes, together, so that what they share stays shared; what cannot be copied is kept."""
        if not found:
            return []
        weights = [tensor for tensor in state_tensors(self.network).values() if tensor.layout == torch.strided]
        memo: dict[Any, Any] = {id(own): own for own in (*self.network.modules(), *weights)}
        # Views of weights stay views of them.
        memo["torch"] = {store._cdata: store for store in (tensor.untyped_storage() for tensor in weights)}
        copies = []
        for _, _, value in found:
            memo |= {id(tensor): tensor.detach().clone() for tensor in with_history(value)}
            try:
                copies.append(copy.deepcopy(value, memo))
            except Exception:  # a lock, an open file, a handle
                copies.append(value)
        return copies


def _is_constant(value: object) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(map(_is_constant, value))
    return isinstance(value, _CONSTANTS)


def _sees_modes(module: nn.Module) -> bool:
    own = type(module)
    return own.train is not nn.Module.train or own.eval is not nn.Module.eval or "train" in vars(module)


def _sees_loading(module: nn.Module) -> bool:
    if module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks:
        return True
    methods = (type(module)._load_from_state_dict, type(module).load_state_dict)
    return any(not str(method.__module__).startswith("torch.") for method in methods)
