"""Two or more networks, however they are given, as weights that fit one scratch network."""

import gc
import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from modeconn.analysis.connectivity.options import ComparisonOptions
from modeconn.analysis.paths.linear import can_interpolate, common_dtype, equal_values, is_float8, load_weights
from modeconn.errors import ModeconnError, NetworkError, OptionError
from modeconn.evaluation.compute import resolve_device
from modeconn.weights.adapters import architecture_folder, base_of, is_adapter
from modeconn.weights.checkpoints import configuration_of, network_of_folder
from modeconn.weights.effective import effective_reads, unwrap
from modeconn.weights.names import match_names
from modeconn.weights.plain_copy import is_plain, plain_copy
from modeconn.weights.shared import overlaps, shared_memory
from modeconn.weights.sources import weights_of
from modeconn.weights.state_dicts import Weights, state_tensors

if TYPE_CHECKING:
    from modeconn.training.stored import Run, Stored

_MOST = 2 << 30  # bytes of weights, of all networks together, that are kept on a GPU

Source: TypeAlias = "nn.Module | Mapping[str, Tensor] | str | Path | Run"


@dataclass(frozen=True, eq=False)
class Networks:
    """Networks that fit together.

    Attributes:
        scratch: a network of our own, on the device where everything is computed.
        weights: of each, by the scratch network's names.
        names: what each is called.
        notes: what was decided.
        stored: the first stored run among them, which knows its data.
        host: which of them the scratch network is a copy of; None if it is `model=`.
        own: makes the network that each is by itself, for those that are more than weights.
        parameters: names of the parameters, each number in memory once.
    """

    scratch: nn.Module
    weights: tuple[Weights, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...]
    stored: "Stored | None"
    host: int | None
    own: Mapping[Weights, Callable[[], nn.Module]]
    parameters: tuple[str, ...]


def open_networks(sources: Sequence[Source], options: ComparisonOptions) -> Networks:
    """Open each network and see that all fit one scratch network. The caller's are left unchanged.

    Args:
        sources: modules, state dicts, files, Hugging Face folders, stored runs or their folders.
        options: of which `model`, `device`, `data_dir` and `names` are used.

    Raises:
        NetworkError: what does not fit, by name.
        OptionError: no architecture, or a wrong number of names.
    """
    # 1. Whatever each is, its weights by its own names.
    names = names_of(sources, options.names)
    stored, origins = origins_of(sources, names, options.data_dir, options.model, options.checkpoint_key)
    device = _device(sources, options.device)
    stored = [found and found.on(str(device)) for found in stored]
    notes = [f"{name}: {note}" for name, source in zip(names, origins, strict=True) for note in source.notes]

    # 2. The scratch network, and the weights of each by its names, in types that it can hold.
    scratch, original, host = _scratch(sources, stored, options.model)
    scratch = scratch.to(device)
    weights = []
    for name, origin, source in zip(names, origins, sources, strict=True):
        fitted = _fitted(origin, scratch, name, original, source, "the network" if host is None else names[host])
        notes += [f"{name}: {note}" for note in fitted.notes if note not in origin.notes]
        weights.append(fitted)
    notes += [f"{name} and {twin} are tied, and stay so" for name, twin in weights[0].aliases.items()]
    shared = _shared(scratch, original)
    for name, fitted in zip(names, weights, strict=True):
        _check_shared(fitted, shared, name)
    notes += [f"{name} is {twin} in another shape, and counts once" for name, (twin, _) in shared.items()]
    notes += _widen(scratch, weights)

    # 3. The network that each of them is, as others may compute something else from the same weights.
    weights = list(_on_device(weights, device))
    own: dict[Weights, Callable[[], nn.Module]] = {}
    for index in range(len(sources)):
        if (build := _own_network(index, sources, stored, host, weights[index])) is not None:
            own[weights[index]] = partial(_prepared, build, scratch, device)

    # 4. What is odd but allowed.
    notes += _notes_on_modules(sources, names)
    known = {name: found for name, found in zip(names, stored, strict=True) if found}
    if len({found.training.spec().get("data") for found in known.values()}) > 1:
        notes.append(f"the stored runs were trained on different data; {next(iter(known))}'s stand for all")
    parameters = tuple(name for name, _ in scratch.named_parameters() if name not in shared)
    first_stored = next(iter(known.values()), None)
    return Networks(scratch, tuple(weights), names, tuple(notes), first_stored, host, own, parameters)


