"""Why a PyTorch file is not read: what its pickle would call, found in its opcodes without running them."""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def explain_refusal(path: Path, error: Exception) -> str:
    """Explain why `torch.load(path, weights_only=True)` failed; the text goes on from the file's name.

    PyTorch's error names the first function that would have to be called.
    `torch.serialization.get_unsafe_globals_in_checkpoint` names all, but of zip archives in pickle's protocol 2 alone;
    here files from before PyTorch 1.6, plain pickles and later protocols are explained as well.
    """
    if "TorchScript" in str(error):
        return "is a TorchScript archive, a program; save the state dict of the network that torch.jit.load gives"
    named = set(re.findall(r"GLOBAL (\S+)", str(error)))
    if not isinstance(error, pickle.UnpicklingError) or not (named := named | set(_foreign_names(path))):
        reason = "" if isinstance(error, pickle.UnpicklingError) else f" ({str(error).partition('. ')[0]})"
        return f"is damaged, or was not written by torch.save{reason}"
    whole = any(name.startswith("torch.nn.modules.") for name in named)
    return (
        f"{'holds a whole pickled module and ' if whole else ''}is refused: to read it, Python would have to call "
        f"{', '.join(sorted(named))}, which can run any code; nothing was run. If you trust it, load it in a session "
        "of your own and save its tensors alone: torch.save(network.state_dict(), 'weights.pt') or "
        "safetensors.torch.save_file(network.state_dict(), 'weights.safetensors')"
    )


def _foreign_names(path: Path) -> Iterator[str]:
    """Names of functions and classes that a pickle would look up, apart from those that tensors need."""
    for name in _names_in_pickle(path):
        if not re.match(r"collections\.OrderedDict|torch\.(?!nn\.)", name):
            yield name


def _names_in_pickle(path: Path) -> Iterator[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(member) as stream:
                yield from _names_in_stream(stream)
    except (zipfile.BadZipFile, StopIteration, NotImplementedError, RuntimeError):  # or packed or encrypted otherwise
        with path.open("rb") as stream:
            yield from _names_in_stream(stream)


def _names_in_stream(stream: IO[bytes]) -> Iterator[str]:
    texts: list[str] = []
    try:
        while True:  # the older format is several pickles one after the other
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    yield str(argument).replace(" ", ".")  # "module name"
                elif opcode.name == "STACK_GLOBAL":  # from protocol 4 on; module and name were put on the stack before
                    yield ".".join(texts[-2:])
                elif isinstance(argument, str):
                    texts.append(argument)
    except Exception:  # the end of the last pickle, or of what can be read: lengths may be anything, too
        return
