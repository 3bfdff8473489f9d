"""A Dask cluster of real processes, on loopback only, of which nothing is left in the end."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from jobs_for_tests import group_of, is_alive, wait_until


class Cluster:
    """A scheduler and workers; every process has a log, and a group of its own to be stopped by."""

    def __init__(self, folder: Path, resources: tuple[str, ...] = ("", "")) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self._resources = resources  # of each worker
        self._processes: list[subprocess.Popen] = []

    def start(self) -> None:
        self._launch("scheduler", "--port", "0", "--no-show")
        wait_until(self._written)
        for number, offered in enumerate(self._resources):
            name = ["--nthreads", "1", "--name", f"worker-{number}", "--local-directory", str(self.folder)]
            self._launch("worker", *name, *(["--resources", offered] if offered else []))

    def kill_scheduler(self, then: Callable[[], None]) -> None:
        """Without a word to anybody; workers end by themselves when they notice."""
        scheduler, *workers = self._processes
        scheduler.kill()
        scheduler.wait(timeout=120)
        then()
        for process in workers:
            process.wait(timeout=120)
        self._processes.clear()
        self.file.unlink()

    def worker(self, number: int) -> int:
        """The process that computes; another one watches over it."""
        command = lambda process: Path(f"/proc/{process}/cmdline").read_bytes()  # noqa: E731
        # With setproctitle installed, Dask gives it a title of its own.
        is_it = lambda process: re.search(rb"multiprocessing\.spawn|^dask worker \[", command(process))  # noqa: E731
        (found,) = filter(is_it, filter(is_alive, group_of(self._processes[1 + number].pid)))
        return found

    def stop(self) -> None:
        members = [member for process in self._processes for member in group_of(process.pid)]
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        wait_until(lambda: not any(map(is_alive, members)))

    def logs(self) -> str:
        return "\n".join(f"{path}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def add_worker(self, name: str, place: Path) -> None:
        """One more worker, which imports what is in a folder before all else."""
        options = ["--nthreads", "1", "--name", name, "--local-directory", str(self.folder)]
        self._launch("worker", *options, place=place)

    def remove_last(self) -> None:
        process = self._processes.pop()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _launch(self, command: str, *options: str, place: Path | None = None) -> None:
        where = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(self.file)]
        tests = str(Path(__file__).parent)
        paths = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH", "")]))
        with (self.folder / f"{command}-{len(self._processes)}.log").open("a") as log:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", command, *where, *options],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=place,
                    start_new_session=True,
                    # A job that always kills its worker is given up sooner, as workers take seconds to start.
                    env=os.environ | {"PYTHONPATH": paths, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"},
                )
            )

    def _written(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(json.loads(self.file.read_text())["address"])
        return False
