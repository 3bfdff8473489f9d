"""Sums over the entries of two tensors, from which the distances of tensors, layers and networks follow."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

_PIECE = 1 << 18  # entries that are in double precision at a time: they fit a cache


class _Additive:
    """Sums of two tensors together are the sums of the sums."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, entry.name) + getattr(other, entry.name) for entry in fields(self)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Sums(_Additive):
    """Sums over two tensors a and b.

    Attributes:
        entries: how many each has; of complex ones, real and imaginary parts.
        squares_a, squares_b, squares: |a|^2, |b|^2, |a - b|^2.
        product: <a, b>.
        differing: entries that are not equal.
        signed: entries that are zero in neither.
        same_sign: of these, those of one sign.

    >>> sums, _ = sums_of(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]))
    >>> sums.l2, sums.cosine, round(sums.relative_distance, 4)
    (5.0, 0.0, 1.4286)
    """

    entries: int = 0
    squares_a: float = 0.0
    squares_b: float = 0.0
    squares: float = 0.0
    product: float = 0.0
    differing: int = 0
    signed: int = 0
    same_sign: int = 0

    @property
    def finite(self) -> bool:
        """Whether all entries are."""
        return math.isfinite(self.squares_a) and math.isfinite(self.squares_b)

    @property
    def l2(self) -> float:
        """|a - b|."""
        return math.sqrt(self.squares)

    @property
    def relative_distance(self) -> float:
        """|a - b| over the mean of |a| and |b|: 0 where they are equal, at most 2; NaN of two zeros."""
        norms = math.sqrt(self.squares_a) + math.sqrt(self.squares_b)
        return 2 * self.l2 / norms if norms else math.nan

    @property
    def cosine(self) -> float:
        """<a, b> / (|a| |b|); NaN if one is zero."""
        return _cosine(self.product, self.squares_a, self.squares_b)

    @property
    def sign_agreement(self) -> float:
        """The share of entries of one sign, of those that are zero in neither; NaN without any."""
        return self.same_sign / self.signed if self.signed else math.nan


@dataclass(frozen=True)
class Moves(_Additive):
    """Sums over two task vectors u = a - c and v = b - c, of a common ancestor c (Ilharco et al. 2023).

    Attributes:
        entries: how many each has.
        squares_a, squares_b, squares_ancestor: |u|^2, |v|^2, |c|^2.
        product: <u, v>.
        moved_a, moved_b, moved_both: entries that are not zero in u, in v, in both.
        conflicts: of those in both, entries of opposite sign (Yadav et al. 2023, section 3).
    """

    entries: int = 0
    squares_a: float = 0.0
    squares_b: float = 0.0
    squares_ancestor: float = 0.0
    product: float = 0.0
    moved_a: int = 0
    moved_b: int = 0
    moved_both: int = 0
    conflicts: int = 0

    @property
    def cosine(self) -> float:
        """<u, v> / (|u| |v|); NaN if one is zero."""
        return _cosine(self.product, self.squares_a, self.squares_b)

    @property
    def relative(self) -> tuple[float, float]:
        """|u| / |c| and |v| / |c|; NaN if the ancestor is zero."""
        norms = math.sqrt(self.squares_a), math.sqrt(self.squares_b)
        ancestor = math.sqrt(self.squares_ancestor) or math.nan
        return norms[0] / ancestor, norms[1] / ancestor


def sums_of(a: Tensor, b: Tensor, ancestor: Tensor | None = None) -> tuple[Sums, Moves | None]:
    """The sums over two floating-point or complex tensors of one shape, and over their task vectors.

    They are taken in double precision, a piece at a time, and leave the tensors unchanged. Where an entry is NaN or
    infinite, they are too.
    """
    sums, moves = Sums(), Moves()
    for x, y, *rest in _pieces(a, b, *([] if ancestor is None else [ancestor])):
        difference, signs = x - y, x * y
        sums += Sums(
            entries=len(x),
            squares_a=_dot(x, x),
            squares_b=_dot(y, y),
            squares=_dot(difference, difference),
            product=_dot(x, y),
            differing=int(difference.count_nonzero()),
            signed=int(signs.count_nonzero()),
            same_sign=int((signs > 0).count_nonzero()),
        )
        for z in rest:
            u, v = x - z, y - z
            signs = u * v
            moves += Moves(
                entries=len(x),
                squares_a=_dot(u, u),
                squares_b=_dot(v, v),
                squares_ancestor=_dot(z, z),
                product=_dot(u, v),
                moved_a=int(u.count_nonzero()),
                moved_b=int(v.count_nonzero()),
                moved_both=int(signs.count_nonzero()),
                conflicts=int((signs < 0).count_nonzero()),
            )
    return sums, None if ancestor is None else moves


def _pieces(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """The tensors flat in double precision on the first one's device, a piece of all at a time."""
    dense = [tensor if tensor.layout == torch.strided else tensor.to_dense() for tensor in tensors]
    flat = [tensor.resolve_conj().reshape(-1) for tensor in dense]
    for start in range(0, len(flat[0]), _PIECE):
        few = [one[start : start + _PIECE].to(flat[0].device) for one in flat]
        yield [torch.view_as_real(one).reshape(-1).double() if one.is_complex() else one.double() for one in few]


def _dot(x: Tensor, y: Tensor) -> float:
    return float(torch.dot(x, y))


def _cosine(product: float, squares_a: float, squares_b: float) -> float:
    norms = math.sqrt(squares_a) * math.sqrt(squares_b)
    return max(-1.0, min(1.0, product / norms)) if norms else math.nan
