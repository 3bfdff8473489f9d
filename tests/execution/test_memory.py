"""Freed memory is kept, or given back, as the kernel counts the pages that it has to map."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from modeconn.execution import memory

CODE = """
from jobs_for_tests import pages_mapped
from modeconn.execution.memory import keep_freed_memory
print(pages_mapped())
keep_freed_memory()
print(pages_mapped())
"""
AT_WORK = """
from jobs_for_tests import pages_mapped
from modeconn.cli.main import main
from modeconn.execution import process_pool
if __name__ == "__main__":
    with process_pool(1) as pool:
        print(pages_mapped())
        print(pool.submit(pages_mapped).result())
    main(["tasks"])
    print(pages_mapped())
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def mapped(code: str, **environment: str) -> list[int]:
    """The last numbers that a process prints, in lines of their own."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    ours["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), ours.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], env=ours | environment, capture_output=True, text=True, check=True
    )
    return [int(line) for line in done.stdout.splitlines() if line.isdigit()]


@pytest.mark.processes
@glibc
def test_freed_memory_is_kept():
    before, after = mapped(CODE)
    assert after < before / 4


@pytest.mark.processes
@glibc
def test_workers_and_the_command_keep_it_and_others_do_not():
    elsewhere, worker, command = mapped(AT_WORK)
    assert max(worker, command) < elsewhere / 4


@pytest.mark.processes
@glibc
def test_what_users_set_in_the_environment_stays():
    before, after = mapped(CODE, MALLOC_TRIM_THRESHOLD_="131072")
    assert after > before / 2


def test_another_c_library_is_left_alone(monkeypatch):
    for name in memory._OF_USERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
