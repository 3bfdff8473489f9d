"""The curvature of the training loss at a trained network, as a job: its largest eigenvalue, and the trace."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from modeconn.analysis.landscape.curvature.hessian import Curvature, NotFinite, curvature_of
from modeconn.analysis.landscape.curvature.sharpness import Asked, measure_sharpness
from modeconn.errors import ModeconnError, OptionError
from modeconn.execution import Heartbeat, Store
from modeconn.execution.names import job_name
from modeconn.result import Row, json_text
from modeconn.training.jobs import TrainJob, load_state
from modeconn.training.protocol import Training

CURVATURE = "curvature.json"  # of an artifact that holds one
ASKED = Asked(k=1, trace=10, tolerance=1e-3, seed=0)
_PRICE = 6  # of a product of the Hessian with a vector, in forward passes


@dataclass(frozen=True, eq=False, repr=False)
class CurvatureJob:
    """The largest eigenvalue of the Hessian of the mean training loss at a network, and an estimate of its trace.

    On the first training examples, without augmentation, in evaluation mode and float32. The artifact holds
    `curvature.json`, unless the network diverged, or its loss is not finite.
    """

    end: TrainJob
    examples: int
    cost: float
    label: str = ""

    kind = "curvature"

    @property
    def inputs(self) -> tuple[TrainJob]:
        """The network."""
        return (self.end,)

    def spec(self) -> dict[str, Any]:
        """The network, and how its curvature is measured."""
        asked = {"eigenvalues": ASKED.k, "trace": ASKED.trace, "tolerance": ASKED.tolerance, "seed": ASKED.seed}
        measured = {"examples": self.examples, **asked, **self.end.training.measured_spec()}
        return {"kind": self.kind, "network": job_name(self.end), **measured}

    def run(self, store: Store) -> None:
        """Measure, unless the network diverged."""
        artifact = store.require(self.end)
        facts = {"label": self.label, "torch": torch.__version__}
        found = None if artifact.facts["diverged_at"] is not None else self._measure(store, load_state(artifact).model)
        files = {} if found is None else {CURVATURE: json_text(found, indent=1).encode()}
        store.write(self, files, facts, done=True)

    def _measure(self, store: Store, weights: dict[str, torch.Tensor]) -> dict[str, Any] | None:
        training = self.end.training
        heartbeat = Heartbeat(store, self)
        done = 0

        def each() -> None:
            nonlocal done
            done += 1
            heartbeat(min(1.0, done / ASKED.expected))

        with training.computing():
            curvature = _curvature(training, weights, self.examples)
            try:
                found = measure_sharpness(curvature, ASKED, each)
            except NotFinite:  # its loss, or a product with its Hessian
                return None
        return {
            "eigenvalue": found.largest,
            "residual": float(found.residuals[0]),
            "trace": found.trace,
            "trace_error": found.trace_error,
            "loss": found.loss,
            "products": found.products,
        }


def check_curved(training: Training) -> None:
    """See that a training's loss can be differentiated twice, before anything is trained.

    Raises:
        OptionError: it cannot.
    """
    with training.computing():
        curvature = _curvature(training, None, 2)
        try:
            curvature.product(torch.ones(curvature.dimension).to(curvature.like))
        except NotFinite:  # of an initialisation, which says little
            return
        except ModeconnError as error:
            raise OptionError(f"the curvature here cannot be measured, so leave curvature=: {error}") from error


def _curvature(training: Training, weights: dict[str, torch.Tensor] | None, examples: int) -> Curvature:
    """That of a training's loss on its first examples, at weights, or else at an initialisation."""
    network = training.network()
    if weights is not None:
        network.load_state_dict(weights)
    network.float().eval().requires_grad_(True)
    return curvature_of(network, training.batches("train"), examples=examples)


def curvature_job(end: TrainJob, examples: int) -> CurvatureJob:
    """The job that measures the curvature at one network on so many training examples."""
    cost = float(_PRICE * ASKED.expected * examples)
    return CurvatureJob(end, examples, cost, f"curvature of {end.label}")


def read_curvature(store: Store, job: CurvatureJob) -> Row:
    """The columns that a job measured; NaN if its network diverged.

    Raises:
        CorruptArtifact: it is not finished, or damaged.
    """
    artifact = store.require(job)
    columns = ("eigenvalue", "residual", "trace", "trace_error", "loss")
    found = artifact.json(CURVATURE) if CURVATURE in artifact.hashes else {}
    return {name: float(math.nan if (value := found.get(name)) is None else value) for name in columns}
