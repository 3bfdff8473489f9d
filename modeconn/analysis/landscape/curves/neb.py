"""`neb(a, b, train)`: a nudged elastic band between two networks (Draxler et al. 2018)."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Unpack

import torch
from torch import Tensor

from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import OptionKeywords
from modeconn.analysis.landscape.curves.controls import Controls
from modeconn.analysis.landscape.curves.curve import Curve
from modeconn.analysis.landscape.curves.curve_ends import open_ends
from modeconn.analysis.landscape.curves.elastic_band import LOOK, elastic_band
from modeconn.analysis.landscape.curves.feed import Feed
from modeconn.analysis.landscape.curves.training_loss import TrainingLoss
from modeconn.analysis.paths.linear import common_dtype
from modeconn.errors import NetworkError, OptionError
from modeconn.evaluation.losses import Loss
from modeconn.evaluation.structures import map_tensors
from modeconn.options import require, whole_number
from modeconn.progress import Progress, Report, silent, with_progress
from modeconn.seeds import mix

CYCLES = ((300, 0.1), (300, 0.1), (300, 0.1), (300, 0.01))
_LOOKED_AT = 4  # batches on which the path is looked at after a cycle


@with_progress
def neb(
    a: Source,
    b: Source,
    train: Any = None,
    *,
    pivots: int = 3,
    cycles: Sequence[tuple[int, float]] = CYCLES,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    insert: float = 0.2,
    loss: Loss | None = None,
    seed: int = 0,
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> Curve:
    """Find a path of low loss between two networks by a nudged elastic band (Draxler et al. 2018, AutoNEB).

    Pivots between the networks start evenly on the segment, and follow the gradient of the training loss perpendicular
    to the path; every step takes the loss of all of them on one batch, as in training. After each cycle, pivots are
    added where the loss is still much higher than at the pivots around. The result is the polygonal chain through the
    pivots. Unlike `modeconn.fit_curve`, which lowers the mean loss over a curve, this lowers the loss everywhere across
    the path.

    Args:
        a, b: networks, as `modeconn.error_barrier` takes them.
        train: training data, as `modeconn.fit_curve` takes them.
        pivots: how many there are to begin with, between the ends.
        cycles: of each, the steps and the learning rate.
        momentum: of the steps.
        weight_decay: times half the squared L2 norm of the weights, added to the loss.
        insert: a pivot is added where the loss exceeds the line between two pivots by more than this part of the range
            of the losses on the path.
        loss, seed, report, progress: as of `modeconn.fit_curve`.
        **how: options of `modeconn.error_barrier`, as of `modeconn.fit_curve`.

    Raises:
        ModeconnError: as `modeconn.fit_curve`.

    >>> from torch import nn
    >>> inputs = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> data = inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()
    >>> a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(2))
    >>> curve = neb(a, b, data, cycles=[(10, 0.1)] * 2)
    >>> curve.kind, curve.bends >= 3, len(curve.losses)
    ('polychain', True, 2)
    """
    settings = _checked(pivots, cycles, momentum, weight_decay, insert, seed)
    seed, pivots = settings["seed"], settings["first_pivots"]
    with open_ends(a, b, train, how, loss, mix(seed, "dropout")) as ends:
        feed = Feed(ends.train, ends.batches, ends.device, ends.batch_size, mix(seed, "order"))
        controls = Controls.on_segment(ends.line, ends.objective, "polychain", pivots)
        vectors = _Vectors.of(controls, ends.objective.trained)
        total = sum(steps for steps, _ in cycles)
        steps_done = itertools.count(1)

        def done() -> None:
            step = next(steps_done)
            report(Progress.counted(step, total, "steps"))

        objective = _Objective(vectors, ends.objective, feed, weight_decay, total)
        start = torch.stack([vectors.flat(bend) for bend in (controls.a, *controls.inner, controls.b)]).detach()
        bands = elastic_band(start, objective.at, cycles, momentum=momentum, insert=insert, done=done)
        found = bands[-1].pivots
        n = len(found) - 1
        bends = [vectors.weights(pivot, i / n) for i, pivot in enumerate(found) if 0 < i < n]
        return ends.curve("polychain", bends, [band.highest for band in bands], settings | {"pivots": n - 1})


@dataclass(frozen=True, eq=False)
class _Vectors:
    """Weights as vectors: the parameters that are trained, one after the other."""

    controls: Controls
    trained: tuple[str, ...]
    dtype: torch.dtype

    @staticmethod
    def of(controls: Controls, trained: tuple[str, ...]) -> "_Vectors":
        dtype = common_dtype(*(controls.a[name].dtype for name in trained))
        if dtype.is_complex:
            raise NetworkError("an elastic band takes real weights, and some are complex; take modeconn.fit_curve")
        return _Vectors(controls, trained, dtype)

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([tensors[name].flatten().to(self.dtype) for name in self.trained])

    def weights(self, vector: Tensor, place: float) -> dict[str, Tensor]:
        """The weights of a vector at a place of the path; what is not trained is on the segment."""
        a, b = self.controls.a, self.controls.b
        sizes = [a[name].numel() for name in self.trained]
        parts = dict(zip(self.trained, vector.split(sizes), strict=True))
        return {
            name: parts[name].view_as(tensor).to(tensor.dtype) if name in parts else torch.lerp(tensor, b[name], place)
            for name, tensor in a.items()
        }


class _Objective:
    """The training loss of vectors: in a step, of all pivots on the step's batch."""

    def __init__(self, vectors: _Vectors, loss: TrainingLoss, feed: Feed, weight_decay: float, total: int) -> None:
        self._vectors, self._loss, self._weight_decay = vectors, loss, weight_decay
        self._batches: Iterator[Any] = feed.batches(0)
        self._batch: Any = None
        self._step = -1
        others = feed.batches(total)
        self._looked_at = [next(others) for _ in range(min(_LOOKED_AT, feed.per_epoch))]

    def at(self, vector: Tensor, place: float, step: int) -> Tensor:
        """The loss of a vector at a place of the path; over several batches where the path is looked at."""
        weights = self._vectors.weights(vector, place)
        if step == LOOK:
            losses = [self._on(weights, batch, -1 - k) for k, batch in enumerate(self._looked_at)]
            return torch.stack(losses).mean()
        if step != self._step:
            self._batch, self._step = next(self._batches), step
        return self._on(weights, self._batch, step) + self._weight_decay / 2 * vector.square().sum()

    def _on(self, weights: Mapping[str, Tensor], batch: Any, step: int) -> Tensor:
        return self._loss(weights, map_tensors(torch.clone, batch), step)


