r"""Orthogonal maps of a transformer's residual stream: rotations that leave its function as it is.

RMSNorm without a scale commutes with every orthogonal map: \(\mathrm{RMSNorm}(Q x) = Q\,\mathrm{RMSNorm}(x)\). If all
that writes to a residual stream is multiplied by Q, and all that reads it by \(Q^\top\), the network computes the same
function (Ashkboos et al. 2024, SliceGPT, theorem 1). `fold_norms` brings a network with scales, or with LayerNorm, to
this form first.

Only the stream is rotated. Heads and hidden units keep their own symmetries, which are permutations: heads stay heads
here, and are not replaced by the circuits that they compute (as Theus et al. 2025 do, whose merged network is larger).
A path between networks that were aligned is therefore one in the architecture of the folded network, which has the
same layers as the original one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from modeconn.analysis.alignment.flow import Flow, Labels, along, where
from modeconn.analysis.alignment.symmetry import Symmetry, SymmetryError

_ORTHOGONAL = 1e-5  # how far from the identity Q Q^T may be


@dataclass(frozen=True)
class ResidualStream:
    """A residual stream that can be rotated.

    Attributes:
        symmetry: of the network.
        group: its number in the symmetry.
        axes: tensors, and the axis of each that is written to the stream or reads it.
        scales: of norms on it, by name; they have to be 1.
    """

    symmetry: Symmetry
    group: int
    axes: tuple[tuple[str, int], ...]
    scales: tuple[str, ...]

    @property
    def width(self) -> int:
        """How many dimensions it has."""
        return self.symmetry.groups[self.group].size


def residual_stream(symmetry: Symmetry, program: Any) -> ResidualStream:
    """The residual stream of a transformer, if every operator on it commutes with orthogonal maps.

    Args:
        symmetry: of the network.
        program: its graph, by `exported`.

    Raises:
        SymmetryError: something elementwise stands on it, or a norm with a mean; the message names it.
    """
    group = residual_group(symmetry)
    flow = _Rotated(symmetry, [group])
    flow.follow(program)
    if group in flow.refused:
        raise SymmetryError(
            f"the residual stream of {symmetry.groups[group].name!r} cannot be rotated ({flow.refused[group]}); "
            "fold_norms takes LayerNorms and the scales of norms away"
        )
    axes = tuple(place for place, kind in flow.uses.items() if kind != 0)
    return ResidualStream(symmetry, group, axes, tuple(name for (name, _), kind in flow.uses.items() if kind == 0))


def residual_group(symmetry: Symmetry) -> int:
    """The group of the residual stream: the one whose units stand on the most axes.

    Raises:
        SymmetryError: there is no group.
    """
    counts = [0] * len(symmetry.groups)
    for axes in symmetry.tensors.values():
        for axis in axes:
            for group in axis.groups:
                counts[group] += 1
    if not counts:
        raise SymmetryError("a network without groups has no residual stream that can be rotated")
    return max(range(len(counts)), key=counts.__getitem__)


def match_residual(stream: ResidualStream, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    r"""The orthogonal Q for which \(\sum_t \langle a_t, Q b_t \rangle\) is the largest, by orthogonal Procrustes.

    t runs over all tensors that write to the stream or read it. With \(\sum_t a_t b_t^\top = U S V^\top\), the stream's
    axis first and all others flattened, it is \(U V^\top\) (Schönemann 1966; Theus et al. 2025). A tensor
    that both reads and writes the stream is left out: it is rotated on two sides, and so not linear in Q (in a
    transformer heads or hidden units stand between). Where the sum has no full rank, as between networks whose
    LayerNorms were folded, Q is one of many in the directions that no tensor has.

    Args:
        stream: of both networks.
        a, b: their parameters by name.

    Returns:
        [width, width], float64: `rotate(stream, b, Q)` comes near to a.

    Raises:
        SymmetryError: a tensor is missing, has another shape or is not finite; the message names it.
    """
    total = torch.zeros(stream.width, stream.width, dtype=torch.float64)
    names = [name for name, _ in stream.axes]
    for name, axis in stream.axes:
        if names.count(name) > 1:
            continue
        one, other = (_rows(stream, state, name, axis) for state in (a, b))
        total += one @ other.T
    u, _, vh = torch.linalg.svd(total)
    return u @ vh


def rotate(stream: ResidualStream, state: Mapping[str, Tensor], q: Tensor) -> dict[str, Tensor]:
    """A network's tensors with its residual stream rotated: it computes the same function.

    Args:
        stream: of the network.
        state: its tensors by name; those that do not meet the stream come back as they are.
        q: [width, width], orthogonal.

    Raises:
        SymmetryError: q is not orthogonal, or a norm has a scale that is not 1; the message names it.
    """
    width = stream.width
    q = q.detach().double().cpu()
    eye = torch.eye(width, dtype=torch.float64)
    if tuple(q.shape) != (width, width) or not bool(((q @ q.T - eye).abs() <= _ORTHOGONAL).all()):
        raise SymmetryError(f"the residual stream needs an orthogonal matrix [{width}, {width}], not {list(q.shape)}")
    for name in stream.scales:
        if name in state and not bool((state[name] == 1).all()):
            raise SymmetryError(f"{name} is not 1, so its norm does not commute with rotations; fold_norms absorbs it")
    found = dict(state)
    for name, axis in stream.axes:
        units = _units(stream, name, axis)
        own = q[units][:, units]
        for same in (name, *(other for other, known in stream.symmetry.tied.items() if known == name)):
            if same in found:
                tensor = found[same]
                turned = torch.tensordot(own.to(tensor.device), tensor.double(), dims=([1], [axis]))
                found[same] = turned.movedim(0, axis).to(tensor.dtype).contiguous()
    return found


class WholeStream(Flow):
    """The walk of one stream, which has to stay whole on one axis of every value."""

    def __init__(self, symmetry: Symmetry, groups: list[int]) -> None:
        super().__init__(symmetry, groups)
        self._group = groups[0]

    def called(self, node: Node) -> Any:
        """The labels of what an operator gives, if they are those of the whole stream or none."""
        found = super().called(node)
        for labels in found if isinstance(found, tuple | list) else [found]:
            if labels is not None and labels.any() and self.axis(labels) is None:
                self.refuse(labels, where(node))
        return found

    def axis(self, labels: Labels) -> int | None:
        """The axis of a value along which its stream stands, whole and in one order; None if there is none."""
        size, start = self.symmetry.groups[self._group].size, int(self._first[self._group])
        every = torch.arange(start + 1, start + size + 1)
        for axis, length in enumerate(labels.shape):
            line = labels.movedim(axis, -1).reshape(-1, length)[0]
            if length == size and torch.equal(line.sort().values, every):
                return axis if bool((labels == along(line, axis, labels.dim())).all()) else None
        return None


class _Rotated(WholeStream):
    """The walk of a stream that is rotated."""

    names: ClassVar[Mapping[str, str]] = {**Flow.names, "rms_norm": "rms_norm"}

    def rms_norm(self, node: Node) -> Labels | None:
        """A norm of the whole stream, with a scale that has to be 1."""
        x, shape, *rest = node.args
        weight = rest[0] if rest else node.kwargs.get("weight")
        labels = self.value(x)  # type: ignore[arg-type]
        if len(shape) != 1 or self.axis(labels) != labels.dim() - 1:  # type: ignore[arg-type]
            return None
        if weight is not None:
            name = self._parameters.get(weight)  # type: ignore[arg-type]
            if name is None:
                return None
            self.use(name, 0, 0)
        return labels


def _units(stream: ResidualStream, name: str, place: int) -> Tensor:
    """The unit at each place of a tensor's axis."""
    axis = next(axis for axis in stream.symmetry.tensors[name] if axis.axis == place)
    return torch.from_numpy(dict(axis.units)[stream.group].ravel())


def _rows(stream: ResidualStream, state: Mapping[str, Tensor], name: str, axis: int) -> Tensor:
    """A tensor's numbers for each unit of the stream: [width, all others]."""
    tensor, shape = state.get(name), stream.symmetry.shapes[name]
    if tensor is None or tuple(tensor.shape) != shape or not bool(tensor.isfinite().all()):
        how = "missing" if tensor is None else f"{list(tensor.shape)}" if tuple(tensor.shape) != shape else "not finite"
        raise SymmetryError(f"{name} is {how}, and has to be {list(shape)} finite numbers")
    order = torch.argsort(_units(stream, name, axis))
    return tensor.detach().double().cpu().movedim(axis, 0)[order].reshape(stream.width, -1)
