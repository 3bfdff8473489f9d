"""The engine under every measurement of a path: one scratch network that takes the weights at each alpha in turn."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from modeconn.analysis.paths.linear import Line, load_weights
from modeconn.analysis.paths.recalibrate import recalibrate
from modeconn.analysis.paths.repair import Statistics, channel_statistics, interpolate_statistics, repaired
from modeconn.evaluation.batches import map_tensors
from modeconn.evaluation.compute import autocast
from modeconn.evaluation.measure import Measured, device_of, measure
from modeconn.evaluation.meters import Meter
from modeconn.weights.state_dicts import Weights


@dataclass(frozen=True, eq=False)
class PathEvaluator:
    """A network of our own, and how what is in it is measured.

    Attributes:
        data: batches by split; gone through for every measurement.
        calibration: batches that statistics are taken on.
        batchnorm: `"none"` or `"interpolate"`, `"recalibrate"` or `"repair"`.
    """

    network: nn.Module
    meter: Meter
    data: Mapping[str, Iterable[Any]]
    calibration: Iterable[Any] = ()
    batchnorm: str = "none"
    precision: str = "float32"
    _of_ends: dict[Weights, dict[str, Statistics]] = field(default_factory=dict, repr=False)

    def measure(self) -> dict[str, Measured]:
        """The outcomes on each split of the weights that are in it; statistics are recalibrated first, if so chosen."""
        if self.batchnorm == "recalibrate":
            recalibrate(self.network, self.calibration, self.forward)
        return {split: measure(self.network, data, self.meter, self.precision) for split, data in self.data.items()}

    def measure_at(self, line: Line, alpha: float) -> dict[str, Measured]:
        """The outcomes on each split at a point of a line. A line's ends need no repair: they are as they are."""
        repair: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.batchnorm == "repair" and alpha not in (0, 1):
            targets = interpolate_statistics(self._statistics(line.a), self._statistics(line.b), alpha)
            line.load(self.network, alpha)
            repair = repaired(self.network, self.calibration, targets, self.forward)
        else:
            line.load(self.network, alpha)
        with repair:
            return self.measure()

    def measure_end(self, weights: Weights) -> dict[str, Measured]:
        """The outcomes on each split of a network at an end of lines, the same for every line that ends there."""
        load_weights(self.network, weights)
        return self.measure()

    def _statistics(self, end: Weights) -> dict[str, Statistics]:
        """Those of an end's channels, measured once."""
        if end not in self._of_ends:
            load_weights(self.network, end)
            self._of_ends[end] = channel_statistics(self.network, self.calibration, self.forward)
        return self._of_ends[end]

    def forward(self, batch: Any) -> Any:
        """Pass a batch of calibration data through the network, for its statistics."""
        with autocast(device_of(self.network), self.precision):
            # A copy, as a network may write to its input and these batches serve every alpha.
            return self.meter.forward(self.network, map_tensors(torch.clone, batch))
