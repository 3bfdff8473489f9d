"""The trace of a large symmetric matrix that is known by its products with vectors."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Trace:
    """An estimate of a trace.

    Attributes:
        value: the estimate.
        error: its standard error; NaN of one sample.
        samples: how many random vectors it is from.
    """

    value: float
    error: float
    samples: int


def estimate_trace(
    product: Product,
    like: Tensor,
    n: int,
    samples: int,
    known: tuple[np.ndarray, Tensor] | None = None,
    seed: int = 0,
    each: Callable[[], None] = lambda: None,
) -> Trace:
    """Estimate a trace as the mean of z^T A z over random vectors z of signs (Hutchinson 1989).

    Eigenvectors that are known already take their part out of the variance: with Q of these, the trace is the sum of
    their q^T A q and the mean of z^T (1 - Q Q^T) A (1 - Q Q^T) z, whatever orthonormal Q is (Meyer et al. 2021).

    Args:
        product: of the matrix with a vector [n].
        like: a tensor of the type and on the device of vectors.
        n: the dimension.
        samples: how many vectors.
        known: q^T A q of orthonormal vectors, float64 [k], and the vectors, [k, n].
        seed: of the random vectors.
        each: called after every product.

    >>> matrix = torch.diag(torch.tensor([3.0, -5.0, 1.0]))
    >>> estimate_trace(lambda v: matrix @ v, matrix, 3, 4).value  # a diagonal matrix has no variance
    -1.0
    """
    generator = torch.Generator().manual_seed(seed)
    values = np.zeros(samples)
    for place in range(samples):
        z = (2 * torch.randint(2, (n,), generator=generator) - 1).to(like)
        if known is not None:
            z = z - (known[1] @ z) @ known[1]
        values[place] = float(z @ product(z))
        each()
    error = float(values.std(ddof=1)) / math.sqrt(samples) if samples > 1 else math.nan
    found = float(known[0].sum()) if known is not None else 0.0
    return Trace(found + float(values.mean()), error, samples)
