"""Pruning criteria: scores of how important each weight is (Frankle et al. 2021, section 3), for anyone's network."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeconn.errors import NetworkError, OptionError, unknown
from modeconn.evaluation.batches import Batches, preserving_random_state
from modeconn.evaluation.compute import computing
from modeconn.evaluation.forward import call
from modeconn.evaluation.losses import Loss
from modeconn.evaluation.measure import device_of
from modeconn.evaluation.structures import map_tensors
from modeconn.pruning.flow import Flow
from modeconn.pruning.gradients import batch_losses, gradients_of, masked_copy, product
from modeconn.seeds import mix
from modeconn.weights.masks import check_mask

TEMPERATURE = 200.0  # of GraSP's logits, in its authors' code and in Frankle et al. 2021


def score(
    network: nn.Module,
    criterion: str,
    batches: Iterable[Any] = (),
    *,
    mask: Mapping[str, Tensor],
    loss: Loss | None = None,
    seed: int = 0,
    input_shape: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Score every weight of the masked network; higher is more important. Nothing of the caller's changes.

    With w the weights times the mask, L the mean loss on a batch, g its gradient and H its Hessian, both with respect
    to the masked layers' weights:

    - `magnitude`: |w|
    - `random`: uniform in [0, 1), by the seed and the layer's name
    - `snip`: |w g|, the connection sensitivity of Lee et al. (2019) without its normalization; the mean over batches,
      weighted by their sizes
    - `grasp`: w Hg (Wang et al. 2020, equation 8, with the sign turned). Removing one weight, delta = -w, changes the
      squared norm of the gradient by 2 delta Hg + O(delta^2), so their score S = -w Hg says how much gradient flow a
      removal gains. What gains most is removed: the highest S, our lowest. The gradient is that of the masked network:
      what is pruned has none. Logits are divided by 200 where the cross-entropy is ours.
    - `grasp-abs`: |w Hg|, which removes what matters least to the gradient's norm (Frankle et al. 2021)
    - `synflow`: |w dR/dw|, with R = 1^T f(1; |w|), the sum of outputs for an input of ones, of the network f with the
      absolute values of all parameters, in double precision and evaluation mode (Tanaka et al. 2020). Norms of each
      example (LayerNorm, GroupNorm, ...) count with their scale alone, as `modeconn.pruning.flow` says: with them as
      they are, no flow is conserved, and layers would be emptied.

    SNIP and GraSP are in training mode: BatchNorm normalizes by the batch, dropout is as the seed says, the same in
    each pass. Half precision is scored in float32. Gradients of complex weights are those of their two parts.

    Args:
        network: without masks and parametrizations of PyTorch, as `plain_copy` gives it.
        criterion: one of `CRITERIA`.
        batches: training data, for SNIP and GraSP; those on the network's device, gone through again and again. For
            SynFlow the first batch tells the shape of an input; whole-number inputs are ones too.
        mask: by parameter name, True where a weight remains. Its names are the layers that get scores.
        loss: `loss(network, batch)`; if None, what `modeconn.evaluation.losses.mean_loss` says.
        seed: of random scores and of dropout.
        input_shape: of one example, for SynFlow without batches.

    Returns:
        By name, in the order of the network, on its device; 0 for what is pruned.

    Raises:
        OptionError: unknown criterion, or no data for one that needs them.
        NetworkError: a mask that does not fit, or scores that are not finite, by layer.
        DataError: data that do not fit the network.

    >>> layer = nn.Linear(2, 1)
    >>> _ = nn.init.constant_(layer.weight, -3.0)
    >>> score(layer, "magnitude", mask={"weight": torch.tensor([[True, False]])})
    {'weight': tensor([[3., 0.]])}
    """
    check_inputs(criterion, batches, input_shape)
    check_mask(mask, network)
    device = device_of(network)
    kept = {name: mask[name].to(device) for name, _ in network.named_parameters(remove_duplicate=False) if name in mask}
    scoring = _Scoring(network, kept, batches, loss, seed, input_shape, device)
    with _undisturbed(scoring) if CRITERIA[criterion].passes else torch.no_grad():
        found = CRITERIA[criterion].compute(scoring)
    scores = {name: found[name].detach().masked_fill(~remains, 0) for name, remains in kept.items()}
    if wrong := [name for name, values in scores.items() if not bool(values.isfinite().all())]:
        raise NetworkError(f"scores by {criterion} are NaN or infinite in {', '.join(wrong)}")
    return scores


