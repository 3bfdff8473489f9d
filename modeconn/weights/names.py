"""Matching of state dicts: weights by the names that a network has for them, or all that does not fit."""

import copy
import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.weights.computed import detached
from modeconn.weights.effective import effective_weights, unwrap, weights_of_module
from modeconn.weights.state_dicts import Weights, aliases_of, identity_of, refuse_quantised, state_tensors

_WRAPPER_SEGMENTS = ("module", "_orig_mod", "_checkpoint_wrapped_module")
# What today's weight and spectral normalization keep, by the names that their predecessors have for it.
_FORMER_NAMES = (
    (re.compile(r"parametrizations\.(\w+)\.original0$"), r"\1_g"),
    (re.compile(r"parametrizations\.(\w+)\.original1$"), r"\1_v"),
    (re.compile(r"parametrizations\.(\w+)\.original$"), r"\1_orig"),
    (re.compile(r"parametrizations\.(\w+)\.0\._([uv])$"), r"\1_\2"),
)

_FEW = 4  # problems that are told without a summary before them
_LOSSES = ("criterion", "loss", "loss_fn", "loss_func", "loss_function")
# Buffers of Hugging Face's networks that files had once, and that the configuration gives.
COMPUTED_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")

Tensors: TypeAlias = Mapping[str, Tensor]


def match_names(
    weights: Weights, network: nn.Module | Tensors, label: str, original: nn.Module | None = None
) -> Weights:
    """Match weights to a network: give them the names, and the order, of its state dict. Both are left unchanged.

    Names that match are taken as they are. Else `module.` (DataParallel) and `_orig_mod.` (`torch.compile`) are
    removed wherever they are, or one prefix that all names have (`model.` in Lightning), or one that all lack is
    added. A missing name that the network ties to another is read from that one. What only `load_state_dict` makes fit,
    by load hooks of the network's modules, is loaded by it into a copy. Each with a note.

    Args:
        weights: of any network or file.
        network: a plain network (`plain_copy`), or its tensors by name.
        label: what messages call the weights: `"a"`.
        original: the network that `network` is a plain copy of. Where it is parametrized, weights may have its
            names instead, as a state dict saved from it has; effective weights are computed from them.

    Raises:
        NetworkError: missing, extra and differently shaped names, all of them listed; quantised weights; tensors
            that the network ties and that differ in the weights.

    >>> from modeconn.weights.state_dicts import weights_of_state_dict
    >>> network = nn.Linear(2, 1)
    >>> saved = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    >>> fitted = match_names(weights_of_state_dict(saved, "a"), network, "a")
    >>> list(fitted.layout), fitted.notes
    (['weight', 'bias'], ("the prefix 'model.' was removed from its names",))
    """
    who = label if label == weights.origin else f"{label} ({weights.origin})"
    pairing = pair_names(weights, network, who)
    # A state dict saved from a parametrized network has names such as `parametrizations.weight.original`: match it to
    # that network first, and then the effective weights that this gives.
    if pairing.problems and original is not None:
        own = pair_names(weights, unwrap(original), who)
        if not own.problems:
            effective = effective_weights(unwrap(original), lambda name: weights.read(own.source[name]), weights.origin)
            return match_names(replace(effective, notes=(*weights.notes, *own.notes, *effective.notes)), network, label)
    refuse_quantised(pairing.quantised, who)
    if pairing.problems and (loaded := _loaded(weights, original, network, who)) is not None:
        return match_names(loaded, network, label)
    if pairing.problems:
        raise NetworkError(_explain(pairing, weights, who))
    casts = _checked_casts(weights, pairing, network, who)
    _check_ties(weights, pairing, network, who)

    def read(name: str) -> Tensor:
        tensor = weights.read(pairing.source[name])
        return tensor.to(casts[name]) if name in casts else tensor

    layout = {name: weights.layout[stored] for name, stored in pairing.source.items()}
    layout |= {name: layout[name].to(dtype) for name, dtype in casts.items()}
    cast = tuple(f"{name} is read as {dtype}" for name, dtype in casts.items())
    aliases = aliases_of(_tensors_of(network))
    low_rank = {name: weights.low_rank[kept] for name, kept in pairing.source.items() if kept in weights.low_rank}
    return Weights(layout, read, weights.origin, (*weights.notes, *pairing.notes, *cast), aliases, low_rank)


