"""Principal directions of a trajectory, from products of its states, one tensor at a time (Lorch 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeconn.analysis.landscape.planes.frame import flat
from modeconn.analysis.paths.linear import can_interpolate, compute_dtype
from modeconn.errors import NetworkError, OptionError
from modeconn.weights.state_dicts import Weights

_ELEMENTS = 1 << 24  # of all states of a stretch of a tensor together, in double precision


@dataclass(frozen=True, eq=False)
class Principal:
    """The directions in which the states of a trajectory vary most.

    Attributes:
        coefficients: of the states in each direction, float64 [directions, states]; each row has the sum 0, and the
            direction has length 1.
        explained: the part of the variance of all states along each, float64 [directions].
    """

    coefficients: np.ndarray
    explained: np.ndarray


def principal_directions(gram: np.ndarray, count: int) -> Principal:
    """Those of the largest variance, from the products of centred states.

    With X the centred states [states, weights] and X X^T = V diag(s^2) V^T, direction k is X^T v_k / s_k. Each points
    the way from the first state to the last.

    Args:
        gram: X X^T, float64 [states, states].
        count: how many directions.

    Raises:
        OptionError: fewer states than that takes.
        NetworkError: the states vary in fewer directions.

    >>> states = np.array([[0.0, 0.0], [2.0, 1.0], [4.0, 0.0]])
    >>> centred = states - states.mean(axis=0)
    >>> found = principal_directions(centred @ centred.T, 2)
    >>> np.allclose(found.coefficients @ states, [[1, 0], [0, 1]]), found.explained.round(3).tolist()
    (True, [0.923, 0.077])
    """
    states = len(gram)
    if states <= count:
        raise OptionError(
            f"{count} principal directions need at least {count + 1} states of a trajectory; got {states}; save more, "
            "or give directions= of another kind"
        )
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count].T
    total = float(np.trace(gram))
    if not values[-1] > 1e-12 * total:
        raise NetworkError(
            "the states of the trajectory are on one line, or all equal, so that no plane is spanned; give states that "
            "differ in two directions"
        )
    lengths = np.sqrt(values)
    shares = vectors / lengths[:, None]
    shares -= shares.mean(axis=1, keepdims=True)  # of states as they are, which are not centred
    along = vectors * lengths[:, None]  # coordinates of the states
    ahead = along[:, -1] - along[:, 0]
    largest = along[np.arange(count), np.abs(along).argmax(axis=1)]
    signs = np.where(np.abs(ahead) > 1e-9 * lengths, np.sign(ahead), np.sign(largest))
    return Principal(shares * signs[:, None], values / total)


def products_of(states: Sequence[Weights], parameters: Sequence[str]) -> np.ndarray:
    """Products of the states' weights after their mean is taken off, float64 [states, states]. Reads each once.

    Of every tensor a stretch of each state is in memory, and no state as a whole.
    """
    gram = np.zeros((len(states), len(states)))
    for name in parameters:
        length = max(1, _ELEMENTS // len(states))
        for start in range(0, states[0].layout[name].numel(), length):
            where = slice(start, start + length)
            centred = torch.stack([flat(state, name, where).cpu() for state in states])
            centred -= centred.mean(dim=0)
            gram += (centred @ centred.T).numpy()
    return gram


def direction_of(states: Sequence[Weights], coefficients: Sequence[float], names: Sequence[str]) -> dict[str, Tensor]:
    """A sum of states with these coefficients, in double precision, then in the type of the weights."""
    found = {}
    for name in names:
        shape = states[0].layout[name]
        if not can_interpolate(shape):
            continue
        wide = torch.complex128 if shape.is_complex() else torch.float64
        total = torch.zeros(shape.shape, dtype=wide)
        for state, c in zip(states, coefficients, strict=True):
            total.add_(state.read(name).detach().to("cpu", wide), alpha=float(c))
        found[name] = total.to(compute_dtype(shape.dtype))
    return found
