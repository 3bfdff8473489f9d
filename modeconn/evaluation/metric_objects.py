"""Metrics of a whole data set that are no sums over examples, as objects with update, compute and reset: F1, AUROC.

torchmetrics has them so; any object with these three methods will do, and none of that library is imported here.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from modeconn.errors import DataError, OptionError
from modeconn.evaluation.structures import describe_batch

_METHODS = ("update", "compute", "reset")


class Metric(Protocol):
    """A metric that collects what it needs from batches."""

    def update(self, output: Tensor, target: Tensor, /) -> Any:
        """Take the outputs and targets of a batch."""

    def compute(self) -> Any:
        """The value over all batches since the last reset, or a mapping from names to values."""

    def reset(self) -> Any:
        """Forget all batches."""


def is_metric(evaluate: Any) -> TypeGuard[Metric]:
    """Whether something has the methods of a metric.

    Raises:
        OptionError: it is a class of such objects.
    """
    if not all(callable(getattr(evaluate, name, None)) for name in _METHODS):
        return False
    if isinstance(evaluate, type):
        raise OptionError(
            f"evaluate={evaluate.__name__} is a class; give an object of it, such as {evaluate.__name__}()"
        )
    return True


@dataclass(frozen=True, eq=False)
class WholeData:
    """A metric of our own, a copy of the caller's, and what it is called.

    Attributes:
        metric: it is reset before each pass over data.
        name: of its class.
        higher_is_better: by a value's name whether more is better, where the metric says so.
    """

    metric: Metric
    name: str
    higher_is_better: Mapping[str, bool]

    @staticmethod
    def of(metric: Metric, device: torch.device) -> "WholeData":
        """Copy a metric, to a device if it can be moved."""
        name = type(metric).__name__
        each = (
            dict(metric.items()) if isinstance(metric, Mapping | torch.nn.ModuleDict) else {name: metric}
        )  # a collection
        says = {key: getattr(one, "higher_is_better", None) for key, one in each.items()}
        own = copy.deepcopy(metric)
        if hasattr(own, "to"):
            own = own.to(device)
        return WholeData(own, name, {key: value for key, value in says.items() if isinstance(value, bool)})

    def values(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """The values over all outputs and targets.

        Raises:
            DataError: the metric fails on these.
            OptionError: it gives something else than numbers.
        """
        self.metric.reset()
        for output, target in batches:
            output, target = _as_metrics_take_them(output, target)
            try:
                self.metric.update(output, target)
            except Exception as error:
                raise DataError(
                    f"evaluate={self.name} fails on outputs {describe_batch(output)} and targets "
                    f"{describe_batch(target)}: {error}"
                ) from error
        try:
            found = self.metric.compute()
        except Exception as error:
            raise DataError(f"evaluate={self.name} gives no value: {error}") from error
        named = found if isinstance(found, Mapping) else {self.name: found}
        return {str(name): _number(value, str(name)) for name, value in named.items()}


def _as_metrics_take_them(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """One output for each target without a dimension of its own, and labels of 0 and 1 as whole numbers."""
    target = target.to(output.device)
    if output.ndim == target.ndim + 1 and output.shape[-1] == 1:
        output = output.squeeze(-1)
    if target.is_floating_point() and bool(((target == 0) | (target == 1)).all()):
        target = target.long()
    return output, target


def _number(value: Any, name: str) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise OptionError(
            f"evaluate gives {describe_batch(value)} for {name!r}; choose a metric that gives one number, such as an "
            "average over classes"
        )
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"evaluate gives {type(value).__name__} for {name!r}, which is no number") from error
