"""Whether two networks compute one function, shown on a batch; and if not, in which module and why."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.evaluation.batches import seed_all
from modeconn.evaluation.modes import evaluating
from modeconn.evaluation.structures import map_tensors

TOLERANCE = 1e-4  # of an output's largest value
_SHOWN = 3

Build = Callable[[], nn.Module]
Forward = Callable[[nn.Module, Any], Any]


def departure(ours: Build, other: Build, batch: Any, forward: Forward, tolerance: float = TOLERANCE) -> str | None:
    """Where two networks compute different functions, in words; None if they agree on a batch.

    They agree if all that they give differs by at most `tolerance` of the largest value of each output, or by 16
    roundings of its type where that is more. A network that draws random numbers of its own, so that it does not
    agree with itself, is taken to agree.

    Args:
        ours, other: make the networks, as they are before they have seen anything; evaluated in evaluation mode.
        batch: not written to.
        forward: passes a batch through a network.
        tolerance: more in lower precision.

    >>> other = nn.Sequential(nn.Identity(), nn.Tanh())
    >>> ours = nn.Sequential(nn.Identity(), nn.ReLU())
    >>> departure(lambda: ours, lambda: other, -torch.ones(1, 2), lambda network, batch: network(batch))[:43]
    'the output of 1 departs first, by 1 of its '
    """
    device = next((tensor.device for tensor in _leaves(batch)), torch.device("cpu"))

    def outputs(build: Build, *, all_modules: bool = False) -> tuple[nn.Module, dict[tuple[str, int], list[Tensor]]]:
        network = build()
        seed_all(device)
        with torch.no_grad(), evaluating(network), _recording(network, all_modules=all_modules) as found:
            given = forward(network, map_tensors(torch.clone, batch))
        return network, found or {("", 0): list(_leaves(given))}

    if not _first_apart(outputs(ours)[1], outputs(other)[1], tolerance):
        return None
    if _first_apart(outputs(other)[1], outputs(other)[1], tolerance):
        return None
    (network, found), (its, expected) = outputs(ours, all_modules=True), outputs(other, all_modules=True)
    (name, _), apart = _first_apart(found, expected, tolerance) or (("", 0), math.inf)
    where = name or f"the whole network, {type(its).__name__},"
    by = f"by {apart:.2g} of its largest value" if math.isfinite(apart) else "in its shape or in what is not finite"
    differ = list(differences(network.get_submodule(name), its.get_submodule(name), name))
    differ = differ or list(differences(network, its, ""))
    if settings := list(_rotary_settings(network, its)):  # of which these buffers are computed
        differ = [*settings, *(said for said in differ if "inv_freq of" not in said)]
    shown = (
        "; ".join(differ[:_SHOWN])
        or "no attribute differs, but what modules did to the weights in the modes that they were in"
    )
    return f"the output of {where} departs first, {by}: {shown}"


def differences(ours: nn.Module, other: nn.Module, name: str) -> Iterator[str]:
    """What tells two modules of one structure apart but for their weights: types, attributes, unsaved buffers."""
    pairs = itertools.zip_longest(ours.named_modules(prefix=name), other.named_modules(prefix=name))
    for (path, mine), (_, its) in (pair for pair in pairs if None not in pair):
        where = path or "the network"
        if type(mine) is not type(its):
            yield f"{where} is a {type(its).__name__} there and a {type(mine).__name__} here"
        if not (isinstance(mine, torch.jit.ScriptModule) or isinstance(its, torch.jit.ScriptModule)):
            here, there = _own(mine), _own(its)
            for key in dict.fromkeys((*here, *there)):
                a, b = here.get(key), there.get(key)
                if not _same(a, b):
                    yield f"{key} of {where} is {_shown(b)} there and {_shown(a)} here"


def _rotary_settings(ours: nn.Module, other: nn.Module) -> Iterator[str]:
    """The settings of rotary embeddings in which the configurations of Hugging Face's networks differ."""
    here, there = ({} if config is None else _rope_of(config) for config in map(_configuration, (ours, other)))
    for name in dict.fromkeys((*here, *there)):
        a, b = here.get(name), there.get(name)
        if a != b:
            yield f"{name} in the configuration is {_shown(b)} there and {_shown(a)} here"


