"""Training steps on a GPU: each is recorded once as a CUDA graph, and replayed for every iteration.

A small network's step is hundreds of short kernels, whose launches take the host longer than the GPU needs for them. A
replay launches all of them at once. An iteration's inputs (examples, augmentation, learning rate) lie in tensors that
the graph reads from, and are uploaded for many iterations at a time, so that the host waits for nothing between. Every
iteration is a replay, the first after an interruption too; so where that was leaves no trace.
"""

import contextlib
import functools
import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from modeconn.training.optimizer import Optimizer
from modeconn.training.step_inputs import StepInputs

_log = logging.getLogger("modeconn")
_WARM_UP = 3  # steps before a recording, as in PyTorch's notes on CUDA graphs

Step: TypeAlias = Callable[[StepInputs], Tensor]  # one iteration in place; gives the loss before it
Replay: TypeAlias = Callable[[], Tensor]  # a step that reads its inputs from tensors that stay where they are
Record: TypeAlias = Callable[[Replay, Sequence[torch.Generator]], Replay]  # may take steps on the way


class NotRecordable(Exception):
    """The step cannot be replayed; the message says why."""


def record_steps(
    network: nn.Module, optimizer: Optimizer, generators: Sequence[torch.Generator]
) -> "RecordedSteps | None":
    """Replays of training steps, each recorded when it is first wanted; None on a device without CUDA graphs.

    Args:
        network: in training mode, on the device.
        optimizer: of its parameters.
        generators: that dropout draws from.
    """
    record = recorder_of(next(network.parameters()).device)
    return RecordedSteps(network, optimizer, generators, record) if record else None


class RecordedSteps:
    """Replays of one network's steps; see `record_steps`."""

    def __init__(
        self, network: nn.Module, optimizer: Optimizer, generators: Sequence[torch.Generator], record: Record
    ) -> None:
        self._network, self._optimizer, self._generators, self._record = network, optimizer, generators, record
        self._device = next(network.parameters()).device
        self._replays: dict[int, Step] = {}  # by size of batch: the last of an epoch may be a short one

    def upload(self, chosen: Sequence[StepInputs]) -> list[StepInputs]:
        """The inputs of many iterations on the device, in one transfer of each kind."""
        sizes = [len(inputs.indices) for inputs in chosen]
        indices = self._to_device(torch.cat([inputs.indices for inputs in chosen])).split(sizes)
        draws = self._to_device(torch.cat([inputs.draws for inputs in chosen])).split(sizes)
        rates = self._to_device(torch.tensor([inputs.rate for inputs in chosen]))
        parts = zip(indices, draws, rates, (inputs.seeds for inputs in chosen), strict=True)
        return [StepInputs(*part) for part in parts]

    def replay_of(self, step: Step, inputs: StepInputs) -> Step:
        """The replay of a step for inputs of this size, which are uploaded; seed the generators afterwards.

        Recording draws from them; a replay reads the seed that a generator has then, and begins at its first number.

        Args:
            step: one iteration: forward, backward, optimizer, and no gradients left. The same one in every call.
            inputs: of an iteration.
        """
        size = len(inputs.indices)
        if size not in self._replays:
            self._replays[size] = self._recorded(step, inputs)
        return self._replays[size]

    def _recorded(self, step: Step, inputs: StepInputs) -> Step:
        """Record a step for inputs of this size; network and optimizer are afterwards as they were."""
        # The graph reads from these tensors, whatever the iteration.
        indices, draws, rate = inputs.indices.clone(), inputs.draws.clone(), torch.as_tensor(inputs.rate).clone()

        def step_again() -> Tensor:
            return step(StepInputs(indices, draws, rate, inputs.seeds))

        tensors = self._tensors()
        before = [tensor.detach().clone() for tensor in tensors]
        slots = {
            name: {slot: value.clone() for slot, value in slots.items()}
            for name, slots in self._optimizer.slots.items()
        }
        try:
            if any(isinstance(layer, nn.RNNBase) and layer.dropout for layer in self._network.modules()):
                raise NotRecordable("a recurrent layer's dropout does not begin anew in a replay")  # it is cuDNN's own
            replay = self._record(step_again, self._generators)
            if list(map(id, self._tensors())) != list(map(id, tensors)):
                raise NotRecordable("it replaces tensors of its own instead of writing to them")
        except NotRecordable as reason:
            _log.warning("the network is trained without a CUDA graph, which is slower: %s", reason)
            self._record = take_again
            replay = step_again
        self._put_back(before, slots)

        def replay_with(inputs: StepInputs) -> Tensor:
            indices.copy_(inputs.indices)
            draws.copy_(inputs.draws)
            rate.copy_(torch.as_tensor(inputs.rate))
            return replay().clone()  # the next replay writes where this one did

        return replay_with

    def _to_device(self, tensor: Tensor) -> Tensor:
        """On the device; from pinned memory, which need not be waited for."""
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor

    def _tensors(self) -> list[Tensor]:
        return [*self._network.parameters(), *self._network.buffers()]

    @torch.no_grad()
    def _put_back(self, before: list[Tensor], slots: dict[str, dict[str, Tensor]]) -> None:
        """Undo the steps of a recording, in place, as a graph knows tensors by address. New slots become zero."""
        for tensor, value in zip(self._tensors(), before, strict=True):
            tensor.copy_(value)
        for name, of_parameter in self._optimizer.slots.items():
            for slot, value in of_parameter.items():
                if slot in slots.get(name, {}):
                    value.copy_(slots[name][slot])
                else:
                    value.zero_()
        self._optimizer.drop_gradients()  # of a step that failed halfway


def recorder_of(device: torch.device) -> Record | None:
    """The recorder of steps on a device; None if they are not recorded there."""
    return functools.partial(cuda_graph, device) if device.type == "cuda" else None


def take_again(step: Replay, generators: Sequence[torch.Generator]) -> Replay:
    """The step itself in place of a replay, for what cannot be recorded."""
    return step


def cuda_graph(device: torch.device, step: Replay, generators: Sequence[torch.Generator]) -> Replay:
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


@contextlib.contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """A context in which it is an error to make the host wait for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode may not see everything; the capture would
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _drawn_on_host() -> tuple[Any, ...]:
    """The state of the host's random generators; a replay would not move them."""
    numpy_state: Any = np.random.get_state()
    of_torch, keys, place = torch.default_generator.get_state(), numpy_state[1], numpy_state[2]
    return of_torch.numpy().tobytes(), keys.tobytes(), place, random.getstate()
