"""What the driver costs for each job, and how long a study of many jobs takes on many workers.

    python benchmarks/driver_cost.py --data-dir DIR

First it times `run_jobs` on instability studies of 100 to 10,000 jobs with an executor whose jobs take no time, and
says where the time goes, in milliseconds of processor time per job: so it is the driver alone that is timed, and a
busy machine matters little. Every call is pickled, as for a worker process.

Then it runs a small digits study in this process and takes the time of every job, from its submission to its
artifact on the disk; and simulates the study of 10,000 jobs on 1 to 1,000 workers. The order of the jobs is that of
the driver's own `Graph`; a job takes its cost times a rate that was measured for its kind, drawn at random; and every
job that ends or begins takes the driver, of which there is one, the time that was measured first.
"""

import argparse
import csv
import heapq
import json
import os
import pickle
import platform
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from modeconn.analysis.instability.options import StudyOptions
from modeconn.analysis.instability.plan import jobs_of, plan_pairs, plan_study
from modeconn.execution import Job, Store, process_pool, run_jobs
from modeconn.execution.graph import Graph
from modeconn.execution.names import job_name
from modeconn.execution.records import Recorder
from modeconn.style import save_figure
from modeconn.tasks import get_task
from modeconn.training.task_training import Prepared, prepare

REWIND_ITERS = (0, 20, 40, 60, 80, 100, 120, 160, 200, 280)
COPIES = 3
SIZES = (1, 6, 63)  # replicates: 160, 960 and 10,080 jobs
WORKERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
PARTS = ("graph", "store", "submit", "settle", "record")


class Instant(Executor):
    """Jobs end when they are submitted, without having run. What a worker would be sent is pickled."""

    def __init__(self, clock: "Clock") -> None:
        self.clock = clock

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """End."""
        future: Future[Any] = Future()
        with self.clock.during("submit"):
            pickle.dumps((function, args))
        future.set_result(None)
        return future


class Clock:
    """Processor seconds by what they were spent on; a part within another is taken out of it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inside: list[float] = []

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Count the time inside as that part's."""
        began = time.process_time()
        self._inside.append(0.0)
        try:
            yield
        finally:
            took = time.process_time() - began
            self.spent[part] = self.spent.get(part, 0.0) + took - self._inside.pop()
            if self._inside:
                self._inside[-1] += took

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its time counted."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.during(part):
                return function(*args, **kwargs)

        return timed


class TimedStore(Store):
    """A store whose calls by the driver are timed."""

    def __init__(self, root: str, clock: Clock) -> None:
        super().__init__(root)
        for call in ("done", "read_heartbeat"):
            setattr(self, call, clock.around("store", getattr(self, call)))


class Timed(Executor):
    """Runs jobs in this process, and notes how long each took, with its lock and its files."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.inner = process_pool(0)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run now."""
        began = time.perf_counter()
        future = self.inner.submit(function, *args, **kwargs)
        self.seconds[job_name(args[0])] = time.perf_counter() - began
        return future


def plan(prepared: Prepared, replicates: int, **options: Any) -> list[Job]:
    """The jobs of an instability study."""
    options = {"rewind_iters": REWIND_ITERS, "copies": COPIES, **options}
    return jobs_of(plan_pairs(plan_study(prepared, StudyOptions(replicates=replicates, **options))))


def time_driver(prepared: Prepared, replicates: int, slots: int) -> dict[str, float]:
    """Milliseconds of processor time per job, in all and by part; and how many jobs."""
    clock, jobs, count = Clock(), plan(prepared, replicates), [0]
    add = Graph.add
    with tempfile.TemporaryDirectory() as folder:
        store = TimedStore(folder, clock)
        try:
            Graph.add = clock.around("graph", add)  # type: ignore[method-assign]
            with clock.during("settle"):  # what is left of the whole
                failures = run_jobs(jobs, store, lambda: Instant(clock), slots, lambda p: count.__setitem__(0, p.jobs))
        finally:
            Graph.add = add  # type: ignore[method-assign]
        with clock.during("record"):
            Recorder(store, "instability", "digits", {}, "", None).add(jobs)
    assert not failures
    spent = {part: 1000 * clock.spent[part] / count[0] for part in PARTS}
    return {"jobs": count[0], "slots": slots, **spent, "total": sum(spent.values())}


def measure_rates(prepared: Prepared, folder: Path) -> dict[str, list[float]]:
    """Seconds per unit of cost of the jobs of a small study, by kind."""
    seconds: dict[str, float] = {}
    jobs = plan(prepared, 1)
    store = Store(folder)
    assert not run_jobs(jobs, store, lambda: Timed(seconds), 1)
    found = Graph(jobs, Store(tempfile.mkdtemp())).jobs  # all of them, as that store is empty
    rates: dict[str, list[float]] = {}
    for name, job in found.items():
        rates.setdefault(job.kind, []).append(seconds[name] / job.cost)
    return rates


