"""Jobs that cost nothing, for the tests of what runs them. `cost`, `log` and `seconds` are in no name."""

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeconn.execution import Job, Store
from modeconn.execution.names import job_name


@dataclass(frozen=True)
class Add:
    """Adds its number to its inputs' sums, and leaves a line in `log` every time it runs."""

    number: int
    inputs: tuple[Job, ...] = ()
    log: str = ""
    cost: float = 1.0
    seconds: float = 0.0

    kind = "sum"

    @property
    def label(self) -> str:
        return f"sum {self.number}"

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "number": self.number, "inputs": [job_name(job) for job in self.inputs]}

    def run(self, store: Store) -> None:
        note(self.log, self.number)
        numbers = [read_sum(store, job) for job in self.inputs]
        time.sleep(self.seconds)
        write_sum(store, self, self.number + sum(numbers))


@dataclass(frozen=True)
class Count:
    """Counts to `to`, saving every step and going on from the last; its lines in `log` are `to:step`."""

    to: int
    log: str = ""
    cost: float = 1.0
    seconds: float = 0.0  # for one step

    kind = "count"
    inputs = ()

    @property
    def label(self) -> str:
        return f"count to {self.to}"

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "to": self.to}

    def run(self, store: Store) -> None:
        saved = store.partial(self)
        for step in range(saved.facts["step"] if saved else 0, self.to):
            note(self.log, f"{self.to}:{step}")
            time.sleep(self.seconds)
            store.write(self, {f"{step + 1}.txt": b"counted"}, {"step": step + 1}, done=False)
            store.write_heartbeat(self, (step + 1) / self.to)
        write_sum(store, self, self.to)


@dataclass(frozen=True)
class Fail:
    """Raises, in one of several ways."""

    number: int
    inputs: tuple[Job, ...] = ()
    how: str = "plainly"
    cost: float = 1.0

    kind = "failure"

    @property
    def label(self) -> str:
        return f"failure {self.number}"

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "number": self.number, "inputs": [job_name(job) for job in self.inputs]}

    def run(self, store: Store) -> None:
        raise FAILURES[self.how](f"no luck with {self.number}")


@dataclass(frozen=True)
class KillWorker:
    """Kills the process it runs in, the first `times` that it runs; then it is a sum."""

    number: int
    log: str
    times: int = 1
    inputs: tuple[Job, ...] = ()
    cost: float = 1.0

    kind = "killer"

    @property
    def label(self) -> str:
        return f"killer {self.number}"

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "number": self.number}

    def run(self, store: Store) -> None:
        if multiprocessing.current_process().name == "MainProcess":
            raise RuntimeError("this job is for workers; here it would kill the tests")
        note(self.log, self.number)
        if notes(self.log).count(str(self.number)) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        write_sum(store, self, self.number)


class TwoPartError(Exception):
    """An exception of somebody's network: it can be pickled, and the pickle cannot be read."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


FAILURES: dict[str, Callable[[str], BaseException]] = {
    "plainly": RuntimeError,
    "oddly": lambda text: TwoPartError(text, "at all"),
    "by leaving": SystemExit,
}


def note(log: str, text: object) -> None:
    """Append a line with this process's id, whole even when several processes write at once."""
    if log:
        with open(log, "a") as file:
            file.write(f"{text} {os.getpid()}\n")


def notes(log: str | Path) -> list[str]:
    """The lines of a log, in order, without the processes."""
    return [line.split()[0] for line in _lines(log)]


def workers(log: str | Path) -> set[int]:
    """The processes that wrote a log."""
    return {int(line.split()[1]) for line in _lines(log)}


def write_sum(store: Store, job: Job, number: int) -> None:
    """The artifact of a job that gives a number."""
    store.write(job, {"sum.json": json.dumps(number).encode()}, {"number": number}, done=True)


def read_sum(store: Store, job: Job) -> int:
    """The number that a finished job gave, checked."""
    return store.require(job).json("sum.json")


def is_alive(process: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        return state_of(process) != "Z"
    return not Path("/proc/self/stat").exists()


def state_of(process: int) -> str:
    """A letter: `T` of one that is stopped, `Z` of one that ended and was not waited for."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def group_of(leader: int) -> list[int]:
    """The processes of a group, where the system lists them."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[2]) == leader:
                members.append(int(path.parent.name))
    return members


def wait_until(true: Callable[[], object], seconds: float = 120.0) -> None:
    """Look often until something holds, for far longer than it should take on the busiest machine."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain"
        time.sleep(0.005)


def _lines(log: str | Path) -> list[str]:
    try:
        return Path(log).read_text().splitlines()
    except FileNotFoundError:
        return []


def pages_mapped() -> int:
    """How many pages the kernel maps while the same blocks, more than glibc keeps by itself, are freed ten times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [bytearray(24 << 20) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
