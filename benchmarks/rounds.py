"""Rounds: in each, every side once, in processes of its own, one side after the other; noisy rounds are thrown away."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.machine import ROOT, adopt_orphans, bury_orphans, others_share, usage

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Side:
    """One of those that are compared.

    Attributes:
        function: `package.module:function`. Called with `index` (of the process) and the options, it prepares and
            returns a function, which does what is timed and returns a dict with `work`, how much it did.
        processes: that do this at the same time.
        threads: of PyTorch in each; None for its default.
        checked: whether it can be known what others used meanwhile. Of a command with workers it cannot: the kernel
            forgets those that end, with what they used, as their parent asks for it.
    """

    name: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    threads: int | None = 1
    checked: bool = True


@dataclass(frozen=True)
class Run:
    """One side in one round.

    Attributes:
        work: of all processes.
        seconds: of the slowest.
        others: the fraction of the machine that others used meanwhile; None if it is not known.
        threads: of each process.
        facts: what else the first process said.
    """

    work: float
    seconds: float
    others: float | None
    threads: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)

    def spec(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


Round = Mapping[str, Run]  # by the name of the side


def measure(
    sides: Sequence[Side],
    rounds: int,
    *,
    others: float,
    keep_noisy: bool = False,
    attempts: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[Round], list[Round]]:
    """The rounds that count, and those that were thrown away.

    Args:
        sides: in this order in every round.
        rounds: how many should count.
        others: the fraction of the machine from which on others make a round noisy.
        keep_noisy: count noisy rounds too.
        attempts: how many rounds to try at most; twice as many as should count if None.
        say: told of every side.
    """
    kept: list[Round] = []
    thrown: list[Round] = []
    while len(kept) < rounds and len(kept) + len(thrown) < (attempts or 2 * rounds):
        found = {}
        for side in sides:
            run = found[side.name] = run_side(side)
            share = "not known" if run.others is None else f"{100 * run.others:.1f} %"
            say(f"{side.name}: {run.seconds:.2f} s, others {share}")
        (kept if keep_noisy or not is_noisy(found, others) else thrown).append(found)
    return kept, thrown


def is_noisy(found: Round, others: float) -> bool:
    """Whether others used more than that fraction of the machine while any side was measured."""
    return any(run.others is not None and run.others > others for run in found.values())


def run_side(side: Side) -> Run:
    """Start the processes, wait until all are ready, and let them work at the same time.

    Raises:
        RuntimeError: a process ended before it said what it did.
    """
    adopt_orphans()
    environment = {name: value for name, value in os.environ.items() if name not in _THREADS}
    if side.threads is not None:
        environment |= dict.fromkeys(_THREADS, str(side.threads))
    children = list(_start(side, environment))
    try:
        for child in children:
            _read(child, side)
        before = usage()
        for child in children:
            assert child.stdin
            child.stdin.write("go\n")
            child.stdin.flush()
        answers = [json.loads(_read(child, side)) for child in children]
        after = usage()
    finally:
        for child in children:
            if sys.exc_info()[0]:
                child.kill()
            child.communicate()
        bury_orphans()
    first = dict(answers[0])
    seconds, threads = max(answer["seconds"] for answer in answers), first.pop("threads")
    del first["seconds"], first["work"]
    share = others_share(before, after, os.cpu_count() or 1) if side.checked else None
    return Run(sum(answer["work"] for answer in answers), seconds, share, threads, first)


def _start(side: Side, environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    for index in range(side.processes):
        options = json.dumps({"index": index, **side.options})
        yield subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", side.function, options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )


def _read(child: "subprocess.Popen[str]", side: Side) -> str:
    assert child.stdout
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"{side.name} ({side.function}) ended before it was measured; what it said stands above")
    return line
