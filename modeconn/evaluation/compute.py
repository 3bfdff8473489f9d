"""Device, precision, determinism and threads of a computation, set for a while and put back."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from modeconn.errors import OptionError, unknown

PRECISIONS = ("float32", "bfloat16", "tf32")
_filling: Any = torch.utils.deterministic  # its one setting is a property that type checkers do not see


def resolve_device(device: str) -> torch.device:
    """Find the device of that name; `"auto"` is a GPU where there is one.

    Raises:
        OptionError: no such device on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from error
    if resolved.type not in ("cpu", "cuda"):
        raise OptionError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and (
        not torch.cuda.is_available() or (resolved.index or 0) >= torch.cuda.device_count()
    ):
        raise OptionError(f"no device {device!r} here; {torch.cuda.device_count()} GPUs are visible to PyTorch")
    return resolved


def check_precision(precision: str, device: torch.device | None = None) -> None:
    """Refuse an unknown precision, or one that the device does not have.

    Raises:
        OptionError: with the known ones.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "tf32" and device is not None and device.type != "cuda":
        raise OptionError("precision 'tf32' is for GPUs; on the CPU choose float32 or bfloat16")


@contextlib.contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Compute one forward pass in a precision. Not several: autocast keeps its casts of the weights until it is left.

    A backward pass of `"tf32"` must be in `computing` as well.
    """
    with (
        _tf32(True) if precision == "tf32" else contextlib.nullcontext(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        yield


def generator_of(device: torch.device) -> torch.Generator:
    """The generator that dropout draws from on a device; to seed it alone costs a tenth of `torch.manual_seed`."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


@contextlib.contextmanager
def computing(device: torch.device, precision: str = "float32") -> Iterator[None]:
    """Compute deterministically and on one CPU thread; the caller's settings and random state are put back.

    On a GPU, float32 matrix products and convolutions are in TF32 if that is the precision, and else are not.

    One thread, because sums depend on how they are divided among threads, and because one process per core is
    faster than one process with many threads for networks of this size. An operation that PyTorch cannot make
    deterministic is named in a warning.
    """
    threads = torch.get_num_threads()
    deterministic = torch.get_deterministic_debug_mode()
    benchmark = torch.backends.cudnn.benchmark
    fill = _filling.fill_uninitialized_memory
    on_gpu = [device] if device.type == "cuda" else []
    if on_gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; determinism needs it
    try:
        torch.set_num_threads(1)
        # The same as `use_deterministic_algorithms`, which first imports a compiler for most of a second.
        torch.set_deterministic_debug_mode("warn")
        _filling.fill_uninitialized_memory = False  # finds bugs in operators, at a price
        torch.backends.cudnn.benchmark = False
        with torch.random.fork_rng(devices=on_gpu), _tf32(precision == "tf32"):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(deterministic)
        torch.backends.cudnn.benchmark = benchmark
        _filling.fill_uninitialized_memory = fill


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32: a GPU rounds the factors of float32 products and convolutions to 10 bits."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = allowed
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
