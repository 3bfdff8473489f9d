"""The training loop: from a state to a later one, as a pure function.

`train_until` is the whole of it: a network, its optimizer, and steps until iteration `stop`, with a look at the losses
after every chunk. `TrainingLoop.step` is one iteration. A cohort's members go through the same loop side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modeconn.data import DataSet, MemoryImages
from modeconn.evaluation.compute import autocast, computing, generator_of
from modeconn.models import build_network
from modeconn.tasks import Task
from modeconn.training.cuda_graphs import record_steps
from modeconn.training.mlp_step import written_out
from modeconn.training.noise import Noise
from modeconn.training.optimizer import Optimizer
from modeconn.training.splits import evaluate
from modeconn.training.state import Metrics, State, capture, iteration_to_test, restore
from modeconn.training.step_inputs import StepInputs, choose_inputs, read_batch
from modeconn.weights.masks import mask_enforcer

# Between two looks at the clock, the losses and the disk. A whole number of them has passed whenever a state is
# handed out, counted from iteration 0, so that where a training was interrupted leaves no trace in what it gives.
CHUNK = 50


@dataclass(frozen=True)
class TrainResult:
    """The last state whose weights were finite, and the iteration whose loss was not, if there is one.

    Attributes:
        best: weights and buffers where the validation loss is lowest so far, as long as their test error is unknown.
    """

    state: State
    metrics: Metrics = field(default_factory=list)
    diverged_at: int | None = None
    best: State | None = None


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
    best: State | None = None,
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
        best: goes with them, as in the `TrainResult` that they are of.
        on_chunk: called after every `CHUNK` iterations with what there is so far.
        mask: which weights remain, by parameter name; the others are zero from the start and after every step.

    Returns:
        The state at `stop`; or, if the loss became NaN or infinite, the last state whose weights were finite, and the
        iteration of that loss.
    """
    with computing(device, precision):
        network = build_task_network(task, data, init_seed).to(device)
        data = data.to(device)

        def loop_from(state: State | None) -> TrainingLoop:
            optimizer = Optimizer(task, network)
            if state is not None:
                restore(state, network, optimizer)
            return TrainingLoop(
                network.train(),
                optimizer,
                differentiate=(precision == "float32" and written_out(network))
                or by_autograd(lambda images, labels: training_loss(network(images), labels), device, precision),
                choose=lambda iteration: choose_inputs(task, data, noise, iteration),
                generators=[generator_of(device)],
                mask=mask or {},
                task=task,
                data=data,
            )

        loop = loop_from(state)
        start = state.iteration if state else 0
        progress = TrainResult(loop.capture(start), list(metrics or []), best=best)
        while start < stop:
            end = next_end(task, start, stop)
            losses = loop.run(start, end)
            diverged_at = first_divergence(start, losses.isfinite().tolist(), network.state_dict())
            if diverged_at is not None:
                # From the chunk's beginning once more, to the very last good state: where a look happened to fall must
                # leave no trace.
                loop = loop_from(progress.state)
                last = last_finite_state(loop, loop.capture, progress.state, diverged_at)
                progress = replace(progress, state=last, diverged_at=diverged_at)
                return with_test_error(progress, network, data, precision)
            progress = evaluated(replace(progress, state=loop.capture(end)), task, network, data, precision)
            start = end
            on_chunk(progress)
        return progress