def needs_data(criterion: str) -> bool:
    """Whether a criterion is computed from training data.

    Raises:
        OptionError: unknown criterion.

    >>> needs_data("snip"), needs_data("synflow")
    (True, False)
    """
    return _criterion(criterion).data


def default_iterations(criterion: str) -> int:
    """The number of steps in which a criterion's authors prune: 100 for SynFlow, 1 for the others.

    Raises:
        OptionError: unknown criterion.
    """
    return _criterion(criterion).iterations


def check_inputs(criterion: str, batches: Iterable[Any], input_shape: Sequence[int] | None) -> None:
    """Refuse a criterion without the data that it needs, before anything is computed.

    Raises:
        OptionError: saying what to give.
    """
    missing = isinstance(batches, Sized) and not len(batches)
    if needs_data(criterion) and missing:
        raise OptionError(f"{criterion} is computed from training data; give data=, a few batches of them")
    if criterion == "synflow" and missing and input_shape is None:
        raise OptionError("synflow passes an input of ones; give its shape as input_shape=, or data= to take it from")
    if isinstance(batches, Iterator):
        raise OptionError("batches are gone through more than once, which an iterator cannot be; give a list of them")


@dataclass(frozen=True)
class _Scoring:
    network: nn.Module
    kept: dict[str, Tensor]
    batches: Iterable[Any]
    loss: Loss | None
    seed: int
    input_shape: Sequence[int] | None
    device: torch.device

    def masked_copy(self, at_least: torch.dtype) -> tuple[nn.Module, dict[str, Tensor]]:
        """Copy the network with the mask applied; also gives the masked weights."""
        return masked_copy(self.network, self.kept, at_least)

    def losses(self, network: nn.Module, temperature: float = 1.0) -> Iterator[tuple[int, Tensor]]:
        """Compute each batch's number of examples and mean loss."""
        return batch_losses(network, self.batches, self.loss, self.seed, temperature)


def _magnitude(scoring: _Scoring) -> dict[str, Tensor]:
    """|w|."""
    parameters = dict(scoring.network.named_parameters(remove_duplicate=False))
    return {name: parameters[name].abs() for name in scoring.kept}


def _random(scoring: _Scoring) -> dict[str, Tensor]:
    """Uniform in [0, 1): 53 random bits for each weight, from a generator that NumPy promises not to change."""
    scores = {}
    for name, kept in scoring.kept.items():
        raw = np.random.Philox(key=mix(scoring.seed, "scores", name)).random_raw(kept.numel())
        scores[name] = torch.from_numpy((raw >> 11) * 2.0**-53).reshape(kept.shape).to(scoring.device)
    return scores


def _snip(scoring: _Scoring) -> dict[str, Tensor]:
    """|w g| (Lee et al. 2019)."""
    network, weights = scoring.masked_copy(torch.float32)
    network.train()
    sums, examples = {name: torch.zeros(()) for name in weights}, 0
    for size, value in scoring.losses(network):
        gradients = gradients_of(value, weights)
        # Absolute values before the sum over batches, as in Frankle et al. 2021.
        sums = {name: sums[name] + size * product(weights[name], gradients[name]).abs() for name in weights}
        examples += size
    return {name: total / examples for name, total in sums.items()}


