"""Full-batch gradient descent at several rates, with the largest eigenvalue of the Hessian on the way, as one study."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from modeconn.analysis.landscape.curvature.hessian import Curvature, curvature_of
from modeconn.analysis.landscape.curvature.lanczos import eigenpairs
from modeconn.execution import Job
from modeconn.progress import Progress, Report, silent
from modeconn.reproduce.summary import summary_of
from modeconn.result import Result, Row, count
from modeconn.tasks import Task
from modeconn.training.protocol import Training
from modeconn.training.splits import SplitBatches
from modeconn.training.task_training import prepare

_TOLERANCE = 1e-2  # of the eigenvalue's residual


@dataclass(frozen=True, eq=False)
class DescentStudy(Result):
    """Loss and largest eigenvalue along gradient descent at several rates.

    Attributes:
        rows: one for each rate and measured iteration: the loss, the largest eigenvalue of its Hessian, and 2 / rate.
        summary: network, data, rates and how it was computed; JSON.
    """

    rows: list[Row]
    summary: dict[str, Any]

    @property
    def samples(self) -> str:
        """How many trainings there are, in words."""
        return f"{count(len(self.summary['rates']), 'rate')}, one initialisation, full-batch gradient descent"


def descend(
    task: Task,
    *,
    rates: Sequence[float],
    widths: Sequence[int] = (64, 64),
    steps: int = 1000,
    every: int = 50,
    examples: int | None = None,
    device: str = "auto",
    store: str | Path = "modeconn-store",
    data_dir: str | Path | None = None,
    workers: int | None = None,
    command: str = "",
    report: Report = silent,
) -> DescentStudy:
    """Train a tanh network by full-batch gradient descent, and measure the sharpness on the way (Cohen et al. 2021).

    A linear network with tanh between its layers, in PyTorch's initialisation of seed 0; the loss is half the squared
    distance to one-hot labels, a mean over examples.

    Args:
        task: whose training data these are.
        rates: of descent, each from the same initialisation.
        widths: of the hidden layers.
        steps: of descent, at each rate.
        every: so many steps the sharpness is measured.
        examples: the first so many; all if None.
        device, data_dir, command, report: as of `modeconn.train`. Nothing is stored, and one process computes.
        store, workers: not used.
    """
    training = prepare(task, data_dir=data_dir, device=device, precision="float32", checkpoint_every=60.0).training
    x, y = _data(training, examples)
    rows: list[Row] = []
    with training.computing():
        for place, rate in enumerate(rates):
            network = _network(x.shape[1], widths, y.shape[1]).to(x.device)
            curvature = curvature_of(network, [(x, y)], loss=half_squared_distance, size=len(x))

            def step_done(step: int, before: int = place * (steps + 1)) -> None:
                total = len(rates) * (steps + 1)
                report(Progress.counted(before + step, total, "steps"))

            rows += _descend(curvature, rate, steps, every, step_done)
    summary = summary_of(
        task, {f"rate {rate:g}": {} for rate in rates}, precision="float32", device=device, data_dir=data_dir,
        command=command, rates=list(rates), widths=list(widths), steps=steps, every=every, examples=len(x),
        tolerance=_TOLERANCE,
    )  # fmt: skip
    shape = "-".join(map(str, [x.shape[1], *widths, y.shape[1]]))
    return DescentStudy(rows, summary | {"task": f"a tanh network {shape} on {task.data}", "task_changes": ""})


def half_squared_distance(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the squared distance between outputs and targets, a mean over examples."""
    return (network(batch[0]) - batch[1]).square().sum(1).mean() / 2


def planned_descents(task: Task, options: Mapping[str, Any], where: Mapping[str, Any]) -> list[Job]:
    """No jobs: nothing of such a study is stored."""
    return []


def _data(training: Training, examples: int | None) -> tuple[Tensor, Tensor]:
    """Images as vectors, float32 [n, pixels], and one-hot labels, float32 [n, classes]."""
    batches = training.batches("train")
    assert isinstance(batches, SplitBatches)
    pairs = [(images.flatten(1), labels) for images, labels in batches]
    x, labels = (torch.cat(parts)[:examples] for parts in zip(*pairs, strict=True))
    return x, one_hot(labels.long(), batches.data.classes).to(x)


def _network(inputs: int, widths: Sequence[int], classes: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.Tanh()]
            inputs = width
        return nn.Sequential(*layers, nn.Linear(inputs, classes))


def _descend(curvature: Curvature, rate: float, steps: int, every: int, step_done: Callable[[int], None]) -> list[Row]:
    rows: list[Row] = []
    parameters = list(curvature.parameters.values())
    sizes = [parameter.numel() for parameter in parameters]
    for step in range(steps + 1):
        value, gradient = curvature.gradient()
        if step % every == 0:
            found = eigenpairs(curvature.product, curvature.like, curvature.dimension, 1, tolerance=_TOLERANCE)
            largest = float(found.values[0]) if math.isfinite(value) else math.nan
            rows.append({"rate": rate, "iteration": step, "loss": value, "eigenvalue": largest, "bound": 2 / rate})
        with torch.no_grad():
            for parameter, part in zip(parameters, gradient.split(sizes), strict=True):
                parameter.sub_(part.view(parameter.shape), alpha=rate)
        step_done(step + 1)
    return rows