def names_of(sources: Sequence[Source], names: Sequence[str] | None) -> tuple[str, ...]:
    """The name of each network: as given, or else that of its file, or a, b, c, ...

    Raises:
        OptionError: a wrong number of names, or one twice.
    """
    if names is not None:
        if isinstance(names, str) or len(names) != len(sources) or len(set(names)) < len(names):
            raise OptionError(f"give {len(sources)} different names, one for each network; got {names!r}")
        return tuple(map(str, names))
    letters = [chr(ord("a") + i) if i < 26 else f"network {i + 1}" for i in range(len(sources))]
    # Of a stored run's folder, enough of the hash to tell it from others.
    shorten = partial(re.sub, "^(state-[0-9a-f]{6})[0-9a-f]{10}$", r"\1")
    files = [shorten(Path(source).name) if isinstance(source, str | Path) else None for source in sources]
    shown = [file if file and files.count(file) == 1 else letter for file, letter in zip(files, letters, strict=True)]
    return tuple(shown) if len(set(shown)) == len(shown) else tuple(letters)


def origins_of(
    sources: Sequence[Source],
    names: Sequence[str],
    data_dir: str | Path | None,
    model: Any = None,
    key: str | None = None,
) -> tuple[list["Stored | None"], list[Weights]]:
    """The stored run that each source is, None for something else; and the weights of each by its own names.

    Adapters are merged into the base model that `model` is, if it is given, or else that they name.

    Raises:
        NetworkError: a network that cannot be read, or adapters of two base models.
    """
    stored = [_stored(source, data_dir, model) for source in sources]
    base = _base(sources, names, model)
    origins = [
        found.weights if found else weights_of(source, name, key, base)  # type: ignore[arg-type]  # a run is found
        for source, found, name in zip(sources, stored, names, strict=True)
    ]
    return stored, origins


def _base(sources: Sequence[Source], names: Sequence[str], model: Any) -> nn.Module | None:
    """The base model of the adapters among the networks, where it is given."""
    bases = {
        name: base_of(source)  # type: ignore[arg-type]  # an adapter is a path
        for source, name in zip(sources, names, strict=True)
        if is_adapter(source)
    }
    if not bases:
        return None
    if model is not None and not isinstance(model, str):
        with torch.random.fork_rng(devices=[]):
            return make_network(model)
    (first, base), *others = bases.items()
    for name, other in others:
        if other != base:
            raise NetworkError(
                f"{first} is an adapter of {base}, and {name} of {other}; give adapters of one base model, or, if both "
                "are one model, model= that model with its weights"
            )
    return None


def make_network(model: Any) -> nn.Module:
    """The network that `model=` is, or makes.

    Raises:
        OptionError, NetworkError: it is neither a module nor a function that makes one.
    """
    if not isinstance(model, nn.Module) and not callable(model):
        raise OptionError(f"model= must be a module or a function that makes one; got {type(model).__name__}")
    try:
        made = model if isinstance(model, nn.Module) else model()
    except ModeconnError:
        raise
    except Exception as error:
        raise NetworkError(
            f"the function that model= names failed when it was called without arguments: {type(error).__name__}: "
            f"{error}; give one that needs none, which calls it with those that it needs"
        ) from error
    if not isinstance(made, nn.Module):
        raise NetworkError(f"model= gave {type(made).__name__}, not a torch.nn.Module")
    return made


def _stored(source: Source, data_dir: str | Path | None, model: Any) -> "Stored | None":
    if isinstance(source, nn.Module | Mapping):
        return None
    from modeconn.training.stored import find_stored

    return find_stored(source, data_dir, model)


