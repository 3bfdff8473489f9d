"""`plane(a, b, c, data)`: loss and error on the plane through three networks, anyone's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from modeconn.analysis.connectivity.comparison import Comparison
from modeconn.analysis.connectivity.factors import refuse_factors
from modeconn.analysis.connectivity.networks import Source, names_of
from modeconn.analysis.connectivity.options import ComparisonOptions, OptionKeywords
from modeconn.analysis.landscape.planes.build import Landscape, Points, measure_landscape
from modeconn.analysis.landscape.planes.frame import check_finite, frame_through
from modeconn.analysis.landscape.planes.grid import extent_around
from modeconn.analysis.landscape.planes.members import Beside, members_of, project
from modeconn.analysis.landscape.planes.plane_result import Plane
from modeconn.analysis.landscape.planes.surface import AsGiven, Given, Reopenable, open_surface
from modeconn.errors import OptionError
from modeconn.progress import Report, silent, with_progress
from modeconn.weights.state_dicts import Weights


@with_progress
def plane(
    a: Source,
    b: Source,
    c: Source,
    data: Any = None,
    *,
    points: int | Sequence[int] = 21,
    margin: float = 0.2,
    also: Beside = (),
    refine: int = 0,
    checkpoint: str | Path | None = None,
    workers: int = 0,
    report: Report = silent,
    progress: bool = False,
    **how: Unpack[OptionKeywords],
) -> Plane:
    """Measure loss and error on a grid of the plane through three networks.

    With u = (b - a) / |b - a| and v the direction of c - a without its part along u, a point is a + x u + y v: x and y
    are distances between weights (Garipov et al. 2018, appendix A; Izmailov et al. 2018). The three networks are
    measured at themselves, and shown at their places. Whatever else is given is projected orthogonally on the plane,
    and its distance from it is said: the picture shows the plane, and not the loss of a network beside it.

    Between the three, running statistics of BatchNorm are interpolated like weights, and beyond them extrapolated,
    unless you choose `batchnorm="recalibrate"`. Where a running variance would be below 0 there is no network: such
    points are left out, with a note. A point costs one pass over the data; one network is in memory besides yours.

    Args:
        a, b, c: networks, as `modeconn.error_barrier` takes them.
        data: what is measured on, as `modeconn.error_barrier` takes it.
        points: how many along each axis, or along x and along y.
        margin: around the networks, as a part of the longer side.
        also: further networks, and trajectories: lists of networks, stored runs or their folders, which stand for all
            their saved states. A mapping names them.
        refine: how many further points to measure where the surface bends; see
            `modeconn.analysis.landscape.planes.refine.refine`.
        checkpoint: a folder that keeps what is measured, so that the same call goes on after a stop. It is a store:
            points are named by the content of networks, data and options, so that it may hold those of several planes,
            and those of other networks are never taken.
        workers: processes that measure; 0 for this one. Networks and data are sent to them.
        report: called after every point, or job, with how far the plane is.
        progress: show that, at a terminal or in a notebook.
        **how: options of `modeconn.error_barrier`; `batchnorm` is `"interpolate"` or `"recalibrate"`; `names` are of
            the three.

    Raises:
        ModeconnError: an option, a network or data that do not fit, or three networks on one line, before anything is
            measured.

    >>> import torch
    >>> from torch import nn
    >>> inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> data = inputs, (inputs[:, 0] > 0).long()
    >>> a, b, c = (nn.Linear(4, 2) for _ in range(3))
    >>> result = plane(a, b, c, data, points=5)
    >>> result.grid("loss").shape, [place.name for place in result.places]
    ((5, 5), ['a', 'b', 'c'])
    >>> wrong = (b(inputs).argmax(1) != data[1]).double().mean()
    >>> result.place("b").values["error"] == float(wrong)
    True
    """
    asked = Points(points, 2, margin, refine, checkpoint, workers, report)
    options = checked(how)
    return measure_plane(AsGiven(Given((a, b, c), data, options)), also, asked)


def measure_plane(given: Reopenable, also: Beside, asked: Points) -> Plane:
    """The same of what `given` makes, whose first three sources span the plane.

    Raises:
        ModeconnError: as `plane`.
    """
    found = given()
    three = found.sources
    names = names_of(three, found.how.get("names"))
    members = members_of(also, names)
    how: OptionKeywords = {**found.how, "names": [*names, *(member.full_name for member in members)]}
    sources = [*three, *(member.source for member in members)]
    basis = _FirstThree()
    with open_surface(AsGiven(Given(sources, found.data, how)), basis) as surface:
        comparison = surface.comparison
        check_finite(comparison.networks[3:], comparison.names[3:], comparison.parameters)
        frame = frame_through(comparison.networks[:3], names, comparison.parameters)
        projected = project(frame, members, comparison.networks[3:])
        (length, along), (_, height) = frame.triangle.tolist()
        own = {names[0]: (0.0, 0.0), names[1]: (length, 0.0), names[2]: (along, height)}
        places = [*own.values(), *((one.x, one.y) for one in projected)]
        landscape = Landscape(
            "plane",
            frame,
            extent_around(places, asked.margin),
            own,
            projected,
            axes=[
                (f"from {names[0]} to {names[1]}", float("nan")),
                (f"towards {names[2]}, orthogonal to x", float("nan")),
            ],
            settings={"margin": asked.margin},
        )
        return measure_landscape(landscape, surface, given, basis, asked)


def checked(how: OptionKeywords) -> OptionKeywords:
    """The options, once they are seen to go with a landscape.

    Raises:
        OptionError: they do not.
    """
    ComparisonOptions(**how)
    refuse_factors(how.get("adapter", "products"), "a landscape")
    if how.get("batchnorm") == "repair":
        raise OptionError(
            'batchnorm="repair" is defined between two networks and not on a plane; choose "recalibrate" or '
            '"interpolate"'
        )
    return how


@dataclass(frozen=True)
class _FirstThree:
    """The basis of a plane: the three networks."""

    def __call__(self, comparison: Comparison) -> tuple[Weights, ...]:
        return comparison.networks[:3]
