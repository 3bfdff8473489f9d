"""Measure points of a landscape, each once: in this process or by workers, and kept so that a stop loses little."""

import contextlib
import functools
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from modeconn.analysis.connectivity.curve import report_points
from modeconn.analysis.landscape.planes.fingerprint import fingerprint_of
from modeconn.analysis.landscape.planes.surface import Basis, Reopenable, Surface, open_surface
from modeconn.errors import DataError, OptionError
from modeconn.evaluation.compute import computing
from modeconn.evaluation.measure import device_of
from modeconn.execution import Heartbeat, Store, choose_engine, process_pool, run_jobs, visible_gpus
from modeconn.progress import Report
from modeconn.result import json_text

_CHUNK = 8  # points that one job measures: a stop loses at most the work of so many
_FEW = 2  # of those that are chosen by what was measured before, and are as many as workers can share
_POINTS = "points.json"
Opener = Callable[[], contextlib.AbstractContextManager[Surface]]


@dataclass(frozen=True, eq=False)
class Measuring:
    """How points are measured, and where they are kept.

    Attributes:
        surface: opened in this process.
        report: called as points are done.
        point_done: called after each point that is measured here.
        kept: where points are kept; None to keep none.
        noticed: notes on what was noticed, as keys.
        examples: over how many a point is measured, as a key.
    """

    surface: Surface
    report: Report
    point_done: Callable[[], None]
    kept: "Kept | None" = None
    noticed: dict[str, None] = field(default_factory=dict)
    examples: dict[int, None] = field(default_factory=dict)

    def __call__(self, coefficients: Sequence[Sequence[float]], further: bool = False) -> list[dict[str, float]]:
        """Each metric at each point, in their order.

        Args:
            coefficients: of each point, of the basis.
            further: whether they are a few that were chosen by what was measured before.

        Raises:
            DataError: the caller's own `evaluate` gives other metrics at one point than at another.
            ModeconnError: whatever a worker raised.
        """
        found = self._here(coefficients) if self.kept is None else self._by_jobs(self.kept, coefficients, further)
        if any(one.keys() != found[0].keys() for one in found):
            raise DataError("evaluate gave other metrics at one point than at another")
        if len(self.examples) > 1:
            raise DataError("evaluate gave another number of examples at one point than at another")
        self.noticed.update(dict.fromkeys(self.surface.comparison.evaluator.notes))
        return found

    def _here(self, coefficients: Sequence[Sequence[float]]) -> list[dict[str, float]]:
        found = []
        for point in coefficients:
            values, examples = self.surface.measure(point)
            found.append(values)
            self.examples[examples] = None
            self.point_done()
        return found

    def _by_jobs(self, kept: "Kept", coefficients: Sequence[Sequence[float]], further: bool) -> list[dict[str, float]]:
        each = _FEW if further else _CHUNK
        jobs = [
            PointsJob(tuple(map(tuple, coefficients[at : at + each])), kept.opened, kept.about)
            for at in range(0, len(coefficients), each)
        ]
        engine = choose_engine(kept.executors(), kept.workers or None, ()) if kept.workers else choose_engine(workers=0)
        failed = run_jobs(jobs, kept.store, engine.make, engine.slots, self.report)
        if failed:
            raise next(iter(failed.values()))
        found: list[dict[str, float]] = []
        for job in jobs:
            content = kept.store.require(job).json(_POINTS)
            found += [{name: float("nan" if v is None else v) for name, v in one.items()} for one in content["values"]]
            self.noticed.update(dict.fromkeys(content["notes"]))
            self.examples.update(dict.fromkeys(content["examples"]))
        return found


@dataclass(frozen=True, eq=False)
class Kept:
    """Where points are kept, and who measures them.

    Attributes:
        store: of the points.
        opened: gives the surface where a job runs.
        about: what decides the values besides the coefficients, as JSON.
        workers: processes; 0 for this one.
        gpus: that they are pinned to.
    """

    store: Store
    opened: Opener
    about: Mapping[str, Any]
    workers: int = 0
    gpus: tuple[str, ...] = ()

    def executors(self) -> Callable[[], Executor]:
        """Gives the same pool again and again, and a new one when it broke: a pool takes seconds to start."""
        asked = 0

        def make() -> Executor:
            nonlocal asked
            asked += 1
            if asked > 1:
                self.close()
            return _Borrowed(self._pool)

        return make

    def close(self) -> None:
        """End the workers."""
        if "_pool" in vars(self):
            self._pool.shutdown(wait=False, cancel_futures=True)
            del vars(self)["_pool"]

    @functools.cached_property
    def _pool(self) -> Executor:
        return process_pool(self.workers, self.gpus)