def _scratch(
    sources: Sequence[Source], stored: Sequence["Stored | None"], model: Any
) -> tuple[nn.Module, nn.Module | None, int | None]:
    """A network of our own with the architecture that was given, or that one of the networks has.

    Also the original, if it is a copy, and which of the networks' it is.
    """
    if model is not None and not (isinstance(model, str) and any(stored)):
        made = make_network(model)
        # What was made for us alone need not be copied: a large network is in memory once.
        ours = made is not model and is_plain(made) and all(map(inspect.isframe, gc.get_referrers(made)))
        return (made, None, None) if ours else (plain_copy(made), made, None)
    for index, (source, found) in enumerate(zip(sources, stored, strict=True)):
        if isinstance(source, nn.Module):
            return plain_copy(source), source, index
        if found:
            return found.network(), None, index
    for index, source in enumerate(sources):
        if (folder := architecture_folder(source)) is not None:
            return network_of_folder(folder), None, index
    raise OptionError(
        "weights alone do not say what network they are of; give model= a module of that architecture, or a function "
        "that makes one"
    )


def _fitted(
    weights: Weights, scratch: nn.Module, name: str, original: nn.Module | None, source: Source, host: str
) -> Weights:
    """Weights by the names of the scratch network.

    Raises:
        NetworkError: as `match_names`, after the classes of the two, where they are modules of different ones.
    """
    try:
        return match_names(weights, scratch, name, original)
    except NetworkError as error:
        kinds = [type(unwrap(module)).__name__ for module in (source, scratch) if isinstance(module, nn.Module)]
        if len(set(kinds)) < 2:
            raise
        raise NetworkError(f"{name} is of class {kinds[0]}, {host} of class {kinds[1]}: {error}") from error


def _shared(scratch: nn.Module, original: nn.Module | None) -> dict[str, tuple[str, Tensor]]:
    """The weights that are an earlier one's in another shape or order, by plain name; a copy may have lost the tie."""
    network = scratch if original is None else unwrap(original)
    stored, _ = effective_reads(network, state_tensors(network).__getitem__)
    tensors = {name: read() for name, read in stored.items()}
    reaching = overlaps(tensors)
    return shared_memory({name: tensor for name, tensor in tensors.items() if name in reaching})


def _check_shared(weights: Weights, shared: Mapping[str, tuple[str, Tensor]], who: str) -> None:
    """Refuse weights that differ where the network has one in memory: one of the two would be lost."""
    for name, (first, places) in shared.items():
        expected = weights.read(first).flatten()[places.to(weights.read(first).device)]
        if not equal_values(expected, weights.read(name)):
            raise NetworkError(
                f"the network has {first} and {name} in one memory, but in {who} they differ; give a network that has "
                "them apart"
            )


def _own_network(
    index: int, sources: Sequence[Source], stored: Sequence["Stored | None"], host: int | None, weights: Weights
) -> Callable[[], nn.Module] | None:
    """Makes a network as it is by itself; None for weights alone, and where the scratch network is made of the same."""
    source, run = sources[index], stored[index]
    if isinstance(source, nn.Module):
        return partial(plain_copy, source)
    if run:
        if run.code is not None:  # nobody's word is for it
            return None
        like = stored[host] if host is not None else None
        return None if like and like.training == run.training else partial(_loaded, run.training.network, weights)
    if (folder := architecture_folder(source)) is not None:
        like_folder = architecture_folder(sources[host]) if host is not None else None
        if like_folder is not None and configuration_of(like_folder) == configuration_of(folder):
            return None
        if host is None and is_adapter(source):  # its base is `model=`
            return None
        return partial(_loaded, partial(network_of_folder, folder), weights)
    return None


def _loaded(build: Callable[[], nn.Module], weights: Weights) -> nn.Module:
    network = build()
    load_weights(network, weights)
    return network


