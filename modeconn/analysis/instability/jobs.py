"""Evaluations of ends and paths as jobs."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from modeconn.analysis.instability.align import AlignJob, read_alignment
from modeconn.analysis.instability.measurement import COUNTS, Measurement, counts_to_json, read_counts
from modeconn.analysis.paths.adaptive import LEAST, count_highest_alphas, screen
from modeconn.analysis.paths.alphas import CANDIDATES, COUNTED, SHARE
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import Line, make_line
from modeconn.execution import Heartbeat, Store
from modeconn.execution.names import job_name
from modeconn.training.jobs import TrainJob, load_state
from modeconn.training.splits import SplitSums
from modeconn.weights.sources import weights_of

PATH = "path.json"  # of an artifact that holds a path
_TOLERANCE = 0.001  # of adaptive alphas: a tenth of a point of error
# In names, so that paths whose alphas were chosen in another way are other artifacts.
_ADAPTIVE = {"adaptive": [CANDIDATES, SHARE, COUNTED, LEAST, _TOLERANCE]}


@dataclass(frozen=True, eq=False, repr=False)
class EvaluateJob:
    """The loss and error of one trained network: an end of paths. Its artifact holds `counts.json`.

    Its facts say at which iteration the training diverged, if it did.
    """

    end: TrainJob
    measurement: Measurement
    cost: float
    label: str = ""

    kind = "evaluation"

    @property
    def inputs(self) -> tuple[TrainJob, ...]:
        """The network."""
        return (self.end,)

    def spec(self) -> dict[str, Any]:
        """The network, and how it is evaluated."""
        how = self.measurement.spec() | self.end.training.measured_spec()
        return {"kind": self.kind, "network": job_name(self.end), **how}

    def run(self, store: Store) -> None:
        """Evaluate, unless the network diverged."""
        artifact = store.require(self.end)
        facts = {"label": self.label, "torch": torch.__version__, "diverged_at": artifact.facts["diverged_at"]}
        if facts["diverged_at"] is not None:
            store.write(self, {}, facts, done=True)
            return
        training = self.end.training
        with training.computing():
            evaluator = self.measurement.evaluator(training)
            counts = counts_to_json(evaluator.measure_end(weights_of(load_state(artifact).model, "the network")))
        if not all(math.isfinite(count["loss_sum"]) for count in counts.values()):
            facts["diverged_at"] = self.end.iteration  # the weights are finite, but what they compute is not
        store.write(self, {COUNTS: _dump(counts)}, facts, done=True)


@dataclass(frozen=True, eq=False, repr=False)
class PathJob:
    """The loss and error between two trained networks, without the ends. Its artifact holds `path.json`.

    Attributes:
        alphas: between the ends; or `"adaptive"`, for each split those where the error may be highest; see
            `modeconn.analysis.paths.adaptive.count_highest_alphas`.
        ends: the ends as they were measured, which adaptive alphas are compared with; else none.
        align: finds the order of b's units in which the path ends; None for the order that they have. The end itself
            computes the same in either.
    """

    a: TrainJob
    b: TrainJob
    alphas: tuple[float, ...] | str
    measurement: Measurement
    cost: float
    label: str = ""
    ends: tuple[EvaluateJob, ...] = ()
    align: AlignJob | None = None

    kind = "path"

    @property
    def inputs(self) -> tuple[TrainJob | EvaluateJob | AlignJob, ...]:
        """The two networks, their alignment, and the measurements of them that are needed."""
        return self.a, self.b, *([self.align] if self.align else []), *self.ends

    def spec(self) -> dict[str, Any]:
        """The two networks, the alphas between them, and how they are measured."""
        ends = {"a": job_name(self.a), "b": job_name(self.b)}
        how = self.measurement.spec() | self.a.training.measured_spec()
        alphas = _ADAPTIVE if isinstance(self.alphas, str) else list(self.alphas)
        aligned = {"alignment": job_name(self.align)} if self.align else {}
        return {"kind": self.kind, **ends, "alphas": alphas, **how, **aligned}

    def run(self, store: Store) -> None:
        """Measure the path, unless an end diverged."""
        artifacts = [store.require(end) for end in (self.a, self.b)]
        if any(artifact.facts["diverged_at"] is not None for artifact in artifacts):
            store.write(self, {}, {"label": self.label, "torch": torch.__version__}, done=True)
            return
        device = torch.device(self.a.training.device)
        a, b = ({name: t.to(device) for name, t in load_state(artifact).model.items()} for artifact in artifacts)
        alignment = read_alignment(store, self.align) if self.align else None
        b = alignment.apply(b) if alignment else b
        with self.a.training.computing():
            evaluator = self.measurement.evaluator(self.a.training)
            parameters = [name for name, _ in evaluator.network.named_parameters()]
            line = make_line(weights_of(a, "a"), weights_of(b, "b"), parameters)
            heartbeat = Heartbeat(store, self)
            if isinstance(self.alphas, str):
                ends = [read_counts(store.require(end).json(COUNTS)) for end in self.ends]
                points, notes = _adaptive(evaluator, line, ends, heartbeat)
            else:
                points, notes = {}, ()
                for index, alpha in enumerate(self.alphas):
                    points[alpha] = counts_to_json(evaluator.measure_at(line, alpha))
                    heartbeat((index + 1) / len(self.alphas))
        content = {
            "alphas": list(points),
            "points": list(points.values()),
            "l2_distance": line.distance.l2,
            "notes": [*line.notes, *notes],
        }
        facts = {"label": self.label, "torch": torch.__version__}
        store.write(self, {PATH: _dump(content)}, facts, done=True)


@dataclass(frozen=True, eq=False, repr=False)
class PathJobs:
    """The jobs that measure a path: its two ends, and what is between."""

    ends: tuple[EvaluateJob, EvaluateJob]
    path: PathJob

    @property
    def jobs(self) -> tuple[EvaluateJob, EvaluateJob, PathJob]:
        """All three."""
        return *self.ends, self.path


def path_jobs(
    a: TrainJob,
    b: TrainJob,
    alphas: tuple[float, ...] | str,
    measurement: Measurement,
    examples: dict[str, int],
    splits: tuple[str, ...] = (),
    align: AlignJob | None = None,
) -> PathJobs:
    """The jobs that measure the path between two networks.

    Args:
        a, b: the networks.
        alphas: ascending from 0 to 1, or `"adaptive"`.
        measurement: at every alpha. Repaired networks lie between two others, which are themselves as they are.
        examples: of each split.
        splits: that the ends are measured on, if on more than the path, so that each is measured once.
        align: finds the order of b's units in which the path ends.
    """
    calibration = None if measurement.repair else measurement.calibration
    at_ends = Measurement(splits or measurement.splits, calibration)
    first, last = (evaluation(end, at_ends, examples) for end in (a, b))
    label = f"path between {a.label} and {b.label}{measurement.word}{', aligned' if align else ''}"
    if isinstance(alphas, str):
        cost = measurement.cost(examples) * (CANDIDATES * SHARE + COUNTED - 2)
        return PathJobs((first, last), PathJob(a, b, alphas, measurement, cost, label, (first, last), align))
    inner = alphas[1:-1]
    cost = measurement.cost(examples) * len(inner)
    return PathJobs((first, last), PathJob(a, b, inner, measurement, cost, label, align=align))


def evaluation(end: TrainJob, measurement: Measurement, examples: dict[str, int]) -> EvaluateJob:
    """The job that measures one network."""
    return EvaluateJob(end, measurement, measurement.cost(examples), f"end of {end.label}{measurement.word}")


def _adaptive(
    evaluator: PathEvaluator, line: Line, ends: list[dict[str, SplitSums]], heartbeat: Callable[[float], None]
) -> tuple[dict[float, dict[str, Any]], tuple[str, ...]]:
    """The counts between the ends, by alpha, then split, where the error may be highest on that split; and notes."""
    points: dict[float, dict[str, Any]] = {}
    notes: dict[str, None] = {}
    for split, data in evaluator.data.items():
        of_split = replace(evaluator, data={split: data})

        def count(alpha: float, split: str = split, of_split: PathEvaluator = of_split) -> float:
            counted = of_split.measure_at(line, alpha)
            points.setdefault(alpha, {}).update(counts_to_json(counted))
            heartbeat(min(1.0, sum(map(len, points.values())) / (len(evaluator.data) * COUNTED)))
            return counted[split].mean("error")

        values = {float(alpha): end[split].error for alpha, end in enumerate(ends)}
        examples = ends[0][split].examples
        found = count_highest_alphas(
            screen(of_split, split, examples), line, split, "error", values, count, tolerance=_TOLERANCE
        )
        notes |= dict.fromkeys(f"{split} data: {note}" for note in found)
    return dict(sorted(points.items())), tuple(notes)


def _dump(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()