class _Borrowed(Executor):
    """A pool that outlives those who submit to it."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._max_workers = getattr(pool, "_max_workers", None)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submit to the pool."""
        return self._pool.submit(function, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the pool to its owner."""

    def kill(self) -> None:
        """End the pool's workers at once."""
        getattr(self._pool, "kill", self._pool.shutdown)()


@dataclass(frozen=True, eq=False, repr=False)
class PointsJob:
    """Each metric at some points of a landscape, by their coefficients. Its artifact holds `points.json`."""

    points: tuple[tuple[float, ...], ...]
    opened: Opener
    about: Mapping[str, Any]

    kind = "landscape"
    inputs = ()

    @property
    def label(self) -> str:
        """How many they are."""
        return f"{len(self.points)} points of a landscape"

    @property
    def cost(self) -> float:
        """One for each point."""
        return float(len(self.points))

    def spec(self) -> dict[str, Any]:
        """The points, and all that decides what is measured there, by its content."""
        return {"kind": self.kind, "points": [list(point) for point in self.points], **self.about}

    def run(self, store: Store) -> None:
        """Measure them."""
        heartbeat, values, counted = Heartbeat(store, self), [], set()
        with self.opened() as surface, _as_a_job(surface):
            for done, point in enumerate(self.points, start=1):
                found, examples = surface.measure(point)
                values.append(found)
                counted.add(examples)
                heartbeat(done / len(self.points))
            content = {
                "values": values,
                "examples": sorted(counted),
                "notes": list(surface.comparison.evaluator.notes),
            }
        facts = {"label": self.label, "torch": torch.__version__}
        store.write(self, {_POINTS: json_text(content, indent=1).encode()}, facts, done=True)


def _as_a_job(surface: Surface) -> contextlib.AbstractContextManager[None]:
    """One thread, as all jobs have: sums depend on how many there are."""
    evaluator = surface.comparison.evaluator
    return computing(device_of(evaluator.network), evaluator.precision)


@contextlib.contextmanager
def measuring(
    surface: Surface,
    given: Reopenable,
    basis: Basis,
    *,
    total: int,
    checkpoint: str | Path | None,
    workers: int,
    report: Report,
) -> Iterator[Measuring]:
    """How the points of a surface are measured, once networks, data and options are seen to allow it.

    Args:
        surface: opened in this process.
        given, basis: open the same in another one.
        total: how many points there will be.
        checkpoint: folder of a store that keeps them; None to keep none.
        workers: processes; 0 for this one.
        report: called as points are done.

    Raises:
        OptionError: workers that networks or data cannot be sent to.
        StoreError: the folder cannot be used.
    """
    point_done = report_points(report, total)
    if checkpoint is None and not workers:
        yield Measuring(surface, report, point_done)
        return
    opened: Opener = lambda: contextlib.nullcontext(surface)  # noqa: E731
    if workers:
        opened = functools.partial(open_surface, given, basis)
        _check_sendable(opened)
    with contextlib.ExitStack() as stack:
        folder = checkpoint if checkpoint is not None else stack.enter_context(tempfile.TemporaryDirectory())
        about = fingerprint_of(surface.comparison, surface.basis)
        kept = Kept(Store(folder), opened, about, workers, _gpus(surface) if workers else ())
        stack.callback(kept.close)
        yield Measuring(surface, report, point_done, kept)


def check_workers(workers: Any) -> int:
    """How many processes measure.

    Raises:
        OptionError: no such number.
    """
    if not isinstance(workers, Integral) or isinstance(workers, bool) or workers < 0:
        raise OptionError(f"workers must be a whole number, not negative; got {workers!r}")
    choose_engine(workers=int(workers))
    return int(workers)


def _gpus(surface: Surface) -> tuple[str, ...]:
    if surface.comparison.settings["device"] != "cuda":
        return ()
    return visible_gpus(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def _check_sendable(opened: Opener) -> None:
    try:
        pickle.dumps(opened)
    except Exception as error:
        raise OptionError(
            f"workers= are other processes, and what was given cannot be sent to them ({error}); give files and data "
            "that can be pickled, or workers=0"
        ) from error
