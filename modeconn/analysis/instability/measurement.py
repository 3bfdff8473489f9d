"""Measurements of a network: on which splits, with which statistics; and the counts as JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.evaluation.measure import MetricSums
from modeconn.training.protocol import Training
from modeconn.training.splits import SplitSums

COUNTS = "counts.json"  # of an artifact that holds the counts of one network


@dataclass(frozen=True)
class Measurement:
    """How a network is measured.

    Attributes:
        splits: among `"test"` and `"train"`.
        calibration: how many training examples statistics are taken on before a measurement; None to use the
            network's own running statistics.
        repair: whether these statistics are those of channels between the ends, as in REPAIR; else they are
            BatchNorm's.
    """

    splits: tuple[str, ...]
    calibration: int | None
    repair: bool = False

    def spec(self) -> dict[str, Any]:
        """For names."""
        # 2: outputs of residual blocks, and of an MLP's output layer, are rescaled too.
        repair = {"repair": 2} if self.repair else {}
        return {"splits": sorted(self.splits), "calibration": self.calibration, **repair}

    @property
    def batchnorm(self) -> str:
        """In the words of `modeconn.error_barrier`; without calibration, statistics are weights like any other."""
        return "none" if self.calibration is None else "repair" if self.repair else "recalibrate"

    @property
    def word(self) -> str:
        """For labels, which would else be the same for what is measured twice."""
        return "" if self.calibration is None else ", repaired" if self.repair else ", recalibrated"

    def cost(self, data_sizes: dict[str, int]) -> float:
        """Images passed forward."""
        return sum(data_sizes[split] for split in self.splits) + (self.calibration or 0)

    def evaluator(self, training: Training) -> PathEvaluator:
        """An evaluator with a scratch network and the data of a training."""
        return PathEvaluator(
            network=training.network(),
            meter=training.meter(),
            data={split: training.batches(split) for split in self.splits},
            calibration=training.calibration(self.calibration) if self.calibration else (),
            batchnorm=self.batchnorm,
            precision=training.precision,
        )


def counts_to_json(outcomes: dict[str, MetricSums]) -> dict[str, Any]:
    """The sums of one measurement, by split, for a file."""
    return {split: asdict(SplitSums.of(measured)) for split, measured in outcomes.items()}


def read_counts(content: dict[str, Any]) -> dict[str, SplitSums]:
    """The sums that `counts_to_json` gave, by split."""
    return {split: SplitSums(**counts) for split, counts in content.items()}