def _grasp(scoring: _Scoring) -> dict[str, Tensor]:
    """w Hg (Wang et al. 2020), by Hg = d<g, dL/dw>/dw with g held constant: the Hessian itself is never formed.

    Both g and H are of the mean loss over all batches, though only one batch at a time is in memory.
    """
    network, weights = scoring.masked_copy(torch.float32)
    network.train()
    # First pass: g, the sum over batches of size times gradient. It is divided by the number of examples at the end.
    gradient, examples = {name: torch.zeros_like(weight) for name, weight in weights.items()}, 0
    curvature = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for size, value in scoring.losses(network, TEMPERATURE):
        for name, one in gradients_of(value, weights).items():
            gradient[name] += size * one
        examples += size
    # A pruned weight is no parameter of the masked network, so its gradient is no part of that network's.
    gradient = {name: one.masked_fill(~scoring.kept[name], 0) for name, one in gradient.items()}
    # Second pass: Hg. The fused kernels of attention cannot be differentiated twice.
    with sdpa_kernel(SDPBackend.MATH):
        for size, value in scoring.losses(network, TEMPERATURE):
            moving = gradients_of(value, weights, twice=True)
            slope = sum((product(gradient[name], moving[name]).sum() for name in weights), torch.zeros(()))
            if slope.requires_grad:  # a loss without curvature has a gradient that does not depend on the weights
                for name, one in gradients_of(slope, weights).items():
                    curvature[name] += size * one
    # Once for the mean in g, once for that in H.
    return {name: product(weights[name], curvature[name]) / examples**2 for name in weights}


def _grasp_abs(scoring: _Scoring) -> dict[str, Tensor]:
    """|w Hg| (Frankle et al. 2021)."""
    return {name: values.abs() for name, values in _grasp(scoring).items()}


def _synflow(scoring: _Scoring) -> dict[str, Tensor]:
    """|w dR/dw| with R = 1^T f(1; |w|) (Tanaka et al. 2020)."""
    network, weights = scoring.masked_copy(torch.float64)  # R grows by a layer's width in each layer
    network.eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.copy_(parameter.abs())
    with Flow():
        output, _ = call(network, _ones(scoring))
    gradients = gradients_of(output.sum(), weights)
    return {name: product(weights[name], gradients[name]).abs() for name in weights}


@dataclass(frozen=True)
class _Criterion:
    """A function that computes scores, whether it runs the network, whether on training data, and the usual steps."""

    compute: Callable[[_Scoring], dict[str, Tensor]]
    passes: bool = True
    data: bool = True
    iterations: int = 1


CRITERIA = {
    "magnitude": _Criterion(_magnitude, passes=False, data=False),
    "random": _Criterion(_random, passes=False, data=False),
    "snip": _Criterion(_snip),
    "grasp": _Criterion(_grasp),
    "grasp-abs": _Criterion(_grasp_abs),
    "synflow": _Criterion(_synflow, data=False, iterations=100),
}


def _criterion(name: str) -> _Criterion:
    if name not in CRITERIA:
        raise unknown("criterion", str(name), CRITERIA)
    return CRITERIA[name]


@contextlib.contextmanager
def _undisturbed(scoring: _Scoring) -> Iterator[None]:
    """Compute gradients deterministically; put all random generators back afterwards, those of loaders included."""
    loaders = [scoring.batches] if isinstance(scoring.batches, Batches) else []
    with preserving_random_state(scoring.device, *loaders), computing(scoring.device), torch.enable_grad():
        yield


def _ones(scoring: _Scoring) -> Any:
    """One example of ones, of the given shape or as a batch has it."""
    if scoring.input_shape is not None:
        return torch.ones(1, *scoring.input_shape, device=scoring.device)
    batch = scoring.batches.first() if isinstance(scoring.batches, Batches) else next(iter(scoring.batches))
    return map_tensors(lambda tensor: torch.ones_like(tensor[:1] if tensor.dim() else tensor), batch)
