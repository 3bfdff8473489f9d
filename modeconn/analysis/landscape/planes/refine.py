"""Further points where a surface bends: where what is measured departs most from what its neighbours say."""

from collections.abc import Callable

import numpy as np

_TOGETHER = 8  # points that are chosen from the same triangulation
_RATIO = 20.0  # of the highest value to the lowest; above it bends are those of the logarithm, as they are drawn


def refine(
    points: np.ndarray, values: np.ndarray, count: int, measure: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Measure further points, a few at a time, where linear interpolation of what is measured is worst.

    The measured points are joined to triangles (Delaunay), and each point has a slope, the mean of its triangles'.
    Along an edge from p to q, the cubic with these slopes departs from the straight line half-way by
    (g_q - g_p) (q - p) / 8: that is what linear interpolation is estimated to miss there. The middles of the edges
    where this, times the length of the edge so that short ones end, is largest are measured next.

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
    """The middles of the edges along which the surface bends most, no two of one triangle; [chosen, 2]."""
    from scipy.spatial import Delaunay, QhullError

    known = np.isfinite(values)
    points, values = points[known], values[known]
    try:
        triangles = Delaunay(points)
    except (QhullError, ValueError):  # fewer than three points beside one line
        return points[:0]
    slopes = _slopes(points, values, triangles.simplices)
    edges: dict[tuple[int, int], set[int]] = {}  # the triangles of each
    for number, corners in enumerate(triangles.simplices):
        for i, j in ((0, 1), (1, 2), (0, 2)):
            edges.setdefault((min(corners[i], corners[j]), max(corners[i], corners[j])), set()).add(number)
    found: list[tuple[float, float, float, set[int]]] = []
    for (i, j), beside in edges.items():
        along = points[j] - points[i]
        bend = abs(float((slopes[j] - slopes[i]) @ along)) / 8
        x, y = (points[i] + points[j]) / 2
        if bend > 1e-12 * (1 + abs(float(values[i]))):
            found.append((-bend * float(np.linalg.norm(along)), float(x), float(y), beside))
    chosen: list[tuple[float, float]] = []
    used: set[int] = set()
    for _, x, y, beside in sorted(found, key=lambda edge: edge[:3]):
        if len(chosen) < count and not beside & used:
            chosen.append((x, y))
            used |= beside
    return np.array(chosen).reshape(-1, 2)


def _slopes(points: np.ndarray, values: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """The slope at each point, the mean over its triangles' slopes by their areas, float64 [points, 2]."""
    sides = points[triangles[:, 1:]] - points[triangles[:, :1]]  # [triangles, 2, 2]
    rises = values[triangles[:, 1:]] - values[triangles[:, :1]]  # [triangles, 2]
    doubled = np.linalg.det(sides)
    flat = np.abs(doubled) < 1e-12 * np.abs(sides).max(axis=(1, 2)) ** 2
    sides[flat], doubled[flat] = np.eye(2), 0.0
    weighted = np.linalg.solve(sides, rises[..., None])[..., 0] * np.abs(doubled)[:, None]
    total, area = np.zeros_like(points), np.zeros(len(points))
    for corner in range(3):
        np.add.at(total, triangles[:, corner], weighted)
        np.add.at(area, triangles[:, corner], np.abs(doubled))
    return total / np.where(area > 0, area, 1)[:, None]
