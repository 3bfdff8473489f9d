"""The straight path between two networks: weights as a function of alpha, 0 at `a` and 1 at `b`."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modeconn.errors import NetworkError


@dataclass(frozen=True, eq=False)
class Line:
    """The straight line between two state dicts, which are left unchanged.

    Attributes:
        notes: what was decided where the two could not be interpolated.

    >>> line = make_line({"w": torch.zeros(2)}, {"w": torch.ones(2)})
    >>> line.at(0.25)["w"]
    tensor([0.2500, 0.2500])
    """

    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    notes: tuple[str, ...]

    def at(self, alpha: float) -> dict[str, Tensor]:
        """The state dict at alpha: `a` itself at 0, `b` itself at 1, computed in at least float32 in between.

        Tensors that are not floating-point are those of `a`.
        """
        if alpha == 0:
            return dict(self.a)
        if alpha == 1:
            return dict(self.b) | {name: t for name, t in self.a.items() if not t.is_floating_point()}
        return {name: _between(tensor, self.b[name], alpha) for name, tensor in self.a.items()}

    @torch.no_grad()
    def load(self, network: nn.Module, alpha: float) -> None:
        """Put the weights and buffers at alpha into a network, in place."""
        network.load_state_dict(self.at(alpha))

    def distance(self, network: nn.Module) -> float:
        """L2 distance between the ends over the network's parameters; buffers do not count."""
        squares = 0.0
        for name, _ in network.named_parameters():
            squares += float(((self.a[name].double() - self.b[name].double()) ** 2).sum())
        return squares**0.5


def make_line(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Line:
    """The straight line from `a` to `b`, once they are seen to fit together.

    Raises:
        NetworkError: names or shapes differ; all that differ are listed.
    """
    problems = [f"{name} is only in a" for name in a.keys() - b.keys()]
    problems += [f"{name} is only in b" for name in b.keys() - a.keys()]
    common = [name for name in a if name in b]
    problems += [
        f"{name} is {list(a[name].shape)} in a and {list(b[name].shape)} in b"
        for name in common
        if a[name].shape != b[name].shape
    ]
    if problems:
        raise NetworkError("the two networks do not fit together: " + "; ".join(sorted(problems)))
    notes = [
        f"{name} is not floating-point and differs; that of a is used"
        for name in common
        if not a[name].is_floating_point() and not torch.equal(a[name], b[name])
    ]
    return Line(a, b, tuple(notes))


def _between(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    if not a.is_floating_point():
        return a
    dtype = torch.promote_types(a.dtype, torch.float32)
    return torch.lerp(a.to(dtype), b.to(dtype), alpha)