def _tensors_of(network: nn.Module | Tensors) -> Tensors:
    return state_tensors(network) if isinstance(network, nn.Module) else network


@dataclass(frozen=True)
class Pairing:
    """Which tensor of the weights each of a network's is, and what does not fit.

    Attributes:
        source: the network's names, in its order, to names of the weights; those that both have.
        notes: how names were changed.
        problems: what lacks, what is too much, and what has another shape or type, each in words.
        quantised: names of the weights that are quantised.
    """

    source: dict[str, str]
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    quantised: tuple[str, ...]


def pair_names(weights: Weights, network: nn.Module | Tensors, who: str, host: str = "the network") -> Pairing:
    """Try ways to rename, the plainest first; take the first that leaves no problems, or else the fewest.

    Args:
        weights: of any network or file; left unchanged.
        network: the network, or its tensors by name.
        who: what problems call the weights.
        host: and the network.
    """
    best = None
    for rename, note in _renamings(list(weights.layout), list(_tensors_of(network))):
        pairing = _pair(weights, network, (who, host), rename, note)
        if best is None or len(pairing.problems) < len(best.problems):
            best = pairing
        if not best.problems:
            break
    assert best is not None  # names as they are come first
    return best


def find_names(names: Collection[str], targets: Collection[str]) -> tuple[dict[str, str], str]:
    """Which of a network's names some tensors have, by the renaming of `match_names` that finds most; and a note on it.

    >>> find_names(["model.0.weight"], ["0.weight", "0.bias"])
    ({'model.0.weight': '0.weight'}, "the prefix 'model.' was removed from its names")
    """
    tried = [
        ({name: found for name in names if (found := rename(name)) is not None}, note)
        for rename, note in _renamings(list(names), list(targets))
    ]
    return max(tried, key=lambda one: len(one[0]))


Rename = Callable[[str], str | None]  # a name of the weights to one of the network, None if it has none


def _renamings(names: list[str], targets: list[str]) -> Iterator[tuple[Rename, str]]:
    """Ways to rename, each with a note: as they are, without wrappers, without a prefix, with one more."""
    forms: list[tuple[Callable[[str], str], str]] = [(str, "")]
    every = (*names, *targets)
    if any(name != _without_wrappers(name) for name in every):
        forms.append((_without_wrappers, "'module.' and '_orig_mod.' were removed from its names"))
    if any(_former(name) != name for name in every):
        note = "today's and former names of weight and spectral normalization were matched"
        forms.append((lambda name: _former(_without_wrappers(name)), note))
    # Either side may have wrappers in its names, so both are compared without them.
    lookups = [(form, note, {form(target): target for target in targets}) for form, note in forms]
    for form, note, lookup in lookups:
        yield partial(_rename, form, lookup, "", ""), note
    for form, note, lookup in lookups:
        # The prefix by which most names match, whether all have it or not: what does not fit then is listed.
        formed = {form(name) for name in names}
        if removed := _commonest(prefix for name in formed for prefix, rest in _splits(name) if rest in lookup):
            said = f"the prefix {removed!r} was removed from its names"
            yield partial(_rename, form, lookup, removed, ""), f"{note} and {said}" if note else said
        if added := _commonest(prefix for target in lookup for prefix, rest in _splits(target) if rest in formed):
            said = f"the prefix {added!r} was added to its names"
            yield partial(_rename, form, lookup, "", added), f"{note} and {said}" if note else said


def _rename(form: Callable[[str], str], lookup: dict[str, str], removed: str, added: str, name: str) -> str | None:
    formed = form(name)
    return lookup.get(added + formed.removeprefix(removed)) if formed.startswith(removed) else None


def _without_wrappers(name: str) -> str:
    return ".".join(segment for segment in name.split(".") if segment not in _WRAPPER_SEGMENTS)


