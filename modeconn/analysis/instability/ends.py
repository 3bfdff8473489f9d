"""How two trained networks differ apart from the path between them, as a job: in weights, in labels and in losses."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from modeconn.analysis.instability.measurement import Measurement
from modeconn.analysis.paths.linear import make_line
from modeconn.evaluation.disagreement import OutcomeDistance, compare_outcomes
from modeconn.execution import Store
from modeconn.execution.names import job_name
from modeconn.result import json_text
from modeconn.training.jobs import TrainJob, load_state
from modeconn.weights.sources import weights_of

ENDS = "ends.json"  # of an artifact that holds a comparison of ends


@dataclass(frozen=True)
class EndDistances:
    """How two networks differ.

    Attributes:
        l2: norm of the difference of the parameters; buffers do not count.
        cosine: 1 minus the cosine of the angle between the parameters.
        outcomes: by split, how differently they answer.
    """

    l2: float
    cosine: float
    outcomes: dict[str, OutcomeDistance]


@dataclass(frozen=True, eq=False, repr=False)
class EndsJob:
    """The distances between two trained networks. Its artifact holds `ends.json`, unless one diverged.

    Attributes:
        measurement: on which splits outcomes are compared, and with which statistics; on none, weights alone are.
    """

    a: TrainJob
    b: TrainJob
    measurement: Measurement
    cost: float
    label: str = ""

    kind = "ends"

    @property
    def inputs(self) -> tuple[TrainJob, TrainJob]:
        """The two networks."""
        return self.a, self.b

    def spec(self) -> dict[str, Any]:
        """The two networks, and how their outcomes are measured."""
        how = self.measurement.spec() | self.a.training.measured_spec()
        return {"kind": self.kind, "a": job_name(self.a), "b": job_name(self.b), **how}

    def run(self, store: Store) -> None:
        """Compare the networks, unless one diverged."""
        artifacts = [store.require(end) for end in self.inputs]
        facts = {"label": self.label, "torch": torch.__version__}
        if any(artifact.facts["diverged_at"] is not None for artifact in artifacts):
            store.write(self, {}, facts, done=True)
            return
        a, b = (weights_of(load_state(artifact).model, "the network") for artifact in artifacts)
        with self.a.training.computing():
            evaluator = self.measurement.evaluator(self.a.training)
            distance = make_line(a, b, [name for name, _ in evaluator.network.named_parameters()]).distance
            measured = [evaluator.measure_end(end) for end in (a, b)]
        outcomes = {split: vars(compare_outcomes(*(end[split] for end in measured))) for split in evaluator.data}
        content = {"l2": distance.l2, "cosine": distance.cosine, "outcomes": outcomes}
        store.write(self, {ENDS: json_text(content, indent=1).encode()}, facts, done=True)


def ends_job(
    a: TrainJob, b: TrainJob, splits: Iterable[str], examples: dict[str, int], calibration: int | None = None
) -> EndsJob:
    """The job that compares two networks.

    Args:
        a, b: the networks.
        splits: on which their outcomes are compared; on none, their weights alone are.
        examples: of each split.
        calibration: training examples that BatchNorm is recalibrated on before; None to take the networks as they are.
    """
    measurement = Measurement(tuple(splits), calibration)
    label = f"{a.label} and {b.label}{measurement.word}"
    return EndsJob(a, b, measurement, 2 * measurement.cost(examples), f"distances between {label}")


def read_ends(store: Store, job: EndsJob) -> EndDistances | None:
    """The distances that a job measured; None if one of its networks diverged.

    Raises:
        CorruptArtifact: it is not finished, or damaged.
    """
    artifact = store.require(job)
    if ENDS not in artifact.hashes:
        return None
    content = artifact.json(ENDS)
    outcomes = {
        split: OutcomeDistance(**{name: _number(value) for name, value in found.items()})
        for split, found in content["outcomes"].items()
    }
    return EndDistances(_number(content["l2"]), _number(content["cosine"]), outcomes)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
