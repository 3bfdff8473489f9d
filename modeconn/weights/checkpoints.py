"""Checkpoints on disk: safetensors and PyTorch files, and Hugging Face folders. Nothing is unpickled."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from modeconn.errors import NetworkError
from modeconn.reading import is_file, is_folder, open_file, parse_json, read_file
from modeconn.weights.offline import offline
from modeconn.weights.state_dicts import Weights, weights_of_state_dict, with_masks_applied
from modeconn.weights.tensor_files import in_order, read_layout, read_pickled, speaking_of

_UNSTORED = 1000  # parameters and tensors that a small network may have beside those of its file
_KINDS = ".safetensors, or .pt, .pth, .ckpt and .bin as torch.save writes them"
_LONGEST_HEADER = 100_000_000  # bytes, safetensors' own limit
_FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def weights_of_path(path: Path, origin: str, key: str | None = None) -> Weights:
    """Open a checkpoint: a file, whose content tells its kind and not its name, or a Hugging Face folder.

    Nothing but names, shapes and dtypes is read at first. A tensor from safetensors is mapped from the file at every
    reading and released with the tensor, so memory holds no more than the tensors in use. PyTorch's files are
    mapped as a whole; what has been read of them stays in the page cache, which the system may drop. Only their
    older format, from before PyTorch 1.6, is read into memory.

    Raises:
        NetworkError: missing, damaged, of another kind, without tensors, or with contents that would have to be
            unpickled: nothing of these is run.
    """
    try:
        if is_folder(path):
            return _weights_of_folder(path, origin)
        with open_file(path) as file:
            start = file.read(9)
    except OSError as error:
        raise NetworkError(
            f"{speaking_of(origin, path)}cannot read {path}: {error.strerror}; networks are not downloaded, give a "
            "file or folder here"
        ) from error
    # Safetensors begins with the length of its header (8 bytes, little-endian) and the header, a JSON object. It is
    # tried first, as that length may begin with the bytes of another format.
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER:
        return _weights_of_safetensors(path, origin)
    if start[:2] == b"PK" or start[:1] == b"\x80":  # a zip archive or a pickle, as PyTorch writes them
        return _weights_of_torch(path, origin, key)
    if path.suffix == ".safetensors" and start:
        return _weights_of_safetensors(path, origin)
    problem = "is empty" if not start else "is not a checkpoint of a kind that can be read, or is damaged"
    raise NetworkError(f"{speaking_of(origin, path)}{path} {problem}; known kinds: {_KINDS}, or a Hugging Face folder")


def network_of_folder(path: str | Path) -> nn.Module:
    """Build the network that a Hugging Face folder's `config.json` describes, freshly initialized, in evaluation mode.

    It is built by the installed `transformers`, in the dtype of the configuration. No weights are read, no code of the
    folder's is run, and the network is not asked for what the configuration names, such as the repository of a
    backbone. Links in the folder are followed, as the cache of Hugging Face consists of them. The caller's random state
    is left unchanged.

    Raises:
        NetworkError: no configuration, no `transformers`, an architecture that is not in it, or quantised weights.
    """
    path = Path(path)
    config = read_json(path / "config.json", "building its network needs a config.json, or give model=: ")
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise NetworkError(f"{path}: in its config.json, architectures is no list of names; give model=")
    if config.get("quantization_config"):
        raise NetworkError(f"{path}: its weights are quantised; dequantise the network, save it again, and give that")
    if len(architectures) != 1:
        raise NetworkError(f"{path}: its config.json names {len(architectures)} architectures, not one; give model=")
    try:
        import transformers
    except ImportError as error:
        raise NetworkError(
            f"{path}: building its network needs Hugging Face's transformers: pip install transformers, or give model="
        ) from error
    try:
        build: Any = getattr(transformers, architectures[0], None)
        if build is None:
            raise LookupError(f"it is not in transformers {transformers.__version__}, and a folder's code is not run")
        with torch.random.fork_rng(devices=[]), offline(str(path)):  # its initialization draws random numbers
            weights = _weights_beside(path)
            labels, most = config.get("num_labels"), sum(tensor.numel() for tensor in weights.values())
            # For each label, transformers would write out a name.
            if weights and isinstance(labels, int) and labels > most + _UNSTORED:
                raise NetworkError(
                    f"{path}: its config.json has {labels:,} labels, and its weights {most:,} parameters"
                )
            settings = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            if weights:
                _require_fit(partial(build._from_config, settings), weights, path)
            network: nn.Module = build._from_config(settings)
    except NetworkError:
        raise
    except Exception as error:
        raise NetworkError(f"{path}: cannot build {architectures[0]}: {error}; give model=") from error
    return network.eval()


def _weights_beside(path: Path) -> Mapping[str, Tensor]:
    """The layout of the weights in a folder; empty without any that can be read, of which their reader tells."""
    try:
        return _weights_of_folder(path, str(path)).layout
    except NetworkError:
        return {}


def _require_fit(build: Callable[[], nn.Module], weights: Mapping[str, Tensor], path: Path) -> None:
    """Build a network without memory, to see that its configuration is not of one that its weights are far too few for.

    Raises:
        NetworkError: it has over four times their parameters (ties and heads are not stored), and is not built on.
    """
    most = 4 * sum(tensor.numel() for tensor in weights.values()) + _UNSTORED
    tensors = count = 0

    def add(_: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, count
        tensors += 1
        count += 0 if parameter is None else parameter.numel()
        if count > most or tensors > 4 * len(weights) + _UNSTORED:
            raise NetworkError(
                f"{path}: its config.json describes a network of over {count:,} parameters in {tensors:,} "
                f"tensors, and its weights have {len(weights)} tensors; correct it, or give model="
            )

    counting = register_module_parameter_registration_hook(add)
    try:
        with torch.device("meta"):
            build()
    except NetworkError:
        raise
    except Exception:  # one that computes while it is built, which needs values
        return
    finally:
        counting.remove()


def configuration_of(path: str | Path) -> dict[str, Any]:
    """What a Hugging Face folder's `config.json` says of the function that its network computes.

    Raises:
        NetworkError: there is none.
    """
    config = read_json(Path(path) / "config.json")
    aside = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
    return {name: value for name, value in config.items() if name not in aside}


def _weights_of_safetensors(path: Path, origin: str) -> Weights:
    check_unchanged, who = _guard(path, origin), speaking_of(origin, path)
    try:
        layout, metadata = read_layout(path)
    except ValueError as error:
        raise NetworkError(f"{who}{path} is damaged, or is not a safetensors file: {error}") from error
    if not layout:
        raise NetworkError(f"{who}{path} has no tensors in it")
    # safetensors.torch.save_model writes a tied tensor once, and notes its other names in the metadata.
    aliases = {name: kept for name, kept in metadata.items() if kept in layout and name not in layout}
    layout |= {name: layout[kept] for name, kept in aliases.items()}

    def read(name: str) -> Tensor:
        check_unchanged()
        # Opened for each tensor: an open file would keep all that was read of it in memory.
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.get_tensor(aliases.get(name, name))

    return with_masks_applied(Weights(layout, read, origin, aliases=aliases))


def _weights_of_torch(path: Path, origin: str, key: str | None) -> Weights:
    check_unchanged = _guard(path, origin)
    entries = read_pickled(path, origin)
    weights = weights_of_state_dict(entries, origin, key)

    def read(name: str) -> Tensor:
        check_unchanged()
        return weights.read(name)

    return replace(weights, read=read)


def _weights_of_folder(path: Path, origin: str) -> Weights:
    who = speaking_of(origin, path)
    found = next((path / name for name in _FOLDER_FILES if is_file(path / name)), None)
    if found is None:
        raise NetworkError(f"{who}none of {', '.join(_FOLDER_FILES)} is in the folder {path}")
    if found.suffix != ".json":
        return weights_of_path(found, origin)
    # An index: its weight_map says in which of several files (shards) each tensor is.
    homes = read_json(found, who).get("weight_map")
    if not isinstance(homes, dict) or not homes or not all(isinstance(home, str) for home in homes.values()):
        raise NetworkError(f"{who}{found} has no weight_map from names to files")
    files = sorted(set(homes.values()))
    if outside := [name for name in files if Path(name).name != name]:
        raise NetworkError(f"{who}{found} names files outside its folder: {', '.join(outside)}")
    if missing := [name for name in files if not is_file(path / name)]:
        raise NetworkError(f"{who}{', '.join(missing)} of {len(files)} files are missing in {path}")
    shards = {name: weights_of_path(path / name, origin) for name in files}
    if absent := sorted(name for name, home in homes.items() if name not in shards[home].layout):
        raise NetworkError(f"{who}{found} lists tensors that its files do not have: {', '.join(absent)}")
    layout = {name: shards[homes[name]].layout[name] for name in in_order(homes)}
    notes = tuple(dict.fromkeys(note for shard in shards.values() for note in shard.notes))
    # A weight and its mask may be in different shards, so masks are looked for again in all of them together.
    return with_masks_applied(Weights(layout, lambda name: shards[homes[name]].read(name), origin, notes))


def read_json(path: Path, purpose: str = "") -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        NetworkError: it cannot be read, or holds something else; the message begins with the purpose.
    """
    try:
        found: dict[str, Any] = parse_json(read_file(path), dict[str, Any])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NetworkError(f"{purpose}cannot read {path}: {reason}") from error
    return found


def _guard(path: Path, origin: str) -> Callable[[], None]:
    """A function that raises once the file has changed: half of an old and half of a new checkpoint is neither."""

    def look() -> tuple[int, int, int]:
        status = path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns

    before = look()

    def check_unchanged() -> None:
        try:
            unchanged = look() == before
        except OSError:
            unchanged = False
        if not unchanged:
            raise NetworkError(
                f"{speaking_of(origin, path)}{path} was changed or removed while it was being read; copy it first"
            )

    return check_unchanged