def _configuration(network: nn.Module) -> dict[str, Any] | None:
    """What a network's `config`, or that of its text part, holds."""
    config = getattr(network, "config", None)
    config = getattr(config, "text_config", None) or config
    return getattr(config, "__dict__", None)


def _rope_of(values: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """The settings whose name begins with `rope_`, by name; those in a mapping, which newer versions have, by path."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{within}.{name}" if within else str(name)
        if path.startswith("rope_"):
            found |= _rope_of(value, path) if isinstance(value, Mapping) else {path: value}
    return found


@contextlib.contextmanager
def _recording(network: nn.Module, *, all_modules: bool) -> Iterator[dict[tuple[str, int], list[Tensor]]]:
    """Context in which outputs of modules are kept by name and call: of the outermost, or of all."""
    found: dict[tuple[str, int], list[Tensor]] = {}
    calls: dict[str, int] = {}
    depth = 0

    def entering(*_: Any) -> None:
        nonlocal depth
        depth += 1

    def leaving(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal depth
            depth -= 1
            if all_modules or depth == 0:
                call = calls[name] = calls.get(name, -1) + 1
                found[name, call] = [tensor.clone() for tensor in _leaves(output)]

        return hook

    with contextlib.ExitStack() as hooks:
        for name, module in network.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                hooks.enter_context(module.register_forward_pre_hook(entering))
                hooks.enter_context(module.register_forward_hook(leaving(name)))
        yield found


def _leaves(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """The tensors and numbers in what a network gives."""
    if isinstance(value, Tensor):
        yield value.detach()
    elif isinstance(value, float | int | complex):
        yield torch.as_tensor(value, dtype=torch.complex128 if isinstance(value, complex) else torch.float64)
    elif isinstance(value, Mapping | list | tuple) and depth < 8:
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(inner, depth + 1)


def _first_apart(
    found: Mapping[tuple[str, int], list[Tensor]], expected: Mapping[tuple[str, int], list[Tensor]], tolerance: float
) -> tuple[tuple[str, int], float] | None:
    """The first output that differs by more than is allowed, and by how much."""
    for key, tensors in expected.items():
        others = found.get(key)
        if others is None or len(others) != len(tensors):
            return key, math.inf
        apart = max((_apart(a, b, tolerance) for a, b in zip(others, tensors, strict=True)), default=0.0)
        if apart:
            return key, apart
    return None


def _apart(a: Tensor, b: Tensor, tolerance: float) -> float:
    """How far a is from b, of b's largest value; 0 if that is allowed."""
    if a.shape != b.shape:
        return math.inf
    if a.layout != torch.strided or a.is_nested or not (a.is_floating_point() or a.is_complex()):
        return 0.0  # whole numbers are made of others, which are looked at
    rounding = torch.finfo(a.dtype).eps
    wide = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
    a, b = a.to(wide), b.to(wide)
    finite = a.isfinite() & b.isfinite()
    if bool((torch.where(finite, 0, a) != torch.where(finite, 0, b))[~(a.isnan() & b.isnan())].any()):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    apart, scale = float((a - b)[finite].abs().max()), float(b[finite].abs().max())
    relative = apart / scale if scale else math.inf if apart else 0.0
    return relative if relative > max(tolerance, 16 * rounding) else 0.0


def _own(module: nn.Module) -> dict[str, Any]:
    """Attributes and unsaved buffers of a module."""
    hidden = vars(nn.Module())
    attributes = {name: value for name, value in vars(module).items() if name not in hidden}
    return attributes | {name: module._buffers.get(name) for name in sorted(module._non_persistent_buffers_set)}


def _same(a: Any, b: Any) -> bool:
    """Whether two attributes are equal, as far as they are of a kind that can be compared."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool((a.detach() == b.detach().to(a.device)).all())
    plain = (int, float, complex, str, bytes, bool, type(None), tuple, torch.dtype)
    if isinstance(a, plain) and isinstance(b, plain):
        return bool(a == b)
    names = [getattr(value, "__qualname__", type(value).__qualname__) for value in (a, b)]
    return names[0] == names[1]


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"another {str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    name = getattr(value, "__qualname__", None)
    return name if isinstance(name, str) else f"{value!r:.40}"
