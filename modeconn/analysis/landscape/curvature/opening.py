"""Shared setup of measures of curvature: any networks, any data, and the curvature at any weights."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from modeconn.analysis.connectivity.comparison import SPLIT, Comparison, open_comparison
from modeconn.analysis.connectivity.factors import refuse_factors
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.analysis.landscape.curvature.hessian import KINDS, Curvature, curvature_of
from modeconn.analysis.landscape.curvature.micro_batches import examples_in
from modeconn.errors import OptionError, unknown
from modeconn.evaluation.batches import BATCH
from modeconn.evaluation.forward import run
from modeconn.evaluation.losses import Loss, mean_loss
from modeconn.evaluation.modes import running_statistics_layers
from modeconn.options import whole_number
from modeconn.progress import Progress, Report
from modeconn.result import count
from modeconn.weights.state_dicts import Weights


@dataclass(frozen=True, eq=False)
class Opened:
    """Networks and data that fit, and how the loss is differentiated there."""

    comparison: Comparison
    kind: str
    loss: Loss | None
    double: bool
    size: int
    examples: int | None
    path: bool

    def curvature_at(self, weights: Weights) -> Curvature:
        """The curvature at one of the networks, or at a point between them; in a network of its own."""
        network = self.comparison.own_network(weights).eval()
        if self.double:
            network.double()
        elif any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in network.parameters()):
            network.float()
        return curvature_of(
            network,
            self.comparison.evaluator.data[SPLIT],
            kind=self.kind,
            loss=self.loss,
            names=self.comparison.parameters,
            size=self.size,
            examples=self.examples,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided on opening, without what is about paths where there is none."""
        notes = self.comparison.notes
        if self.comparison.evaluator.batchnorm == "interpolate" and not self.path:
            notes = tuple(note for note in notes if "interpolated like weights" not in note)
            layers = count(len(running_statistics_layers(self.comparison.evaluator.network)), "layer")
            notes += (f"running statistics of {layers} are used as they are, as in evaluation",)
        taken = () if self.examples is None else (f"of the data, the first {self.examples:,} examples are taken",)
        return (*notes, *taken)


@contextlib.contextmanager
def open_curvature(
    sources: Sequence[Source],
    data: Any,
    how: Mapping[str, Any],
    *,
    kind: str = "hessian",
    loss: Loss | None = None,
    examples: int | None = None,
    double: bool = False,
    path: bool = False,
) -> Iterator[Opened]:
    """Open networks and data to differentiate a loss twice. Inside, random generators are ours.

    Args:
        sources: as `modeconn.error_barrier` takes networks.
        data: training data, in the form that it takes; those of a stored run if None.
        how: its options.
        kind: `"hessian"` or `"gauss-newton"`.
        loss: as of `modeconn.evaluation.losses.mean_loss`.
        path: whether points between the networks are measured.
        examples: the first so many of the data alone.
        double: differentiate in float64.

    Raises:
        ModeconnError: the first thing that is wrong with the networks, the data, or the options for them.
    """
    if kind not in KINDS:
        raise unknown("kind of curvature", str(kind), KINDS)
    if loss is not None and not callable(loss):
        raise OptionError(f"loss= is a function (network, batch) that gives a scalar tensor; got {loss!r}")
    if examples is not None:
        examples = whole_number(examples, 1, "examples must be a whole number of at least 1")
    options: OptionKeywords = {"evaluate": _sums(loss), **how}  # type: ignore[typeddict-item]
    if options.get("precision", "float32") != "float32":
        raise OptionError("second derivatives are taken in float32, or in float64 (double=True); leave out precision=")
    if options.get("batchnorm") == "repair":
        raise OptionError('repair is for networks between two others; take batchnorm="interpolate" or "recalibrate"')
    refuse_factors(options.get("adapter", "products"), "curvature")
    with open_comparison(sources, "train" if data is None else data, ComparisonOptions(**options)) as comparison:
        # Batches of calibration data need no target.
        evaluator = comparison.evaluator
        evaluator = replace(evaluator, meter=replace(evaluator.meter, forward=run))
        comparison = replace(comparison, evaluator=evaluator)
        yield Opened(comparison, kind, loss, double, options.get("batch_size", BATCH), examples, path)


def counting(report: Report, expected: int) -> Callable[[], None]:
    """A function to be called after every product, that reports how far a measurement is about."""
    done = itertools.count(1)

    def each() -> None:
        now = next(done)
        jobs = max(expected, now)
        report(Progress.counted(now, jobs, "products"))

    return each


def _sums(loss: Loss | None) -> Callable[[nn.Module, Any], dict[str, tuple[float, int]]]:
    """The loss as a measure for `evaluate`, so that what is differentiated is what networks are compared by."""

    def loss_of_network(network: nn.Module, batch: Any) -> dict[str, tuple[float, int]]:
        length = examples_in(batch)
        return {"loss": (length * float(mean_loss(network, batch, loss)), length)}

    return loss_of_network