def _prepared(build: Callable[[], nn.Module], scratch: nn.Module, device: torch.device) -> nn.Module:
    """A network in evaluation mode, on the device and in the types that all are evaluated in."""
    network = build().to(device)
    types = {name: tensor.dtype for name, tensor in (*scratch.named_parameters(), *scratch.named_buffers())}
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.dtype != types.get(name, tensor.dtype):
            tensor.data = tensor.data.to(types[name])
    return network.eval()


def _device(sources: Sequence[Source], device: str | torch.device) -> torch.device:
    if device == "auto":
        for source in sources:
            if isinstance(source, nn.Module):
                return next((p.device for p in source.parameters()), torch.device("cpu"))
    return resolve_device(str(device))


def _widen(scratch: nn.Module, weights: Sequence[Weights]) -> list[str]:
    """Give the scratch network types that hold every end; where the ends' differ, the widest for all of it."""
    floating = [name for name, tensor in weights[0].layout.items() if tensor.is_floating_point()]
    kinds = [{one.layout[name].dtype for one in weights} for name in floating]
    if any(len(kind) > 1 for kind in kinds):
        found = set().union(*kinds)
        widest = common_dtype(torch.float32, *found)
        complex_widest = torch.promote_types(widest, torch.complex64)
        for tensor in (*scratch.parameters(), *scratch.buffers()):
            if can_interpolate(tensor):
                tensor.data = tensor.data.to(complex_widest if tensor.is_complex() else widest)
        shown = " and ".join(sorted(_short(dtype) for dtype in found))
        return [f"the networks differ in type ({shown}); all are evaluated in {_short(widest)}"]
    own = state_tensors(scratch)
    for name, kind in zip(floating, kinds, strict=True):
        own[name].data = own[name].data.to(common_dtype(own[name].dtype, *kind))
    tensors = [tensor for tensor in (*scratch.parameters(), *scratch.buffers()) if is_float8(tensor.dtype)]
    for tensor in tensors:
        tensor.data = tensor.data.float()
    return ["float8 weights are evaluated in float32"] if tensors else []


def _on_device(weights: Sequence[Weights], device: torch.device) -> tuple[Weights, ...]:
    """The weights on a GPU, so that a path does not send them there at every alpha; if large, read when needed."""
    if device.type == "cpu" or sum(tensor.nbytes for one in weights for tensor in one.layout.values()) > _MOST:
        return tuple(weights)
    tensors = [{name: one.read(name).to(device) for name in one.layout} for one in weights]
    return tuple(replace(one, read=held.__getitem__) for one, held in zip(weights, tensors, strict=True))


def _notes_on_modules(sources: Sequence[Source], names: Sequence[str]) -> list[str]:
    """Memory, code and buffers that modules share or differ in, and that state dicts do not show."""
    notes = []
    modules = [
        (name, unwrap(source)) for name, source in zip(names, sources, strict=True) if isinstance(source, nn.Module)
    ]
    for (name_a, a), (name_b, b) in itertools.combinations(modules, 2):
        if a is b:
            notes.append(f"{name_a} and {name_b} are the same object")
            continue
        places = {p.data_ptr() for p in a.parameters() if p.numel()}
        shared = sum(p.data_ptr() in places for p in b.parameters() if p.numel())
        if shared:
            notes.append(f"{name_a} and {name_b} share the memory of {shared} parameters")
        if type(a) is not type(b):
            notes.append(
                f"{name_a} is a {type(a).__name__} and {name_b} a {type(b).__name__} with tensors of the same names "
                f"and shapes; between the ends the code of {name_a} is run"
            )
        saved = state_tensors(a)
        hidden = {name: buffer for name, buffer in a.named_buffers() if name not in saved}
        differ = [
            name for name, buffer in b.named_buffers() if name in hidden and not equal_values(buffer, hidden[name])
        ]
        if differ:
            notes.append(
                f"buffers that are not saved differ, those of {name_a} are used between the ends: {', '.join(differ)}"
            )
    return notes


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
