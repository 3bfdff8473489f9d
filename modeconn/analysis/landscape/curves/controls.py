"""The control points of a curve while they are trained."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modeconn.analysis.landscape.curves.shapes import coefficients
from modeconn.analysis.landscape.curves.training_loss import TrainingLoss
from modeconn.analysis.paths.linear import Line

Tensors = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Controls:
    """The control points of a curve, as tensors that are trained.

    Attributes:
        kind: of the curve.
        a, b: the parameters and buffers of the ends that move or are trained, at least float32, tied ones once.
        inner: of each control point between, the parameters that are trained; all else that moves is on the segment.
    """

    kind: str
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    inner: tuple[Tensors, ...]

    @staticmethod
    def on_segment(line: Line, objective: TrainingLoss, kind: str, bends: int) -> "Controls":
        """Control points that lie evenly on the segment between two networks."""
        network = objective.network
        tensors = dict(network.named_parameters()) | dict(network.named_buffers())
        moving = line.moving.union(objective.trained)
        of = {name: tensor.detach() for name, tensor in tensors.items() if name in moving}
        a, b = ({name: end.read(name).to(tensor, copy=True) for name, tensor in of.items()} for end in (line.a, line.b))
        inner = tuple(
            {name: torch.lerp(a[name], b[name], i / (bends + 1)).requires_grad_() for name in objective.trained}
            for i in range(1, bends + 1)
        )
        return Controls(kind, a, b, inner)

    @property
    def trained(self) -> list[Tensor]:
        """The tensors that are trained, control point after control point."""
        return [tensor for bend in self.inner for tensor in bend.values()]

    def at(self, t: float) -> Tensors:
        """The weights and buffers at t, with their graph."""
        first, *shares, last = coefficients(self.kind, len(self.inner), t)
        found = {}
        for name, a in self.a.items():
            b = self.b[name]
            if name not in self.inner[0]:
                found[name] = torch.lerp(a, b, t)
                continue
            found[name] = first * a + last * b
            for share, bend in zip(shares, self.inner, strict=True):
                found[name] = found[name] + share * bend[name]
        return found

    def bends(self) -> list[Tensors]:
        """All that moves, at each control point between the ends."""
        n = len(self.inner) + 1
        return [
            {
                name: bend[name].detach().clone() if name in bend else torch.lerp(a, self.b[name], i / n)
                for name, a in self.a.items()
            }
            for i, bend in enumerate(self.inner, start=1)
        ]
