"""What all runs of a study share, and the checks that come before any of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeconn.data import DataSet, load_data
from modeconn.errors import DataError, NetworkError, OptionError
from modeconn.models import batchnorm_layers, evaluating, source_fingerprint
from modeconn.tasks import Task
from modeconn.training.compute import check_precision, computing, resolve_device
from modeconn.training.noise import Seeds
from modeconn.training.trainer import build_task_network, training_batch, training_loss


@dataclass(frozen=True)
class Setting:
    """What all runs of a study share.

    Attributes:
        fingerprint: of the task's data.
        source: of the code behind an imported network; None for modeconn's own.
        data_dir, checkpoint_every: where the data are, and how many seconds pass between two saves of a training;
            neither is part of a name.
    """

    task: Task
    fingerprint: str
    source: str | None
    precision: str
    device: str
    data_dir: str | None
    checkpoint_every: float

    def data(self) -> DataSet:
        """The data set, checked to be the one that names of runs speak of."""
        data = load_data(self.task.data, self.data_dir, self.task.image_size)
        if data.fingerprint != self.fingerprint:
            raise DataError(f"data set {self.task.data} has changed since the study began; start the study again")
        return data

    def spec(self) -> dict[str, Any]:
        """For names."""
        return {
            "task": self.task.spec(),
            "data": self.fingerprint,
            "source": self.source,
            "precision": self.precision,
            "device": torch.device(self.device).type,
        }


@dataclass(frozen=True, eq=False)
class Prepared:
    """A setting that was tried, with what was learnt on the way.

    Attributes:
        state_bytes: the size of a saved state, without its optimizer's part.
        has_batchnorm: whether the network keeps running statistics.
    """

    setting: Setting
    data: DataSet
    state_bytes: int
    has_batchnorm: bool


def prepare(
    task: Task,
    *,
    data_dir: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
    checkpoint_every: float = 60.0,
) -> Prepared:
    """Load the data, build the network once and try it on a few images, so that what cannot work fails here.

    Raises:
        ModeconnError: says which option, file or shape is wrong.
    """
    check_precision(precision)
    if checkpoint_every < 0:
        raise OptionError(f"the seconds between two saves must not be negative; got {checkpoint_every}")
    resolved = resolve_device(device)
    data = load_data(task.data, data_dir, task.image_size)
    network = build_task_network(task, data, init_seed=0).to(resolved)
    with computing(resolved):
        _try(network, task, data.to(resolved))
    setting = Setting(
        task=task,
        fingerprint=data.fingerprint,
        source=source_fingerprint(task.model),
        precision=precision,
        device=str(resolved),
        data_dir=None if data_dir is None else str(Path(data_dir).absolute()),
        checkpoint_every=checkpoint_every,
    )
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    return Prepared(setting, data, size, bool(batchnorm_layers(network)))


def _try(network: nn.Module, task: Task, data: DataSet) -> None:
    images, labels = training_batch(task, data, Seeds.all(0), 0)
    images, labels = images[:2], labels[:2]
    if len(data.train) % task.batch_size == 1 and batchnorm_layers(network):
        raise OptionError(
            f"{len(data.train)} training images in batches of {task.batch_size} leave a last batch of one, "
            "which BatchNorm cannot normalize; choose another --task.batch-size"
        )
    try:
        with torch.no_grad(), evaluating(network):
            output = network(images)
        training_loss(network.train()(images), labels).backward()
    except Exception as error:
        shape = list(images.shape)
        raise NetworkError(f"network {task.model} fails on images {shape}: {type(error).__name__}: {error}") from error
    if not isinstance(output, torch.Tensor) or output.shape != (len(images), data.classes):
        found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise NetworkError(f"network {task.model} must give [batch, {data.classes}] for {data.name}; it gives {found}")
