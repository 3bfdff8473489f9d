"""The training loop: from a state to a later one, as a pure function."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modeconn.data import DataSet, MemoryImages, draws_per_example, normalize
from modeconn.evaluation.compute import autocast, computing, generator_of
from modeconn.models import build_network
from modeconn.tasks import Task
from modeconn.training import noise as sgd_noise
from modeconn.training.cuda_graphs import StepInputs, TrainingSteps
from modeconn.training.noise import Noise, Seeds
from modeconn.training.optimizer import Optimizer
from modeconn.training.schedule import learning_rate
from modeconn.training.splits import evaluate
from modeconn.training.state import Metrics, State, capture, restore
from modeconn.weights.masks import mask_enforcer

# Between two looks at the clock, the losses and the disk. A whole number of them has passed whenever a state is
# handed out, counted from iteration 0, so that where a training was interrupted leaves no trace in what it gives.
CHUNK = 50


@dataclass(frozen=True)
class TrainResult:
    """What training gave: the last state whose weights were finite, and where the loss was not, if anywhere."""

    state: State
    metrics: Metrics = field(default_factory=list)
    diverged_at: int | None = None


def train_until(
    state: State | None,
    stop: int,
    *,
    task: Task,
    data: DataSet,
    noise: Noise,
    init_seed: int,
    device: torch.device,
    precision: str = "float32",
    metrics: Metrics | None = None,
    on_chunk: Callable[[TrainResult], None] = lambda progress: None,
    mask: Mapping[str, Tensor] | None = None,
) -> TrainResult:
    """Train from a state to iteration `stop`; the given state is left unchanged.

    Args:
        state: where to start; None for the initialisation.
        stop: the iteration of the state that is returned.
        task: what is trained.
        data: the task's data set.
        noise: the SGD noise; iterations before `state.iteration` do not matter.
        init_seed: of the initialisation.
        device: where to compute.
        precision: `"float32"`, `"bfloat16"` for autocast, or `"tf32"` on a GPU.
        metrics: rows to continue, from the trajectory up to `state`.
        watch: called after every `CHUNK` iterations with what there is so far.
        mask: which weights remain, by parameter name; the others are zero from the start and after every step.

    Returns:
        The state at `stop`; or, if the loss became NaN or infinite, the last state whose weights were finite, and the
        iteration of that loss.
    """
    with computing(device, precision):
        network = build_task_network(task, data, init_seed).to(device)
        optimizer = Optimizer(task, network)
        if state is not None:
            restore(state, network, optimizer)
        enforce_mask = mask_enforcer(network, mask or {})
        enforce_mask()
        start = state.iteration if state else 0
        progress = TrainResult(capture(start, network, optimizer), list(metrics or []))
        data = data.to(device)
        network.train()
        steps = _steps(network, optimizer, enforce_mask, task, data, noise, precision)
        while start < stop:
            end = next_end(task, start, stop)
            losses = steps(start, end)
            finite = [*losses.isfinite().tolist(), is_finite(network.state_dict())]
            if not all(finite):
                at = start + finite.index(False)
                # Once more, to the very last good state: where a look happened to fall must leave no trace.
                optimizer = Optimizer(task, network)
                restore(progress.state, network, optimizer)
                steps = _steps(network, optimizer, enforce_mask, task, data, noise, precision)
                last = progress.state
                for t in range(start, at):
                    steps(t, t + 1)
                    if t + 1 >= at - 1 and is_finite(network.state_dict()):
                        last = capture(t + 1, network, optimizer)
                return TrainResult(last, progress.metrics, diverged_at=at)
            rows = evaluations(task, end, network, data, precision, progress.metrics)
            progress = TrainResult(capture(end, network, optimizer), progress.metrics + rows)
            start = end
            on_chunk(progress)
        return progress


def build_task_network(task: Task, data: DataSet, init_seed: int) -> nn.Module:
    """The task's network at its initialisation, in channels-last layout."""
    network = build_network(
        task.model,
        data.shape,
        data.classes,
        seed=init_seed,
        width=task.width,
        norm=task.norm,
        dropout=task.dropout,
        init=task.init,
    )
    return network.to(memory_format=torch.channels_last)


