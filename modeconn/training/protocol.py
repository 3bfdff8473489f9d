"""The protocol of a training that studies can fork: a task's (`TaskTraining`), or a loop of the user's own."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from modeconn.evaluation.meters import Meter
from modeconn.training.noise import Noise
from modeconn.training.state import Metrics, State
from modeconn.training.trainer import TrainResult


class Training(Protocol):
    """A way to train and to measure one kind of network. Picklable, as workers are processes.

    Attributes:
        iterations: T, the length of a training.
        device: where it computes.
        precision: of evaluation.
        checkpoint_every: seconds between two saves of a training that can be saved on the way.
        noise_per_call: whether `train_until` draws its noise from the beginning whenever it is called, so that the
            states of a trajectory under one seed are each reached from the initialisation.
        noise_sources: those of `modeconn.tasks.NOISE_SOURCES` that it draws from.
    """

    @property
    def iterations(self) -> int: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def checkpoint_every(self) -> float: ...  # noqa: D102
    @property
    def noise_per_call(self) -> bool: ...  # noqa: D102
    @property
    def noise_sources(self) -> tuple[str, ...]: ...  # noqa: D102

    def spec(self) -> dict[str, Any]:
        """All that decides the states, for names."""

    def measured_spec(self) -> dict[str, Any]:
        """All that decides measurements besides the state, for names."""

    def facts(self) -> dict[str, Any]:
        """For people, beside a stored state."""

    def cost(self, iterations: int) -> float:
        """Work of training, in images passed forward."""

    def computing(self) -> AbstractContextManager[None]:
        """Settings of PyTorch while measuring; random generators are put back afterwards."""

    def train_until(
        self,
        state: State | None,
        stop: int,
        *,
        noise: Noise,
        init_seed: int,
        metrics: Metrics,
        on_chunk: Callable[[TrainResult], None],
        best: State | None = None,
        mask: Mapping[str, Tensor] | None = None,
    ) -> TrainResult:
        """The state at `stop`, from an earlier one or the initialisation, which is left unchanged.

        Weights that the mask prunes are zero after every step.
        """

    def network(self) -> nn.Module:
        """A network for states to be put into, on the device."""

    def meter(self) -> Meter:
        """The meter that networks are measured with; `error` must be among its metrics."""

    def batches(self, split: str) -> Iterable[Any]:
        """A split of the data on the device, the same in every pass."""

    def calibration(self, examples: int) -> Iterable[Any]:
        """Training data to take statistics on; about so many examples, the same in every pass."""
