"""Evaluations of ends and paths as jobs."""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from modeconn.analysis.paths.adaptive import LEAST, count_highest_alphas
from modeconn.analysis.paths.alphas import CANDIDATES, COUNTED, SHARE
from modeconn.analysis.paths.barrier import barrier_heights
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import Line, load_weights, make_line
from modeconn.evaluation.measure import Measured
from modeconn.execution import Store
from modeconn.execution.names import job_name
from modeconn.training.jobs import TrainJob, load_state
from modeconn.training.protocol import Training
from modeconn.training.splits import Counts
from modeconn.weights.sources import weights_of

_HEARTBEAT = 1.0  # seconds
_TOLERANCE = 0.001  # of adaptive alphas: a tenth of a point of error


@dataclass(frozen=True)
class Measurement:
    """How a network is measured.

    Attributes:
        splits: among `"test"` and `"train"`.
        calibration: how many training examples statistics are taken on before a measurement; None to use the
            network's own running statistics.
        repair: whether these statistics are those of all hidden channels between the ends, as in REPAIR; else they
            are BatchNorm's.
    """

    splits: tuple[str, ...]
    calibration: int | None
    repair: bool = False

    def spec(self) -> dict[str, Any]:
        """For names."""
        repair = {"repair": True} if self.repair else {}
        return {"splits": sorted(self.splits), "calibration": self.calibration, **repair}

    @property
    def batchnorm(self) -> str:
        """In the words of `modeconn.error_barrier`; without calibration, statistics are weights like any other."""
        return "none" if self.calibration is None else "repair" if self.repair else "recalibrate"

    @property
    def word(self) -> str:
        """For labels, which would else be the same for what is measured twice."""
        return "" if self.calibration is None else ", repaired" if self.repair else ", recalibrated"

    def cost(self, data_sizes: dict[str, int]) -> float:
        """Images passed forward."""
        return sum(data_sizes[split] for split in self.splits) + (self.calibration or 0)


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
        """What is evaluated, and how."""
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
            evaluator = _evaluator(training, self.measurement)
            load_weights(evaluator.network, weights_of(load_state(artifact).model, "the network"))
            counts = _counts(evaluator.measure())
        if not all(math.isfinite(count["loss_sum"]) for count in counts.values()):
            facts["diverged_at"] = self.end.iteration  # the weights are finite, but what they compute is not
        store.write(self, {"counts.json": _dump(counts)}, facts, done=True)


@dataclass(frozen=True, eq=False, repr=False)
class PathJob:
    """The loss and error between two trained networks, without the ends. Its artifact holds `path.json`.

    Attributes:
        alphas: between the ends; or `"adaptive"`, for each split those where the error may be highest; see
            `modeconn.analysis.paths.adaptive.count_highest_alphas`.
        ends: the ends as they were measured, which adaptive alphas are compared with; else none.
    """

    a: TrainJob
    b: TrainJob
    alphas: tuple[float, ...] | str
    measurement: Measurement
    cost: float
    label: str = ""
    ends: tuple[EvaluateJob, ...] = ()

    kind = "path"

    @property
    def inputs(self) -> tuple[TrainJob | EvaluateJob, ...]:
        """The two networks, and the measurements of them that are needed."""
        return self.a, self.b, *self.ends

    def spec(self) -> dict[str, Any]:
        """What is between which networks, and how it is measured."""
        ends = {"a": job_name(self.a), "b": job_name(self.b)}
        how = self.measurement.spec() | self.a.training.measured_spec()
        alphas = _ADAPTIVE if isinstance(self.alphas, str) else list(self.alphas)
        return {"kind": self.kind, **ends, "alphas": alphas, **how}

    def run(self, store: Store) -> None:
        """Walk the path, unless an end diverged."""
        artifacts = [store.require(end) for end in (self.a, self.b)]
        if any(artifact.facts["diverged_at"] is not None for artifact in artifacts):
            store.write(self, {}, {"label": self.label, "torch": torch.__version__}, done=True)
            return
        device = torch.device(self.a.training.device)
        a, b = ({name: t.to(device) for name, t in load_state(artifact).model.items()} for artifact in artifacts)
        with self.a.training.computing():
            evaluator = _evaluator(self.a.training, self.measurement)
            parameters = [name for name, _ in evaluator.network.named_parameters()]
            line = make_line(weights_of(a, "a"), weights_of(b, "b"), parameters)
            beat = _heartbeat(store, self)
            if isinstance(self.alphas, str):
                ends = [read_counts(store.require(end).json("counts.json")) for end in self.ends]
                points, notes = _adaptive(evaluator, line, ends, beat)
            else:
                points, notes = {}, ()
                for index, alpha in enumerate(self.alphas):
                    points[alpha] = _counts(evaluator.measure_at(line, alpha))
                    beat((index + 1) / len(self.alphas))
        content = {
            "alphas": list(points),
            "points": list(points.values()),
            "l2_distance": line.distance.l2,
            "notes": [*line.notes, *notes],
        }
        facts = {"label": self.label, "torch": torch.__version__}
        store.write(self, {"path.json": _dump(content)}, facts, done=True)


@dataclass(frozen=True, eq=False, repr=False)
class PathJobs:
    """The jobs that measure a path: its two ends, and what is between."""

    ends: tuple[EvaluateJob, EvaluateJob]
    path: PathJob

    @property
    def jobs(self) -> tuple[EvaluateJob, EvaluateJob, PathJob]:
        """All three."""
        return *self.ends, self.path


