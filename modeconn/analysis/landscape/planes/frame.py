"""Coordinates around networks: a point of a line or a plane as weights, and where other networks lie beside it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeconn.analysis.paths.combination import combination
from modeconn.analysis.paths.linear import all_finite
from modeconn.errors import NetworkError
from modeconn.weights.state_dicts import Weights

_PIECE = 1 << 22  # elements of a large tensor that are converted to double precision at a time
# Times the precision and the largest weight vector: nearer to one line, what spans a plane is rounding alone.
_ROUNDING = 8


@dataclass(frozen=True, eq=False)
class Frame:
    """An origin and one or two steps from it; coordinates are those of the steps, or orthonormal.

    A point is origin + s step_1 + t step_2, where (x, y) = R (s, t) with an upper triangular R.

    Attributes:
        basis: the origin; then the networks that the steps lead to, or the steps themselves.
        affine: whether they are networks: a step is then the difference to the origin.
        triangle: R, float64 [steps, steps].
        gram: products of the steps, float64 [steps, steps].
        parameters: the names that count, each tensor once.
    """

    basis: tuple[Weights, ...]
    affine: bool
    triangle: np.ndarray
    gram: np.ndarray
    parameters: tuple[str, ...]

    @property
    def lengths(self) -> tuple[float, ...]:
        """By how much the weights move along each axis, for one unit of its coordinate."""
        inverse = np.linalg.inv(self.triangle)
        return tuple(float(length) for length in np.sqrt(np.diag(inverse.T @ self.gram @ inverse)))

    @property
    def cosine(self) -> float:
        """Between the two axes; 0 of one axis alone."""
        if len(self.gram) < 2:
            return 0.0
        inverse = np.linalg.inv(self.triangle)
        products = inverse.T @ self.gram @ inverse
        return float(products[0, 1] / math.sqrt(products[0, 0] * products[1, 1]))

    def coefficients(self, place: Sequence[float]) -> tuple[float, ...]:
        """Those of the basis at a place. The networks of the basis have exactly one, which is exactly 1."""
        steps: list[float] = []
        for row in range(len(place) - 1, -1, -1):
            beyond = math.fsum(self.triangle[row, row + 1 + i] * step for i, step in enumerate(steps))
            steps.insert(0, float((place[row] - beyond) / self.triangle[row, row]))
        return (1 - sum(steps) if self.affine else 1.0, *steps)

    def point(self, coefficients: Sequence[float]) -> Weights:
        """The weights of a point, by its coefficients."""
        return combination(self.basis, coefficients, "a point of the landscape")

    def places(self, networks: Sequence[Weights]) -> list[tuple[tuple[float, ...], float]]:
        """Project networks orthogonally: the coordinates of each, and its distance from the line or plane.

        Reads each twice, one tensor at a time: a difference of squared lengths would lose small distances.
        """
        if not networks:
            return []
        products = [[math.fsum(parts) for parts in zip(*of, strict=True)] for of in self._products(networks)]
        steps = [np.linalg.solve(self.gram, np.array(of)) for of in products]
        distances = self._residuals(networks, steps)
        found = [tuple(float(x) for x in self.triangle @ step) for step in steps]
        return list(zip(found, distances, strict=True))

    def _products(self, networks: Sequence[Weights]) -> list[list[list[float]]]:
        found: list[list[list[float]]] = [[] for _ in networks]
        for name in self.parameters:
            for where in _stretches(self.basis[0], name):
                origin, steps = self._piece(name, where)
                for network, sums in zip(networks, found, strict=True):
                    moved = flat(network, name, where).to(origin.device) - origin
                    sums.append([float(torch.dot(moved, step)) for step in steps])
        return found

    def _residuals(self, networks: Sequence[Weights], steps: Sequence[np.ndarray]) -> list[float]:
        squares: list[list[float]] = [[] for _ in networks]
        for name in self.parameters:
            for where in _stretches(self.basis[0], name):
                origin, directions = self._piece(name, where)
                for network, taken, of in zip(networks, steps, squares, strict=True):
                    rest = flat(network, name, where).to(origin.device) - origin
                    for direction, step in zip(directions, taken, strict=True):
                        rest.sub_(direction, alpha=float(step))
                    of.append(float(torch.dot(rest, rest)))
        return [math.sqrt(math.fsum(of)) for of in squares]

    def _piece(self, name: str, where: slice) -> tuple[Tensor, list[Tensor]]:
        origin = flat(self.basis[0], name, where)
        others = [flat(one, name, where).to(origin.device) for one in self.basis[1:]]
        return origin, [other - origin for other in others] if self.affine else others


def frame_through(networks: Sequence[Weights], names: Sequence[str], parameters: Sequence[str]) -> Frame:
    """The plane through three networks, with orthonormal axes by Gram-Schmidt.

    The origin is `a`; u = (b - a) / |b - a|; v is c - a without its part along u, normalised, as in Garipov et al.
    (2018, appendix A) and Izmailov et al. (2018). Coordinates are distances between weights.

    Args:
        networks: the three.
        names: what they are called.
        parameters: the names that count, each tensor once.

    Raises:
        NetworkError: two of them are equal, or they are on one line; or weights are not finite.

    >>> corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [1.0, 2.0]])
    >>> layout = {"w": torch.empty(2, device="meta")}
    >>> three = [Weights(layout, {"w": corner}.__getitem__, "") for corner in corners]
    >>> frame = frame_through(three, "abc", ["w"])
    >>> frame.triangle.tolist(), frame.coefficients((1.0, 2.0)), frame.lengths
    ([[3.0, 1.0], [0.0, 2.0]], (0.0, 0.0, 1.0), (1.0, 1.0))
    """
    a, b, c = networks
    check_finite(networks, names, parameters)
    sums: list[list[float]] = []
    for name in parameters:
        for where in _stretches(a, name):
            x = flat(a, name, where)
            y, z = (flat(one, name, where).to(x.device) for one in (b, c))
            first, second = y - x, z - x
            between = z - y
            pairs = ((first, first), (first, second), (second, second), (between, between), (x, x), (z, z))
            sums.append([float(torch.dot(p, q)) for p, q in pairs])
    along, mixed, across, between_squared, *sizes = (math.fsum(column) for column in zip(*sums, strict=True))
    for squared, pair in ((along, (0, 1)), (across, (0, 2)), (between_squared, (1, 2))):
        if squared == 0:
            raise NetworkError(
                f"{names[pair[0]]} and {names[pair[1]]} have equal weights, and a plane needs three different "
                "networks; give another one, or take error_barrier between two"
            )
    length = math.sqrt(along)
    height = math.sqrt(_height_squared(a, b, c, mixed / along, parameters))
    types = [one.layout[name].dtype for one in networks for name in parameters]
    # In half precision networks that differ by its last bits span a plane: points are computed in float32 at least.
    single = torch.finfo(torch.float32).eps
    precision = max(
        min(single, torch.finfo(dtype).eps) for dtype in types if dtype.is_floating_point or dtype.is_complex
    )
    if height <= max(_ROUNDING * precision * math.sqrt(max(sizes)), 1e-6 * math.sqrt(across)):
        raise NetworkError(
            f"{', '.join(names)} are on one line, so that no plane is spanned; take error_barrier along it, or give a "
            "third network beside it"
        )
    triangle = np.array([[length, mixed / length], [0.0, height]])
    return Frame((a, b, c), True, triangle, triangle.T @ triangle, tuple(parameters))


def frame_of_steps(origin: Weights, steps: Sequence[Weights], parameters: Sequence[str]) -> Frame:
    """The line or plane around a network in given directions; a coordinate multiplies its direction.

    Raises:
        NetworkError: a direction is zero, or the two are parallel.
    """
    gram = np.zeros((len(steps), len(steps)))
    for i, one in enumerate(steps):
        for j, other in enumerate(steps[: i + 1]):
            gram[i, j] = gram[j, i] = dot(one, other, parameters)
    lengths = np.sqrt(np.diag(gram))
    if not (lengths > 0).all():
        raise NetworkError(
            f"direction {int(np.argmin(lengths)) + 1} is zero in every weight that the network has; give another one"
        )
    if len(steps) == 2 and abs(gram[0, 1]) > (1 - 1e-9) * lengths[0] * lengths[1]:
        raise NetworkError("the two directions are parallel, so that no plane is spanned; give another one, or one")
    return Frame((origin, *steps), False, np.eye(len(steps)), gram, tuple(parameters))


def dot(one: Weights, other: Weights, parameters: Sequence[str]) -> float:
    """The product of two weight vectors, in double precision."""
    return math.fsum(
        float(torch.dot(x, flat(other, name, where).to(x.device)))
        for name in parameters
        for where in _stretches(one, name)
        for x in (flat(one, name, where),)
    )


def flat(weights: Weights, name: str, where: slice = slice(None)) -> Tensor:
    """A stretch of a tensor as a vector of real numbers in double precision."""
    tensor = weights.read(name)
    tensor = (tensor if tensor.layout == torch.strided else tensor.to_dense()).detach().reshape(-1)[where]
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    return torch.view_as_real(wide).reshape(-1) if wide.is_complex() else wide


def check_finite(networks: Sequence[Weights], names: Sequence[str], parameters: Sequence[str]) -> None:
    """Refuse networks that have been trained to NaN.

    Raises:
        NetworkError: naming the tensors.
    """
    bad = [
        f"{name} in {called}"
        for called, network in zip(names, networks, strict=True)
        for name in parameters
        if not all_finite(network.read(name))
    ]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise NetworkError(f"weights are NaN or infinite: {', '.join(bad[:5])}{more}; give networks that are finite")


def _height_squared(a: Weights, b: Weights, c: Weights, share: float, parameters: Sequence[str]) -> float:
    """|c - a - share (b - a)|^2, summed from the differences, as those of squares would lose small ones."""
    squares = []
    for name in parameters:
        for where in _stretches(a, name):
            x = flat(a, name, where)
            y, z = (flat(one, name, where).to(x.device) for one in (b, c))
            rest = (z - x).sub_(y - x, alpha=share)
            squares.append(float(torch.dot(rest, rest)))
    return math.fsum(squares)


def _stretches(weights: Weights, name: str) -> Iterator[slice]:
    for start in range(0, weights.layout[name].numel(), _PIECE):
        yield slice(start, start + _PIECE)
