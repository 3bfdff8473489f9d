"""Measure a landscape, and make a `Plane` of it: the part that all kinds share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modeconn.analysis.landscape.planes.frame import Frame
from modeconn.analysis.landscape.planes.grid import check_number, check_points, grid
from modeconn.analysis.landscape.planes.measuring import Measuring, check_workers, measuring
from modeconn.analysis.landscape.planes.places import Axis, Place
from modeconn.analysis.landscape.planes.plane_result import Plane
from modeconn.analysis.landscape.planes.refine import refine
from modeconn.analysis.landscape.planes.surface import Basis, Reopenable, Surface
from modeconn.errors import OptionError
from modeconn.evaluation.modes import running_statistics_layers
from modeconn.options import require, whole_number
from modeconn.progress import Report, silent
from modeconn.result import count


@dataclass(frozen=True, eq=False)
class Points:
    """Which points are measured, and how; checked.

    Raises:
        OptionError: what cannot be used, whatever the networks and the data are.
    """

    points: int | Sequence[int]
    axes: int = 2
    margin: float = 0.0
    refine: int = 0
    checkpoint: str | Path | None = None
    workers: int = 0
    report: Report = silent
    counts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", check_points(self.points, self.axes))
        check_number(self.margin, "margin", 0.0)
        whole_number(self.refine, 0, "refine must be a whole number, how many further points")
        if self.refine and self.axes == 1:
            raise OptionError("refine= is for planes; on a line, take more points=")
        object.__setattr__(self, "workers", check_workers(self.workers))
        require(isinstance(self.checkpoint, str | Path | None), "checkpoint must be the path of a folder")


@dataclass(frozen=True, eq=False)
class Landscape:
    """What is measured: a frame around networks, and who is shown in it.

    Attributes:
        kind: of the result.
        frame: the coordinates.
        extent: from where to where, along each axis.
        own: networks of the basis that are measured at themselves, by name, with their coordinates.
        projected: further networks, not measured.
        axes: names of the axes and what they explain.
        notes: what was decided.
        settings: further ones; JSON.
    """

    kind: str
    frame: Frame
    extent: Sequence[tuple[float, float]]
    own: Mapping[str, tuple[float, ...]]
    projected: Sequence[Place] = ()
    axes: Sequence[tuple[str, float]] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def measure_landscape(landscape: Landscape, surface: Surface, given: Reopenable, basis: Basis, asked: Points) -> Plane:
    """Measure the networks, the grid and further points, and make the result.

    Raises:
        ModeconnError: as `modeconn.analysis.landscape.planes.measuring.measuring`.
    """
    frame, comparison = landscape.frame, surface.comparison
    at = grid(landscape.extent, asked.counts)
    total = len(landscape.own) + len(at) + asked.refine
    how: dict[str, Any] = {"checkpoint": asked.checkpoint, "workers": asked.workers, "report": asked.report}
    with measuring(surface, given, basis, total=total, **how) as measure:
        at_networks = measure([frame.coefficients(place) for place in landscape.own.values()])
        names = list(at_networks[0])
        bending = "loss" if "loss" in names else names[0]  # an error has steps, which say nothing about bends
        rows, undefined = _measure_defined(measure, frame, at, names)
        values = {name: np.array([row[name] for row in rows]) for name in names}
        if asked.refine:

            def further(points: np.ndarray) -> np.ndarray:
                nonlocal undefined, values
                more, missing = _measure_defined(measure, frame, points, names, further=True)
                undefined += missing
                values = {name: np.append(of, [row[name] for row in more]) for name, of in values.items()}
                return np.array([row[bending] for row in more])

            at, _ = refine(at, values[bending], asked.refine, further)
    notes = [*_about_statistics(landscape, surface), *landscape.notes, *measure.noticed]
    if undefined:
        notes.append(
            f"{count(undefined, 'point')} outside the networks would have running variances below 0, which no network "
            'has; they are not measured (NaN in the files, grey in pictures). batchnorm="recalibrate" measures them'
        )
    for name in names:
        bad = int((~np.isfinite(values[name])).sum()) - undefined
        if bad > 0:
            notes.append(f"{name} is not finite at {count(bad, 'point')}")
    return Plane(
        kind=landscape.kind,
        x=at[:, 0],
        y=at[:, 1] if asked.axes == 2 else np.full(len(at), np.nan),
        shape=asked.counts,
        values=values,
        metric="error" if "error" in names else names[0],
        places=(*_own(landscape, at_networks), *landscape.projected),
        axes=tuple(
            Axis(name, length, explained)
            for (name, explained), length in zip(landscape.axes, frame.lengths, strict=True)
        ),
        cosine=frame.cosine,
        batchnorm=comparison.evaluator.batchnorm,
        notes=tuple(dict.fromkeys(notes)),
        settings=comparison.settings | {"examples": next(iter(measure.examples))} | dict(landscape.settings),
    )


def _measure_defined(
    measure: Measuring, frame: Frame, at: np.ndarray, names: Sequence[str], further: bool = False
) -> tuple[list[dict[str, float]], int]:
    """Each metric at the points, NaN where the weights are those of no network; and how many these are."""
    coefficients = np.array([frame.coefficients(place) for place in at])
    undefined = measure.surface.is_undefined(coefficients)
    asked = [tuple(map(float, one)) for one in coefficients[~undefined]]
    defined = iter(measure(asked, further) if asked else [])
    nowhere = dict.fromkeys(names, float("nan"))
    return [nowhere if missing else next(defined) for missing in undefined], int(undefined.sum())


def _about_statistics(landscape: Landscape, surface: Surface) -> list[str]:
    """The comparison's notes, with what becomes of running statistics said of points instead of paths."""
    comparison = surface.comparison
    layers = len(running_statistics_layers(comparison.evaluator.network))
    statistics = f"running statistics of {count(layers, 'layer')} are"
    said = {
        "interpolate": f"{statistics} interpolated like weights, and extrapolated beyond the networks; hills can come "
        'from them alone: compare with batchnorm="recalibrate"'
        if landscape.frame.affine
        else f"{statistics} those of the network at every point, though other weights have others; hills can come from "
        'them alone: compare with batchnorm="recalibrate"',
        "recalibrate": f"{statistics} measured anew on the calibration data at every point, networks included",
    }
    notes = [note for note in comparison.decided if not note.startswith("running statistics of ")]
    return [*notes, *([said[comparison.evaluator.batchnorm]] if comparison.evaluator.batchnorm in said else [])]


def _own(landscape: Landscape, values: Sequence[Mapping[str, float]]) -> list[Place]:
    return [
        Place(name, place[0], place[1] if len(place) == 2 else float("nan"), 0.0, "", dict(of))
        for (name, place), of in zip(landscape.own.items(), values, strict=True)
    ]
