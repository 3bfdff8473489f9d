"""Linear interpolation between two networks' weights: theta(alpha) = (1 - alpha) a + alpha b."""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError
from modeconn.weights.shared import overlaps
from modeconn.weights.state_dicts import Weights, identity_of, state_tensors

_GROUP = 64 << 20  # bytes of each end that are interpolated by one call
_PIECE = 1 << 22  # elements of a large tensor that are converted to a wider type at a time


@dataclass(frozen=True)
class Distance:
    """Distances between the ends' parameters, as vectors a and b; buffers do not count.

    Attributes:
        l2: |a - b|.
        cosine: 1 - cos(phi), cos(phi) = <a, b> / (|a| |b|); NaN if one is zero.
        angular: 2 phi / pi: 0 in one direction, 1 orthogonal, 2 opposite (Maene et al. 2021).
    """

    l2: float
    cosine: float
    angular: float


@dataclass(frozen=True, eq=False)
class Line:
    """Linear interpolation between two networks' weights, theta(alpha) = (1 - alpha) a + alpha b.

    Attributes:
        a, b: the ends, which are left unchanged.
        moving: names of the tensors that differ and are interpolated. All others are those of `a`, and at alpha 1
            those of `b`.
        distance: of the ends.
        notes: what was decided where the two could not be interpolated.

    >>> from modeconn.weights.sources import weights_of
    >>> a, b, network = (nn.Linear(2, 1) for _ in range(3))
    >>> line = make_line(weights_of(a, "a"), weights_of(b, "b"), ["weight", "bias"])
    >>> line.load(network, 1.0)
    >>> bool((network.weight == b.weight).all())
    True
    """

    a: Weights
    b: Weights
    moving: frozenset[str]
    distance: Distance
    notes: tuple[str, ...]

    @torch.no_grad()
    def load(self, network: nn.Module, alpha: float) -> None:
        """Put the weights and buffers at alpha into a network, in place: `a` itself at 0, `b` itself at 1.

        In between, floating-point and complex tensors are interpolated in at least float32 and then take the
        network's type. Beyond [0, 1] the line is extrapolated.
        """
        if alpha in (0, 1):
            load_weights(network, self.b if alpha == 1 else self.a)
            return
        targets = _tensors(network)
        overlapping = overlaps(targets)
        for group in self._groups(targets):
            plain = []  # of one type on one device: interpolated by one call for all
            for name, a, b in group:
                target, dtype = targets[name], compute_dtype(a.dtype)
                if name not in self.moving:
                    _copy(target, a)
                elif (
                    a.device == b.device == target.device
                    and a.dtype == b.dtype == target.dtype == dtype
                    and name not in overlapping  # what is written twice must not be interpolated twice
                ):
                    plain.append((target, a, b))
                else:
                    _interpolate(target, a, b, alpha)
            if plain:
                onto, from_a, from_b = (list(tensors) for tensors in zip(*plain, strict=True))
                torch._foreach_copy_(onto, from_a)
                torch._foreach_lerp_(onto, from_b, alpha)

    def _groups(self, names: Iterable[str]) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
        """Tensors of both ends, a few at a time: those on a disk are then not all in memory."""
        group: list[tuple[str, Tensor, Tensor]] = []
        size = 0
        for name in names:
            a = self.a.read(name)
            if group and size + _size(a) > _GROUP:
                yield group
                group, size = [], 0
            group.append((name, a, self.b.read(name) if name in self.moving else a))
            size += _size(a)
            del a
        yield group


def make_line(a: Weights, b: Weights, parameters: Iterable[str]) -> Line:
    """The line from `a` to `b`, once they are seen to fit together and to be finite. Reads both once.

    Args:
        a, b: the ends, with the same names.
        parameters: the names that count for the distance, each tensor once.

    Raises:
        NetworkError: names or shapes differ, or weights are not finite; all are listed.
    """
    _check_layouts(a, b)
    moving: list[str] = []
    kept: list[str] = []
    infinite: list[str] = []
    sparse: list[str] = []
    # Of every piece |a - b|^2, |a|^2, |b|^2 and <a, b>; summed exactly, as files do not keep an order of names.
    sums: list[list[float]] = []
    counted = set(parameters)
    for name in a.layout:
        x, y = a.read(name), b.read(name)
        differs = not equal_values(x, y)
        if differs:
            (moving if can_interpolate(x) else kept).append(name)
            if x.layout != torch.strided or y.layout != torch.strided:
                sparse.append(name)
        if x.layout != torch.strided:
            continue
        if name in counted or (differs and can_interpolate(x)):
            # A buffer may hold infinities, such as a causal mask, if it does not move.
            infinite += [f"{name} in {end.origin}" for end, t in ((a, x), (b, y)) if not all_finite(t)]
        if name in counted and can_interpolate(x):
            for p, q in _pieces(x, y):
                sums.append([_dot(p - q, p - q), _dot(p, p), _dot(q, q), _dot(p, q)])
        del x, y
    if sparse:
        raise NetworkError(
            f"sparse tensors differ, and are not interpolated: {', '.join(sparse)}; give both networks one of them, or "
            "make them dense"
        )
    if infinite:
        raise NetworkError(f"weights are NaN or infinite: {', '.join(infinite)}")
    totals = [math.fsum(column) for column in zip(*sums, strict=True)] or [0.0] * 4
    return Line(a, b, frozenset(moving), _distance(*totals), tuple(_note_on_integers(kept)))


