"""Predictions along a path: `error_barrier(predictions=True)`."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.analysis.connectivity.comparison import Comparison
from modeconn.analysis.connectivity.curve import measure_path
from modeconn.analysis.connectivity.predictions_result import Predictions
from modeconn.analysis.paths.alphas import Alphas
from modeconn.analysis.paths.linear import Line
from modeconn.errors import OptionError
from modeconn.evaluation.measure import MetricSums
from modeconn.evaluation.meters import Meter
from modeconn.evaluation.modes import evaluating
from modeconn.evaluation.predictions import (
    FACTORS,
    PredictionSums,
    Rows,
    calibrated,
    calibration_error,
    compare_predictions,
    rows_of,
)
from modeconn.evaluation.scores import BatchSums
from modeconn.evaluation.structures import map_tensors

ROOM = 1 << 30  # bytes of the ends' predictions that are kept; those of further batches are computed at every alpha


def check_predictions(alphas: Alphas, decide: float | None) -> None:
    """Refuse what does not go with predictions.

    Raises:
        OptionError: only a part of the examples, or of the alphas, would be measured.
    """
    if decide is not None or alphas.adaptive:
        raise OptionError(
            "predictions=True compares all examples at given alphas: leave out decide=, and give alphas= a count or a "
            "list"
        )


def measure_predictions(
    comparison: Comparison,
    line: Line,
    alphas: Alphas,
    higher_is_better: bool | Collection[str],
    point_done: Callable[[], None],
) -> Barrier:
    """Measure a path as `modeconn.analysis.connectivity.curve.measure_path` does, with predictions.

    Raises:
        OptionError: no classes or tokens are predicted; or as `measure_path`.
        DataError: as `measure_path`.
    """
    meter = _PredictionMeter.of(comparison)
    evaluator = replace(comparison.evaluator, meter=replace(meter.meter, measure=meter.measure))
    watched = _Watched(**vars(comparison) | {"evaluator": evaluator}, meter=meter)
    barrier = measure_path(watched, line, alphas, higher_is_better, point_done).barrier()
    predictions, notes = meter.result()
    return replace(barrier, predictions=predictions, notes=(*barrier.notes, *notes))


@dataclass(frozen=True, eq=False)
class _Watched(Comparison):
    """A comparison whose predictions are looked at."""

    meter: "_PredictionMeter"

    def measure_at(self, line: Line, alpha: float) -> MetricSums:
        """Measure a point, and its predictions with it."""
        with self.meter.measuring(alpha):
            return super().measure_at(line, alpha)


@dataclass(eq=False)
class _PredictionMeter:
    """Measures predictions beside what a comparison's meter measures, in the same pass over the data.

    Attributes:
        meter: what is measured anyhow.
        rows: what makes log-probabilities of its output.
        ends: the networks at the two ends.
        room: bytes that are left for what is kept.
        kept: the ends' log-probabilities on the first batches, as far as there is room.
        alpha: where on the path the network is that is measured now.
        batches: how many were measured there.
        sums: of these.
        found: alpha to the sums of all batches.
    """

    meter: Meter
    rows: Rows
    ends: tuple[nn.Module, nn.Module]
    room: int
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    alpha: float = 0.0
    batches: int = 0
    sums: PredictionSums | None = None
    found: dict[float, PredictionSums] = field(default_factory=dict)

    @staticmethod
    def of(comparison: Comparison) -> "_PredictionMeter":
        """One for a comparison of two networks.

        Raises:
            OptionError: what it measures are no classes.
        """
        meter = comparison.evaluator.meter
        rows = rows_of(meter)
        a, b = (comparison.own_network(network) for network in comparison.networks)
        return _PredictionMeter(meter, rows, (a, b), ROOM)

    @contextlib.contextmanager
    def measuring(self, alpha: float) -> Iterator[None]:
        """Context in which all batches are measured at a point of the path."""
        self.alpha, self.batches, self.sums = alpha, 0, None
        yield
        if self.sums is not None:
            self.found[alpha] = self.sums

    def result(self) -> tuple[Predictions, list[str]]:
        """What was found at all alphas, ascending, and notes on it."""
        alphas = sorted(self.found)
        found = [self.found[alpha] for alpha in alphas]
        fitted = np.array([calibrated(sums) for sums in found])  # [n, 2]
        over = lambda name: np.array([(getattr(sums, name) / sums.examples).cpu().numpy() for sums in found])  # noqa: E731
        kl, differing, ensemble = over("kl"), over("differing"), over("ensemble")
        predictions = Predictions(
            temperature=fitted[:, 0],
            calibrated_loss=fitted[:, 1],
            calibration_error=np.array([calibration_error(sums) for sums in found]),
            kl_from_a=kl[:, 0],
            kl_from_b=kl[:, 1],
            disagreement_with_a=differing[:, 0],
            disagreement_with_b=differing[:, 1],
            ensemble_error=ensemble[:, 0],
            ensemble_loss=ensemble[:, 1],
        )
        notes = [
            "the temperature of each alpha is the one with the lowest loss on the data that are measured, so that its "
            "loss is a little lower than with one from other data"
        ]
        limits = 1 / FACTORS[[-1, 0]]
        at_limit = [f"{alpha:g}" for alpha, value in zip(alphas, fitted[:, 0], strict=True) if value in limits]
        if at_limit:
            notes.append(
                f"the best temperature is not between {limits[0]:.1g} and {limits[1]:g} at alpha {', '.join(at_limit)}"
            )
        return predictions, notes

    def measure(self, network: nn.Module, batch: Any) -> BatchSums:
        ends = self._of_ends(batch)
        output, target = self.meter.read(network, batch)  # type: ignore[misc]  # rows_of has seen that there is one
        logs, labels = self.rows(output, target)
        sums = compare_predictions(logs, labels, ends, self.alpha)
        self.sums = sums if self.sums is None else self.sums.plus(sums)
        return self.meter.score(output, target)  # type: ignore[misc]

    def _of_ends(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The ends' log-probabilities on a batch, computed once where there is room."""
        number, self.batches = self.batches, self.batches + 1
        if number < len(self.kept):
            return self.kept[number]
        a, b = (self._logs(end, batch) for end in self.ends)
        if number == len(self.kept) and a.nbytes + b.nbytes <= self.room:
            self.kept.append((a, b))
            self.room -= a.nbytes + b.nbytes
        return a, b

    def _logs(self, network: nn.Module, batch: Any) -> Tensor:
        # A copy, as a network may write to its input.
        with evaluating(network):
            return self.rows(*self.meter.read(network, map_tensors(Tensor.clone, batch)))[0]  # type: ignore[misc]
