"""Sharpness along the path between two networks, along a curve, and over the states of a training."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack, runtime_checkable

import numpy as np
from torch import Tensor

from modeconn.analysis.connectivity.networks import Source
from modeconn.analysis.connectivity.options import OptionKeywords
from modeconn.analysis.landscape.curvature.opening import Opened, counting, open_curvature
from modeconn.analysis.landscape.curvature.sharpness import Asked, measure_sharpness
from modeconn.analysis.landscape.curvature.sharpness_series import SharpnessSeries
from modeconn.analysis.paths.alphas import grid
from modeconn.analysis.paths.combination import combination
from modeconn.errors import OptionError
from modeconn.evaluation.losses import Loss
from modeconn.progress import Report, silent, with_progress
from modeconn.reading import is_file, is_folder
from modeconn.weights.state_dicts import Weights


@runtime_checkable
class HasStates(Protocol):
    """A curve between networks."""

    def state_at(self, t: float) -> Mapping[str, Tensor]:
        """The state dict at t in [0, 1]."""


@with_progress
def sharpness_along(
    a: Any,
    b: Any = None,
    data: Any = None,
    k: int = 1,
    *,
    alphas: int | Sequence[float] = 11,
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
) -> SharpnessSeries:
    """Measure the sharpness at points between two networks: on the straight path, or on a curve.

    Args:
        a, b: networks, as `modeconn.error_barrier` takes them; or `a` alone a curve, an object with `state_at(t)` such
            as `modeconn.fit_curve` gives.
        data, k, kind, which, trace, loss, examples, tolerance, products, seed, double: as of `modeconn.sharpness`.
        alphas: points: how many, ends included, or a list of them in [0, 1].
        report: called after every product of the Hessian with a vector.
        progress: show how far it is.
        **how: options of `modeconn.error_barrier`; `batchnorm="recalibrate"` measures running statistics anew at every
            point.

    Raises:
        ModeconnError: as `modeconn.sharpness`.

    >>> import torch
    >>> from torch import nn
    >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> net_a, net_b = nn.Linear(3, 2), nn.Linear(3, 2)
    >>> found = sharpness_along(net_a, net_b, (x, (x[:, 0] > 0).long()), alphas=3)
    >>> found.places, found.largest.shape
    ((0.0, 0.5, 1.0), (3,))
    """
    asked = Asked(k, which, trace, tolerance, products, seed)
    points = grid(alphas)
    curve = a if isinstance(a, HasStates) else None
    if (b is None) == (curve is None):
        raise OptionError("give two networks, or a curve alone: an object with state_at(t)")
    sources: list[Any] = [a, b] if curve is None else [curve.state_at(t) for t in points]
    options: dict[str, Any] = {"kind": kind, "loss": loss, "examples": examples, "double": double}
    with open_curvature(sources, data, how, path=curve is None, **options) as opened:
        networks = opened.comparison.networks
        at = list(networks) if curve else [combination(networks, [1 - alpha, alpha]) for alpha in points]
        return _series(opened, at, points, "alpha", asked, report)


@with_progress
def sharpness_over(
    run: Any,
    data: Any = None,
    k: int = 1,
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
) -> SharpnessSeries:
    """Measure the sharpness at all saved states of one training, or at a list of checkpoints.

    Args:
        run: a `modeconn.Run`; the folder of a stored state, which stands for those that led to it; or networks in
            their order, as `modeconn.error_barrier` takes them, with a number in their names or else counted from 0.
        data, k, kind, which, trace, loss, examples, tolerance, products, seed, double: as of `modeconn.sharpness`.
        report: called after every product of the Hessian with a vector.
        progress: show how far it is.
        **how: options of `modeconn.error_barrier`.

    Raises:
        ModeconnError: as `modeconn.sharpness`.

    >>> import torch
    >>> from torch import nn
    >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> states = [nn.Linear(3, 2) for _ in range(2)]
    >>> sharpness_over(states, (x, (x[:, 0] > 0).long())).places
    (0.0, 1.0)
    """
    asked = Asked(k, which, trace, tolerance, products, seed)
    sources, places, word = _states(run)
    options: dict[str, Any] = {"kind": kind, "loss": loss, "examples": examples, "double": double}
    with open_curvature(sources, data, how, **options) as opened:
        return _series(opened, opened.comparison.networks, places, word, asked, report)


def _states(run: Any) -> tuple[list[Source], tuple[float, ...], str]:
    """The states of a training, where they are on it, and in what that counts."""
    from modeconn.training.stored import Run
    from modeconn.training.trajectory import find_trajectory

    if isinstance(run, Run):
        folders: Mapping[int, Path] = run.folders
    elif isinstance(run, str | Path) and is_file(Path(run) / "spec.json"):
        folders = find_trajectory(run)
    elif isinstance(run, str | Path):
        what = "a folder of files" if is_folder(run) else "a file"
        raise OptionError(
            f"{run} is {what}; give the folder of a stored state, or a list of checkpoints in their order"
        )
    else:
        sources = list(run)
        if not sources:
            raise OptionError("there are no checkpoints; give a list of at least one")
        numbers = [_number_in(source) for source in sources]
        known = [found for found in numbers if found is not None]
        if len(known) == len(sources) and len(set(known)) == len(known):
            return sources, tuple(map(float, known)), "step"
        return sources, tuple(map(float, range(len(sources)))), "checkpoint"
    return list(folders.values()), tuple(map(float, folders)), "iteration"


def _number_in(source: Any) -> int | None:
    """The last number in a file's name."""
    found = re.findall(r"\d+", Path(source).stem) if isinstance(source, str | Path) else []
    return int(found[-1]) if found else None


def _series(
    opened: Opened, networks: Sequence[Weights], places: Sequence[float], word: str, asked: Asked, report: Report
) -> SharpnessSeries:
    each = counting(report, len(networks) * asked.expected)
    found = [measure_sharpness(opened.curvature_at(weights), asked, each) for weights in networks]
    noticed = dict.fromkeys(note for one in found for note in one.notes)
    about = found[0].measured_as
    settings = opened.comparison.settings | {"tolerance": asked.tolerance, "seed": asked.seed, "double": opened.double}
    return SharpnessSeries(
        places=tuple(map(float, places)),
        eigenvalues=np.array([one.eigenvalues for one in found]),
        residuals=np.array([one.residuals for one in found]),
        trace=np.array([one.trace for one in found]),
        trace_error=np.array([one.trace_error for one in found]),
        loss=np.array([one.loss for one in found]),
        over=word,
        measured_as=about,
        kind=opened.kind,
        which=asked.which,
        products=sum(one.products for one in found),
        notes=(*opened.notes, *noticed),
        settings=settings | {"measured_as": about, "measured": opened.kind},
        points=tuple(found),
    )
