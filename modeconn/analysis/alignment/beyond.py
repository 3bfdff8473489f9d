"""Symmetries beyond permutations, on whole networks: `rescale(network)` and `align_residual(a, b)`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.analysis.alignment.cells import symmetry_of
from modeconn.analysis.alignment.example import Call, Measured, example_of
from modeconn.analysis.alignment.folding import fold_norms
from modeconn.analysis.alignment.network import TOLERANCE, change_of
from modeconn.analysis.alignment.orthogonal import match_residual, residual_stream, rotate
from modeconn.analysis.alignment.rescaling import canonical_scales, scalable_groups, unscalable_groups
from modeconn.analysis.alignment.symmetry import Symmetry, SymmetryError
from modeconn.analysis.alignment.trace import exported, trace
from modeconn.analysis.alignment.weight_matching import match_weights
from modeconn.evaluation.forward import dtype_of
from modeconn.evaluation.measure import device_of
from modeconn.evaluation.modes import evaluating
from modeconn.evaluation.structures import map_tensors, tensors_of
from modeconn.result import count
from modeconn.weights.plain_copy import plain_copy
from modeconn.weights.state_dicts import state_tensors

_ROUNDS = 10
_GAIN = 1e-6  # of the score, that another round must bring


def rescale(network: nn.Module, example: Any = None) -> nn.Module:
    """A copy of a network with ReLUs whose units have the scales of the smallest norm; it computes the same function.

    A unit behind a ReLU can be multiplied by a positive number if what reads it is divided by it. Two networks that
    differ by such scales alone come to be equal: align and measure between `rescale(a)` and `rescale(b)`.

    Args:
        network: a module; it is left unchanged.
        example: a batch that it is called with; guessed from its first layer if None.

    Raises:
        ExportError: its graph cannot be had.
        SymmetryError: no group of units can be scaled; the message says of each why.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> import copy
    >>> other = copy.deepcopy(net)
    >>> with torch.no_grad():
    ...     _ = other[0].weight.mul_(8), other[0].bias.mul_(8), other[2].weight.div_(8)
    >>> torch.allclose(rescale(net)[0].weight, rescale(other)[0].weight)
    True
    """
    copied = plain_copy(network).eval()
    call = example_of(copied, example, device_of(copied))
    program = exported(copied, *call)
    symmetry = symmetry_of(trace(program))
    groups = scalable_groups(symmetry, program)
    if not groups:
        why = "; ".join(f"{name}: {reason}" for name, reason in unscalable_groups(symmetry, program).items())
        raise SymmetryError(f"no units of {type(network).__name__} can be rescaled ({why or 'it has no groups'})")
    _load(copied, canonical_scales(symmetry, state_tensors(copied), groups))
    _require_same(network, Measured(copied), call)
    return copied.train(network.training)


@dataclass(frozen=True, eq=False)
class ResidualAlignment:
    """Two transformers without scales in their norms, the second with its residual stream rotated to the first's.

    Attributes:
        a, b: copies that compute what the given networks do; between them a path can be measured.
        score: inner product of the weights, after permutations and rotation.
        permuted: the same after permutations alone.
        before: the same of the folded networks.
        norms: the modules that became RMSNorms without parameters.
        untied: tensors that were tied to an embedding, and have their own numbers now.
    """

    a: nn.Module
    b: nn.Module
    score: float
    permuted: float
    before: float
    norms: tuple[str, ...]
    untied: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            "b aligned to a by permutations and a rotation of its residual stream",
            f"inner product of the weights: {self.before:.6g} before, {self.permuted:.6g} by permutations, "
            f"{self.score:.6g} with the rotation",
            f"Note: {count(len(self.norms), 'norm')} became RMSNorm without parameters, with scales and means in the "
            "layers around.",
        ]
        if self.untied:
            lines.append(f"Note: no longer tied: {', '.join(self.untied)}.")
        return "\n".join(lines)


def align_residual(
    a: nn.Module, b: nn.Module, example: Any = None, *, tries: int = 5, seed: int = 0
) -> ResidualAlignment:
    """Align two transformers by permutations and an orthogonal map of their residual streams.

    RMSNorm without a scale commutes with rotations, so norms' scales (and LayerNorm's mean) are first folded into the
    layers around them, in copies (Ashkboos et al. 2024); then permutations by weight matching and the rotation by
    orthogonal Procrustes take turns until neither gains (Theus et al. 2025). Heads stay heads.

    Args:
        a, b: modules of one architecture; they are left unchanged.
        example: a batch that they are called with; guessed if None.
        tries, seed: of weight matching.

    Raises:
        ExportError, SymmetryError: a graph that cannot be had, or what stands in the way of a rotation, by name.
    """
    call = example_of(plain_copy(a).eval(), example, device_of(a))
    first, second = (fold_norms(Measured(plain_copy(one).eval()), *call) for one in (a, b))
    program = exported(first.network, *call)
    symmetry = symmetry_of(trace(program))
    stream = residual_stream(symmetry, program)
    one, other = (
        {name: tensor.detach() for name, tensor in made.network.named_parameters()} for made in (first, second)
    )
    before = found = permuted = _inner(symmetry, one, other)
    turned = other
    for number in range(_ROUNDS):
        match = match_weights(symmetry, one, turned, tries=tries, seed=seed)
        moved = symmetry.apply(turned, match.permutations)
        permuted = match.score if number == 0 else permuted
        rotated = rotate(stream, moved, match_residual(stream, one, moved))
        score = _inner(symmetry, one, rotated)
        if score - found <= _GAIN * abs(score):
            break
        found, turned = score, rotated
    _load(second.network, turned)
    for given, made in ((a, first.network), (b, second.network)):
        _require_same(given, made, call)
    folded_a, folded_b = (made.network.get_submodule("network") for made in (first, second))
    return ResidualAlignment(folded_a, folded_b, found, permuted, before, first.norms, first.untied)


def _inner(symmetry: Symmetry, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The inner product of the tensors that move, tied ones once."""
    names = [name for name in symmetry.tensors if name in a and name not in symmetry.tied]
    return sum(float((a[name] * b[name]).sum(dtype=torch.float64)) for name in names)


def _load(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = state_tensors(network)
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def _require_same(given: nn.Module, made: nn.Module, call: Call) -> None:
    """See that two networks compute the same.

    Raises:
        SymmetryError: they do not.
    """
    args, kwargs = call
    outputs = []
    for network in (Measured(given), made):
        with torch.no_grad(), evaluating(network), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            output = network(*map_tensors(torch.clone, args), **map_tensors(torch.clone, dict(kwargs)))
            outputs.append([tensor.double() for tensor in tensors_of(output) if tensor.is_floating_point()])
    change = change_of(*outputs)
    if not change <= TOLERANCE.get(dtype_of(given) or torch.float32, 1e-2):
        raise SymmetryError(
            f"{type(given).__name__} computes something else after it, by {change:.1e} of its largest output"
        )
