"""Held-out data on which a network is measured, once the first batch has shown how."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from modeconn.evaluation.batches import BATCH, Batches
from modeconn.evaluation.measure import MetricSums, device_of, measure
from modeconn.evaluation.meters import Meter, choose_meter
from modeconn.evaluation.modes import evaluating
from modeconn.evaluation.structures import map_tensors


class HeldOut:
    """Data and a metric.

    Args:
        network: on which the metric is chosen, where it is not said.
        data: as `modeconn.error_barrier` takes them.
        evaluate: how it is measured; as `modeconn.error_barrier` takes it.
        batch_size: of data that are not batches yet.

    Attributes:
        batches: the data.
    """

    def __init__(
        self, network: torch.nn.Module, data: Any, evaluate: str | Callable[..., Any] = "auto", batch_size: int = BATCH
    ) -> None:
        self.batches = Batches(data, device_of(network), batch_size=batch_size)
        self._network, self._evaluate = network, evaluate
        self._meter: Meter | None = None

    @property
    def meter(self) -> Meter:
        """What is measured.

        Raises:
            OptionError: it cannot be told from the network's output and the targets.
        """
        if self._meter is None:
            with torch.no_grad(), evaluating(self._network):
                first = map_tensors(torch.clone, self.batches.first())
                self._meter = choose_meter(self._evaluate, self._network, first)
        return self._meter

    def measure(self, network: torch.nn.Module) -> MetricSums:
        """Measure a network as it is, in evaluation mode."""
        return measure(network, self.batches, self.meter)


def means(measured: MetricSums | None) -> dict[str, float]:
    """Each metric of a measurement; empty without one."""
    return {} if measured is None else {name: measured.mean(name) for name in measured.sums}


def standard_errors(before: MetricSums | None, after: MetricSums | None) -> dict[str, float]:
    """Standard errors of the differences after - before over the same examples: sqrt(sum (d_i - d c_i)^2) / sum c_i.

    Here d_i is the difference of example i, c_i its count and d the difference of the metric. Metrics whose counts
    differ are left out.
    """
    if before is None or after is None:
        return {}
    found = {}
    for name in before.sums.keys() & after.sums.keys():
        counts = before.counts[name].astype(np.float64)
        if not np.array_equal(counts, after.counts[name]):
            continue
        changes = after.sums[name].astype(np.float64) - before.sums[name].astype(np.float64)
        mean = changes.sum() / counts.sum()
        found[name] = float(np.sqrt(((changes - mean * counts) ** 2).sum()) / counts.sum())
    return found