def _former(name: str) -> str:
    """The name by which weight and spectral normalization kept a tensor before they became parametrizations."""
    for pattern, former in _FORMER_NAMES:
        name = pattern.sub(former, name)
    return name


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """`a.b.c` as (`a.`, `b.c`) and (`a.b.`, `c`)."""
    for dot in re.finditer(r"\.", name):
        yield name[: dot.end()], name[dot.end() :]


def _commonest(prefixes: Iterator[str]) -> str | None:
    counted = Counter(prefixes).most_common(1)
    return counted[0][0] if counted else None


def _pair(
    weights: Weights, network: nn.Module | Tensors, called: tuple[str, str], rename: Rename, note: str
) -> Pairing:
    targets, (who, host) = _tensors_of(network), called
    # 1. Each name of the weights to the network's name, once.
    source: dict[str, str] = {}
    extra = []
    for name in weights.layout:
        target = rename(name)
        if target is None or target in source:
            extra.append(name)
        else:
            source[target] = name
    # 2. What a tie explains is not missing, and what nobody needs is not in excess.
    notes = [note] if note else []
    notes += _fill_from_ties(source, targets)
    unneeded = [name for name in extra if _is_unneeded(name, weights, network, set(source.values()))]
    if unneeded:
        notes.append(f"of no use to the network, left out: {', '.join(unneeded)}")
    # 3. All else that does not fit: names, shapes and types.
    problems = [f"{name} is only in {who}" for name in extra if name not in unneeded]
    problems += [f"{name} is only in {host}" for name in targets if name not in source]
    quantised = []
    for name, stored in source.items():
        ours, theirs = targets[name], weights.layout[stored]
        if ours.shape != theirs.shape:
            problems.append(f"{name} is {list(theirs.shape)} in {who} and {list(ours.shape)} in {host}")
        kinds = _kind(ours.dtype), _kind(theirs.dtype)
        if kinds == ("floating-point", "integer"):
            quantised.append(stored)  # says more than the list of what else does not fit
        elif kinds[0] != kinds[1] and kinds != ("integer", "floating-point"):
            problems.append(f"{name} is {theirs.dtype} in {who} and {ours.dtype} in {host}")
    ordered = {name: source[name] for name in targets if name in source}
    return Pairing(ordered, tuple(notes), tuple(sorted(problems)), tuple(quantised))


def _fill_from_ties(source: dict[str, str], targets: Tensors) -> list[str]:
    """Add to `source`, in place, missing names that the network ties to present ones; returns notes."""
    present = {identity_of(targets[name]): name for name in reversed(source)}
    notes = []
    for name, tensor in targets.items():
        twin = present.get(identity_of(tensor))
        if name not in source and twin is not None:
            source[name] = source[twin]
            notes.append(f"{name} is missing and read from {twin}, to which the network ties it")
    return notes


def _is_unneeded(name: str, weights: Weights, network: nn.Module | Tensors, used: set[str]) -> bool:
    """Whether an extra name is one more for a tensor that is used, or the network can do without it."""
    first = weights.aliases.get(name, name)
    if first in used or any(other in used for other, twin in weights.aliases.items() if twin == first):
        return True
    if name.rpartition(".")[2] == "n_averaged":  # the counter of torch.optim.swa_utils.AveragedModel
        beside = name.removesuffix("n_averaged") + "module."
        return all(other.startswith(beside) for other in used)
    # What a Lightning module keeps of its loss, such as the weights of classes.
    part = name.partition(".")[0]
    if part in _LOSSES and not any(target.startswith(f"{part}.") for target in _tensors_of(network)):
        return True
    if not isinstance(network, nn.Module):
        return False
    # A buffer that was saved once and is not saved any more. Hugging Face's compute theirs from the configuration.
    if COMPUTED_BUFFERS.search(name):
        return True
    kind, shape = name.rpartition(".")[2], weights.layout[name].shape
    for own, buffer in network.named_buffers():
        if own.rpartition(".")[2] == kind and buffer.shape == shape:
            saved = weights.read(name).to(buffer)
            if torch.allclose(saved, buffer, rtol=1e-3 if saved.is_floating_point() else 0, atol=0):
                return True
    # Hugging Face's networks list old buffers that their checkpoints may still have.
    patterns = getattr(network, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)


