"""Loss and error of a network on a split: sums first, divided once."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from modeconn.data import DataSet, normalize
from modeconn.models import evaluating
from modeconn.training.compute import autocast

BATCH = 250  # images; fits a core's cache, and being fixed keeps sums the same wherever they are computed


@dataclass(frozen=True)
class Counts:
    """Sums over the examples of a split."""

    examples: int
    errors: int
    loss_sum: float

    @property
    def error(self) -> float:
        """Fraction of examples that are classified wrongly."""
        return self.errors / self.examples

    @property
    def loss(self) -> float:
        """Mean cross-entropy per example, in nats."""
        return self.loss_sum / self.examples


@torch.no_grad()
def evaluate(network: nn.Module, data: DataSet, split: str, precision: str = "float32") -> Counts:
    """Classify a whole split, without augmentation. The network is left unchanged, its training mode included.

    An output that is not finite counts as an error.
    """
    part = data.split(split)
    device = part.labels.device
    errors = torch.zeros((), dtype=torch.int64, device=device)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    with evaluating(network):
        for indices in torch.arange(len(part)).split(BATCH):
            labels = part.labels[indices.to(device)]
            with autocast(device, precision):
                logits = network(normalize(part.images.read(indices), data))
            logits = logits.float()  # [batch, classes]
            best, predicted = logits.max(1)
            errors += ((predicted != labels) | ~best.isfinite()).sum()
            loss_sum += cross_entropy(logits, labels, reduction="sum").double()
    return Counts(len(part), int(errors), float(loss_sum))
