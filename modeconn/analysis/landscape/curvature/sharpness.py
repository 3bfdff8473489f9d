"""`sharpness(network, data)`: the largest eigenvalues of the Hessian of a network's training loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Unpack

from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import OptionKeywords
from modeconn.analysis.landscape.curvature.hessian import Curvature
from modeconn.analysis.landscape.curvature.lanczos import WHICH, eigenpairs
from modeconn.analysis.landscape.curvature.opening import counting, open_curvature
from modeconn.analysis.landscape.curvature.sharpness_result import Sharpness
from modeconn.analysis.landscape.curvature.trace import estimate_trace
from modeconn.errors import OptionError, unknown
from modeconn.evaluation.losses import Loss
from modeconn.options import number, require, whole_number
from modeconn.progress import Report, silent, with_progress


@with_progress
def sharpness(
    network: Source,
    data: Any = None,
    k: int = 10,
    *,
    kind: str = "hessian",
    which: str = "largest",
    trace: int = 0,
    loss: Loss | None = None,
    examples: int | None = None,
    tolerance: float = 1e-3,
    products: int | None = None,
    seed: int = 0,
    double: bool = False,
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> Sharpness:
    """Find the largest eigenvalues of the Hessian of a network's mean training loss, and their eigenvectors.

    The field calls the largest eigenvalue the sharpness, and means the largest of all, not of all magnitudes: where
    gradient descent at a rate r is stable, it is at most 2 / r (Cohen et al. 2021). It depends on the scale of the
    weights: networks of one function can have any (Dinh et al. 2017), so compare it along a training or between
    networks of one scale, or take `modeconn.analysis.landscape.curvature.adaptive.adaptive_sharpness`.

    By Lanczos' method with full reorthogonalisation, from products with vectors, each a pass over the data in which the
    loss is differentiated twice (Pearlmutter 1994). Layers are in evaluation mode: BatchNorm normalises with its
    running statistics, and dropout drops nothing. Batches are weighted by what they count, so that their size changes
    nothing. Parameters are the effective weights, each tied tensor once, that require gradients.

    Args:
        network: as `modeconn.error_barrier` takes networks.
        data: training data, in the form that `modeconn.error_barrier` takes; a stored run's own if None.
        k: how many eigenvalues.
        kind: `"hessian"`; or `"gauss-newton"`, J^T H_out J, the Hessian of the loss with the network linearised in its
            parameters, which has no negative eigenvalues where the loss is convex in the outputs.
        which: eigenvalues: `"largest"`, `"smallest"` (the most negative), or the largest in `"magnitude"`.
        trace: estimate the trace, too, from so many random vectors (Hutchinson); 0 for not.
        loss: `loss(network, batch)`, a scalar tensor that is a mean over the batch's examples; by default what the
            network and the target suggest: `modeconn.evaluation.losses.mean_loss`.
        examples: the first so many of the data alone; all if None.
        tolerance: of residuals |H v - lambda v|, relative to the largest magnitude of an eigenvalue.
        products: with vectors, at most, before what was found is given as it is; 20 k + 200 if None.
        seed: of the random vectors.
        double: differentiate in float64.
        report: called after every product with about how far it is.
        progress: show how far it is: a bar at a terminal or in a notebook, a line every half minute elsewhere.
        **how: options of `modeconn.error_barrier`. `batch_size` is how many examples are differentiated at once, at
            most; `batchnorm` `"recalibrate"`s running statistics before.

    Raises:
        ModeconnError: an option, a network or data that do not fit, or a loss without a second derivative, before
            anything long is computed.

    The mean squared error of a linear network has the Hessian (2 / N) X^T X:

    >>> import torch
    >>> from torch import nn
    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> result = sharpness(nn.Linear(2, 1, bias=False), (x, torch.tensor([[0.3], [0.5]])), k=2, trace=4)
    >>> result.eigenvalues.round(4).tolist(), round(result.trace, 4), result.measured_as
    ([4.0, 1.0], 5.0, 'mean squared error on 2 examples')
    """
    asked = Asked(k, which, trace, tolerance, products, seed)
    with open_curvature([network], data, how, kind=kind, loss=loss, examples=examples, double=double) as opened:
        curvature = opened.curvature_at(opened.comparison.networks[0])
        found = measure_sharpness(curvature, asked, counting(report, asked.expected))
        settings = opened.comparison.settings | {"tolerance": asked.tolerance, "seed": asked.seed, "double": double}
        settings |= {"batch_size": opened.size, "measured_as": found.measured_as, "measured": kind}
        return replace(found, notes=(*opened.notes, *found.notes), settings=settings)


@dataclass(frozen=True)
class Asked:
    """What is asked of a curvature; `sharpness` explains each field.

    Raises:
        OptionError: an option that cannot be used whatever the network is.
    """

    k: int = 10
    which: str = "largest"
    trace: int = 0
    tolerance: float = 1e-3
    products: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        whole = [
            ("k", 1, "k must be a whole number of at least 1"),
            ("trace", 0, "trace must be a number of random vectors, or 0 for none"),
            ("seed", 0, "the seed must be a whole number, not negative"),
        ]
        if self.products is not None:
            whole.append(("products", self.k, f"products must be a whole number of at least k = {self.k}"))
        for name, least, why in whole:  # as int, for NumPy's numbers and True
            object.__setattr__(self, name, whole_number(getattr(self, name), least, why))
        if self.which not in WHICH:
            raise unknown("order of eigenvalues", str(self.which), WHICH)
        object.__setattr__(self, "tolerance", number("the tolerance", self.tolerance))
        require(0 < self.tolerance < 1, f"the tolerance is in (0, 1); got {self.tolerance}")

    @property
    def most(self) -> int:
        """How many products are made at most to find eigenvalues."""
        return 20 * self.k + 200 if self.products is None else self.products

    @property
    def expected(self) -> int:
        """About how many products it will take."""
        return 5 * self.k + 20 + self.trace


def measure_sharpness(curvature: Curvature, asked: Asked, each: Callable[[], None] = lambda: None) -> Sharpness:
    """Find eigenvalues and the trace of a curvature.

    Raises:
        OptionError: more eigenvalues than parameters, or a tolerance beyond the precision.
        ModeconnError: as `Curvature.check`.
    """
    n, like = curvature.dimension, curvature.like
    if asked.k > n:
        raise OptionError(f"k={asked.k} eigenvalues of a network with {n} parameters, which has no more than {n}")
    if asked.tolerance < 1e-5 and like.itemsize < 8:
        raise OptionError(f"a tolerance of {asked.tolerance:g} is beyond float32; take double=True")
    loss, gradient = curvature.check()
    found = eigenpairs(
        curvature.product, like, n, asked.k, which=asked.which, tolerance=asked.tolerance, most=asked.most,
        seed=asked.seed, each=each,
    )  # fmt: skip
    value, error = math.nan, math.nan
    if asked.trace:
        known = found.values, found.vectors
        estimate = estimate_trace(curvature.product, like, n, asked.trace, known, asked.seed, each)
        value, error = estimate.value, estimate.error
    return Sharpness(
        eigenvalues=found.values,
        residuals=found.residuals,
        converged=found.converged,
        trace=value,
        trace_error=error,
        trace_samples=asked.trace,
        loss=loss,
        gradient_norm=float(gradient.norm()),
        parameters=n,
        examples=curvature.counted,
        measured_as=curvature.about,
        kind=curvature.kind,
        which=asked.which,
        products=found.products + asked.trace,
        notes=curvature.notes,
        directions=tuple(curvature.state_of(vector) for vector in found.vectors),
    )
