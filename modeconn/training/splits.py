"""Loss and error of a network on a split of a task's data."""

from dataclasses import dataclass

from torch import nn

from modeconn.data import DataSet
from modeconn.data.batches import SplitBatches as SplitBatches
from modeconn.evaluation.measure import MetricSums, measure
from modeconn.evaluation.meters import CLASSIFICATION


@dataclass(frozen=True)
class SplitSums:
    """Sums over the examples of a split."""

    examples: int
    errors: int
    loss_sum: float

    @staticmethod
    def of(measured: MetricSums) -> "SplitSums":
        """The sums of a measurement by the classification meter."""
        return SplitSums(len(measured.sums["error"]), int(measured.total("error")), measured.total("loss"))

    @property
    def error(self) -> float:
        """Fraction of examples that are classified wrongly."""
        return self.errors / self.examples

    @property
    def loss(self) -> float:
        """Mean cross-entropy per example, in nats."""
        return self.loss_sum / self.examples


def evaluate(network: nn.Module, data: DataSet, split: str, precision: str = "float32") -> SplitSums:
    """Classify a whole split, without augmentation. The network is left unchanged, its training mode included.

    An output that is not finite counts as an error.
    """
    return SplitSums.of(measure(network, SplitBatches(data, split), CLASSIFICATION, precision))
