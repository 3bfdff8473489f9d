"""Training a task: the settings that all runs of a study share, and the checks that come before any of them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.data import DataSet, draws_per_example, load_data
from modeconn.errors import DataError, ModeconnError, NetworkError, OptionError
from modeconn.evaluation.batches import BATCH
from modeconn.evaluation.compute import check_precision, computing, resolve_device
from modeconn.evaluation.meters import CLASSIFICATION, Meter
from modeconn.evaluation.modes import evaluating, running_statistics_layers
from modeconn.models import builder_of, code_fingerprint, source_fingerprint
from modeconn.tasks import NOISE_SOURCES, Task
from modeconn.training.noise import Noise, Seeds, epoch_length
from modeconn.training.optimizer import Optimizer
from modeconn.training.protocol import Training
from modeconn.training.splits import SplitBatches
from modeconn.training.state import Metrics, State, capture, state_to_bytes
from modeconn.training.step_inputs import training_batch
from modeconn.training.trainer import TrainResult, build_task_network, train_until, training_loss

_CALIBRATION_SEED = 0  # the same examples and crops at every alpha and for every network


@dataclass(frozen=True)
class TaskTraining:
    """A way of training that all runs of a study share: the task, its data, and where and how to compute.

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

    noise_per_call = False  # it is a function of the iteration

    @property
    def iterations(self) -> int:
        """T, the length of a training."""
        return self.task.iterations

    @property
    def noise_sources(self) -> tuple[str, ...]:
        """The order of examples; augmentation, if there is any; dropout, unless the network is known to have none."""
        dropout = self.task.dropout or self.source is not None or self.task.model.startswith("inception")
        present = {"order": True, "augmentation": draws_per_example(self.task.augmentation), "dropout": dropout}
        return tuple(source for source in NOISE_SOURCES if present[source])

    def facts(self) -> dict[str, Any]:
        """What is not part of a run's name: those of task and data set, and the file of an imported network."""
        code = {"code": code_fingerprint(self.task.model)} if ":" in self.task.model else {}
        return {"task": self.task.name, "data": self.task.data} | code

    def cost(self, iterations: int) -> float:
        """Images passed forward, or backward at twice the price."""
        return 3.0 * self.task.batch_size * iterations

    def computing(self) -> AbstractContextManager[None]:
        """Deterministic and on one CPU thread; see `modeconn.evaluation.compute.computing`."""
        return computing(torch.device(self.device), self.precision)

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
        """Train up to iteration `stop`; see `modeconn.training.trainer.train_until`."""
        return train_until(
            state,
            stop,
            task=self.task,
            data=self.data(),
            noise=noise,
            init_seed=init_seed,
            device=torch.device(self.device),
            precision=self.precision,
            metrics=metrics,
            best=best,
            on_chunk=on_chunk,
            mask=mask,
        )

    def data(self) -> DataSet:
        """The data set, checked to be the one that names of runs contain; the network's code is checked, too.

        Raises:
            DataError, NetworkError: they have changed since the study began.
        """
        data = load_data(self.task.data, self.data_dir, self.task.image_size, self.task.validation, self.task.normalize)
        if (data.fingerprint, data.classes) != (self.fingerprint, self.classes):
            raise DataError(f"data set {self.task.data} has changed since the study began; start the study again")
        if self.source is not None and _source(self.task, data) != self.source:
            raise NetworkError(f"the code of {self.task.model} has changed since the study began; start it again")
        return data

    def network(self) -> nn.Module:
        """A network of the task's architecture on the device, for weights to be loaded into."""
        return build_task_network(self.task, self.data(), init_seed=0).to(self.device)

    def meter(self) -> Meter:
        """Error and cross-entropy."""
        return CLASSIFICATION

    def batches(self, split: str) -> SplitBatches:
        """A split of the data on the device, as it is evaluated."""
        return SplitBatches(self.data().to(torch.device(self.device)), split)

    def calibration(self, examples: int) -> list[Tensor]:
        """The first `examples` training images of a fixed order, augmented as in training, in batches of up to 250."""
        data = self.data().to(torch.device(self.device))
        examples = min(examples, len(data.train))
        count = -(-examples // BATCH)
        size = -(-examples // count)  # as equal as can be: a last batch of one could not be normalized
        task = replace(self.task, batch_size=size)
        seeds = Seeds.all(_CALIBRATION_SEED)
        return [training_batch(task, data, seeds, i)[0][: examples - i * size] for i in range(count)]

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

    def measured_spec(self) -> dict[str, Any]:
        """Empty: the data are in the names of the states."""
        return {}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A training that was tried, with the sizes and facts that a study needs of it.

    Attributes:
        examples: of each split.
        per_epoch: iterations in an epoch; None of a loop that has none.
        state_bytes: the size of a saved state, without its optimizer's part.
        has_batchnorm: whether the network keeps running statistics.
        about: what it is, for `summary.json`.
        chance: of each split the error of a network that learned nothing, if it is known.
    """

    training: Training
    examples: dict[str, int]
    per_epoch: int | None
    state_bytes: int
    has_batchnorm: bool
    about: dict[str, Any]
    chance: dict[str, float] = field(default_factory=dict)


def prepare(
    task: Task,
    *,
    data_dir: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
    checkpoint_every: float = 60.0,
) -> Prepared:
    """Load the data, build the network once and try it on a few images, before any job runs.

    Raises:
        ModeconnError: says which option, file or shape is wrong.
    """
    resolved = resolve_device(device)
    check_precision(precision, resolved)
    if not checkpoint_every >= 0:
        raise OptionError(f"the seconds between two saves must not be negative; got {checkpoint_every}")
    data = load_data(task.data, data_dir, task.image_size, task.validation, task.normalize)
    with computing(resolved, precision):
        state_bytes, has_batchnorm = _try(task, data.to(resolved), resolved)
    setting = TaskTraining(
        task=task,
        fingerprint=data.fingerprint,
        classes=data.classes,
        source=_source(task, data),
        precision=precision,
        device=str(resolved),
        data_dir=None if data_dir is None else str(Path(data_dir).absolute()),
        checkpoint_every=checkpoint_every,
    )
    return Prepared(
        training=setting,
        examples={"train": len(data.train), "test": len(data.test)},
        per_epoch=epoch_length(len(data.train), task.batch_size),
        state_bytes=state_bytes,
        has_batchnorm=has_batchnorm,
        about={
            "task": task.name,
            "task_changes": task.changes(),
            "data": data.name,
            "data_note": data.note,
            "data_fingerprint": data.fingerprint,
            "data_mean": data.mean,
            "data_std": data.std,
            "options": task.spec(),
            "builder": builder_of(
                task.model,
                data.shape,
                data.classes,
                width=task.width,
                norm=task.norm,
                dropout=task.dropout,
                init=task.init,
            ),
        },
        chance={split: _guessing(data.split(split).labels) for split in ("train", "test")},
    )


def _try(task: Task, data: DataSet, device: torch.device) -> tuple[int, bool]:
    """One step of training and one evaluation on two images. Returns the bytes of a state, whether it has BatchNorm."""
    images, labels = training_batch(task, data, Seeds.all(0), 0)
    few = slice(1 if len(data.train) % task.batch_size == 1 else 2)  # the last batch of an epoch may be one image
    try:
        network = build_task_network(task, data, init_seed=0).to(device)
        optimizer = Optimizer(task, network)
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
                "which BatchNorm cannot normalize; choose another batch_size="
            ) from error
        raise NetworkError(f"network {task.model} fails {tried}: {type(error).__name__}: {error}") from error
    if not isinstance(output, torch.Tensor) or output.shape != (len(images[:2]), data.classes):
        found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise NetworkError(f"network {task.model} must give [batch, {data.classes}] for {data.name}; it gives {found}")
    if any(value.is_complex() for value in network.state_dict().values()):
        raise NetworkError(f"network {task.model} has complex weights, which paths are not defined for here")
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    return size, bool(running_statistics_layers(network))


def _guessing(labels: Tensor) -> float:
    """The error of whoever always answers with the most frequent class."""
    return 1 - float(labels.bincount().max()) / len(labels)


def _source(task: Task, data: DataSet) -> str | None:
    return source_fingerprint(task.model, data.shape, data.classes)
