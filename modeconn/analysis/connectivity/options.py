"""The options that all measures between networks share, as one value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from modeconn.analysis.connectivity.factors import check_adapter
from modeconn.analysis.paths.repair_layers import KINDS
from modeconn.errors import OptionError, unknown
from modeconn.evaluation.batches import BATCH
from modeconn.evaluation.compute import check_precision
from modeconn.evaluation.metric_objects import Metric
from modeconn.options import chosen_names

NORMALIZATION = ("interpolate", "recalibrate", "repair")


@dataclass(frozen=True, eq=False)
class ComparisonOptions:
    """How networks are opened and measured; `modeconn.error_barrier` explains each option.

    Raises:
        OptionError: an option that cannot be used whatever the networks and the data are.
    """

    model: nn.Module | Callable[[], nn.Module] | str | None = None
    evaluate: str | Callable[..., Any] | Metric = "auto"
    batchnorm: str = "interpolate"
    calibration: Any = None
    calibration_batches: int | None = None
    repair_layers: str | Sequence[str] = "auto"
    device: str | torch.device = "auto"
    precision: str = "float32"
    batch_size: int = BATCH
    data_dir: str | Path | None = None
    names: Sequence[str] | None = None
    checkpoint_key: str | None = None
    adapter: str = "products"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.batchnorm not in NORMALIZATION:
            raise unknown("choice for BatchNorm", str(self.batchnorm), NORMALIZATION)
        check_adapter(self.adapter)
        if self.repair_layers != "auto":
            object.__setattr__(self, "repair_layers", chosen_names("kind of layer", self.repair_layers, KINDS))
        for option, value in (("batch_size", self.batch_size), ("calibration_batches", self.calibration_batches)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise OptionError(f"{option} must be a whole number of at least 1; got {value!r}")


class OptionKeywords(TypedDict, total=False):
    """The fields of `ComparisonOptions` as keywords, for type checkers and editors."""

    model: nn.Module | Callable[[], nn.Module] | str | None
    evaluate: str | Callable[..., Any] | Metric
    batchnorm: str
    calibration: Any
    calibration_batches: int | None
    repair_layers: str | Sequence[str]
    device: str | torch.device
    precision: str
    batch_size: int
    data_dir: str | Path | None
    names: Sequence[str] | None
    checkpoint_key: str | None
    adapter: str
