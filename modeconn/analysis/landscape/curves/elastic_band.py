"""The nudged elastic band on vectors: a path of lowest saddle between two minima of any function."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeconn.errors import NetworkError

LOOK = -1  # in place of a step, where the path is looked at after a cycle
# (vector [p], its place on the path in [0, 1], step) to a loss with its graph.
LossAt = Callable[[Tensor, float, int], Tensor]
_BETWEEN = 9  # points between two pivots at which the path is looked at, as Draxler et al. look


@dataclass(frozen=True, eq=False)
class Band:
    """A path and the losses on it.

    Attributes:
        pivots: [n, p], the ends included.
        places: where losses were taken, as places of pivots: 1.5 is half-way between the second and the third.
        losses: at these places.
    """

    pivots: Tensor
    places: np.ndarray
    losses: np.ndarray

    @property
    def highest(self) -> float:
        """The highest loss, an estimate of the saddle's."""
        return float(self.losses.max())


def elastic_band(
    start: Tensor,
    loss: LossAt,
    cycles: Sequence[tuple[int, float]],
    *,
    momentum: float = 0.9,
    insert: float = 0.2,
    done: Callable[[], None] = lambda: None,
) -> list[Band]:
    r"""Relax a path between two fixed ends, and add pivots where it is still too coarse (Draxler et al. 2018, AutoNEB).

    Each step moves every pivot against the part of its loss gradient that is perpendicular to the path; along the path
    the pivots are put back to the shares of its length that they had. The tangent at a pivot is the direction to, or
    from, the one of its two neighbours with the higher loss (Henkelman & Jonsson 2000). After every cycle but the last,
    a pivot is added between two others where the loss exceeds the line between theirs by more than a part `insert` of
    the range of the losses on the path.

    Args:
        start: [n, p], the pivots to begin with, the ends included.
        loss: of a vector, its place on the path and the step, which is `LOOK` where the path is looked at.
        cycles: of each, the steps and the learning rate.
        momentum: of the steps.
        insert: see above.
        done: called after every step.

    Returns:
        The band after every cycle.

    Raises:
        NetworkError: a loss is not finite.

    >>> ring = lambda x, place, step: (x.norm() - 1) ** 2  # of low loss on a circle, and highest in its middle
    >>> start = torch.stack([torch.tensor([1 - 2 * i / 4, 0.1 * (i == 2)]) for i in range(5)])
    >>> first, last = elastic_band(start, ring, [(100, 0.05)] * 2)
    >>> round(float(ring(torch.zeros(2), 0, 0)), 1), last.highest < 0.02
    (1.0, True)
    """
    pivots, bands = start.detach().clone(), []
    step = 0
    for number, (steps, rate) in enumerate(cycles):
        shares = _shares(pivots)
        velocity = torch.zeros_like(pivots[1:-1])
        for _ in range(steps):
            force = _force(pivots, loss, step)
            velocity = momentum * velocity + force
            pivots = torch.cat([pivots[:1], pivots[1:-1] + rate * velocity, pivots[-1:]])
            pivots = redistributed(pivots, shares)
            step += 1
            done()
        band = _looked_at(pivots, loss)
        bands.append(band)
        if number + 1 < len(cycles):
            pivots = _refined(band, insert)
    return bands


def redistributed(pivots: Tensor, shares: Tensor) -> Tensor:
    """Pivots at these shares of the length of the path through the given ones; the ends stay.

    >>> path = torch.tensor([[0.0], [3.0], [4.0]])
    >>> redistributed(path, torch.tensor([0.0, 0.5, 1.0]))
    tensor([[0.],
            [2.],
            [4.]])
    """
    lengths = pivots.diff(dim=0).norm(dim=1)
    total = lengths.sum()
    if not total > 0:
        return pivots
    sums = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    wanted = shares.to(sums) * total
    place = torch.searchsorted(sums, wanted[1:-1], right=True).clamp(1, len(lengths)) - 1
    part = ((wanted[1:-1] - sums[place]) / lengths[place].clamp_min(torch.finfo(sums.dtype).tiny)).clamp(0, 1)
    inner = torch.lerp(pivots[place], pivots[place + 1], part[:, None])
    return torch.cat([pivots[:1], inner, pivots[-1:]])


def _force(pivots: Tensor, loss: LossAt, step: int) -> Tensor:
    """The negative gradient at the inner pivots, perpendicular to the path."""
    n = len(pivots) - 1
    values, gradients = [], []
    for i, pivot in enumerate(pivots):
        inner = 0 < i < n
        at = pivot.detach().clone().requires_grad_(inner)
        with torch.set_grad_enabled(inner):
            value = loss(at, i / n, step)
        values.append(float(value.detach()))
        if not math.isfinite(values[-1]):
            raise NetworkError(
                f"the loss is {values[-1]} at pivot {i} of {n} in step {step}; choose lower learning rates in cycles"
            )
        if inner:
            gradients.append(torch.autograd.grad(value, at)[0])
    tangents = torch.stack([
        pivots[i + 1] - pivots[i] if values[i + 1] > values[i - 1] else pivots[i] - pivots[i - 1] for i in range(1, n)
    ])  # fmt: skip
    tangents = torch.nn.functional.normalize(tangents, dim=1)
    gradient = torch.stack(gradients)
    return (gradient * tangents).sum(1, keepdim=True) * tangents - gradient


@torch.no_grad()
def _looked_at(pivots: Tensor, loss: LossAt) -> Band:
    """The band with the losses at its pivots and between them."""
    n, fine = len(pivots) - 1, _BETWEEN + 1
    places = np.arange(n * fine + 1) / fine
    losses = []
    for k, place in enumerate(places):
        i = min(k // fine, n - 1)
        losses.append(float(loss(torch.lerp(pivots[i], pivots[i + 1], float(place - i)), place / n, LOOK)))
    return Band(pivots, places, np.array(losses))


def _refined(band: Band, insert: float) -> Tensor:
    """The pivots, and further ones where the losses between two exceed the line between theirs."""
    fine, least = _BETWEEN + 1, insert * (band.losses.max() - band.losses.min())
    found = [band.pivots[0]]
    for i in range(len(band.pivots) - 1):
        between = band.losses[i * fine : (i + 1) * fine + 1]
        excess = between - np.linspace(between[0], between[-1], fine + 1)
        worst = int(excess.argmax())
        if excess[worst] > least:
            found.append(torch.lerp(band.pivots[i], band.pivots[i + 1], worst / fine))
        found.append(band.pivots[i + 1])
    return torch.stack(found)


def _shares(pivots: Tensor) -> Tensor:
    """At which shares of the path's length the pivots are."""
    lengths = pivots.diff(dim=0).norm(dim=1)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0) / lengths.sum()])
