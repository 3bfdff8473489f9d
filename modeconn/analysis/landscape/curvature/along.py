"""Sharpness along the path between two networks, along a curve, and over the states of a training."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack, runtime_checkable

import numpy as np
from torch import Tensor, nn

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

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
_STEPS = tuple(re.compile(rf"{word}[^a-z]*$", re.IGNORECASE) for word in ("steps?", "iter(?:ation)?s?", "epochs?"))


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
    if (
        curve is not None
        and how.get("model") is None
        and isinstance(known := getattr(curve, "network", None), nn.Module)
    ):
        how["model"] = known
    with open_curvature(sources, data, how, path=curve is None, **options) as opened:
        networks = opened.comparison.networks
        at = list(networks) if curve is not None else [combination(networks, [1 - alpha, alpha]) for alpha in points]
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
            their order, as `modeconn.error_barrier` takes them: files at the step in their names (the one number that
            differs among them, or that after `step`, `iter` or `epoch`), or else counted from 0.
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
        what = "is a folder of files" if is_folder(run) else "is a file" if is_file(run) else "does not exist"
        raise OptionError(f"{run} {what}; give the folder of a stored state, or a list of checkpoints in their order")
    elif isinstance(run, nn.Module | Mapping) or not isinstance(run, Iterable):
        raise OptionError(
            f"{type(run).__name__} is no training; give a modeconn.Run, the folder of a stored state, or a list of "
            "checkpoints in their order"
        )
    else:
        sources = list(run)
        if not sources:
            raise OptionError("there are no checkpoints; give a list of at least one")
        steps = _steps_of(sources)
        if steps is not None:
            return sources, steps, "step"
        return sources, tuple(map(float, range(len(sources)))), "checkpoint"
    return list(folders.values()), tuple(map(float, folders)), "iteration"


def _steps_of(sources: Sequence[Any]) -> tuple[float, ...] | None:
    """The steps in the names of files: the one whole number that differs among them, or what "step" or so precedes.

    >>> _steps_of(["resnet20-5.pt", "resnet20-100.pt"])
    (5.0, 100.0)
    >>> _steps_of(["epoch=1-step=40-loss=0.31.ckpt", "epoch=2-step=80-loss=0.27.ckpt"])
    (40.0, 80.0)
    >>> _steps_of(["resnet20-a.pt", "resnet56-b.pt"])  # names that differ in more
    """
    if not all(isinstance(source, str | Path) for source in sources):
        return None
    names = [_NUMBER.split(Path(source).stem) for source in sources]  # text, number, text, ..., text
    if len({tuple(name[::2]) for name in names}) > 1:
        return None
    differing = [at for at in range(1, len(names[0]), 2) if len({name[at] for name in names}) > 1 or len(names) == 1]
    for word in _STEPS:
        named = [at for at in differing if word.search(names[0][at - 1])]
        if named:
            differing = named
            break
    if len(differing) != 1 or any("." in name[differing[0]] for name in names):
        return None
    steps = tuple(float(name[differing[0]]) for name in names)
    return steps if len(set(steps)) == len(steps) else None


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
