"""Matching of state dicts: weights by the names that a network has for them, or all that does not fit."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.weights.effective import effective_weights, unwrap
from modeconn.weights.state_dicts import Weights, aliases_of, identity_of, refuse_quantised, state_tensors

_WRAPPER_SEGMENTS = ("module", "_orig_mod")


def match_names(weights: Weights, network: nn.Module, label: str, original: nn.Module | None = None) -> Weights:
    """Match weights to a network: give them the names, and the order, of its state dict. Both are left unchanged.

    Names that match are taken as they are. Else `module.` (DataParallel) and `_orig_mod.` (`torch.compile`) are
    removed wherever they are, or one prefix that all names have (`model.` in Lightning), or one that all lack is
    added. A missing name that the network ties to another is read from that one. Each with a note.

    Args:
        weights: of any network or file.
        network: a plain network (`plain_copy`).
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
    pairing = _best_pairing(weights, network, who)
    # A state dict saved from a parametrized network has names such as `parametrizations.weight.original`: match it to
    # that network first, and then the effective weights that this gives.
    if pairing.problems and original is not None:
        own = _best_pairing(weights, unwrap(original), who)
        if not own.problems:
            effective = effective_weights(unwrap(original), lambda name: weights.read(own.source[name]), weights.origin)
            return match_names(replace(effective, notes=(*weights.notes, *own.notes, *effective.notes)), network, label)
    refuse_quantised(pairing.quantised, who)
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
    aliases = aliases_of(state_tensors(network))
    return Weights(layout, read, weights.origin, (*weights.notes, *pairing.notes, *cast), aliases)


@dataclass(frozen=True)
class _Pairing:
    source: dict[str, str]  # the network's names, in its order, to names of the weights
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    quantised: tuple[str, ...]


def _best_pairing(weights: Weights, network: nn.Module, who: str) -> _Pairing:
    """Try ways to rename, the plainest first; take the first that leaves no problems, or else the fewest."""
    best = None
    for rename, note in _renamings(list(weights.layout), list(state_tensors(network))):
        pairing = _pair(weights, network, who, rename, note)
        if best is None or len(pairing.problems) < len(best.problems):
            best = pairing
        if not best.problems:
            break
    assert best is not None  # names as they are come first
    return best


Rename = Callable[[str], str | None]  # a name of the weights to one of the network, None if it has none


def _renamings(names: list[str], targets: list[str]) -> Iterator[tuple[Rename, str]]:
    """Ways to rename, each with a note: as they are, without wrappers, without a prefix, with one more."""
    forms: list[tuple[Callable[[str], str], str]] = [(str, "")]
    if any(name != _without_wrappers(name) for name in (*names, *targets)):
        forms.append((_without_wrappers, "'module.' and '_orig_mod.' were removed from its names"))
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


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """`a.b.c` as (`a.`, `b.c`) and (`a.b.`, `c`)."""
    for dot in re.finditer(r"\.", name):
        yield name[: dot.end()], name[dot.end() :]


def _commonest(prefixes: Iterator[str]) -> str | None:
    counted = Counter(prefixes).most_common(1)
    return counted[0][0] if counted else None


def _pair(weights: Weights, network: nn.Module, who: str, rename: Rename, note: str) -> _Pairing:
    targets = state_tensors(network)
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
    problems += [f"{name} is only in the network" for name in targets if name not in source]
    quantised = []
    for name, stored in source.items():
        ours, theirs = targets[name], weights.layout[stored]
        if ours.shape != theirs.shape:
            problems.append(f"{name} is {list(theirs.shape)} in {who} and {list(ours.shape)} in the network")
        kinds = _kind(ours.dtype), _kind(theirs.dtype)
        if kinds == ("floating-point", "integer"):
            quantised.append(stored)  # says more than the list of what else does not fit
        elif kinds[0] != kinds[1] and kinds != ("integer", "floating-point"):
            problems.append(f"{name} is {theirs.dtype} in {who} and {ours.dtype} in the network")
    ordered = {name: source[name] for name in targets if name in source}
    return _Pairing(ordered, tuple(notes), tuple(sorted(problems)), tuple(quantised))


def _fill_from_ties(source: dict[str, str], targets: dict[str, Tensor]) -> list[str]:
    """Add to `source`, in place, missing names that the network ties to present ones; returns notes."""
    present = {identity_of(targets[name]): name for name in reversed(source)}
    notes = []
    for name, tensor in targets.items():
        twin = present.get(identity_of(tensor))
        if name not in source and twin is not None:
            source[name] = source[twin]
            notes.append(f"{name} is missing and read from {twin}, to which the network ties it")
    return notes


def _is_unneeded(name: str, weights: Weights, network: nn.Module, used: set[str]) -> bool:
    """Whether an extra name is one more for a tensor that is used, or the network can do without it."""
    first = weights.aliases.get(name, name)
    if first in used or any(other in used for other, twin in weights.aliases.items() if twin == first):
        return True
    if name == "n_averaged":  # the counter of torch.optim.swa_utils.AveragedModel
        return all(other.startswith("module.") for other in weights.layout if other != name)
    # Hugging Face's networks list old buffers that their checkpoints may still have.
    patterns = getattr(network, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "complex"
    return "floating-point" if dtype.is_floating_point else "integer"


def _explain(pairing: _Pairing, weights: Weights, who: str) -> str:
    text = f"{who} does not fit the network: {'; '.join(pairing.problems)}"
    if pairing.notes:
        text += f" (after: {'; '.join(pairing.notes)})"
    if any(re.search(r"parametrizations\.|weight_(g|v|orig)$", name) for name in weights.layout):
        text += (
            ". It looks as if saved from a parametrized or pruned network: give that network, or a function that "
            "builds it with its parametrizations, or save the weights after torch.nn.utils.parametrize."
            "remove_parametrizations or torch.nn.utils.prune.remove"
        )
    return text


def _checked_casts(weights: Weights, pairing: _Pairing, network: nn.Module, who: str) -> dict[str, torch.dtype]:
    """Types of integer tensors that are stored in others, such as counters that were averaged as floats."""
    casts = {}
    for name, tensor in state_tensors(network).items():
        stored = pairing.source[name]
        if _kind(tensor.dtype) == "integer" and weights.layout[stored].dtype != tensor.dtype:
            value = weights.read(stored)
            if not torch.equal(value.to(tensor.dtype).to(value.dtype), value):
                raise NetworkError(f"{name} is {value.dtype} in {who}, with values that {tensor.dtype} cannot hold")
            casts[name] = tensor.dtype
    return casts


def _check_ties(weights: Weights, pairing: _Pairing, network: nn.Module, who: str) -> None:
    """Refuse weights that differ where the network ties them: one of the two would be lost."""
    problems = []
    for name, twin in aliases_of(state_tensors(network)).items():
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
