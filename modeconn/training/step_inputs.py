"""The inputs of an iteration: its examples, their augmentation, the learning rate and the seeds of dropout."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from modeconn.data import DataSet, draws_per_example, normalize
from modeconn.tasks import Task
from modeconn.training import noise as sgd_noise
from modeconn.training.noise import Epochs, Noise, Seeds
from modeconn.training.schedule import learning_rate


@dataclass(frozen=True, eq=False)
class StepInputs:
    """Choices of the host for an iteration, before any image is read.

    Attributes:
        indices: of the examples, int64 [batch].
        draws: uniform numbers of their augmentation, float32 [batch, n].
        rate: the learning rate; a scalar tensor on the device where steps are recorded.
        seeds: of the generators that dropout draws from.
    """

    indices: Tensor
    draws: Tensor
    rate: float | Tensor
    seeds: Sequence[int]


def choose_inputs(task: Task, data: DataSet, noise: Noise, iteration: int, epochs: Epochs | None = None) -> StepInputs:
    """The inputs of iteration t: a function of the noise and t alone. On the CPU."""
    seeds = noise.at(iteration)
    dropout = sgd_noise.dropout_seed(seeds.dropout, iteration)
    indices, draws = _choose_batch(task, data, seeds, iteration, epochs)
    return StepInputs(indices, draws, learning_rate(task, iteration), [dropout])


def read_batch(indices: Tensor, draws: Tensor, task: Task, data: DataSet) -> tuple[Tensor, Tensor]:
    """Read, augment and normalize chosen training examples.

    Returns:
        Images, float32 [batch, channels, height, width], and labels, int64 [batch].
    """
    images = data.train.images.read_augmented(indices, draws, task.augmentation)
    return normalize(images, data), data.train.labels[indices.to(data.train.labels.device)]


def training_batch(task: Task, data: DataSet, seeds: Seeds, iteration: int) -> tuple[Tensor, Tensor]:
    """The batch of iteration t: images, float32 [batch, channels, height, width], and labels, int64 [batch]."""
    return read_batch(*_choose_batch(task, data, seeds, iteration), task, data)


def _choose_batch(
    task: Task, data: DataSet, seeds: Seeds, iteration: int, epochs: Epochs | None = None
) -> tuple[Tensor, Tensor]:
    """Indices of the examples, int64 [batch], and the uniform numbers of their augmentation, float32 [batch, n]."""
    examples, size = len(data.train), task.batch_size
    indices = sgd_noise.batch_indices(seeds.order, iteration, examples, size, epochs)
    n = draws_per_example(task.augmentation)
    draws = sgd_noise.augmentation_draws(seeds.augmentation, iteration, examples, size, indices, n, epochs)
    return indices, draws
