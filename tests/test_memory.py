"""Freed memory is kept, or given back, as the kernel counts the pages that it has to map."""

import ctypes
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
for _ in range(20):
    block = bytearray({size})
    del block
print(kept, faults() - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
SIZE = 64 << 20  # more than glibc ever keeps by itself
PAGES = SIZE // os.sysconf("SC_PAGESIZE") if hasattr(os, "sysconf") else 0


def mapped(keep: bool, **environment: str) -> tuple[bool, int]:
    """Whether memory is kept, and how many pages a process maps that frees a block 20 times."""
    code = CODE.format(keep=keep, size=SIZE)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=ours | environment, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@glibc
def test_freed_memory_is_kept():
    if not ctypes.CDLL(None).mallopt(memory._MMAP, memory._CEILINGS[0]):
        pytest.skip("this glibc maps blocks of this size whatever it is told")
    plain, keeping = mapped(keep=False), mapped(keep=True)
    assert (plain[0], keeping[0]) == (False, True)
    # Unless the kernel backs a block with huge pages, which are few, every page of every block is mapped anew.
    assert keeping[1] < plain[1] / 5 or plain[1] < PAGES


@glibc
def test_what_users_set_in_the_environment_stays():
    assert mapped(keep=True, MALLOC_TRIM_THRESHOLD_="131072")[0] is False


def test_another_c_library_is_left_alone(monkeypatch):
    for name in memory._OF_USERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False


def test_an_older_glibc_gets_what_it_takes(monkeypatch):
    """Both thresholds or none."""
    for name in memory._OF_USERS:
        monkeypatch.delenv(name, raising=False)
    given: list[tuple[int, int]] = []

    class Library:
        @staticmethod
        def mallopt(which: int, value: int) -> int:
            given.append((which, value))
            return int(which != memory._MMAP or value <= 1 << 25)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library)
    assert memory.keep_freed_memory() is True
    assert given == [(memory._MMAP, 1 << 30), (memory._MMAP, 1 << 25), (memory._TRIM, 1 << 25)]
