"""Freed memory is kept, or given back, as the kernel counts the pages that it has to map."""

import os
import platform
import subprocess
import sys

import pytest

from modeconn.execution import memory

CODE = """
import resource
from modeconn.execution.memory import keep_freed_memory
kept = {keep} and keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range({rounds}):
    blocks = [bytearray({size}) for _ in range(4)]
    del blocks
print(kept, faults() - before)
"""
SIZE, ROUNDS = 24 << 20, 10  # four blocks are more than glibc keeps by itself
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def mapped(keep: bool, **environment: str) -> tuple[bool, int]:
    """Whether memory is kept, and how many pages a process maps that frees the same blocks again and again."""
    code = CODE.format(keep=keep, size=SIZE, rounds=ROUNDS)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=ours | environment, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@glibc
def test_freed_memory_is_kept():
    plain, keeping = mapped(keep=False), mapped(keep=True)
    assert (plain[0], keeping[0]) == (False, True)
    assert keeping[1] < plain[1] / 4


@glibc
def test_what_users_set_in_the_environment_stays():
    assert mapped(keep=True, MALLOC_TRIM_THRESHOLD_="131072")[0] is False


def test_another_c_library_is_left_alone(monkeypatch):
    for name in memory._OF_USERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