def simulate(jobs: list[Job], seconds: dict[str, float], workers: int, per_job: float) -> dict[str, float]:
    """A discrete-event simulation of the driver and its workers.

    Args:
        jobs: targets.
        seconds: of every job by name.
        workers: how many.
        per_job: the driver's own seconds for a job; half when it ends, half when it begins.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph = Graph(jobs, Store(folder))
    running: list[tuple[float, str]] = []
    now, work, driver = 0.0, sum(seconds[name] for name in graph.jobs), 0.0
    while graph.jobs:
        while len(running) < workers and (name := graph.take()) is not None:
            now += per_job / 2
            heapq.heappush(running, (now + seconds[name], name))
        ended, name = heapq.heappop(running)
        now = max(now, ended) + per_job / 2  # the driver turns to it when it has time
        driver += per_job
        graph.finish(name)
    return {"workers": workers, "makespan_s": now, "efficiency": work / (workers * now), "driver_busy": driver / now}


def longest_chain(jobs: list[Job], seconds: dict[str, float]) -> float:
    """Seconds below which no number of workers brings a study."""
    with tempfile.TemporaryDirectory() as folder:
        graph = Graph(jobs, Store(folder))
    ends: dict[str, float] = {}
    for name, job in graph.jobs.items():  # inputs first
        ends[name] = seconds[name] + max((ends[job_name(source)] for source in job.inputs), default=0.0)
    return max(ends.values())


def draw(rows: list[dict[str, float]], chain: float, work: float, count: int, path: Path) -> None:
    """Makespan and efficiency over workers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    workers = [row["workers"] for row in rows]
    left.plot(workers, [row["makespan_s"] for row in rows], "o-", label="simulated")
    left.plot(workers, [max(work / n, chain) for n in workers], "k:", label="no driver could be faster")
    left.set(xscale="log", yscale="log", xlabel="workers", ylabel="makespan (s)", title=f"{count:,} jobs")
    left.legend()
    right.plot(workers, [100 * row["efficiency"] for row in rows], "o-", label="workers busy")
    right.plot(workers, [100 * row["driver_busy"] for row in rows], "s--", label="driver busy")
    right.plot(workers, [100 * min(1.0, work / (n * chain)) for n in workers], "k:", label="busy at most")
    right.set(xscale="log", xlabel="workers", ylabel="share of the time (%)", ylim=(0, 105))
    right.legend()
    save_figure(figure, path)


def main() -> None:
    """Measure, simulate, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("figures/driver-cost"), help="folder to write")
    parser.add_argument("--repeats", type=int, default=3, help="how often the driver is timed; the median counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    prepared = prepare(
        get_task("digits-conv"), data_dir=options.data_dir, device="cpu", precision="float32", checkpoint_every=60.0
    )
    costs = []
    print(f"{'jobs':>8}{'slots':>8}" + "".join(f"{part:>10}" for part in (*PARTS, "total")) + "   ms per job")
    for replicates, slots in [*((size, 2) for size in SIZES), (SIZES[-1], 100), (SIZES[-1], 1000)]:
        tries = [time_driver(prepared, replicates, slots) for _ in range(options.repeats)]
        row = sorted(tries, key=lambda one: one["total"])[len(tries) // 2]
        costs.append(row)
        print(f"{row['jobs']:>8}{slots:>8}" + "".join(f"{row[part]:>10.3f}" for part in (*PARTS, "total")), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rates = measure_rates(prepared, Path(folder) / "store")
        jobs = plan(prepared, SIZES[-1])
        graph = Graph(jobs, Store(Path(folder) / "empty"))
    generator = random.Random(0)
    seconds = {name: job.cost * generator.choice(rates[job.kind]) for name, job in graph.jobs.items()}
    work, chain = sum(seconds.values()), longest_chain(jobs, seconds)
    rows = [simulate(jobs, seconds, workers, costs[-1]["total"] / 1000) for workers in WORKERS]
    print(f"\n{graph.count} jobs, {work:.0f} s of work, {work / graph.count:.2f} s each; longest chain {chain:.1f} s")
    for row in rows:
        shown = f"{row['makespan_s']:>12.1f}{100 * row['efficiency']:>12.1f}{100 * row['driver_busy']:>14.2f}"
        print(f"{row['workers']:>8}{shown}")
    _write(options.out / "driver.csv", costs)
    _write(options.out / "schedule.csv", rows)
    draw(rows, chain, work, graph.count, options.out / "schedule")
    about = {
        "command": shlex.join(["python", *("DIR" if word == str(options.data_dir) else word for word in sys.argv)]),
        "jobs": graph.count,
        "work_s": work,
        "longest_chain_s": chain,
        "seconds_per_job_by_kind": {
            kind: sum(seconds[name] for name, job in graph.jobs.items() if job.kind == kind)
            / sum(1 for job in graph.jobs.values() if job.kind == kind)
            for kind in rates
        },
        "measured_jobs": {kind: len(found) for kind, found in rates.items()},
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    (options.out / "about.json").write_text(json.dumps(about, indent=1) + "\n")


def _write(path: Path, rows: list[dict[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