def _loaded(weights: Weights, original: nn.Module | None, network: nn.Module | Tensors, who: str) -> Weights | None:
    """The weights of a copy of the network that took them by `load_state_dict`, if its load hooks make them fit."""
    into = original if original is not None else network
    if not isinstance(into, nn.Module):
        return None
    into = unwrap(into)
    names = list(weights.layout)
    prefixes = {"", *(prefix for prefix, _ in _splits(names[0]) if all(name.startswith(prefix) for name in names))}
    forms: tuple[Callable[[str], str], ...] = (str, _without_wrappers)
    for prefix, form in itertools.product(sorted(prefixes, key=len), forms):
        given = {form(name.removeprefix(prefix)): weights.read(name) for name in names}
        own = state_tensors(into)
        alike = all(
            own[name].shape == tensor.shape and _kind(own[name].dtype) == _kind(tensor.dtype)
            for name, tensor in given.items()
            if name in own
        )
        if len(given) < len(names) or not alike or own.keys() == given.keys():
            continue
        try:
            taken = copy.deepcopy(into, detached(into))
            taken.load_state_dict(given)  # missing and unexpected names are errors
        except Exception:  # what does not fit is told of names and shapes as they are
            continue
        found = weights_of_module(taken, weights.origin)
        return replace(found, notes=(*weights.notes, "was fitted to the network by its own load_state_dict"))
    return None


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "complex"
    return "floating-point" if dtype.is_floating_point else "integer"


def _explain(pairing: Pairing, weights: Weights, who: str) -> str:
    text = f"{who} does not fit the network: {_summary(pairing.problems, who)}{'; '.join(pairing.problems)}"
    if pairing.notes:
        text += f" (after: {'; '.join(pairing.notes)})"
    if any(re.search(r"parametrizations\.|weight_(g|v|orig)$", name) for name in weights.layout):
        text += (
            ". It looks as if saved from a parametrized or pruned network: give that network, or a function that "
            "builds it with its parametrizations, or save the weights after torch.nn.utils.parametrize."
            "remove_parametrizations or torch.nn.utils.prune.remove"
        )
    return text


def _summary(problems: Sequence[str], who: str) -> str:
    """How many names are in one of the two alone, before many of them are listed."""
    if len(problems) <= _FEW:
        return ""
    theirs, ours = (sum(one.endswith(f" is only in {place}") for one in problems) for place in (who, "the network"))
    others = len(problems) - theirs - ours
    parts = [f"{theirs} tensors are only in {who}", f"{ours} only in the network", f"{others} of another shape or type"]
    return f"{', '.join(parts[: 3 if others else 2])}. They are: "


def _checked_casts(
    weights: Weights, pairing: Pairing, network: nn.Module | Tensors, who: str
) -> dict[str, torch.dtype]:
    """Types of integer tensors that are stored in others, such as counters that were averaged as floats."""
    casts = {}
    for name, tensor in _tensors_of(network).items():
        stored = pairing.source[name]
        if _kind(tensor.dtype) == "integer" and weights.layout[stored].dtype != tensor.dtype:
            value = weights.read(stored)
            if not torch.equal(value.to(tensor.dtype).to(value.dtype), value):
                raise NetworkError(f"{name} is {value.dtype} in {who}, with values that {tensor.dtype} cannot hold")
            casts[name] = tensor.dtype
    return casts


def _check_ties(weights: Weights, pairing: Pairing, network: nn.Module | Tensors, who: str) -> None:
    """Refuse weights that differ where the network ties them: one of the two would be lost."""
    problems = []
    for name, twin in aliases_of(_tensors_of(network)).items():
        one, other = pairing.source[name], pairing.source[twin]
        if one == other or weights.aliases.get(one, one) == weights.aliases.get(other, other):
            continue
        a, b = weights.read(one), weights.read(other)
        b = b.to(a.device)
        if not bool(((a == b) | ((a != a) & (b != b))).all()):  # NaN equals NaN here
            problems.append(f"{twin} and {name}")
    if problems:
        raise NetworkError(
            f"the network ties {', '.join(problems)}, but in {who} they differ; give a network that does not tie them"
        )
