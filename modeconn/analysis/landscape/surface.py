"""Measure points of a landscape, each once: in this process or by workers, and kept so that a stop loses little."""

import contextlib
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeconn.analysis.connectivity.comparison import Comparison, open_comparison
from modeconn.analysis.connectivity.curve import main_metric, report_points
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.analysis.landscape.fingerprint import fingerprint_of
from modeconn.analysis.paths.combination import combination
from modeconn.errors import DataError, OptionError
from modeconn.evaluation.modes import running_statistics_layers
from modeconn.execution import Heartbeat, Store, choose_engine, run_jobs, visible_gpus
from modeconn.progress import Report
from modeconn.result import json_text
from modeconn.weights.state_dicts import Weights

_CHUNK = 8  # points that one job measures: a stop loses at most the work of so many
_POINTS = "points.json"
Basis = Callable[[Comparison], tuple[Weights, ...]]
Reopenable = Callable[[], "Given"]  # gives the same in another process, too


@dataclass(frozen=True, eq=False)
class Given:
    """Networks, data and options as they were given, or what makes them anew in another process.

    Attributes:
        sources: the networks.
        data: what is measured on.
        how: fields of `ComparisonOptions`.
    """

    sources: Sequence[Source]
    data: Any
    how: OptionKeywords


@dataclass(frozen=True, eq=False)
class Surface:
    """Weights at any linear combination of a basis, and what is measured there."""

    comparison: Comparison
    basis: tuple[Weights, ...]

    def measure(self, coefficients: Sequence[float]) -> tuple[dict[str, float], int]:
        """Each metric at a point, and over how many examples; a network of the basis is measured as what it is."""
        point = combination(self.basis, coefficients, "a point of the landscape")
        measured = self.comparison.measure_end(point)
        found = {name: measured.mean(name) for name in measured.sums}
        if self.comparison.evaluator.meter.perplexity:
            with np.errstate(over="ignore"):
                found["perplexity"] = float(np.exp(found["loss"]))
        return found, len(measured.sums[main_metric(measured)])

    def is_undefined(self, coefficients: np.ndarray) -> np.ndarray:
        """At which points a running variance would be below 0, bool [points]; nowhere if they are measured anew.

        Beyond the networks, variances are extrapolated like weights.
        """
        undefined = np.zeros(len(coefficients), dtype=bool)
        if self.comparison.evaluator.batchnorm != "interpolate":
            return undefined
        for layer in running_statistics_layers(self.comparison.evaluator.network).values():
            name = f"{layer}.running_var" if layer else "running_var"
            if name in self.basis[0].layout:
                of_basis = np.stack([one.read(name).double().cpu().numpy().reshape(-1) for one in self.basis])
                undefined |= (coefficients @ of_basis < 0).any(axis=1)
        return undefined


