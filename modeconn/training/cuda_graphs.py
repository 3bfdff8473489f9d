"""Training steps; on a GPU each is recorded once as a CUDA graph, and replayed for every iteration.

A small network's step is hundreds of short kernels, whose launches take the host longer than the GPU needs for them. A
replay launches all of them at once. What an iteration is given (examples, augmentation, learning rate) lies in tensors
that the graph reads from, and is uploaded for many iterations at a time, so that the host waits for nothing between.
Every iteration is a replay, the first after an interruption too; so where that was leaves no trace.
"""

import contextlib
import functools
import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from modeconn.training.optimizer import Optimizer

_log = logging.getLogger("modeconn")
_WARM_UP = 3  # steps before a recording, as in PyTorch's notes on CUDA graphs

Step: TypeAlias = Callable[[], Tensor]  # reads its inputs from tensors that stay; gives the loss
Record: TypeAlias = Callable[[Step, Sequence[torch.Generator]], Step]  # may take steps on the way


class NotRecordable(Exception):
    """The step cannot be replayed; the message says why."""


@dataclass(frozen=True, eq=False)
class StepInputs:
    """What the host chooses for an iteration.

    Attributes:
        indices: of the examples, int64 [batch], on the CPU.
        draws: uniform numbers of their augmentation, float32 [batch, n], on the CPU.
        rate: the learning rate.
        seeds: of the generators that dropout draws from.
    """

    indices: Tensor
    draws: Tensor
    rate: float
    seeds: Sequence[int]


