"""`trajectory_plane(states, data)`: the plane in which a training moved most (Lorch 2016; Li et al. 2018)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from modeconn.analysis.connectivity.comparison import Comparison, open_comparison
from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.analysis.landscape.filters import as_weights
from modeconn.analysis.landscape.planes.build import Landscape, Points, measure_landscape
from modeconn.analysis.landscape.planes.frame import check_finite, frame_of_steps
from modeconn.analysis.landscape.planes.grid import extent_around
from modeconn.analysis.landscape.planes.members import Beside, Member, members_of, project, trajectory_of
from modeconn.analysis.landscape.planes.plane import checked
from modeconn.analysis.landscape.planes.plane_result import Plane
from modeconn.analysis.landscape.planes.principal import Principal, direction_of, principal_directions, products_of
from modeconn.analysis.landscape.planes.surface import AsGiven, Given, Reopenable, Surface
from modeconn.errors import OptionError, unknown
from modeconn.progress import Report, silent, with_progress
from modeconn.weights.state_dicts import Weights

AROUND = ("last", "mean")
_PATH = "trajectory"


@with_progress
def trajectory_plane(
    states: "Source | Sequence[Source]",
    data: Any = None,
    *,
    around: str = "last",
    points: int | Sequence[int] = 21,
    margin: float = 0.2,
    also: Beside = (),
    refine: int = 0,
    checkpoint: str | Path | None = None,
    workers: int = 0,
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> Plane:
    """Measure loss and error in the plane in which the states of a training vary most.

    The axes are the first two principal directions of all states (Lorch 2016; Li et al. 2018, section 7), and the
    result says which part of their variance they explain. The plane goes through the last state, or the mean; all
    states are projected on it, and how far each is from it is said. They are compared by their products, one tensor at
    a time, so that a long training needs no more memory than a short one. Buffers are those of the state, or mean, that
    the plane goes through; with `batchnorm="recalibrate"` running statistics are measured anew at every point.

    Even a random walk has most of its variance in two principal directions (Antognini & Sohl-Dickstein 2018): how much
    they explain says little by itself.

    Args:
        states: a trajectory: a list of at least three networks in their order, or a stored run or its folder.
        data: what is measured on, as `modeconn.error_barrier` takes it.
        around: `"last"` or `"mean"`.
        points, margin, also, refine, checkpoint, workers, report, progress: as in `modeconn.plane`.
        **how: options of `modeconn.error_barrier`, without `names`.

    Raises:
        ModeconnError: an option, a network or data that do not fit, or too few states, before anything is measured.

    >>> import torch
    >>> from torch import nn
    >>> inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> data = inputs, (inputs[:, 0] > 0).long()
    >>> result = trajectory_plane([nn.Linear(4, 2) for _ in range(5)], data, points=5)
    >>> len(result.paths()["trajectory"]), sum(axis.explained for axis in result.axes) <= 1
    (5, True)
    """
    check_around(around)
    if "names" in how:
        raise OptionError("states of a trajectory are named by their place; leave out names=")
    asked = Points(points, 2, margin, refine, checkpoint, workers, report)
    return measure_trajectory(AsGiven(Given((states,), data, checked(how))), around, also, asked)  # type: ignore[arg-type]


def check_around(around: str) -> str:
    """The same, if a plane can go through it.

    Raises:
        OptionError: it cannot.
    """
    if around not in AROUND:
        raise unknown("place of the plane", str(around), AROUND)
    return around


def measure_trajectory(given: Reopenable, around: str, also: Beside, asked: Points) -> Plane:
    """The same of what `given` makes, whose sources are the states, or the one run that they are of.

    Raises:
        ModeconnError: as `trajectory_plane`.
    """
    states = Unrolled(given)
    found = states()
    path = [Member(name, source, _PATH) for name, source in _states(given())]
    beside = members_of(also, [member.full_name for member in path])
    members = [*path, *beside]
    how: OptionKeywords = {**found.how, "names": [member.full_name for member in members]}
    sources = [member.source for member in members]
    with open_comparison(sources, found.data, ComparisonOptions(**how)) as comparison:
        check_finite(comparison.networks, comparison.names, comparison.parameters)
        of_path = comparison.networks[: len(path)]
        principal = principal_directions(products_of(of_path, comparison.parameters), 2)
        basis = PrincipalBasis(len(path), around, principal)
        surface = Surface(comparison, basis(comparison))
        frame = frame_of_steps(surface.basis[0], surface.basis[1:], comparison.parameters)
        projected = project(frame, members, comparison.networks)
        places = [(0.0, 0.0), *((one.x, one.y) for one in projected)]
        name = f"iteration {path[-1].name}" if around == "last" else "the mean"
        landscape = Landscape(
            "principal",
            frame,
            extent_around(places, asked.margin),
            {name: (0.0, 0.0)},
            projected,
            axes=[
                (f"principal direction {number}", float(part))
                for number, part in enumerate(principal.explained, start=1)
            ],
            settings={"margin": asked.margin, "around": around, "states": len(path)},
        )
        return measure_landscape(landscape, surface, states, basis, asked)


@dataclass(frozen=True, eq=False)
class Unrolled:
    """Makes the states of a trajectory from the run that they are of."""

    given: Reopenable

    def __call__(self) -> Given:
        """The same, with a source for each state."""
        found = self.given()
        states = _states(found)
        names = [f"{_PATH} {name}" for name, _ in states]
        return Given([source for _, source in states], found.data, {**found.how, "names": names})


@dataclass(frozen=True, eq=False)
class PrincipalBasis:
    """The basis of principal directions: the last state or the mean, and two steps of length 1.

    Attributes:
        states: how many networks are states; others may follow.
        around: `"last"` or `"mean"`.
        principal: the directions, as sums of states.
    """

    states: int
    around: str
    principal: Principal

    def __call__(self, comparison: Comparison) -> tuple[Weights, ...]:
        """The origin and the directions."""
        states = comparison.networks[: self.states]
        module = comparison.evaluator.network
        names = [name for name, _ in module.named_parameters()]
        origin = states[-1]
        if self.around == "mean":
            mean = direction_of(states, np.full(len(states), 1 / len(states)).tolist(), list(origin.layout))
            origin = Weights(
                origin.layout, lambda name: mean.get(name, states[-1].read(name)), "the mean", aliases=origin.aliases
            )
        steps = [
            as_weights(direction_of(states, of.tolist(), names), origin, f"principal direction {number}")
            for number, of in enumerate(self.principal.coefficients, start=1)
        ]
        return (origin, *steps)


def _states(given: Given) -> list[tuple[str, Source]]:
    """The states of what was given: a list of networks, or one run."""
    sources: Any = given.sources[0] if len(given.sources) == 1 else list(given.sources)
    found = trajectory_of(sources)
    if found is None:
        raise OptionError("a trajectory is a list of networks in their order, or a stored run or its folder; got one")
    return found
