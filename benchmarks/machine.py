"""The machine: what it is, and how much of it others use. The latter is known on Linux alone."""

import ctypes
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHECKED = sys.platform == "linux"
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
_PACKAGES = ("torch", "torchvision", "numpy", "safetensors")
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


@dataclass(frozen=True)
class Usage:
    """Seconds since some moment: on the clock, of all cores by anyone, of all cores by us."""

    clock: float
    all: float
    ours: float


def usage() -> Usage | None:
    """Of now; None where it is not known."""
    if not CHECKED:
        return None
    tick = os.sysconf("SC_CLK_TCK")
    busy = busy_ticks(Path("/proc/stat").read_text())
    return Usage(time.monotonic(), busy / tick, family_ticks(os.getpid()) / tick)


def others_share(before: Usage | None, after: Usage | None, cores: int) -> float | None:
    """The fraction of the machine that was used by others, or taken by other virtual machines, in between.

    >>> others_share(Usage(0, 5, 5), Usage(10, 24, 23), cores=2)
    0.05
    """
    if before is None or after is None:
        return None
    others = (after.all - before.all) - (after.ours - before.ours)
    return max(0.0, others / ((after.clock - before.clock) * cores))


def busy_ticks(text: str) -> int:
    """Of all cores, from `/proc/stat`; time that the hypervisor gave to others is busy, waiting for a disk is not.

    >>> busy_ticks("cpu  100 10 30 5000 70 1 2 4 0 0")
    147
    """
    user, nice, system, _idle, _wait, hard, soft, stolen = map(int, text.split(maxsplit=9)[1:9])
    return user + nice + system + hard + soft + stolen


def family_ticks(root: int) -> int:
    """Of a process and all its descendants, dead ones included, as their parents inherit what they used."""
    parents, ticks = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        pid = int(file.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks.get(pid, 0) for pid in family)


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own has ended, so that what they used is not lost."""
    if CHECKED:
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def bury_orphans() -> None:
    """Take note of adopted processes that have ended; every process that we started ourselves was waited for."""
    while CHECKED:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """What a number is worth nothing without."""
    return {
        "cpu": _cpuinfo("model name") or platform.processor(),
        "cores": cores(),
        "cores of the machine": os.cpu_count(),
        "flags": flags(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "modeconn": _commit(),
    }


def flags() -> list[str]:
    """Of the processor, those that say how fast it multiplies matrices."""
    known = set(_cpuinfo("flags").split())
    return [flag for flag in _FLAGS if flag in known]


def _cpuinfo(key: str) -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Of the repository that this file is in."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
