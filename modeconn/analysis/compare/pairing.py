"""The tensors of two networks, paired by name, and every difference between the two architectures."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from modeconn.analysis.paths.linear import can_interpolate, equal_values
from modeconn.errors import NetworkError
from modeconn.result import count
from modeconn.weights.names import COMPUTED_BUFFERS, match_names, pair_names
from modeconn.weights.sources import weights_of
from modeconn.weights.state_dicts import Weights


@dataclass(frozen=True, eq=False)
class Pair:
    """Two networks' weights by the names of the first.

    Attributes:
        a, b: the weights.
        shared: names of the tensors that both have, in one shape and of one kind; tied ones once.
        differences: between the two architectures, in words.
        notes: how names were changed, and what was decided on reading.
    """

    a: Weights
    b: Weights
    shared: tuple[str, ...]
    differences: tuple[str, ...]
    notes: tuple[str, ...]


def pair_weights(origins: Sequence[Weights], names: Sequence[str], original: nn.Module | None) -> Pair:
    """Pair the tensors of two networks by name. Values are read only where one network ties what the other does not.

    Args:
        origins: the weights of a and b, by their own names.
        names: what the two are called.
        original: a network of their architecture, if there is one, whose names they then get.
    """
    notes = [f"{name}: {note}" for name, origin in zip(names, origins, strict=True) for note in origin.notes]
    if original is not None:
        layout = _tied_layout(weights_of(original, "the network"))
        with contextlib.suppress(NetworkError):  # what does not fit is told by their own names, below
            a, b = (match_names(one, layout, name, original) for one, name in zip(origins, names, strict=True))
            notes += [f"{names[place]}: {note}" for place, one in enumerate((a, b)) for note in one.notes]
            first, second = (
                _renamed(one, pair_names(one, layout, name).source) for one, name in zip(origins, names, strict=True)
            )
            ties = (*_ties(first, second, names), *_ties(second, first, names[::-1]))
            shared = tuple(name for name in a.layout if name not in a.aliases)
            return Pair(a, b, shared, ties, tuple(dict.fromkeys(notes)))
    a, b = map(_without_computed, origins)
    for name, origin, kept in zip(names, origins, (a, b), strict=True):
        if left := len(origin.layout) - len(kept.layout):
            notes.append(f"{name}: {count(left, 'buffer')} that the configuration gives, left out")
    pairing = pair_names(b, _tied_layout(a), names[1], names[0])
    notes += [f"{names[1]}: {note}" for note in pairing.notes]
    renamed = _renamed(b, pairing.source)
    quantised = [f"{stored} is an integer in {names[1]} and none in {names[0]}" for stored in pairing.quantised]
    quantised += [
        f"{name} is an integer in {names[0]} and none in {names[1]}"
        for name in pairing.source
        if a.layout[name].ndim > 1 and can_interpolate(renamed.layout[name]) and not can_interpolate(a.layout[name])
    ]
    fit = [name for name in pairing.source if _alike(a.layout[name], renamed.layout[name])]
    told = (*pairing.problems, *quantised)
    notes += [
        f"{name} is {_type(a, name)} in {names[0]} and {_type(renamed, name)} in {names[1]}, and is not compared"
        for name in pairing.source
        if name not in fit and not any(problem.startswith(f"{name} is ") for problem in told)
    ]
    differences = [*pairing.problems, *quantised, *_ties(a, renamed, names), *_ties(renamed, a, names[::-1])]
    shared = tuple(name for name in fit if a.aliases.get(name) not in fit)
    return Pair(a, renamed, shared, tuple(differences), tuple(notes))


def fit_ancestor(pair: Pair, ancestor: Weights, name: str) -> tuple[Weights, tuple[str, ...]]:
    """The ancestor's weights by the names of the pair, those that fit, and notes on those that do not.

    Raises:
        NetworkError: none fits; the first differences are listed.
    """
    pairing = pair_names(ancestor, {shared: pair.a.layout[shared] for shared in pair.shared}, name, "the pair")
    renamed = _renamed(ancestor, pairing.source)
    fitting = {kept: meta for kept, meta in renamed.layout.items() if _alike(meta, pair.a.layout[kept])}
    problems = [*pairing.problems, *(f"{stored} is an integer in {name}" for stored in pairing.quantised)]
    if not any(can_interpolate(meta) for meta in fitting.values()):
        raise NetworkError(f"the ancestor does not fit: {'; '.join(problems[:20])}; give one of their architecture")
    notes = [f"{name}: {note}" for note in (*ancestor.notes, *pairing.notes)]
    if problems:
        shown = "; ".join(problems[:5]) + (f" and {len(problems) - 5} more" if len(problems) > 5 else "")
        notes.append(f"the ancestor differs, and what does not fit is in no task vector: {shown}")
    return replace(renamed, layout=fitting), tuple(notes)


def _without_computed(weights: Weights) -> Weights:
    """Weights without the buffers that old files have and new ones do not."""
    kept = {name: meta for name, meta in weights.layout.items() if not COMPUTED_BUFFERS.search(name)}
    return replace(weights, layout=kept)


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one shape and are of one kind, whatever their precision."""
    kinds = {(tensor.is_floating_point(), tensor.is_complex()) for tensor in (a, b)}
    return a.shape == b.shape and len(kinds) == 1


def _type(weights: Weights, name: str) -> str:
    return str(weights.layout[name].dtype).removeprefix("torch.")


def _tied_layout(weights: Weights) -> dict[str, Tensor]:
    """Names and shapes, in which tied tensors are one object."""
    return {name: weights.layout[weights.aliases.get(name, name)] for name in weights.layout}


def _renamed(weights: Weights, source: Mapping[str, str]) -> Weights:
    """Weights by other names; two of which may be read from one tensor, and are then tied."""
    first: dict[str, str] = {}
    twins = {name: first.setdefault(weights.aliases.get(stored, stored), name) for name, stored in source.items()}
    return Weights(
        {name: weights.layout[stored] for name, stored in source.items()},
        lambda name: weights.read(source[name]),
        weights.origin,
        weights.notes,
        {name: twin for name, twin in twins.items() if name != twin},
    )


def _ties(one: Weights, other: Weights, names: Sequence[str]) -> Iterator[str]:
    """Tensors that one network ties, and in which the other holds two."""
    for name, twin in one.aliases.items():
        if name not in other.layout or twin not in other.layout:
            continue
        if other.aliases.get(name, name) == other.aliases.get(twin, twin):
            continue
        if not equal_values(other.read(name), other.read(twin)):
            yield f"{twin} and {name} are tied in {names[0]}, and differ in {names[1]}"
