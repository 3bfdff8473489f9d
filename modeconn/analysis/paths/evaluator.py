"""The engine under every measurement of a path: one scratch network that takes the weights at each alpha in turn."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from modeconn.analysis.paths.linear import Line, load_weights
from modeconn.analysis.paths.recalibrate import recalibrate
from modeconn.analysis.paths.repair import Statistics, channel_statistics, interpolate_statistics, repaired
from modeconn.evaluation.compute import autocast
from modeconn.evaluation.measure import MetricSums, device_of, measure
from modeconn.evaluation.meters import Meter
from modeconn.evaluation.structures import map_tensors
from modeconn.weights.state_dicts import Weights


@dataclass(frozen=True, eq=False)
class PathEvaluator:
    """Measures points of lines, and their ends, in one network of our own.

    Attributes:
        network: the weights of every point are put into it.
        meter: what is measured.
        data: batches by split; gone through for every measurement.
        calibration: batches that statistics are taken on.
        batchnorm: `"none"` or `"interpolate"`, `"recalibrate"` or `"repair"`.
        precision: `"float32"`, `"bfloat16"` for autocast, or `"tf32"` on a GPU.
    """

    network: nn.Module
    meter: Meter
    data: Mapping[str, Iterable[Any]]
    calibration: Iterable[Any] = ()
    batchnorm: str = "none"
    precision: str = "float32"
    # Layers that the calibration data did not reach, by name.
    _kept: dict[str, None] = field(default_factory=dict, init=False, repr=False)
    # Of each end's channels, for REPAIR. Not kept by `dataclasses.replace`: other data have other statistics.
    _statistics: dict[Weights, dict[str, Statistics]] = field(default_factory=dict, init=False, repr=False)

    def measure_at(self, line: Line, alpha: float) -> dict[str, MetricSums]:
        """Measure each split at a point of a line. A line's ends need no repair: they are as they are."""
        if self.batchnorm != "repair" or alpha in (0, 1):
            line.load(self.network, alpha)
            return self.measure()
        targets = interpolate_statistics(self._statistics_of(line.a), self._statistics_of(line.b), alpha)
        line.load(self.network, alpha)
        with repaired(self.network, self.calibration, targets, self.forward):
            return self.measure()

    def measure_end(self, weights: Weights) -> dict[str, MetricSums]:
        """Measure each split at an end of lines, the same for every line that ends there."""
        load_weights(self.network, weights)
        return self.measure()

    def measure(self) -> dict[str, MetricSums]:
        """Measure each split with the weights that are in the network, after recalibration if that is chosen."""
        if self.batchnorm == "recalibrate":
            self.recalibrate()
        return {split: measure(self.network, data, self.meter, self.precision) for split, data in self.data.items()}

    def recalibrate(self) -> None:
        """Measure running statistics anew with the weights that are in the network."""
        self._kept.update(dict.fromkeys(recalibrate(self.network, self.calibration, self.forward)))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noticed while points were measured."""
        kept = f"running statistics that are frozen or that no calibration example reached are kept: {_few(self._kept)}"
        return (kept,) if self._kept else ()

    def forward(self, batch: Any) -> Any:
        """Pass a batch of calibration data through the network, for its statistics."""
        with autocast(device_of(self.network), self.precision):
            # A copy, as a network may write to its input and these batches serve every alpha.
            return self.meter.forward(self.network, map_tensors(torch.clone, batch))

    def _statistics_of(self, end: Weights) -> dict[str, Statistics]:
        """The mean and standard deviation of an end's channels, measured once."""
        if end not in self._statistics:
            load_weights(self.network, end)
            self._statistics[end] = channel_statistics(self.network, self.calibration, self.forward)
        return self._statistics[end]


def _few(names: Collection[str]) -> str:
    shown = list(names)[:5]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
