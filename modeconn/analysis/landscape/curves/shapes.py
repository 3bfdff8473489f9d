"""The shapes of curves between networks: the share of each control point at t, and lengths (Garipov et al. 2018)."""

import math
from collections.abc import Callable
from numbers import Real

import numpy as np

from modeconn.errors import OptionError, unknown

_PANELS, _NODES = 64, 16  # Gauss-Legendre nodes in each of so many parts of [0, 1]


def coefficients(kind: str, bends: int, t: float) -> tuple[float, ...]:
    r"""The share of each control point, ends included, in the point at t; they add up to 1.

    With n = `bends` + 1, the Bezier curve of degree n has \(\binom{n}{i} t^i (1 - t)^{n - i}\) of control point i, and
    the polygonal chain is linear between i / n and (i + 1) / n (Garipov et al. 2018, section 3.2).

    Args:
        kind: `"bezier"` or `"polychain"`.
        bends: control points between the ends.
        t: in [0, 1].

    Raises:
        OptionError: no such kind, or t outside.

    >>> coefficients("bezier", 1, 0.5), coefficients("polychain", 1, 0.75)
    ((0.25, 0.5, 0.25), (0.0, 0.5, 0.5))
    """
    if kind not in KINDS:
        raise unknown("kind of curve", str(kind), KINDS)
    if (not isinstance(t, Real) and getattr(t, "ndim", None) != 0) or not 0 <= t <= 1:
        raise OptionError(f"a curve goes from t = 0 to t = 1; got {t!r}")
    return KINDS[kind](bends + 1, float(t))


def length(kind: str, gram: np.ndarray) -> float:
    """The length of a curve in the L2 norm.

    Args:
        kind: `"bezier"` or `"polychain"`.
        gram: float64 [n, n], the inner products of the differences of adjacent control points.

    >>> length("polychain", np.diag([9.0, 16.0])), round(length("bezier", np.full((2, 2), 4.0)), 9)
    (7.0, 4.0)
    """
    if kind == "polychain":
        return math.fsum(np.sqrt(np.diag(gram)))
    # The derivative at t is n times the Bezier curve of the differences.
    n = len(gram)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    starts = np.arange(_PANELS) / _PANELS
    t = (starts[:, None] + (nodes + 1) / 2 / _PANELS).ravel()
    shares = np.array([_bernstein(n - 1, at) for at in t])
    speed = n * np.sqrt(np.maximum(np.einsum("ti,ij,tj->t", shares, gram, shares), 0))
    return float(speed @ np.tile(weights / 2 / _PANELS, _PANELS))


def _bernstein(n: int, t: float) -> tuple[float, ...]:
    return tuple(math.comb(n, i) * t**i * (1 - t) ** (n - i) for i in range(n + 1))


def _hat(n: int, t: float) -> tuple[float, ...]:
    return tuple(max(0.0, 1 - abs(n * t - i)) for i in range(n + 1))


KINDS: dict[str, Callable[[int, float], tuple[float, ...]]] = {"bezier": _bernstein, "polychain": _hat}