class TrainingLoop:
    """The steps of one network, or of several side by side, from iteration to iteration, in place.

    Args:
        network: in training mode, on the device.
        optimizer: of its parameters.
        differentiate: from images and labels to the loss, [] or [members]; leaves the gradients of its sum.
        choose: from an iteration to its inputs.
        generators: that dropout draws from.
        mask: which weights remain, by parameter name; the others are set to zero here and after every step.
        task: what is trained.
        data: the task's data set, on the device.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        *,
        differentiate: Callable[[Tensor, Tensor], Tensor],
        choose: Callable[[int], StepInputs],
        generators: Sequence[torch.Generator],
        mask: Mapping[str, Tensor],
        task: Task,
        data: DataSet,
    ) -> None:
        self.network, self.optimizer = network, optimizer
        self._differentiate, self._choose, self._generators = differentiate, choose, generators
        self._task, self._data = task, data
        self._enforce_mask = mask_enforcer(network, mask)
        self._enforce_mask()
        # Images that are read from files need the host in every step, which a CUDA graph cannot have.
        resident = isinstance(data.train.images, MemoryImages)
        self._recorded = record_steps(network, optimizer, generators) if resident else None

    def run(self, start: int, end: int) -> Tensor:
        """Train from one iteration to another. Returns the loss before each step, [iterations, ...], not waited for."""
        # All before the first step; after one, which sweeps the caches, a choice takes several times as long.
        chosen = [self._choose(iteration) for iteration in range(start, end)]
        if self._recorded:
            chosen = self._recorded.upload(chosen)
        losses = []
        for inputs in chosen:
            step = self._recorded.replay_of(self.step, inputs) if self._recorded else self.step
            for generator, seed in zip(self._generators, inputs.seeds, strict=True):
                generator.manual_seed(seed)
            losses.append(step(inputs))
        return torch.stack(losses)

    def step(self, inputs: StepInputs) -> Tensor:
        """One iteration. Returns the loss before it, [] or [members]."""
        images, labels = read_batch(inputs.indices, inputs.draws, self._task, self._data)
        loss = self._differentiate(images, labels)
        self.optimizer.rate = inputs.rate
        self.optimizer.step()  # which leaves no gradients
        self._enforce_mask()  # momentum and weight decay have moved pruned weights, too
        return loss

    def capture(self, iteration: int) -> State:
        """A copy of the network's and the optimizer's state."""
        return capture(iteration, self.network, self.optimizer)


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


def by_autograd(
    compute_loss: Callable[[Tensor, Tensor], Tensor], device: torch.device, precision: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """Forward and backward pass of a loss, [] or [members]: the function that a `TrainingLoop` differentiates with."""

    def differentiate(images: Tensor, labels: Tensor) -> Tensor:
        with autocast(device, precision):
            loss = compute_loss(images, labels)
        loss.backward(torch.ones_like(loss))  # the gradient of the sum over members, who share no weights
        return loss.detach()

    return differentiate


def training_loss(output: Any, labels: Tensor) -> Tensor:
    """Mean cross-entropy; Inception-v3's auxiliary classifier counts 0.4 (Szegedy et al. 2016).

    `loss = CE(main, labels) + 0.4 CE(auxiliary, labels)`, where `CE` is the mean of `-log softmax(logits)[label]`.
    """
    if isinstance(output, tuple):
        main, auxiliary = output
        return cross_entropy(main, labels) + 0.4 * cross_entropy(auxiliary, labels)
    return cross_entropy(output, labels)


def next_end(task: Task, start: int, stop: int) -> int:
    """The end of the chunk of iterations that begins at `start`: a multiple of `CHUNK`, or where metrics are due."""
    return min(stop, *(start + of - start % of for of in (CHUNK, task.evaluate_every or stop)))


def first_divergence(start: int, finite: Sequence[bool], weights: Mapping[str, Tensor]) -> int | None:
    """The first iteration of a chunk whose loss is not finite, None if there is none.

    Args:
        start: the chunk's first iteration.
        finite: whether the loss before each of its steps is.
        weights: the state dict after its last step. Where that alone is not finite, the next iteration diverges.
    """
    all_finite = [*finite, is_finite(weights)]
    return None if all(all_finite) else start + all_finite.index(False)


def last_finite_state(loop: TrainingLoop, capture: Callable[[int], State], begin: State, diverged_at: int) -> State:
    """The last state before a divergence whose weights are finite, found by training there again step by step.

    Args:
        loop: that goes on from `begin`.
        capture: a copy of the state after so many iterations.
        begin: the state at the beginning of the chunk that diverged.
        diverged_at: the iteration whose loss is not finite.
    """
    last = begin
    for t in range(begin.iteration, diverged_at):
        loop.run(t, t + 1)
        # The loss at `diverged_at - 1` is finite, so the weights it was computed from mostly are; those after its step
        # may be, if only their output overflows. Earlier states are not asked for, so none is copied.
        if t + 1 >= diverged_at - 1 and is_finite((state := capture(t + 1)).model):
            last = state
    return last


def is_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether nothing in a state dict is NaN or infinite; one look at the device for all of it."""
    values = [value for value in tensors.values() if value.is_floating_point()]
    return bool(torch.stack([value.isfinite().all() for value in values]).all())


def evaluated(progress: TrainResult, task: Task, network: nn.Module, data: DataSet, precision: str) -> TrainResult:
    """A training with the rows of metrics that are due at its state, whose weights the network has.

    Early stopping takes the iteration `argmin_t` of the validation loss; only there is the test error wanted. Which
    iteration that is, the end says, so weights are kept until then.
    """
    iteration = progress.state.iteration
    if not task.evaluate_every or (iteration % task.evaluate_every and iteration != task.iterations):
        return progress
    splits = ("train", "test") if data.validation is None else ("validation",)
    rows = [_row(iteration, network, data, split, precision) for split in splits]
    progress = replace(progress, metrics=progress.metrics + rows)
    if iteration_to_test(progress.metrics) == iteration:
        progress = replace(progress, best=State(iteration, progress.state.model))
    return with_test_error(progress, network, data, precision) if iteration == task.iterations else progress


def with_test_error(progress: TrainResult, network: nn.Module, data: DataSet, precision: str) -> TrainResult:
    """A training that ended, with the test error at its lowest validation loss; the network gets those weights."""
    at = iteration_to_test(progress.metrics)
    if at is None:
        return progress
    assert progress.best
    network.load_state_dict(progress.best.model)
    row = _row(at, network, data, "test", precision)
    return replace(progress, metrics=[*progress.metrics, row], best=None)


def _row(iteration: int, network: nn.Module, data: DataSet, split: str, precision: str) -> dict[str, Any]:
    counts = evaluate(network, data, split, precision)
    return {"iteration": iteration, "split": split, "loss": counts.loss, "error": counts.error}