def training_batch(task: Task, data: DataSet, seeds: Seeds, iteration: int) -> tuple[Tensor, Tensor]:
    """What iteration t sees: normalised images, float32 [batch, channels, height, width], and labels, int64 [batch]."""
    return read_batch(*choose_batch(task, data, seeds, iteration), task, data)


def choose_batch(
    task: Task, data: DataSet, seeds: Seeds, iteration: int, epochs: sgd_noise.Epochs | None = None
) -> tuple[Tensor, Tensor]:
    """Which examples iteration t sees, int64 [batch], and the uniform numbers of their augmentation [batch, n]."""
    examples, size = len(data.train), task.batch_size
    indices = sgd_noise.batch_indices(seeds.order, iteration, examples, size, epochs)
    n = draws_per_example(task.augmentation)
    draws = sgd_noise.augmentation_draws(seeds.augmentation, iteration, examples, size, indices, n, epochs)
    return indices, draws


def read_batch(indices: Tensor, draws: Tensor, task: Task, data: DataSet) -> tuple[Tensor, Tensor]:
    """Chosen training examples as a network sees them, and their labels; see `training_batch`."""
    images = data.train.images.read_augmented(indices, draws, task.augmentation)
    return normalize(images, data), data.train.labels[indices.to(data.train.labels.device)]


def training_loss(output: Any, labels: Tensor) -> Tensor:
    """Mean cross-entropy; Inception-v3's auxiliary classifier counts 0.4 (Szegedy et al. 2016)."""
    if isinstance(output, tuple):
        main, auxiliary = output
        return cross_entropy(main, labels) + 0.4 * cross_entropy(auxiliary, labels)
    return cross_entropy(output, labels)


def is_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether nothing in a state dict is NaN or infinite."""
    values = [value for value in tensors.values() if value.is_floating_point()]
    return bool(torch.stack([value.isfinite().all() for value in values]).all())


def next_end(task: Task, start: int, stop: int) -> int:
    """Where the chunk of iterations that begins at `start` ends: at a multiple of `CHUNK`, or where metrics are due."""
    return min(stop, *(start + of - start % of for of in (CHUNK, task.evaluate_every or stop)))


def evaluations(
    task: Task, iteration: int, network: nn.Module, data: DataSet, precision: str, before: Metrics
) -> Metrics:
    """The rows of metrics that are due at an iteration, after those before it."""
    if not task.evaluate_every or (iteration % task.evaluate_every and iteration != task.iterations):
        return []

    def row(split: str) -> dict[str, Any]:
        counts = evaluate(network, data, split, precision)
        return {"iteration": iteration, "split": split, "loss": counts.loss, "error": counts.error}

    if data.validation is None:
        return [row("train"), row("test")]
    validation = row("validation")
    lowest = min((old["loss"] for old in before if old["split"] == "validation"), default=math.inf)
    # Early stopping chooses the lowest validation loss; only there is the test error wanted.
    return [validation, row("test")] if validation["loss"] < lowest else [validation]


def _steps(
    network: nn.Module,
    optimizer: Optimizer,
    enforce_mask: Callable[[], None],
    task: Task,
    data: DataSet,
    noise: Noise,
    precision: str,
) -> TrainingSteps:
    """The steps of a network in training mode, in place."""
    device = next(network.parameters()).device

    def choose(iteration: int) -> StepInputs:
        seeds = noise.at(iteration)
        rate, dropout = learning_rate(task, iteration), sgd_noise.dropout_seed(seeds.dropout, iteration)
        return StepInputs(*choose_batch(task, data, seeds, iteration), rate, [dropout])

    def update(indices: Tensor, draws: Tensor) -> Tensor:
        images, labels = read_batch(indices, draws, task, data)
        with autocast(device, precision):
            loss = training_loss(network(images), labels)
        loss.backward()
        optimizer.step()
        enforce_mask()
        return loss.detach()

    resident = isinstance(data.train.images, MemoryImages)
    return TrainingSteps(network, optimizer, [generator_of(device)], choose, update, resident=resident)