class TrainingSteps:
    """The steps of one network and its optimizer, from iteration to iteration, in place.

    Args:
        network: in training mode, on the device.
        optimizer: of its parameters.
        generators: what dropout draws from.
        choose: what an iteration is given.
        update: one step from indices and draws, with whatever learning rate the optimizer has: forward, backward,
            optimizer, and no gradients left. Gives the loss, or one for each member of a cohort.
        resident: whether the data are on the device, so that `update` needs nothing of the host.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        generators: Sequence[torch.Generator],
        choose: Callable[[int], StepInputs],
        update: Callable[[Tensor, Tensor], Tensor],
        *,
        resident: bool,
    ) -> None:
        self._network, self._optimizer, self._generators = network, optimizer, generators
        self._choose, self._update = choose, update
        self._device = next(network.parameters()).device
        self._record = recorder_of(self._device) if resident else None
        self._recorded: dict[int, _Recorded] = {}  # by size of batch: the last of an epoch may be a short one

    def __call__(self, start: int, end: int) -> Tensor:
        """Train from one iteration to another. Returns the loss before each step, [iterations, ...], not waited for."""
        # All before the first step; after one, which sweeps the caches, a choice takes several times as long.
        chosen = [self._choose(t) for t in range(start, end)]
        if self._record is None:
            return torch.stack([self._eager_step(one) for one in chosen])
        sizes = [len(one.indices) for one in chosen]
        inputs = zip(
            self._upload(torch.cat([one.indices for one in chosen])).split(sizes),
            self._upload(torch.cat([one.draws for one in chosen])).split(sizes),
            self._upload(torch.tensor([one.rate for one in chosen])),
            strict=True,
        )
        losses = []
        for size, one, values in zip(sizes, chosen, inputs, strict=True):
            if size not in self._recorded:
                self._recorded[size] = self._make(self._record, values)
            self._seed(one)
            losses.append(self._recorded[size].run(values))
        return torch.stack(losses)

    def _eager_step(self, chosen: StepInputs) -> Tensor:
        self._seed(chosen)
        self._optimizer.rate = chosen.rate
        return self._update(chosen.indices, chosen.draws)

    def _seed(self, chosen: StepInputs) -> None:
        # A replay reads the seed that a generator has then, and begins at its first number.
        for generator, seed in zip(self._generators, chosen.seeds, strict=True):
            generator.manual_seed(seed)

    def _upload(self, tensor: Tensor) -> Tensor:
        """On the device; from pinned memory, which need not be waited for."""
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor

    def _make(self, record: Record, values: Sequence[Tensor]) -> "_Recorded":
        """Record a step for inputs of this size; network and optimizer are afterwards as they were."""
        inputs = [value.clone() for value in values]
        indices, draws, rate = inputs

        def step() -> Tensor:
            self._optimizer.rate = rate
            return self._update(indices, draws)

        tensors = self._tensors()
        before = [tensor.detach().clone() for tensor in tensors]
        slots = {
            name: {slot: value.clone() for slot, value in slots.items()}
            for name, slots in self._optimizer.slots.items()
        }
        try:
            if any(isinstance(layer, nn.RNNBase) and layer.dropout for layer in self._network.modules()):
                raise NotRecordable("a recurrent layer's dropout does not begin anew in a replay")  # it is cuDNN's own
            again = record(step, self._generators)
            if list(map(id, self._tensors())) != list(map(id, tensors)):
                raise NotRecordable("it replaces tensors of its own instead of writing to them")
        except NotRecordable as reason:
            _log.warning("the network is trained without a CUDA graph, which is slower: %s", reason)
            self._record = _plainly
            again = step
        self._put_back(before, slots)
        return _Recorded(inputs, again)

    def _tensors(self) -> list[Tensor]:
        return [*self._network.parameters(), *self._network.buffers()]

    @torch.no_grad()
    def _put_back(self, before: list[Tensor], slots: dict[str, dict[str, Tensor]]) -> None:
        """In place, as a graph knows tensors by where they are. Slots that are new are zero, as before a first step."""
        for tensor, value in zip(self._tensors(), before, strict=True):
            tensor.copy_(value)
        for name, of_parameter in self._optimizer.slots.items():
            for slot, value in of_parameter.items():
                if slot in slots.get(name, {}):
                    value.copy_(slots[name][slot])
                else:
                    value.zero_()
        self._optimizer.drop_gradients()  # of a step that failed halfway


@dataclass(frozen=True, eq=False)
class _Recorded:
    inputs: list[Tensor]
    again: Step

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """The step with these inputs."""
        for place, value in zip(self.inputs, values, strict=True):
            place.copy_(value)
        return self.again().clone()  # the next replay writes where this one did


def recorder_of(device: torch.device) -> Record | None:
    """How steps are recorded on a device; None if they are not."""
    return functools.partial(cuda_graph, device) if device.type == "cuda" else None


def cuda_graph(device: torch.device, step: Step, generators: Sequence[torch.Generator]) -> Step:
    """A function that replays a step, which is taken a few times first, on a stream of its own.

    Raises:
        NotRecordable: the step waits for the GPU, draws random numbers on the host, or cannot be captured.
    """
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):  # left on every way out; a capture that fails would stay in it
            drawn = _drawn_on_host()
            for _ in range(_WARM_UP):
                step()
            if _drawn_on_host() != drawn:
                raise NotRecordable("it draws random numbers on the CPU")
            try:
                # A capture that fails leaves PyTorch in disorder; so what would make it fail is looked for first.
                with _refusing_to_wait():
                    step()
                for generator in generators:
                    graph.register_generator_state(generator)
                with torch.cuda.graph(graph, stream=stream):
                    loss = step()
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                said = str(error).partition("\n")[0]
                raise NotRecordable(f"{type(error).__name__}: {said}") from error
    finally:
        torch.cuda.current_stream(device).wait_stream(stream)

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


def _plainly(step: Step, generators: Sequence[torch.Generator]) -> Step:
    """The step itself, for what cannot be recorded."""
    return step


@contextlib.contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Whatever makes the host wait for the GPU is an error inside."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode may not see everything; the capture would
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _drawn_on_host() -> tuple[Any, ...]:
    """How far the host's random generators are; a replay would not move them."""
    numpy_state: Any = np.random.get_state()
    of_torch, keys, place = torch.default_generator.get_state(), numpy_state[1], numpy_state[2]
    return of_torch.numpy().tobytes(), keys.tobytes(), place, random.getstate()
