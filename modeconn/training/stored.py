"""Finished trainings, which know their own data: the result of `modeconn.train`, or the folder of a stored state."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modeconn.errors import DataError, ModeconnError, NetworkError, OptionError
from modeconn.execution import Store
from modeconn.models import code_fingerprint, find_code
from modeconn.options import CALIBRATION, SPLITS
from modeconn.reading import is_file
from modeconn.tasks import Task
from modeconn.training.jobs import TrainJob, load_state
from modeconn.training.protocol import Training
from modeconn.training.task_training import TaskTraining
from modeconn.weights.sources import weights_of
from modeconn.weights.state_dicts import Weights


@dataclass(frozen=True, eq=False)
class Run:
    """A finished training.

    Attributes:
        folders: of the saved states, by iteration. Of a training that diverged, the last is the last good state.
        metrics: rows of iteration, split, loss (nats) and error (a fraction).
        diverged_at: the iteration whose loss was not finite, or None.
        training: what was trained, on what.
    """

    folders: dict[int, Path]
    metrics: list[dict[str, Any]]
    diverged_at: int | None
    training: Training = field(repr=False)
    _jobs: dict[int, TrainJob] = field(repr=False)
    _store: Store = field(repr=False)

    def weights(self, iteration: int | None = None) -> dict[str, Tensor]:
        """The state dict at a saved iteration; at the last one if None."""
        iteration = max(self._jobs) if iteration is None else iteration
        if iteration not in self._jobs:
            raise ModeconnError(f"no state was saved at iteration {iteration}; saved: {sorted(self._jobs)}")
        return load_state(self._store.require(self._jobs[iteration])).model

    def network(self, iteration: int | None = None) -> nn.Module:
        """The network at a saved iteration, in evaluation mode."""
        network = self.training.network().cpu()
        network.load_state_dict(self.weights(iteration))
        return network.eval()


@dataclass(frozen=True, eq=False)
class Stored:
    """A state that a training left in a store.

    Attributes:
        code: the network by import path, where only the store's record names it: what it names is not imported.
    """

    training: Training
    weights: Weights
    code: str | None = None

    def network(self) -> nn.Module:
        """A network of the run's architecture, for weights to be loaded into.

        Raises:
            NetworkError: that is code which nobody but the store's record names.
        """
        if self.code is not None:
            place = find_code(self.code) or "nowhere that it could be found"
            raise NetworkError(
                f"{self.weights.origin} is of the network {self.code}, code that its record names and that would be "
                f"imported from {place}. It is only run at your word: if you trust it, name it by model= as well"
            )
        return self.training.network()

    def on(self, device: str) -> "Stored":
        """The same, computed on another device."""
        return replace(self, training=replace(self.training, device=device))  # type: ignore[type-var]

    def batches(self, split: str) -> Iterable[Any]:
        """The run's own data: `"test"` or `"train"`, without augmentation.

        Raises:
            OptionError: no such split.
        """
        if split not in SPLITS:
            raise OptionError(f"the data of a stored run are {' or '.join(SPLITS)}; got {split!r}")
        return self.training.batches(split)

    def calibration(self) -> Iterable[Any]:
        """Up to 5,000 training images as in training, augmentation included."""
        return self.training.calibration(CALIBRATION)


def find_stored(source: Any, data_dir: str | Path | None, model: Any = None) -> Stored | None:
    """The stored run that a `Run` or a folder is; None if it is something else.

    Args:
        source: perhaps one.
        data_dir: of prepared data sets.
        model: the user's word for its network. Code that the folder names is imported if this is its import path;
            with another import path that code is the network; with anything else no code of the folder's is run.

    Raises:
        ModeconnError: a state that is not finished, whose data are not there, or whose network's code has changed.
        OptionError: an import path for a network of modeconn's own.
    """
    if isinstance(source, Run):
        return Stored(source.training, weights_of(source.weights(), "run"))
    if not isinstance(source, str | Path) or not is_file(Path(source) / "spec.json"):
        return None
    folder = Path(source).absolute()
    store = Store(folder.parent.parent, create=False)
    spec, artifact = store.describe(folder.name)["spec"], store.finished(folder.name)
    if spec.get("kind") != TrainJob.kind or artifact is None:
        raise DataError(f"{source} is not the finished state of a run; see modeconn runs for those that are")
    facts = artifact.facts
    if "data" not in facts:
        raise DataError(
            f"{source} was stored by an older modeconn, without the name of its data; give data= and model="
        )
    setting = TaskTraining(
        task=Task(**spec["task"], name=facts["task"], data=facts["data"]),
        fingerprint=spec["data"],
        classes=spec["classes"],
        source=spec["source"],
        precision=spec["precision"],
        device=spec["device"],
        data_dir=None if data_dir is None else str(Path(data_dir).absolute()),
        checkpoint_every=0.0,
    )
    weights = weights_of(load_state(artifact).model, folder.name)
    if facts["diverged_at"] is not None:
        note = f"its training diverged at iteration {facts['diverged_at']}; this is its last good state"
        weights = replace(weights, notes=(*weights.notes, note))
    return _with_trusted_code(Stored(setting, weights), setting, model, facts.get("code"))


def _with_trusted_code(stored: Stored, training: TaskTraining, model: Any, recorded: str | None) -> Stored:
    """The stored run with the code that the user's word is for: the recorded one, another, or none."""
    named = training.task.model
    if ":" not in named:
        if isinstance(model, str) and model != named:
            raise OptionError(f"{stored.weights.origin} is of the network {named}; leave out the model {model}")
        return stored
    if model == named:
        # Before anything of it is run; what it builds is compared as well, when it is.
        if recorded is not None and recorded != code_fingerprint(named):
            raise NetworkError(
                f"{stored.weights.origin} was trained with other code of {named} than what is in {find_code(named)}; "
                "give the code that it was trained with"
            )
        return stored
    if isinstance(model, str):
        return replace(stored, training=replace(training, task=replace(training.task, model=model), source=None))
    return replace(stored, training=replace(training, source=None), code=named)
