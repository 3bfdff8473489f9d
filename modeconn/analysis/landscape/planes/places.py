"""Networks in a landscape, its axes, and what a picture of it is made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Place:
    """A network, and where it is.

    Attributes:
        name: what it is called.
        x, y: its coordinates, or those of the point nearest to it; y is NaN on a line.
        distance: from the line or plane: the norm of what of its weights is not in it.
        path: the trajectory that it is a state of; empty of a network alone.
        values: metric to value, measured at the network itself; empty where it is only projected.
    """

    name: str
    x: float
    y: float
    distance: float
    path: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Axis:
    """An axis of the picture.

    Attributes:
        name: where it leads.
        length: by how much the weights move, as a vector, for one unit of its coordinate.
        explained: of a principal direction, the part of the trajectory's variance along it; else NaN.
    """

    name: str
    length: float
    explained: float = float("nan")


@dataclass(frozen=True, eq=False)
class Picture:
    """What a picture of a landscape is made of.

    Attributes:
        metric: what is drawn.
        x, y, values: of all points and of the networks that were measured, float64 [points]; y is NaN on a line.
        places: the networks.
        axes: one or two.
        isometric: whether both axes have the unit of distances between weights.
        batchnorm: what was done to running statistics.
    """

    metric: str
    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    places: tuple[Place, ...]
    axes: tuple[Axis, ...]
    isometric: bool
    batchnorm: str


def paths_of(places: Iterable[Place]) -> dict[str, list[Place]]:
    """The trajectories among networks, each with its states in order."""
    found: dict[str, list[Place]] = {}
    for place in places:
        if place.path:
            found.setdefault(place.path, []).append(place)
    return found
