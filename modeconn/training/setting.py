"""What all runs of a study share, and the checks that come before any of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modeconn.data import DataSet, load_data
from modeconn.errors import DataError, ModeconnError, NetworkError, OptionError
from modeconn.models import batchnorm_layers, evaluating, source_fingerprint
from modeconn.tasks import Task
from modeconn.training.compute import check_precision, computing, resolve_device
from modeconn.training.noise import Seeds
from modeconn.training.state import capture, make_optimizer, state_to_bytes
from modeconn.training.trainer import build_task_network, training_batch, training_loss


@dataclass(frozen=True)
class Setting:
    """What all runs of a study share.

    Attributes:
        fingerprint: of the task's data.
        classes: number of outputs.
        source: of the code behind an imported network; None for modeconn's own.
        data_dir, checkpoint_every: where the data are, and how many seconds pass between two saves of a training;
            neither is part of a name.
    """

    task: Task
    fingerprint: str
    classes: int
    source: str | None
    precision: str
    device: str
    data_dir: str | None
    checkpoint_every: float

    def data(self) -> DataSet:
        """The data set, once it and the network's code are seen to be those that names of runs speak of.

        Raises:
            DataError, NetworkError: they have changed since the study began.
        """
        data = load_data(self.task.data, self.data_dir, self.task.image_size)
        if (data.fingerprint, data.classes) != (self.fingerprint, self.classes):
            raise DataError(f"data set {self.task.data} has changed since the study began; start the study again")
        if self.source is not None and _source(self.task, data) != self.source:
            raise NetworkError(f"the code of {self.task.model} has changed since the study began; start it again")
        return data

    def spec(self) -> dict[str, Any]:
        """For names."""
        return {
            "task": self.task.spec(),
            "data": self.fingerprint,
            "classes": self.classes,
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
    if not checkpoint_every >= 0:
        raise OptionError(f"the seconds between two saves must not be negative; got {checkpoint_every}")
    resolved = resolve_device(device)
    data = load_data(task.data, data_dir, task.image_size)
    with computing(resolved):
        state_bytes, has_batchnorm = _try(task, data.to(resolved), resolved)
    setting = Setting(
        task=task,
        fingerprint=data.fingerprint,
        classes=data.classes,
        source=_source(task, data),
        precision=precision,
        device=str(resolved),
        data_dir=None if data_dir is None else str(Path(data_dir).absolute()),
        checkpoint_every=checkpoint_every,
    )
    return Prepared(setting, data, state_bytes, has_batchnorm)


def _try(task: Task, data: DataSet, device: torch.device) -> tuple[int, bool]:
    """Build the network and do once, on two images, what a study does many times."""
    images, labels = training_batch(task, data, Seeds.all(0), 0)
    few = slice(1 if len(data.train) % task.batch_size == 1 else 2)  # the last batch of an epoch may be one image
    try:
        network = build_task_network(task, data, init_seed=0).to(device)
        optimizer = make_optimizer(task, network)
        with torch.no_grad(), evaluating(network):
            output = network(images[:2].clone())
        training_loss(network.train()(images[few].clone()), labels[few]).backward()
        optimizer.step()
        state_to_bytes(capture(1, network, optimizer))
    except ModeconnError:
        raise
    except Exception as error:
        tried = f"on images {list(images[few].shape)}"
        if few.stop == 1 and "more than 1 value per channel" in str(error):
            raise OptionError(
                f"{len(data.train)} training images in batches of {task.batch_size} leave a last batch of one, "
                "which BatchNorm cannot normalize; choose another --task.batch-size"
            ) from error
        raise NetworkError(f"network {task.model} fails {tried}: {type(error).__name__}: {error}") from error
    if not isinstance(output, torch.Tensor) or output.shape != (len(images[:2]), data.classes):
        found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise NetworkError(f"network {task.model} must give [batch, {data.classes}] for {data.name}; it gives {found}")
    if any(value.is_complex() for value in network.state_dict().values()):
        raise NetworkError(f"network {task.model} has complex weights, which paths are not defined for here")
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    return size, bool(batchnorm_layers(network))


def _source(task: Task, data: DataSet) -> str | None:
    return source_fingerprint(task.model, data.shape, data.classes)
