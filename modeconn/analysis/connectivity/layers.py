"""Layers: which tensors belong to each, and networks with some layers of one network and the rest of another."""

import difflib
import hashlib
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modeconn.analysis.paths.linear import compute_dtype
from modeconn.errors import OptionError
from modeconn.weights.state_dicts import Weights

Layers = Mapping[str, str | Sequence[str]] | Sequence[str]
ROOT = "(root)"  # the layer of tensors that the network itself owns, and no module in it
_NEAR = 3  # names that a message suggests


def choose_layers(
    weights: Weights, counted: Collection[str], layers: Layers | None
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The names of the tensors of each layer, each tensor once, and notes on what was decided.

    Tensors that are tied belong to the layer of the first of their names that is in one.

    Args:
        weights: with the network's names, in its order, and its ties.
        counted: names that must be in a layer: the parameters, and the buffers that differ.
        layers: groups of prefixes by name, or prefixes; None for each module that owns a tensor that counts, with
            whatever else it owns.

    Raises:
        OptionError: no layer; a prefix that no name has, or that another layer has too.

    >>> from modeconn.weights.sources import weights_of
    >>> weights = weights_of(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)), "a")
    >>> choose_layers(weights, ["0.weight", "0.bias", "1.weight", "1.bias"], None)[0]["0"]
    ('0.weight', '0.bias')
    >>> choose_layers(weights, [], {"first": ["0"], "norm": ["1.weight", "1.bias"]})[0]["norm"]
    ('1.weight', '1.bias')
    """
    groups = _modules(weights, counted) if layers is None else _groups(weights, _prefixes(layers))
    if not groups:
        raise OptionError("the networks have no parameters, and so no layers")
    home = {name: layer for layer, names in groups.items() for name in names}
    notes = [
        f"{name} is tied to {twin}, and counts once, in layer {home[twin]}"
        for name, twin in weights.aliases.items()
        if twin in home
    ]
    if missing := [name for name in counted if name not in home]:
        shown = ", ".join(missing[:_NEAR]) + (", ..." if len(missing) > _NEAR else "")
        notes.append(f"in no layer, and those of the host throughout: {len(missing)} tensors ({shown})")
    return groups, tuple(notes)


def with_layers(host: Weights, other: Weights, names: Collection[str], origin: str) -> Weights:
    """The host with the named tensors of another network. Both are read where they are, and left unchanged.

    Args:
        host, other: with the same names.
        names: of what is the other's; where tensors are tied, the first of their names.
        origin: what messages call it.
    """
    chosen = frozenset(names)

    def source(name: str) -> Weights:
        return other if host.aliases.get(name, name) in chosen else host

    layout = {name: source(name).layout[name] for name in host.layout}
    return Weights(layout, lambda name: source(name).read(name), origin, aliases=host.aliases)


def with_noise(host: Weights, other: Weights, names: Collection[str], seed: int) -> Weights:
    """The host with each named tensor moved in a random direction, as far as it is from the other network's.

    Tensor by tensor, a + |b - a| z / |z| with z Gaussian, and 0 where the entries of a and b are equal, such as pruned
    ones. z is a function of the seed and the tensor's name alone.

    Args:
        host, other: with the same names; read where they are, and left unchanged.
        names: of floating-point or complex tensors; where tensors are tied, the first of their names.
        seed: of the directions.
    """
    chosen = frozenset(names)

    def read(name: str) -> Tensor:
        first = host.aliases.get(name, name)
        if first not in chosen:
            return host.read(name)
        step = difference(host, other, first)
        return host.read(first).to(step.dtype) + _random_step(step, seed, first)

    layout = {
        name: meta.to(compute_dtype(meta.dtype, other.layout[name].dtype))
        if host.aliases.get(name, name) in chosen
        else meta
        for name, meta in host.layout.items()
    }
    return replace(host, layout=layout, read=read, origin=f"{host.origin} with noise")


def difference(host: Weights, other: Weights, name: str) -> Tensor:
    """From the host's tensor to the other's, on the host's device, in at least float32."""
    a, b = host.read(name), other.read(name)
    common = compute_dtype(a.dtype, b.dtype)
    return b.to(a.device, common) - a.to(common)


def norm(tensor: Tensor) -> float:
    """The L2 norm, added up in double precision."""
    double = torch.complex128 if tensor.is_complex() else torch.float64
    return float(torch.linalg.vector_norm(tensor, dtype=double))


def _random_step(step: Tensor, seed: int, name: str) -> Tensor:
    """A random step of the same length."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    # Drawn on the CPU, so that it is the same on every device.
    noise = torch.randn(step.shape, generator=generator, dtype=step.dtype).to(step.device).masked_fill_(step == 0, 0)
    length = norm(step)
    return noise * (length / norm(noise)) if length else step


def _modules(weights: Weights, counted: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Each module that owns a tensor that counts, in the order of the names."""
    groups: dict[str, list[str]] = {}
    for name in weights.layout:
        if name not in weights.aliases:
            groups.setdefault(name.rpartition(".")[0] or ROOT, []).append(name)
    needed = set(counted)
    return {layer: tuple(names) for layer, names in groups.items() if needed.intersection(names)}


def _prefixes(layers: Layers) -> dict[str, list[str]]:
    shown = "layers must be a mapping from names to lists of prefixes of parameter names, or a list of prefixes"
    if isinstance(layers, str) or not isinstance(layers, Mapping | Sequence):
        raise OptionError(f"{shown}; got {layers!r}")
    pairs = list(layers.items()) if isinstance(layers, Mapping) else [(prefix, [prefix]) for prefix in layers]
    if not pairs:
        raise OptionError(f"{shown}; there is none in it")
    found: dict[str, list[str]] = {}
    for layer, given in pairs:
        prefixes = [given] if isinstance(given, str) else list(given) if isinstance(given, Sequence) else []
        if not prefixes or not all(isinstance(prefix, str) for prefix in prefixes):
            raise OptionError(f"{shown}; for {layer!r} it has {given!r}")
        if layer in found:
            raise OptionError(f"layer {layer!r} is given twice")
        found[str(layer)] = prefixes
    return found


def _groups(weights: Weights, layers: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    meant = [
        (name, layer) for layer, prefixes in layers.items() for prefix in prefixes for name in _named(weights, prefix)
    ]
    home: dict[str, str] = {}  # tensor to layer
    for name, layer in meant:
        if name not in weights.aliases and home.setdefault(name, layer) != layer:
            raise OptionError(f"{name} is in two layers, {home[name]!r} and {layer!r}; a tensor can be in one")
    for name, layer in meant:  # what is tied goes with its first name, if that is in a layer
        home.setdefault(weights.aliases.get(name, name), layer)
    for layer in layers:
        if layer not in home.values():
            raise OptionError(f"layer {layer!r} has nothing but tensors that are tied to those of other layers")
    return {layer: tuple(name for name in weights.layout if home.get(name) == layer) for layer in layers}


def _named(weights: Weights, prefix: str) -> list[str]:
    """The names that a prefix is meant by: itself, or the modules and tensors inside a module."""
    whole = prefix.rstrip(".")
    names = [name for name in weights.layout if name == whole or name.startswith(f"{whole}.")]
    if not names:
        paths = [list(itertools.accumulate(name.split("."), "{}.{}".format)) for name in weights.layout]
        near = difflib.get_close_matches(whole, dict.fromkeys(itertools.chain(*paths)), _NEAR, 0.5)
        first = ", ".join(dict.fromkeys(path[0] for path in paths))
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"the names begin with {first}"
        raise OptionError(f"no tensor of the networks is called {prefix!r} or is in a module of that name; {hint}")
    return names
