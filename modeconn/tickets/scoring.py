"""Training examples that pruning criteria score a network with: of a task, or of a training loop of the user's own."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from modeconn.data import DataSet, normalize
from modeconn.errors import ModeconnError, OptionError
from modeconn.evaluation.batches import BATCH
from modeconn.evaluation.losses import mean_loss
from modeconn.evaluation.modes import evaluating
from modeconn.evaluation.structures import tensors_of
from modeconn.pruning.criteria import needs_data
from modeconn.tickets.options import CRITERIA, scored_by
from modeconn.training.own_loop import OwnLoopTraining
from modeconn.training.protocol import Training
from modeconn.training.task_training import TaskTraining

_CLASSES = 10  # that data without labels of classes are taken to have


def scoring_of(training: Any, criterion: str, per_class: int) -> dict[str, Any]:
    """What scores are computed from besides the network: `batches`, `input_shape` and `loss`, as `find_mask` has them.

    Args:
        training: that the network is of.
        criterion: one of `modeconn.pruning.criteria.CRITERIA`.
        per_class: training examples of each class, for criteria that need data.
    """
    if isinstance(training, OwnLoopTraining):
        batches = own_examples(training, per_class) if _looks_at_data(criterion) else ()
        return {"batches": batches, "input_shape": None, "loss": training.loss}
    batches = labelled(training, per_class) if needs_data(criterion) else ()
    return {"batches": batches, "input_shape": training.data().shape, "loss": None}


def scoring_spec(training: Any, criterion: str) -> dict[str, Any]:
    """For the name of a mask: all that decides scores besides the network and `per_class`.

    Of a task the data are in the network's name.
    """
    if not isinstance(training, OwnLoopTraining) or not _looks_at_data(criterion):
        return {}
    return {
        "data": training.fingerprints["train"],
        "loss": training.contents.get("loss"),
        "device": torch.device(training.device).type,
    }


def check_scoring(training: Training, conditions: Iterable[str]) -> None:
    """See that the criteria of these conditions can score a network, before anything is trained.

    Raises:
        OptionError: a training loop of the user's own has no training data, or none whose loss can be told.
    """
    scored = {criterion: name for name in conditions if (criterion := scored_by(name)[0]) in CRITERIA}
    names = [name for criterion, name in scored.items() if criterion and _looks_at_data(criterion)]
    if not names or not isinstance(training, OwnLoopTraining):
        return
    if "train" not in training.data:
        raise OptionError(
            f'condition {names[0]} scores weights on training data: give data={{"test": ..., "train": ...}}, or leave '
            "it out"
        )
    of_loss = [name for criterion, name in scored.items() if criterion and needs_data(criterion)]
    if of_loss:
        with training.computing(), torch.no_grad(), evaluating(network := training.network()):
            try:
                mean_loss(network, training.batches("train").first(), training.loss)
            except ModeconnError as error:
                raise OptionError(f"condition {of_loss[0]} needs the loss on training data: {error}") from error


def labelled(training: TaskTraining, per_class: int) -> list[tuple[Tensor, Tensor]]:
    """The first training examples of each class, not augmented, in batches of all classes, for SNIP and GraSP."""
    data: DataSet = training.data().to(torch.device(training.device))
    labels = data.train.labels
    of_classes = [(labels == label).nonzero().flatten()[:per_class] for label in range(data.classes)]
    # The first of each class, then the second: BatchNorm's statistics of one class alone would be other ones.
    picked = torch.stack([found[i] for i in range(max(map(len, of_classes))) for found in of_classes if i < len(found)])
    return [(normalize(data.train.images.read(part), data), labels[part]) for part in picked.split(BATCH)]


def own_examples(training: OwnLoopTraining, per_class: int) -> list[Any]:
    """Training examples of a loop of the user's own, in the order of its data.

    Of batches of inputs and labels of classes the first of each class, then the second, and so on; of others the first
    batches that hold as many as of ten classes.
    """
    of_classes: dict[int, list[tuple[Tensor, Tensor]]] = {}
    whole: list[Any] = []
    count = 0
    for batch in training.batches("train"):
        if not _has_classes(batch):
            whole.append(batch)
            if (count := count + len(tensors_of(batch)[0])) >= _CLASSES * per_class:
                return whole
            continue
        inputs, labels = batch
        for label in labels.unique().tolist():
            if label >= 0 and len(found := of_classes.setdefault(label, [])) < per_class:
                places = (labels == label).nonzero().flatten()[: per_class - len(found)]
                found += [(inputs[place], labels[place]) for place in places]
    if whole:
        return whole
    picked = [found[i] for i in range(per_class) for _, found in sorted(of_classes.items()) if i < len(found)]
    stacked = (torch.stack(parts) for parts in zip(*picked, strict=True))
    return list(zip(*(parts.split(BATCH) for parts in stacked), strict=True))


def _has_classes(batch: Any) -> bool:
    """Whether a batch is a tensor of inputs and one of labels that are whole numbers, one for each."""
    if not isinstance(batch, list | tuple) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        return False
    inputs, labels = batch
    whole = not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
    return whole and labels.dim() == 1 and inputs.dim() > 0 and len(inputs) == len(labels)


def _looks_at_data(criterion: str) -> bool:
    """Whether a criterion reads data of the user's own: for a loss, or for the shape of an input."""
    return needs_data(criterion) or criterion == "synflow"
