"""The version of modeconn, and those of the software and the machine that a result was computed with."""

import contextlib
import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

__version__ = "0.2.0.dev0"


def versions() -> dict[str, str]:
    """Versions of all software that decides a result's last bits, by name."""
    import numpy
    import torch

    return {
        "modeconn": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def machine() -> dict[str, Any]:
    """The processor, the instructions and threads that PyTorch takes of it, and modeconn's commit; None if no checkout.

    Processors of one name may have other instructions, with which results differ in their last bits.
    """
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


@functools.cache
def _commit() -> str | None:
    """The commit that is checked out, with a "+" where files differ from it."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    reading = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # nothing is written into the checkout
    try:
        git = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        found = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True, env=reading)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
