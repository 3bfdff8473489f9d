"""Evaluations of ends and paths as jobs."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.analysis.normalization import recalibrate
from modeconn.analysis.paths import make_line
from modeconn.data import DataSet
from modeconn.execution import Store, job_name
from modeconn.training.compute import autocast, computing
from modeconn.training.evaluation import BATCH, Counts, evaluate
from modeconn.training.jobs import TrainJob, load_state
from modeconn.training.noise import Seeds
from modeconn.training.setting import Setting
from modeconn.training.trainer import build_task_network, training_batch

_HEARTBEAT = 1.0  # seconds
_CALIBRATION_SEED = 0  # the same examples and crops at every alpha and for every network


@dataclass(frozen=True)
class Measurement:
    """How a network is measured.

    Attributes:
        splits: among `"test"` and `"train"`.
        calibration: how many training examples re-estimate BatchNorm's statistics before a measurement; None to use
            the network's own running statistics.
    """

    splits: tuple[str, ...]
    calibration: int | None

    def spec(self) -> dict[str, Any]:
        """For names."""
        return {"splits": sorted(self.splits), "calibration": self.calibration}

    def cost(self, data_sizes: dict[str, int]) -> float:
        """Images passed forward."""
        return sum(data_sizes[split] for split in self.splits) + (self.calibration or 0)


@dataclass(frozen=True)
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
        return {"kind": self.kind, "network": job_name(self.end), **self.measurement.spec()}

    def run(self, store: Store) -> None:
        """Evaluate, unless the network diverged."""
        artifact = store.require(self.end)
        facts = {"label": self.label, "torch": torch.__version__, "diverged_at": artifact.facts["diverged_at"]}
        if facts["diverged_at"] is not None:
            store.write(self, {}, facts, done=True)
            return
        setting = self.end.setting
        with computing(torch.device(setting.device)):
            network, measure = _meter(setting, self.measurement)
            network.load_state_dict(load_state(artifact).model)
            counts = measure()
        if not all(math.isfinite(count["loss_sum"]) for count in counts.values()):
            facts["diverged_at"] = self.end.iteration  # the weights are finite, but what they compute is not
        store.write(self, {"counts.json": _dump(counts)}, facts, done=True)


@dataclass(frozen=True)
class PathJob:
    """The loss and error between two trained networks, without the ends. Its artifact holds `path.json`."""

    a: TrainJob
    b: TrainJob
    alphas: tuple[float, ...]
    measurement: Measurement
    cost: float
    label: str = ""

    kind = "path"

    @property
    def inputs(self) -> tuple[TrainJob, ...]:
        """The two networks."""
        return self.a, self.b

    def spec(self) -> dict[str, Any]:
        """What is between which networks, and how it is measured."""
        ends = {"a": job_name(self.a), "b": job_name(self.b)}
        return {"kind": self.kind, **ends, "alphas": list(self.alphas), **self.measurement.spec()}

    def run(self, store: Store) -> None:
        """Walk the path, unless an end diverged."""
        artifacts = [store.require(end) for end in self.inputs]
        if any(artifact.facts["diverged_at"] is not None for artifact in artifacts):
            store.write(self, {}, {"label": self.label, "torch": torch.__version__}, done=True)
            return
        device = torch.device(self.a.setting.device)
        a, b = ({name: t.to(device) for name, t in load_state(artifact).model.items()} for artifact in artifacts)
        line = make_line(a, b)
        points, spoken = [], 0.0
        with computing(device):
            network, measure = _meter(self.a.setting, self.measurement)
            distance = line.distance(network)
            for index, alpha in enumerate(self.alphas):
                line.load(network, alpha)
                points.append(measure())
                if time.monotonic() - spoken >= _HEARTBEAT:
                    store.say_running(self, (index + 1) / len(self.alphas))
                    spoken = time.monotonic()
        content = {"alphas": self.alphas, "points": points, "l2_distance": distance, "notes": line.notes}
        facts = {"label": self.label, "torch": torch.__version__}
        store.write(self, {"path.json": _dump(content)}, facts, done=True)


def read_counts(content: dict[str, Any]) -> dict[str, Counts]:
    """What `_dump` wrote of one measurement."""
    return {split: Counts(**counts) for split, counts in content.items()}


def _meter(setting: Setting, measurement: Measurement) -> tuple[nn.Module, Callable[[], dict[str, Any]]]:
    """A scratch network, and a function that measures the weights that are in it; statistics change in place."""
    device = torch.device(setting.device)
    data = setting.data().to(device)
    network = build_task_network(setting.task, data, init_seed=0).to(device)
    batches = list(_calibration_batches(setting, data, measurement.calibration or 0))

    def forward(images: Tensor) -> Any:
        with autocast(device, setting.precision):
            return network(images.clone())  # a network may write to its input, and these serve every alpha

    def measure() -> dict[str, Any]:
        recalibrate(network, batches, forward)
        counts = {split: evaluate(network, data, split, setting.precision) for split in measurement.splits}
        return {split: asdict(count) for split, count in counts.items()}

    return network, measure


def _calibration_batches(setting: Setting, data: DataSet, examples: int) -> Iterator[Tensor]:
    """The first `examples` training images of a fixed order, augmented as in training."""
    batches = -(-examples // BATCH)
    if batches:
        size = -(-examples // batches)  # as equal as can be: a last batch of one could not be normalized
        task = replace(setting.task, batch_size=size)
        for iteration in range(batches):
            images, _ = training_batch(task, data, Seeds.all(_CALIBRATION_SEED), iteration)
            yield images[: examples - iteration * size]


def _dump(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()
