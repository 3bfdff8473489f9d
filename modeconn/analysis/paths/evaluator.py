"""The engine under every measurement of a path: one scratch network that takes the weights at each alpha in turn."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from modeconn.analysis.paths.linear import Line, load_weights
from modeconn.analysis.paths.recalibrate import recalibrate
from modeconn.analysis.paths.repair import Statistics, channel_statistics, interpolate_statistics, repaired
from modeconn.analysis.paths.repair_layers import RepairedLayers, choose_repaired_layers
from modeconn.errors import DataError
from modeconn.evaluation.compute import autocast
from modeconn.evaluation.measure import MetricSums, device_of, measure
from modeconn.evaluation.meters import Meter
from modeconn.evaluation.structures import map_tensors
from modeconn.weights.scratch import Scratch
from modeconn.weights.state_dicts import Weights


@dataclass(frozen=True, eq=False)
class PathEvaluator:
    """Measures points of lines in one network of our own, and their ends in the networks that they are.

    Attributes:
        network: the weights of every point are put into it. Ours: it is left in evaluation mode.
        meter: what is measured.
        data: batches by split; gone through for every measurement.
        calibration: batches that statistics are taken on.
        batchnorm: `"none"` or `"interpolate"`, `"recalibrate"` or `"repair"`.
        precision: `"float32"`, `"bfloat16"` for autocast, or `"tf32"` on a GPU.
        repair_layers: what REPAIR rescales; see `modeconn.analysis.paths.repair_layers.choose_repaired_layers`.
        scratch: how weights are put into the network.
        ends: makes the network that an end is, in evaluation mode, for ends that are more than weights.
    """

    network: nn.Module
    meter: Meter
    data: Mapping[str, Iterable[Any]]
    calibration: Iterable[Any] = ()
    batchnorm: str = "none"
    precision: str = "float32"
    repair_layers: str | Collection[str] = "auto"
    scratch: Scratch = None  # type: ignore[assignment]  # made of the network, and kept by `dataclasses.replace`
    ends: Mapping[Weights, Callable[[], nn.Module]] = field(default_factory=dict)
    # Layers that the calibration data did not reach, by name.
    _kept: dict[str, None] = field(default_factory=dict, init=False, repr=False)
    # Of each end's channels, for REPAIR. Not kept by `dataclasses.replace`: other data have other statistics.
    _statistics: dict[Weights, dict[str, Statistics]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.scratch is None:
            object.__setattr__(self, "scratch", Scratch(self.network))

    def measure_at(self, line: Line, alpha: float) -> dict[str, MetricSums]:
        """Measure each split at a point of a line. A line's ends need no repair: they are as they are."""
        if self.batchnorm != "repair" or alpha in (0, 1):
            return self.measure(self.network_at(line, alpha))
        targets = interpolate_statistics(self._statistics_of(line.a), self._statistics_of(line.b), alpha)
        network = self.network_at(line, alpha)
        forward = partial(self.forward, network)
        with repaired(network, self.calibration, targets, forward, self._repaired_layers):
            return self.measure(network)

    def measure_end(self, weights: Weights) -> dict[str, MetricSums]:
        """Measure each split at an end of lines, the same for every line that ends there."""
        return self.measure(self.network_of(weights))

    def network_at(self, line: Line, alpha: float) -> nn.Module:
        """A network with the weights at a point of a line; ours, until the next is asked for."""
        if alpha in (0, 1):
            return self.network_of(line.b if alpha == 1 else line.a)
        with self.scratch.rewriting():
            line.load(self.network, alpha)
        return self.network

    def network_of(self, end: Weights) -> nn.Module:
        """The network that an end is, a copy of it; of weights alone, the one of ours with these weights."""
        if end in self.ends:
            return self.ends[end]()
        with self.scratch.rewriting():
            load_weights(self.network, end)
        return self.network

    def measure(self, network: nn.Module) -> dict[str, MetricSums]:
        """Measure each split with a network as it is, after recalibration if that is chosen."""
        if self.batchnorm == "recalibrate":
            self.recalibrate(network)
        return {split: measure(network, data, self.meter, self.precision) for split, data in self.data.items()}

    def recalibrate(self, network: nn.Module) -> None:
        """Measure running statistics of a network anew."""
        self._kept.update(dict.fromkeys(recalibrate(network, self.calibration, partial(self.forward, network))))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noticed while points were measured."""
        kept = f"running statistics that are frozen or that no calibration example reached are kept: {_few(self._kept)}"
        rescaled = vars(self).get("_repaired_layers")  # once they are chosen
        return (*([kept] if self._kept else []), *([rescaled.note] if rescaled else []))

    def forward(self, network: nn.Module, batch: Any) -> Any:
        """Pass a batch of calibration data through a network, for its statistics."""
        with autocast(device_of(network), self.precision):
            # A copy, as a network may write to its input and these batches serve every alpha.
            return self.meter.forward(network, map_tensors(torch.clone, batch))

    def _statistics_of(self, end: Weights) -> dict[str, Statistics]:
        """The mean and standard deviation of an end's channels, measured once."""
        if end not in self._statistics:
            chosen, network = self._repaired_layers, self.network_of(end)
            layers = {network.get_submodule(name): name for name in chosen.layers.values()}
            self._statistics[end] = channel_statistics(
                network, self.calibration, partial(self.forward, network), replace(chosen, layers=layers)
            )
        return self._statistics[end]

    @functools.cached_property
    def _repaired_layers(self) -> RepairedLayers:
        """What is rescaled in our network."""
        for batch in self.calibration:
            forward = partial(self.forward, self.network)
            return choose_repaired_layers(self.network, batch, forward, self.repair_layers)
        raise DataError("no batches to measure channels on; give what can be gone through again and again")


def _few(names: Collection[str]) -> str:
    shown = list(names)[:5]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
