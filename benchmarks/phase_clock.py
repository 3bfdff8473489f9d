"""Counts where the time of a command goes, in the command itself, in the server of its workers, and in these.

What is imported finds this file in the way: functions that begin a phase are wrapped as soon as their module is there.
Times are exclusive: a phase within another is taken out of it. See `phases`.
"""

import functools
import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

FOLDER = "MODECONN_PHASES"  # of the records that processes leave, in the environment of those that count
START, IMPORTS, JOBS = "Python starts", "imports", "the command waits for jobs"
# Module, function or method: what it does, or what tells that from its arguments.
_PHASES: dict[str, dict[str, str | Callable[..., str]]] = {
    "modeconn.analysis.instability.instability": {"instability": "plans and checks"},
    "modeconn.tickets.lottery": {"lottery": "plans and checks"},
    "modeconn.execution.pool": {"start_server": "starts the server of workers"},
    "modeconn.execution.driver": {"run_jobs": JOBS},
    "modeconn.execution.worker": {"run_job": lambda job, *_: f"jobs ({job.kind}), besides what follows"},
    "modeconn.data.sources": {"load_data": "loads data"},
    "modeconn.training.trainer": {"train_until": "trains", "build_task_network": "makes networks"},
    "modeconn.training.cohort.training": {"train_cohort_until": "trains cohorts"},
    "modeconn.analysis.paths.evaluator": {
        "PathEvaluator.measure_end": "measures ends",
        "PathEvaluator.measure_at": "measures paths",
        "PathEvaluator.recalibrate": "recalibrates",
    },
    "modeconn.execution.artifact": {"Artifact.read": "reads the store"},
    "modeconn.execution.store": {"Store.done": "reads the store"},
    "modeconn.files": {"write_atomically": "writes files"},
    "modeconn.analysis.instability.collect": {"collect": "collects"},
    "modeconn.tickets.collect": {"collect": "collects", "save_masks": "collects"},
    "modeconn.style": {
        "save_figure": "saves figures",
        "Figure.savefig": lambda *_, format, **__: f"saves figures ({format})",
    },
    "modeconn.analysis.instability.figures": {"save_figures": "draws figures"},
    "modeconn.tickets.figures": {"save_lottery_figures": "draws figures"},
}


class Clock:
    """Seconds, and processor seconds, by phase; a phase within another is taken out of it."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        self._inside: list[list[float]] = []

    def around(self, phase: str | Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its time counted."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            name = phase if isinstance(phase, str) else phase(*args, **kwargs)
            began = time.monotonic(), time.process_time()
            self._inside.append([0.0, 0.0])
            try:
                return function(*args, **kwargs)
            finally:
                took = time.monotonic() - began[0], time.process_time() - began[1]
                inside, spent = self._inside.pop(), self.spent.setdefault(name, [0.0, 0.0])
                for i in range(2):
                    spent[i] += took[i] - inside[i]
                    if self._inside:
                        self._inside[-1][i] += took[i]

        return timed


class _Wrapping(MetaPathFinder):
    """Times the imports of modeconn, with all that they import, and wraps the functions that begin a phase."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Find a module of modeconn where it would be found otherwise."""
        spec = PathFinder.find_spec(name, path) if name.partition(".")[0] == "modeconn" else None
        if spec is None or spec.loader is None:
            return None
        execute: Callable[[Any], None] = self.clock.around(IMPORTS, spec.loader.exec_module)

        def execute_and_wrap(module: Any) -> None:
            execute(module)
            for place, phase in _PHASES.get(name, {}).items():
                *outer, last = place.split(".")
                owner = functools.reduce(getattr, outer, module)
                setattr(owner, last, self.clock.around(phase, getattr(owner, last)))
            if name == "modeconn.execution.pool":  # which starts the server of workers
                module._SERVE = f"import benchmarks.phase_clock; {module._SERVE}"
            elif name == "modeconn.execution.worker":
                module.run_job = _recorded(self.clock, module.run_job)

        spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec


def _recorded(clock: Clock, run_job: Callable[..., Any]) -> Callable[..., Any]:
    """The function that computes a job; in a worker it then leaves a record, and begins to count anew."""

    @functools.wraps(run_job)
    def recorded(job: Any, root: Any) -> None:
        began = time.monotonic()
        try:
            run_job(job, root)
        finally:
            if os.getpid() != _process:
                _leave(clock, "job", job=job.kind, began=began, ended=time.monotonic())

    return recorded


def _leave(clock: Clock, kind: str, **more: Any) -> None:
    """Leave a record of what this process has spent since the last one."""
    record = {"kind": kind, "process": os.getpid(), "cpu": time.process_time(), "spent": clock.spent, **more}
    with open(Path(os.environ[FOLDER]) / f"{os.getpid()}.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")
    clock.spent = {}


def run(began: float, arguments: list[str]) -> None:
    """Be the command: do what `python -m modeconn` does, and leave a record.

    Args:
        began: when this process was started, on the monotonic clock.
        arguments: of the command.
    """
    clock.spent[START] = [time.monotonic() - began, time.process_time()]
    sys.argv = ["modeconn", *arguments]
    try:
        runpy.run_module("modeconn", run_name="__main__", alter_sys=True)
    finally:
        _leave(clock, "command", ended=time.monotonic())


if FOLDER in os.environ:
    clock, _process = Clock(), os.getpid()
    sys.meta_path.insert(0, _Wrapping(clock))
    # The server has imported all that workers need when it forks the first.
    os.register_at_fork(before=lambda: _leave(clock, "server") if clock.spent else None)
