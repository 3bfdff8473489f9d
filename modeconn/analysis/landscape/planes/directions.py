"""`directions(network, data)`: loss and error around a network, in random or given directions (Li et al. 2018)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from modeconn.analysis.connectivity.comparison import Comparison
from modeconn.analysis.connectivity.networks import Source, names_of
from modeconn.analysis.connectivity.options import OptionKeywords
from modeconn.analysis.landscape.filters import (
    as_weights,
    check_normalization,
    given_direction,
    normalised,
    random_direction,
)
from modeconn.analysis.landscape.planes.build import Landscape, Points, measure_landscape
from modeconn.analysis.landscape.planes.frame import check_finite, frame_of_steps
from modeconn.analysis.landscape.planes.grid import check_number
from modeconn.analysis.landscape.planes.plane import checked
from modeconn.analysis.landscape.planes.plane_result import Plane
from modeconn.analysis.landscape.planes.surface import AsGiven, Given, Reopenable, open_surface
from modeconn.errors import NetworkError, OptionError
from modeconn.options import whole_number
from modeconn.progress import Report, silent, with_progress
from modeconn.weights.state_dicts import Weights

_ON_A_LINE, _ON_A_PLANE = 51, 21  # points along an axis


@with_progress
def directions(
    network: Source,
    data: Any = None,
    *,
    count: int = 1,
    directions: Sequence[Mapping[str, Tensor]] | None = None,
    normalization: str | None = None,
    extent: float = 1.0,
    points: int | Sequence[int] | None = None,
    seed: int = 0,
    refine: int = 0,
    checkpoint: str | Path | None = None,
    workers: int = 0,
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> Plane:
    """Measure loss and error around a network, along one direction or in the plane of two.

    Random directions are Gaussian and get the network's scale, filter by filter: d_ij <- d_ij |w_ij| / |d_ij| (Li et
    al. 2018, section 4). Without that, a picture of a network whose weights are small looks sharp and one of the same
    function with large weights flat, where layers can be rescaled against each other (ReLU, BatchNorm). Biases and
    parameters of norms have direction 0, and buffers do not move: with `batchnorm="recalibrate"` running statistics
    are measured anew at every point.

    A point is w + x d_1 + y d_2, so that at x = 1 each filter has moved by its own length.

    Args:
        network: as `modeconn.error_barrier` takes it.
        data: what is measured on, as `modeconn.error_barrier` takes it.
        count: how many random directions: 1 or 2.
        directions: one or two directions instead, as state dicts, such as eigenvectors of the Hessian; what they do not
            name does not move.
        normalization: `"filter"`, `"layer"` or `"none"`. By default `"filter"` of random directions, and `"none"` of
            given ones.
        extent: from -extent to extent along each axis.
        points: how many along each axis; by default 51 on a line and 21 by 21 on a plane.
        seed: of the random directions.
        refine, checkpoint, workers, report, progress: as in `modeconn.plane`.
        **how: options of `modeconn.error_barrier`; `batchnorm` is `"interpolate"` (statistics stay) or
            `"recalibrate"`.

    Raises:
        ModeconnError: an option, a network, a direction or data that do not fit, before anything is measured.

    >>> inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> data = inputs, (inputs[:, 0] > 0).long()
    >>> result = directions(nn.Linear(4, 2), data, points=11)
    >>> result.grid("loss").shape, result.place("a").x
    ((11,), 0.0)
    """
    basis, extent, asked = ask_directions(
        count, directions, normalization, extent, points, seed,
        refine=refine, checkpoint=checkpoint, workers=workers, report=report,
    )  # fmt: skip
    return measure_directions(AsGiven(Given((network,), data, checked(how))), basis, extent, asked)


def ask_directions(
    count: int,
    given: Sequence[Mapping[str, Tensor]] | None,
    normalization: str | None,
    extent: float,
    points: int | Sequence[int] | None,
    seed: int,
    **asked: Any,
) -> tuple["Directions", float, Points]:
    """The directions, their extent and the points that `directions` is asked for, checked.

    Raises:
        OptionError: what cannot be used, whatever the network and the data are.
    """
    axes = whole_number(count, 1, "count must be 1 or 2") if given is None else _count_given(given)
    if axes > 2:
        raise OptionError(f"a picture has one or two directions; got {axes}")
    choice = check_normalization(("filter" if given is None else "none") if normalization is None else normalization)
    whole_number(seed, 0, "seed must be a whole number, not negative")
    default = _ON_A_LINE if axes == 1 else _ON_A_PLANE
    basis = Directions(axes, choice, seed, None if given is None else tuple(given))
    wide = check_number(extent, "extent", 0.0, above=True)
    return basis, wide, Points(default if points is None else points, axes, 0.0, **asked)


def measure_directions(given: Reopenable, basis: "Directions", extent: float, asked: Points) -> Plane:
    """The same of what `given` makes, whose only source is the network.

    Raises:
        ModeconnError: as `directions`.
    """
    found = given()
    names = names_of(found.sources, found.how.get("names"))
    with open_surface(given, basis) as surface:
        comparison = surface.comparison
        check_finite(comparison.networks, names, comparison.parameters)
        frame = frame_of_steps(surface.basis[0], surface.basis[1:], comparison.parameters)
        drawn = basis.given is None
        word = "random direction" if drawn else "direction"
        scaled = {"filter": ", normalised by filter", "layer": ", normalised by layer", "none": ""}[basis.normalization]
        settings: dict[str, Any] = {"normalization": basis.normalization, **({"seed": basis.seed} if drawn else {})}
        notes = ["biases and parameters of norms do not move"] if drawn or basis.normalization != "none" else []
        landscape = Landscape(
            "directions",
            frame,
            [(-extent, extent)] * basis.count,
            {names[0]: (0.0,) * basis.count},
            axes=[(f"{word} {number + 1}{scaled}", float("nan")) for number in range(basis.count)],
            notes=tuple(notes),
            settings=settings,
        )
        return measure_landscape(landscape, surface, given, basis, asked)


@dataclass(frozen=True, eq=False)
class Directions:
    """The basis of directions: the network, and one or two steps from it.

    Attributes:
        count: how many.
        normalization: of them.
        seed: of random ones.
        given: the directions, or None for random ones.
    """

    count: int
    normalization: str
    seed: int
    given: tuple[Mapping[str, Tensor], ...] | None = None

    def __call__(self, comparison: Comparison) -> tuple[Weights, ...]:
        """The network and its directions.

        Raises:
            OptionError, NetworkError: a direction that does not fit the network.
        """
        network, module = comparison.networks[0], comparison.evaluator.network
        shared = {name for name, _ in module.named_parameters()} - set(comparison.parameters)
        if shared:
            raise NetworkError(
                f"{sorted(shared)[0]} is another parameter in another shape, so that no direction of its own is "
                "defined; give a network that has them apart"
            )
        if self.given is None:
            generator = torch.Generator().manual_seed(self.seed)
            found = [random_direction(network, comparison.parameters, generator) for _ in range(self.count)]
        else:
            found = [given_direction(one, network, comparison.parameters) for one in self.given]
        scaled = [normalised(one, network, module, self.normalization) for one in found]
        steps = [as_weights(one, network, f"direction {number}") for number, one in enumerate(scaled, start=1)]
        return (network, *steps)


def _count_given(directions: Any) -> int:
    if isinstance(directions, Mapping | nn.Module) or not isinstance(directions, Sequence) or not directions:
        raise OptionError(
            f"directions= is a list of one or two mappings from names to tensors; got {type(directions).__name__}"
        )
    return len(directions)
