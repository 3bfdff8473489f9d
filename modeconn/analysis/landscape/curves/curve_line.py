"""A curve as a path that is measured like any other."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import nn

from modeconn.analysis.landscape.curves.shapes import coefficients
from modeconn.analysis.paths.combination import combination
from modeconn.analysis.paths.linear import Line, can_interpolate, equal_values, load_weights
from modeconn.weights.state_dicts import Weights


@dataclass(frozen=True, eq=False)
class CurveLine(Line):
    """A curve between two networks; what does not differ between its control points is that of `a`.

    Attributes:
        kind: see `modeconn.analysis.landscape.curves.shapes.coefficients`.
        bends: the control points between the ends, in order.
    """

    kind: str
    bends: tuple[Weights, ...]

    @torch.no_grad()
    def load(self, network: nn.Module, alpha: float) -> None:
        """Put the weights at t = alpha into a network, in place: `a` itself at 0, `b` itself at 1."""
        load_weights(network, point(self.kind, (self.a, *self.bends, self.b), alpha))


def curve_line(line: Line, kind: str, bends: Sequence[Weights]) -> CurveLine:
    """The curve with these control points between the ends of a line."""
    bent = (
        name
        for name, shape in line.a.layout.items()
        if name not in line.moving
        and can_interpolate(shape)
        and not all(equal_values(line.a.read(name), bend.read(name)) for bend in bends)
    )
    given = {field.name: getattr(line, field.name) for field in fields(Line)}
    return CurveLine(**given | {"moving": line.moving.union(bent)}, kind=kind, bends=tuple(bends))


def point(kind: str, points: Sequence[Weights], t: float) -> Weights:
    """The weights at t of the curve with these control points, ends included; an end itself, to the bit, at an end."""
    return combination(points, coefficients(kind, len(points) - 2, t), f"the curve at t = {t:g}")