@dataclass(frozen=True, eq=False)
class Curve:
    """What was measured of a path.

    Attributes:
        alphas: by split, ends included.
        counts: by split, one for each alpha.
        l2_distance: of the ends.
        notes: on what was decided on the way.
    """

    alphas: dict[str, tuple[float, ...]]
    counts: dict[str, list[Counts]]
    l2_distance: float
    notes: tuple[str, ...]


def path_jobs(
    a: TrainJob,
    b: TrainJob,
    alphas: tuple[float, ...] | str,
    measurement: Measurement,
    examples: dict[str, int],
    splits: tuple[str, ...] = (),
) -> PathJobs:
    """The jobs that measure the path between two networks.

    Args:
        a, b: the networks.
        alphas: ascending from 0 to 1, or `"adaptive"`.
        measurement: at every alpha. Repaired networks lie between two others, which are themselves as they are.
        examples: of each split.
        splits: that the ends are measured on, if on more than the path, so that each is measured once.
    """
    calibration = None if measurement.repair else measurement.calibration
    at_ends = Measurement(splits or measurement.splits, calibration)
    first, last = (evaluation(end, at_ends, examples) for end in (a, b))
    label = f"path between {a.label} and {b.label}{measurement.word}"
    if isinstance(alphas, str):
        cost = measurement.cost(examples) * (CANDIDATES * SHARE + COUNTED - 2)
        return PathJobs((first, last), PathJob(a, b, alphas, measurement, cost, label, (first, last)))
    inner = alphas[1:-1]
    return PathJobs((first, last), PathJob(a, b, inner, measurement, measurement.cost(examples) * len(inner), label))


def evaluation(end: TrainJob, measurement: Measurement, examples: dict[str, int]) -> EvaluateJob:
    """The job that measures one network."""
    return EvaluateJob(end, measurement, measurement.cost(examples), f"end of {end.label}{measurement.word}")


def read_curve(store: Store, path_jobs: PathJobs) -> Curve | None:
    """What the jobs measured; None if an end diverged.

    Raises:
        CorruptArtifact: they are not finished, or damaged.
    """
    evaluations = [store.require(end) for end in path_jobs.ends]
    if any(evaluation.facts["diverged_at"] is not None for evaluation in evaluations):
        return None
    content = store.require(path_jobs.path).json("path.json")
    first, last = (read_counts(evaluation.json("counts.json")) for evaluation in evaluations)
    points = list(zip([0.0, *content["alphas"], 1.0], [first, *map(read_counts, content["points"]), last], strict=True))
    splits = path_jobs.path.measurement.splits
    return Curve(
        alphas={split: tuple(alpha for alpha, point in points if split in point) for split in splits},
        counts={split: [point[split] for _, point in points if split in point] for split in splits},
        l2_distance=content["l2_distance"],
        notes=tuple(content["notes"]),
    )


def mean_barrier(store: Store, paths: Iterable[PathJobs], split: str) -> float:
    """The mean error barrier of measured paths on a split; NaN for no paths, or if an end diverged."""
    heights = []
    for path in paths:
        curve = read_curve(store, path)
        if curve is None or split not in curve.counts:
            return math.nan
        heights.append(barrier_heights(curve.alphas[split], [counts.error for counts in curve.counts[split]]).barrier)
    return sum(heights) / len(heights) if heights else math.nan


def read_counts(content: dict[str, Any]) -> dict[str, Counts]:
    """What was written of one measurement, by split."""
    return {split: Counts(**counts) for split, counts in content.items()}


# In names, so that paths whose alphas were chosen in another way are other artifacts.
_ADAPTIVE = {"adaptive": [CANDIDATES, SHARE, COUNTED, LEAST, _TOLERANCE]}


def _adaptive(
    evaluator: PathEvaluator, line: Line, ends: list[dict[str, Counts]], beat: Callable[[float], None]
) -> tuple[dict[float, dict[str, Any]], tuple[str, ...]]:
    """What was counted between the ends, by alpha, then split; and notes."""
    points: dict[float, dict[str, Any]] = {}
    notes: dict[str, None] = {}
    for split, data in evaluator.data.items():
        of_split = replace(evaluator, data={split: data})

        def count(alpha: float, split: str = split, of_split: PathEvaluator = of_split) -> float:
            counted = of_split.measure_at(line, alpha)
            points.setdefault(alpha, {}).update(_counts(counted))
            beat(min(1.0, sum(map(len, points.values())) / (len(evaluator.data) * COUNTED)))
            return counted[split].mean("error")

        values = {float(alpha): end[split].error for alpha, end in enumerate(ends)}
        examples = ends[0][split].examples
        found = count_highest_alphas(
            of_split, line, split, "error", values, count, units=examples, tolerance=_TOLERANCE
        )
        notes |= dict.fromkeys(f"{split} data: {note}" for note in found)
    return dict(sorted(points.items())), tuple(notes)


def _heartbeat(store: Store, job: PathJob) -> Callable[[float], None]:
    """Says from time to time how far a job is."""
    spoken = 0.0

    def beat(share: float) -> None:
        nonlocal spoken
        if time.monotonic() - spoken >= _HEARTBEAT:
            store.write_heartbeat(job, share)
            spoken = time.monotonic()

    return beat


def _evaluator(training: Training, measurement: Measurement) -> PathEvaluator:
    """A scratch network, and how it is measured."""
    return PathEvaluator(
        network=training.network(),
        meter=training.meter(),
        data={split: training.batches(split) for split in measurement.splits},
        calibration=training.calibration(measurement.calibration) if measurement.calibration else (),
        batchnorm=measurement.batchnorm,
        precision=training.precision,
    )


def _counts(outcomes: dict[str, Measured]) -> dict[str, Any]:
    return {split: asdict(Counts.of(measured)) for split, measured in outcomes.items()}


def _dump(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()
