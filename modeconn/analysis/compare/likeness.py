"""Whether two matrices descend from one: their cosine against that with the units of one in a random order.

Training from a random initialisation does not tell hidden units apart: in any order they are equally probable. So of
two networks that were trained independently, the cosine of two matrices is one draw from its distribution over random
orders of the units of one of them, and lies within a few standard deviations of its mean. Where both descend from one
network, the units stand where they stood there, and it lies far above.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RELATED = 4.0  # standard deviations above the mean of random orders from which on two matrices are called related
LEAST = 8  # units of an axis: with fewer, no order stands out by that much
_SIDE = 512  # units of each axis that are looked at, evenly spaced
_REST = 64  # places of a kernel, or of further axes


@dataclass(frozen=True)
class Likeness:
    """The cosine of two matrices, and the distribution that it has with the units of one in a random order.

    Units are put in order along the rows (outputs) or along the columns (inputs), and the axis along which the cosine
    stands out less is kept: inputs and classes of a network have one order in all trainings, hidden units have not, and
    one of the two axes are hidden units.

    Attributes:
        cosine: of the two, over at most 512 rows by 512 columns, evenly spaced; the diagonal does not count, as some
            initialisations begin with the identity.
        mean, deviation: of the cosine over all orders of the axis, exactly (Hoeffding 1951).
        axis: 0 for rows, 1 for columns.
    """

    cosine: float
    mean: float
    deviation: float
    axis: int

    @property
    def score(self) -> float:
        """How many standard deviations the cosine is above the mean; 0 where all orders give the same."""
        return (self.cosine - self.mean) / self.deviation if self.deviation else 0.0

    @property
    def related(self) -> bool:
        """Whether chance is ruled out, as far as it can be."""
        return self.score >= RELATED


def likeness(a: Tensor, b: Tensor) -> Likeness | None:
    """Compare two floating-point tensors of one shape; None where nothing can be said.

    That is of vectors, of matrices with fewer than 8 rows or columns (unless there is one, of which there is one
    order), of constants (at most two different values, such as masks) and of zeros.

    Args:
        a, b: [rows, columns, ...]; further axes, such as those of a kernel, stay with their column.

    >>> a = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    >>> b = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    >>> likeness(a, a + b).related, likeness(a, b).related
    (True, False)
    """
    if a.ndim < 2 or a.is_complex() or any(1 < size < LEAST for size in a.shape[:2]):
        return None
    axes = [axis for axis in (0, 1) if a.shape[axis] > 1]
    x, y = _sample(a), _sample(b)
    if min(len(x.unique()), len(y.unique())) <= 2:
        return None
    x, y = _without_diagonal(x, a.shape), _without_diagonal(y, b.shape)
    norms = math.sqrt(float(x.square().sum() * y.square().sum()))
    if not axes or not norms:
        return None
    found = [_over_orders(x, y, axis, norms) for axis in axes]
    return min(found, key=lambda one: one.score)


def _over_orders(x: Tensor, y: Tensor, axis: int, norms: float) -> Likeness:
    """The cosine, and its mean and standard deviation over all orders of y's units along an axis."""
    # products[i, j] = <unit i of x, unit j of y>: the cosine is its trace, and in another order that of other entries.
    products = x.movedim(axis, 0).flatten(1) @ y.movedim(axis, 0).flatten(1).T / norms
    units = len(products)
    centred = products - products.mean(0) - products.mean(1, keepdim=True) + products.mean()
    deviation = float(centred.square().sum().div(units - 1).sqrt())
    cosine, mean = float(products.trace()), float(products.sum() / units)
    return Likeness(cosine, mean, deviation if deviation > 1e-9 else 0.0, axis)


def _sample(tensor: Tensor) -> Tensor:
    """Some rows and columns in double precision, [rows, columns, rest]."""
    tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
    whole = tensor.flatten(2) if tensor.ndim > 2 else tensor.unsqueeze(2)
    rows, columns, rest = _places(whole.shape)
    return whole[rows[:, None, None], columns[:, None], rest].to("cpu", torch.float64)


def _without_diagonal(sample: Tensor, shape: Sequence[int]) -> Tensor:
    """A sample of a matrix with, on the matrix's diagonal, what rows and columns lead to expect from the others."""
    rows, columns, _ = _places((*shape[:2], math.prod(shape[2:])))
    diagonal = (rows[:, None] == columns).unsqueeze(2)
    others = (~diagonal).double()
    kept = sample * others
    # The two networks' diagonals must not have in common that they stand out, so a mean over all would not do.
    row = kept.sum(1, keepdim=True) / others.sum(1, keepdim=True).clamp(min=1)
    column = kept.sum(0, keepdim=True) / others.sum(0, keepdim=True).clamp(min=1)
    return torch.where(diagonal, row + column - kept.sum((0, 1)) / others.sum(), sample)


def _places(shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The rows, columns and further places of a sample, evenly spaced."""
    rest = min(shape[2], _REST)
    side = min(_SIDE, math.isqrt(_SIDE * _SIDE // rest))
    rows, columns, further = (
        torch.linspace(0, size - 1, min(size, most), dtype=torch.float64).round().long()
        for size, most in zip(shape, (side, side, rest), strict=True)
    )
    return rows, columns, further