def _checked(
    pivots: int,
    cycles: Sequence[tuple[int, float]],
    momentum: float,
    weight_decay: float,
    insert: float,
    seed: int,
) -> dict[str, Any]:
    """The settings of a band, once all are seen to be usable."""
    try:
        given = [(steps, rate) for steps, rate in cycles]
    except (TypeError, ValueError) as error:
        raise OptionError(f"cycles are pairs of steps and a learning rate; got {cycles!r}") from error
    require(bool(given), "cycles must be at least one pair of steps and a learning rate")
    for steps, rate in given:
        whole_number(steps, 1, "the steps of cycles must be whole numbers of at least 1")
        require(_is_number(rate) and rate > 0, f"the learning rates of cycles must be above 0; got {rate!r}")
    for name, value in (("momentum", momentum), ("weight_decay", weight_decay), ("insert", insert)):
        require(_is_number(value) and value >= 0, f"{name} must be a number of at least 0; got {value!r}")
    return {
        "kind": "polychain",
        "method": "neb",
        "first_pivots": whole_number(pivots, 1, "a band needs at least one of pivots"),
        "cycles": [[int(steps), float(rate)] for steps, rate in given],
        "momentum": float(momentum),
        "weight_decay": float(weight_decay),
        "insert": float(insert),
        "seed": whole_number(seed, 0, "seed must be a whole number, not negative"),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
