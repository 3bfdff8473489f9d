"""What is measured from outside: whole commands, and how long Python takes to start."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def study(index: int, arguments: Sequence[str]) -> Callable[[], dict[str, Any]]:
    """A modeconn command from its start to its end, with an empty store."""

    def measure() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            places = ["--store", f"{folder / 'store'}", "--out", f"{folder / 'out'}", "--data-dir", name]
            _run(["-m", "modeconn", *arguments, *places])
        return {"work": 1}

    return measure


def start_up(
    index: int, repeats: int, arguments: Sequence[str], besides: Sequence[str] = ()
) -> Callable[[], dict[str, Any]]:
    """Median seconds of a run of Python, less those of another run just before it if one is given."""

    def measure() -> dict[str, Any]:
        times = []
        for _ in range(repeats):
            less = _run(besides) if besides else 0.0
            times.append(_run(arguments) - less)
        return {"work": 1, "seconds": statistics.median(times)}

    _run(arguments)  # so that every file has been read once, and is compiled
    return measure


def _run(arguments: Sequence[str]) -> float:
    """Seconds that Python takes for these arguments.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed: {done.stderr}")
    return time.perf_counter() - begin
