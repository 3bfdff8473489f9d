"""One pass of a network over data: sums and counts of each example, added up first and divided once."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modeconn.errors import DataError, OptionError
from modeconn.evaluation.batches import EMPTY
from modeconn.evaluation.compute import autocast
from modeconn.evaluation.meters import Meter
from modeconn.evaluation.modes import evaluating
from modeconn.evaluation.scores import BatchSums, check_labels


@dataclass(frozen=True, eq=False)
class MetricSums:
    """Sums and counts of all examples; a metric is the sum of its sums over the sum of its counts.

    Attributes:
        sums: metric to [units], as they were measured: bool, float32 or float64. A unit is an example.
        counts: metric to [units]: how many things each sum is over.
        predictions: predicted classes, int64 [n], where the meter has any.
        whole: metrics that were measured for whole batches; their units are batches.
        classes: how many classes predictions are of; 0 where that is not known.
        sizes: metric to the number of units of each batch.
    """

    sums: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    predictions: np.ndarray | None = None
    whole: frozenset[str] = frozenset()
    classes: int = 0
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def total(self, name: str) -> float:
        """The sum over all examples, in float64."""
        return float(self.sums[name].sum(dtype=np.float64))

    def mean(self, name: str) -> float:
        """The sum over all examples divided by the count of all: no mean of batch means, as batches differ in size."""
        return self.total(name) / float(self.counts[name].sum(dtype=np.float64))

    def mean_of(self, name: str, units: np.ndarray) -> float:
        """The same over some of the units, bool [units]."""
        total, count = (of[name][units].sum(dtype=np.float64) for of in (self.sums, self.counts))
        return float(total / count)


@torch.no_grad()
def measure(network: nn.Module, batches: Iterable[Any], meter: Meter, precision: str = "float32") -> MetricSums:
    """Pass the data through the network once, in evaluation mode. It is left unchanged, its training mode included.

    Args:
        network: on the device of the batches.
        batches: gone through once.
        meter: what is measured.
        precision: `"float32"`, `"bfloat16"` for autocast, or `"tf32"` on a GPU.

    Raises:
        DataError: no batch, or no example that counts.
        OptionError: the caller's own `evaluate` gives something else than sums and counts, or other names at times.
    """
    if meter.whole is not None:
        return _measure_whole(network, batches, meter, precision)
    device = device_of(network)
    outcomes: list[BatchSums] = []
    with evaluating(network):
        for batch in batches:
            with autocast(device, precision):
                outcomes.append(meter.measure(network, batch))
            if outcomes[-1].sums.keys() != outcomes[0].sums.keys():
                names = [", ".join(outcome.sums) for outcome in (outcomes[0], outcomes[-1])]
                raise OptionError(f"evaluate gives {names[0]} for one batch and {names[1]} for another")
    if not outcomes:
        raise DataError(EMPTY)
    found = _on_host(outcomes)
    # Checked now, from numbers that came along: to look at each batch's labels would wait for the GPU each time.
    labelled = [outcome for outcome in outcomes if outcome.labels is not None]
    for (low, high), outcome in zip(found.get("labels", ()), labelled, strict=True):
        check_labels(int(low), int(high), outcome.classes)
    names = list(outcomes[0].sums)
    counts = {name: found["count", name] for name in names}
    for name, count in counts.items():
        if not count.sum() > 0:
            raise DataError(f"nothing counts for {name!r}: every count is 0")
    return MetricSums(
        sums={name: found["sum", name] for name in names},
        counts=counts,
        predictions=found.get("predictions"),
        whole=outcomes[0].whole,
        classes=outcomes[0].classes,
        sizes={name: tuple(len(outcome.sums[name]) for outcome in outcomes) for name in names},
    )


def _measure_whole(network: nn.Module, batches: Iterable[Any], meter: Meter, precision: str) -> MetricSums:
    """Values of all data, each as the sum of one unit."""
    assert meter.whole is not None
    assert meter.read is not None
    device, read = device_of(network), meter.read

    def outputs() -> Iterator[tuple[Tensor, Tensor]]:
        batch = None
        for batch in batches:
            with autocast(device, precision):
                yield read(network, batch)
        if batch is None:
            raise DataError(EMPTY)

    with evaluating(network):
        values = meter.whole.values(outputs())
    one = {name: np.ones(1) for name in values}
    return MetricSums({name: np.array([value]) for name, value in values.items()}, one, whole=frozenset(values))


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's first parameter or buffer; the CPU if it has none."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _on_host(outcomes: list[BatchSums]) -> dict[Any, np.ndarray]:
    """Join the tensors of all batches on their device, and copy them to the host; a GPU is waited for once."""
    parts: dict[Any, list[Tensor]] = {}
    for outcome in outcomes:
        given: dict[Any, Tensor | None] = {"predictions": outcome.predictions, "labels": outcome.labels}
        given |= {("sum", name): tensor for name, tensor in outcome.sums.items()}
        given |= {("count", name): tensor for name, tensor in outcome.counts.items()}
        for key, tensor in given.items():
            if tensor is not None:
                parts.setdefault(key, []).append(tensor)
    joined = {key: _joined(tensors) for key, tensors in parts.items()}
    copies = {key: tensor.to("cpu", non_blocking=True) for key, tensor in joined.items()}
    for device in {tensor.device for tensor in joined.values() if tensor.is_cuda}:
        torch.cuda.synchronize(device)
    return {key: tensor.numpy() for key, tensor in copies.items()}


def _joined(parts: list[Tensor]) -> Tensor:
    joined = torch.cat(parts)
    # NumPy has no bfloat16; both half precisions become float32.
    return joined.float() if joined.dtype in (torch.float16, torch.bfloat16) else joined