@torch.no_grad()
def load_weights(network: nn.Module, weights: Weights) -> None:
    """Put weights and buffers into a network, in place, one tensor at a time."""
    for name, target in _tensors(network).items():
        _copy(target, weights.read(name))


def can_interpolate(tensor: Tensor) -> bool:
    """Whether it is floating-point or complex; integers and booleans are not interpolated."""
    return tensor.is_floating_point() or tensor.is_complex()


def compute_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The type to compute in with tensors of these types: at least float32."""
    return common_dtype(torch.float32, *dtypes)


def common_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The type that holds all that these hold. PyTorch promotes no float8; with another type it is float32.

    >>> common_dtype(torch.float8_e5m2, torch.float8_e4m3fn), common_dtype(torch.float16, torch.complex64)
    (torch.float32, torch.complex64)
    """
    kinds = set(dtypes)
    if len(kinds) == 1:
        return dtypes[0]
    return functools.reduce(torch.promote_types, (torch.float32 if is_float8(kind) else kind for kind in kinds))


def is_float8(dtype: torch.dtype) -> bool:
    """Whether a type is a floating-point type of 8 bits; PyTorch stores tensors of these and computes little."""
    return dtype.is_floating_point and dtype.itemsize == 1


def equal_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same values, wherever they are and in whatever type."""
    if a is b:
        return True
    if a.layout != torch.strided or b.layout != torch.strided:
        return _equal_sparse(a, b)
    common = common_dtype(a.dtype, b.dtype)
    a, b = a.to(common), b.to(a.device, common)
    return torch.equal(a, b) or (
        can_interpolate(a) and bool(a.isnan().any()) and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    )


def _equal_sparse(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same values, of which one is sparse at least."""
    if a.shape != b.shape:
        return False
    a, b = (tensor.to_sparse_coo().coalesce() for tensor in (a, b.to(a.device)))
    return torch.equal(a.indices(), b.indices()) and equal_values(a.values(), b.values())


def _copy(target: Tensor, source: Tensor) -> None:
    if target.layout == torch.strided:
        target.copy_(source if source.layout == torch.strided else source.to_dense())
    elif not equal_values(target, source):  # a sparse tensor is written by the same layout alone
        target.copy_(source.to_sparse(layout=target.layout))


def _size(tensor: Tensor) -> int:
    return tensor.nbytes if tensor.layout == torch.strided else 0


def all_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite; of a tensor of any type."""
    return bool((tensor.float() if is_float8(tensor.dtype) else tensor).isfinite().all())


def _note_on_integers(names: list[str]) -> Iterator[str]:
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield f"integer tensors differ and are not interpolated, between the ends they are those of a: {shown}"


def _distance(difference: float, square_a: float, square_b: float, product: float) -> Distance:
    l2 = math.sqrt(difference)
    if square_a == 0 or square_b == 0:
        return Distance(l2, math.nan, math.nan)
    if l2 == 0:
        return Distance(0.0, 0.0, 0.0)
    cosine = max(-1.0, min(1.0, product / math.sqrt(square_a * square_b)))
    return Distance(l2, 1 - cosine, 2 * math.acos(cosine) / math.pi)


def _dot(p: Tensor, q: Tensor) -> float:
    return float(torch.vdot(q, p).real if p.is_complex() else torch.dot(p, q))


def _check_layouts(a: Weights, b: Weights) -> None:
    problems = [f"{name} is only in {a.origin}" for name in a.layout.keys() - b.layout.keys()]
    problems += [f"{name} is only in {b.origin}" for name in b.layout.keys() - a.layout.keys()]
    for name in a.layout.keys() & b.layout.keys():
        x, y = a.layout[name], b.layout[name]
        if x.shape != y.shape:
            problems.append(f"{name} is {list(x.shape)} in {a.origin} and {list(y.shape)} in {b.origin}")
    if problems:
        raise NetworkError("the two networks do not fit together: " + "; ".join(sorted(problems)))


def _interpolate(target: Tensor, a: Tensor, b: Tensor, alpha: float) -> None:
    """Write (1 - alpha) a + alpha b to a tensor of any type on any device, a large one a piece at a time."""
    common = compute_dtype(a.dtype, b.dtype)
    if a.numel() > _PIECE and a.is_contiguous() and b.is_contiguous() and target.is_contiguous():
        for start in range(0, a.numel(), _PIECE):
            few = slice(start, start + _PIECE)
            _interpolate(target.view(-1)[few], a.view(-1)[few], b.view(-1)[few], alpha)
        return
    there = a.to(target.device, common)
    target.copy_(torch.lerp(there, b.to(target.device, common), alpha))


def _pieces(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both tensors flat in double precision on the device of the first, a piece at a time."""
    double = torch.complex128 if a.is_complex() else torch.float64
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    for start in range(0, len(flat_a), _PIECE):
        few = slice(start, start + _PIECE)
        yield flat_a[few].to(dtype=double), flat_b[few].to(a.device, double)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors by name, each once: what is tied is under its first name."""
    first: dict[Any, tuple[str, Tensor]] = {}
    for name, value in state_tensors(network).items():
        # What is written to a detached sparse tensor does not reach the one that it was detached from.
        first.setdefault(identity_of(value), (name, value.detach() if value.layout == torch.strided else value))
    return dict(first.values())
