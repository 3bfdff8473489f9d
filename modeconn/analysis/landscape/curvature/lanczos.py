"""Eigenvalues of a large symmetric matrix that is known by its products with vectors: Lanczos' method.

The basis is orthogonalised in full, twice, so that its vectors stay orthogonal in floating-point numbers; where it has
grown to its greatest size, it is restarted with the best vectors that it holds (thick restart, Wu & Simon 2000).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
WHICH = ("largest", "magnitude", "smallest")
_SAFE = 0.8  # of the tolerance, as estimates of residuals are a little off
_CONFIRM = 6  # further products in each open direction, one of them fresh, by which equal eigenvalues are found


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Eigenvalues and eigenvectors.

    Attributes:
        values: float64 [k], in the order that was asked for.
        vectors: [k, n], orthonormal.
        residuals: |A v - lambda v| of each, float64 [k]: an eigenvalue is no farther away than that.
        products: how many products with vectors that took.
        converged: how many of the k have a residual within the tolerance.
    """

    values: np.ndarray
    vectors: Tensor
    residuals: np.ndarray
    products: int
    converged: int


def eigenpairs(
    product: Product,
    like: Tensor,
    n: int,
    k: int,
    *,
    which: str = "largest",
    tolerance: float = 1e-3,
    most: int = 1000,
    seed: int = 0,
    each: Callable[[], None] = lambda: None,
) -> Eigenpairs:
    """Find k eigenvalues of a symmetric matrix, and their eigenvectors.

    Args:
        product: of the matrix with a vector [n].
        like: a tensor of the type and on the device of vectors.
        n: the dimension.
        k: how many; from 1 to n.
        which: `"largest"` of all, `"smallest"` of all, or those of the largest `"magnitude"`.
        tolerance: of residuals, relative to the largest magnitude among the eigenvalues.
        most: products, at most, besides the k that measure residuals.
        seed: of the first vector.
        each: called after every product.

    >>> matrix = torch.diag(torch.tensor([3.0, -5.0, 1.0, 3.0]))
    >>> eigenpairs(lambda v: matrix @ v, matrix, 4, 3).values.round(3).tolist()
    [3.0, 3.0, 1.0]
    >>> eigenpairs(lambda v: matrix @ v, matrix, 4, 1, which="magnitude").values.round(3).tolist()
    [-5.0]
    """
    basis = _Basis(product, like, n, min(n, max(3 * k + 20, 40)), seed, each)
    fresh: int | None = None  # the product at which a fresh direction was added to what had converged,
    before = np.zeros(k)  # and the eigenvalues then
    while basis.pending or basis.add_random():  # else the basis spans everything
        basis.process()
        if len(basis.processed) < k:
            continue
        values, ritz, residuals = basis.ritz(which)
        if basis.products >= most:
            break
        limit = tolerance * np.abs(values).max()
        if not (residuals[:k] <= _SAFE * limit).all():
            fresh = None
        elif fresh is None or basis.products >= fresh + _CONFIRM * len(basis.pending):
            if fresh is not None and np.abs(values[:k] - before).max() <= limit:
                break  # nothing new in the fresh direction
            if not basis.add_random():
                break
            fresh, before = basis.products, values[:k]
        if basis.full:
            basis.restart(ritz[:, : k + (basis.capacity - k) // 3])
    values, ritz, _ = basis.ritz(which)
    vectors = _orthonormal(basis.combine(ritz[:, :k]))
    return _measured(product, vectors, which, tolerance * float(np.abs(values).max()), basis.products, each)


def quadrature(product: Product, start: Tensor, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The nodes and weights of Gauss' quadrature of v^T f(A) v / v^T v, by Lanczos' method from a vector v.

    Args:
        product: of the matrix with a vector [n].
        start: v, [n].
        steps: at most; fewer where the matrix has fewer different eigenvalues that v sees.

    Returns:
        float64 [steps] both: Ritz values, and the squares of the first entries of their vectors, whose sum is 1.
    """
    basis = _Basis(product, start, len(start), min(steps, len(start)), 0, lambda: None)
    basis.add(start)
    while basis.pending and len(basis.processed) < basis.capacity:
        basis.process()
    values, vectors = np.linalg.eigh(basis.projected())
    return values, vectors[0] ** 2


@dataclass(eq=False)
class _Basis:
    """Orthonormal vectors, of some of which the products are known: the processed ones; the others are pending."""

    product: Product
    like: Tensor
    n: int
    capacity: int
    seed: int
    each: Callable[[], None]
    processed: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    products: int = 0

    def __post_init__(self) -> None:
        room = min(self.n, self.capacity + 4)
        self.vectors = torch.zeros(room, self.n, dtype=self.like.dtype, device=self.like.device)
        self.matrix = np.zeros((room, room))  # of products between vectors, v_i^T A v_j, of processed j
        self.generator = torch.Generator().manual_seed(self.seed)
        self.scale = 0.0  # the largest norm of a product so far

    @property
    def count(self) -> int:
        return len(self.processed) + len(self.pending)

    @property
    def full(self) -> bool:
        return self.count >= min(self.capacity, self.n) and self.capacity < self.n

    def add_random(self) -> bool:
        """Add a random direction orthogonal to all; whether there is one."""
        while self.count < len(self.vectors):
            vector = torch.randn(self.n, generator=self.generator, dtype=torch.float64).to(self.like)
            if self.add(vector):
                return True
        return False

    def add(self, vector: Tensor) -> bool:
        """Add the part of a vector that is orthogonal to all; whether there is one."""
        length = float(vector.norm())
        rest, _ = self._orthogonalise(vector)
        size = float(rest.norm())
        if self.count >= len(self.vectors) or not size > 1e-3 * length:
            return False
        rest, _ = self._orthogonalise(rest / size)
        self.vectors[self.count] = rest / rest.norm()
        self.pending.append(self.count)
        return True

    def process(self) -> None:
        """Multiply the oldest pending vector; what of the product is new is pending then."""
        at = self.pending.pop(0)
        self.processed.append(at)
        image = self.product(self.vectors[at])
        self.products += 1
        self.each()
        rest, inside = self._orthogonalise(image)
        self.matrix[: len(inside), at] = inside
        size, length = float(rest.norm()), float(image.norm())
        self.scale = max(self.scale, length)
        # What is left by rounding alone is no direction of the matrix.
        rounding = 100 * torch.finfo(rest.dtype).eps * self.scale
        if size > rounding and self.count < len(self.vectors):
            again, _ = self._orthogonalise(rest / size)
            new = self.count
            self.vectors[new] = again / again.norm()
            self.matrix[new, at] = size
            self.pending.append(new)

    def projected(self) -> np.ndarray:
        """The matrix between processed vectors, float64, symmetric."""
        inner = self.matrix[np.ix_(self.processed, self.processed)]
        return (inner + inner.T) / 2

    def ritz(self, which: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Approximate eigenvalues in order, their vectors in the processed ones, and their residuals."""
        values, vectors = np.linalg.eigh(self.projected())
        order = order_of(values, which)
        values, vectors = values[order], vectors[:, order]
        outside = self.matrix[np.ix_(self.pending, self.processed)] @ vectors
        return values, vectors, np.linalg.norm(outside, axis=0)

    def combine(self, coefficients: np.ndarray) -> Tensor:
        """Combinations of the processed vectors, [columns, n]."""
        weights = torch.from_numpy(np.ascontiguousarray(coefficients.T)).to(self.like)
        return weights @ self.vectors[self.processed]

    def restart(self, coefficients: np.ndarray) -> None:
        """Keep these combinations of the processed vectors, and the pending ones."""
        kept = coefficients.shape[1]
        inner = coefficients.T @ self.projected() @ coefficients
        outer = self.matrix[np.ix_(self.pending, self.processed)] @ coefficients
        vectors = torch.cat([self.combine(coefficients), self.vectors[self.pending]])
        self.vectors[: len(vectors)] = _orthonormal(vectors)
        self.matrix[:] = 0
        self.matrix[:kept, :kept] = inner
        self.matrix[kept : kept + len(outer), :kept] = outer
        self.processed = list(range(kept))
        self.pending = list(range(kept, kept + len(outer)))

    def _orthogonalise(self, vector: Tensor) -> tuple[Tensor, np.ndarray]:
        """The rest of a vector beside all of the basis, and its parts along each, float64 [count]."""
        held = self.vectors[: self.count]
        inside = np.zeros(self.count)
        for _ in range(2):
            parts = held @ vector
            vector = vector - parts @ held
            inside += parts.double().cpu().numpy()
        return vector, inside


def order_of(values: np.ndarray, which: str) -> np.ndarray:
    """The order of eigenvalues that was asked for, int64.

    >>> order_of(np.array([-3.0, 1.0, 2.0]), "magnitude").tolist()
    [0, 2, 1]
    """
    key = {"largest": -values, "smallest": values, "magnitude": -np.abs(values)}[which]
    return np.argsort(key, kind="stable")


def _orthonormal(vectors: Tensor) -> Tensor:
    """Nearly orthonormal vectors [k, n] without their rounding errors."""
    q, r = torch.linalg.qr(vectors.T)
    return (q * r.diagonal().sign()).T.contiguous()


def _measured(
    product: Product, vectors: Tensor, which: str, limit: float, products: int, each: Callable[[], None]
) -> Eigenpairs:
    """Eigenvalues as v^T A v, and residuals, each by a product of its own."""
    values, residuals = np.zeros(len(vectors)), np.zeros(len(vectors))
    for place, vector in enumerate(vectors):
        image = product(vector)
        each()
        values[place] = float(vector @ image)
        residuals[place] = float((image - values[place] * vector).norm())
    order = order_of(values, which)
    return Eigenpairs(
        values=values[order],
        vectors=vectors[torch.from_numpy(order).to(vectors.device)],
        residuals=residuals[order],
        products=products + len(vectors),
        converged=int((residuals <= limit).sum()),
    )
