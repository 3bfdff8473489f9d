"""Further points where a surface bends: where what is measured departs most from what its neighbours say."""

import math
from collections.abc import Callable

import numpy as np

_TOGETHER = 8  # points that are chosen from the same triangulation
_RATIO = 20.0  # of the highest value to the lowest; above it bends are those of the logarithm, as they are drawn


def refine(
    points: np.ndarray, values: np.ndarray, count: int, measure: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Measure further points, a few at a time, where linear interpolation of what is measured is worst.

    The measured points are joined to triangles (Delaunay). Over each edge between two of them, the plane of one is
    extended to the far corner of the other: how far that corner's value departs from it is how much the surface bends
    there, and a quarter of it about the error of linear interpolation half-way. The middles of the edges with the
    largest bends are measured next.

    Args:
        points: coordinates of equal units, float64 [points, 2].
        values: there, float64 [points]; what is not finite is left aside.
        count: how many further points, at most.
        measure: gives the values at points, float64 [points, 2].

    Returns:
        All points and values, those that were given first.
    """
    while count > 0:
        chosen = _middles(points, _scaled(values), min(count, _TOGETHER))
        if not len(chosen):
            break
        points, values = np.concatenate([points, chosen]), np.concatenate([values, measure(chosen)])
        count -= len(chosen)
    return points, values


def is_wide(values: np.ndarray) -> bool:
    """Whether values are positive and so far apart that their logarithm is what can be read.

    >>> is_wide(np.array([0.1, 30.0])), is_wide(np.array([0.0, 1.0])), is_wide(np.array([1.0, 2.0]))
    (True, False, False)
    """
    finite = values[np.isfinite(values)]
    return bool(len(finite) and finite.min() > 0 and finite.max() > _RATIO * finite.min())


def _scaled(values: np.ndarray) -> np.ndarray:
    return np.log(np.where(np.isfinite(values), values, np.nan)) if is_wide(values) else values


def _middles(points: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """The middles of the edges over which the surface bends most, no two of one triangle; [chosen, 2]."""
    from scipy.spatial import Delaunay, QhullError

    known = np.isfinite(values)
    points, values = points[known], values[known]
    try:
        triangles = Delaunay(points)
    except (QhullError, ValueError):  # fewer than three points beside one line
        return points[:0]
    found: list[tuple[float, tuple[float, float], int, int]] = []
    for one, corners in enumerate(triangles.simplices):
        for corner, other in enumerate(triangles.neighbors[one]):
            if other <= one:  # of the two triangles of an edge, one looks; at the border there is one
                continue
            edge = np.delete(corners, corner)
            (far,) = set(triangles.simplices[other]) - set(edge)
            bend = abs(_extended(points[corners], values[corners], points[far]) - values[far])
            middle = points[edge].mean(axis=0)
            if math.isfinite(bend) and bend > 0:
                found.append((-bend, (float(middle[0]), float(middle[1])), one, int(other)))
    chosen: list[tuple[float, float]] = []
    used: set[int] = set()
    for _, middle, one, other in sorted(found):
        if len(chosen) < count and not {one, other} & used:
            chosen.append(middle)
            used |= {one, other}
    return np.array(chosen).reshape(-1, 2)


def _extended(corners: np.ndarray, values: np.ndarray, to: np.ndarray) -> float:
    """The plane over a triangle, at a point beside it."""
    sides = corners[1:] - corners[0]
    if abs(np.linalg.det(sides)) < 1e-12 * (np.abs(sides).max() ** 2 or 1.0):
        return math.nan
    shares = np.linalg.solve(sides.T, to - corners[0])
    return float(values[0] + shares @ (values[1:] - values[0]))
