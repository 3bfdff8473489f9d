"""One pass of a network over data: per-example outcomes, from which sums are formed first and divided once."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modeconn.errors import DataError, OptionError
from modeconn.evaluation.compute import autocast
from modeconn.evaluation.meters import Meter, Outcome, check_labels
from modeconn.evaluation.modes import evaluating


@dataclass(frozen=True, eq=False)
class Measured:
    """The outcomes of all examples.

    Attributes:
        sums: name to [units], as they were measured: bool, float32 or float64.
        counts: name to [units].
        predictions: int64 [n], where the meter has any.
        whole: names of what was measured for whole batches; their units are batches.
    """

    sums: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    predictions: np.ndarray | None = None
    whole: frozenset[str] = frozenset()

    def total(self, name: str) -> float:
        """The sum over all examples, in float64."""
        return float(self.sums[name].sum(dtype=np.float64))

    def mean(self, name: str) -> float:
        """The sum over all examples divided by the count of all."""
        return self.total(name) / float(self.counts[name].sum(dtype=np.float64))


@torch.no_grad()
def measure(network: nn.Module, batches: Iterable[Any], meter: Meter, precision: str = "float32") -> Measured:
    """Pass the data through the network once. It is left unchanged, its training mode included.

    Args:
        network: on the device of the batches.
        batches: gone through once.
        meter: what is measured.
        precision: `"float32"`, `"bfloat16"` for autocast, or `"tf32"` on a GPU.

    Raises:
        DataError: no batch, or no example that counts.
        OptionError: the caller's own `evaluate` gives something else than sums and counts, or other names at times.
    """
    device = device_of(network)
    outcomes: list[Outcome] = []
    with evaluating(network):
        for batch in batches:
            with autocast(device, precision):
                outcomes.append(meter.measure(network, batch))
            if outcomes[-1].sums.keys() != outcomes[0].sums.keys():
                names = [", ".join(outcome.sums) for outcome in (outcomes[0], outcomes[-1])]
                raise OptionError(f"evaluate gives {names[0]} for one batch and {names[1]} for another")
    if not outcomes:
        raise DataError("the data are empty: there is not one batch in them")
    found = _on_host(outcomes)
    labelled = [outcome for outcome in outcomes if outcome.labels is not None]
    for (low, high), outcome in zip(found.get("labels", ()), labelled, strict=True):
        check_labels(int(low), int(high), outcome.classes)
    names = list(outcomes[0].sums)
    counts = {name: found["count", name] for name in names}
    for name, count in counts.items():
        if not count.sum() > 0:
            raise DataError(f"nothing counts for {name!r}: every count is 0")
    return Measured(
        sums={name: found["sum", name] for name in names},
        counts=counts,
        predictions=found.get("predictions"),
        whole=outcomes[0].whole,
    )


def device_of(network: nn.Module) -> torch.device:
    """Where a network's tensors are; the CPU if it has none."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _on_host(outcomes: list[Outcome]) -> dict[Any, np.ndarray]:
    """What all batches gave, joined where it is; a GPU is waited for once."""
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
    return joined.float() if joined.dtype in (torch.float16, torch.bfloat16) else joined