@dataclass(frozen=True, eq=False)
class Measuring:
    """How points are measured, and where they are kept.

    Attributes:
        surface: opened in this process.
        report: called as points are done.
        total: how many there will be.
        store: where points are kept; None to keep none.
        workers: processes; 0 for this one.
        reopen: opens the same surface in another process.
        about: what decides the values besides the coefficients, as JSON.
        noticed: notes on what was noticed, as keys.
        examples: over how many a point is measured, as a key.
    """

    surface: Surface
    report: Report
    total: int
    store: Store | None = None
    workers: int = 0
    reopen: Callable[[], contextlib.AbstractContextManager[Surface]] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    noticed: dict[str, None] = field(default_factory=dict)
    examples: dict[int, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_point_done", report_points(self.report, self.total))

    def __call__(self, coefficients: Sequence[Sequence[float]]) -> list[dict[str, float]]:
        """Each metric at each point, in their order.

        Raises:
            DataError: the caller's own `evaluate` gives other metrics at one point than at another.
            ModeconnError: whatever a worker raised.
        """
        if self.store is None:
            found = []
            for point in coefficients:
                values, examples = self.surface.measure(point)
                found.append(values)
                self.examples[examples] = None
                self._point_done()  # type: ignore[attr-defined]
        else:
            found = self._kept(coefficients)
        if any(one.keys() != found[0].keys() for one in found):
            raise DataError("evaluate gave other metrics at one point than at another")
        if len(self.examples) > 1:
            raise DataError("evaluate gave another number of examples at one point than at another")
        self.noticed.update(dict.fromkeys(self.surface.comparison.evaluator.notes))
        return found

    def _kept(self, coefficients: Sequence[Sequence[float]]) -> list[dict[str, float]]:
        assert self.store is not None
        here = self.reopen if self.workers else _Opened(self.surface)
        assert here is not None
        jobs = [
            PointsJob(tuple(map(tuple, points)), here, self.about)
            for points in (coefficients[at : at + _CHUNK] for at in range(0, len(coefficients), _CHUNK))
        ]
        engine = choose_engine(workers=self.workers, gpus=_gpus(self.surface) if self.workers else ())
        failed = run_jobs(jobs, self.store, engine.make, engine.slots, self.report)
        if failed:
            raise next(iter(failed.values()))
        found: list[dict[str, float]] = []
        for job in jobs:
            content = self.store.require(job).json(_POINTS)
            found += [{name: float("nan" if v is None else v) for name, v in one.items()} for one in content["values"]]
            self.noticed.update(dict.fromkeys(content["notes"]))
            self.examples.update(dict.fromkeys(content["examples"]))
        return found


@dataclass(frozen=True, eq=False, repr=False)
class PointsJob:
    """Each metric at some points of a landscape, by their coefficients. Its artifact holds `points.json`."""

    points: tuple[tuple[float, ...], ...]
    opened: Callable[[], contextlib.AbstractContextManager[Surface]]
    about: Mapping[str, Any]

    kind = "landscape"
    inputs = ()

    @property
    def label(self) -> str:
        """Where they are."""
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
        with self.opened() as surface:
            for done, point in enumerate(self.points, start=1):
                found, examples = surface.measure(point)
                values.append(found)
                counted.add(examples)
                heartbeat(done / len(self.points))
            content = {"values": values, "examples": sorted(counted), "notes": list(surface.comparison.evaluator.notes)}
        facts = {"label": self.label, "torch": torch.__version__}
        store.write(self, {_POINTS: json_text(content, indent=1).encode()}, facts, done=True)


@contextlib.contextmanager
def open_surface(given: Reopenable, basis: Basis) -> Iterator[Surface]:
    """Open networks and data, and what spans the landscape around them."""
    found = given()
    with open_comparison(found.sources, found.data, ComparisonOptions(**found.how)) as comparison:
        yield Surface(comparison, basis(comparison))


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
    if checkpoint is None and not workers:
        yield Measuring(surface, report, total)
        return
    reopen = Reopen(given, basis)
    if workers:
        _check_sendable(reopen)
    with contextlib.ExitStack() as stack:
        folder = checkpoint if checkpoint is not None else stack.enter_context(tempfile.TemporaryDirectory())
        about = fingerprint_of(surface.comparison, surface.basis)
        yield Measuring(surface, report, total, Store(folder), workers, reopen, about)


@dataclass(frozen=True, eq=False)
class Reopen:
    """Opens a surface anew."""

    given: Reopenable
    basis: Basis

    def __call__(self) -> contextlib.AbstractContextManager[Surface]:
        """The surface, as a context."""
        return open_surface(self.given, self.basis)


@dataclass(frozen=True, eq=False)
class _Opened:
    """A surface that is open already."""

    surface: Surface

    def __call__(self) -> contextlib.AbstractContextManager[Surface]:
        return contextlib.nullcontext(self.surface)


@dataclass(frozen=True, eq=False)
class AsGiven:
    """Networks, data and options as they are."""

    given: Given

    def __call__(self) -> Given:
        """The same."""
        return self.given


def check_workers(workers: Any) -> int:
    """How many processes measure.

    Raises:
        OptionError: no such number.
    """
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        raise OptionError(f"workers must be a whole number, not negative; got {workers!r}")
    return workers


def _gpus(surface: Surface) -> tuple[str, ...]:
    if surface.comparison.settings["device"] != "cuda":
        return ()
    return visible_gpus(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def _check_sendable(reopen: Reopen) -> None:
    try:
        pickle.dumps(reopen)
    except Exception as error:
        raise OptionError(
            f"workers= are other processes, and what was given cannot be sent to them ({error}); give files and data "
            "that can be pickled, or workers=0"
        ) from error
