"""Permutations learned by the loss of the midpoint, with a straight-through estimator."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from modeconn.analysis.alignment.items import Item
from modeconn.analysis.alignment.symmetry import Axis, Permutations, Places, Symmetry, moved
from modeconn.analysis.alignment.weight_matching import Match, ascend, match_weights
from modeconn.errors import DataError, NetworkError
from modeconn.evaluation.modes import running_statistics_layers
from modeconn.options import require, whole_number

Loss = Callable[[Callable[..., Any], Any], Tensor]


def learn_permutations(
    symmetry: Symmetry,
    network: nn.Module,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    batches: Iterable[Any],
    loss: Loss,
    *,
    held: Iterable[Any] | None = None,
    epochs: int = 10,
    learning_rate: float = 3e-3,
    start: Sequence[Places] | None = None,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, all: None,
) -> Match:
    r"""Minimise the loss at \((a + \pi(b)) / 2\) over permutations \(\pi\) (Ainsworth et al. 2023, Algorithm 3).

    Latent weights \(\tilde b\) stand for the permutation: \(\pi\) maximises \(\langle \tilde b, \pi(b) \rangle\).
    Each step projects the latent weights, by one pass of coordinate descent from the last permutation, and takes the
    gradient of the midpoint's loss as if the projection were the identity. As in the paper the latent weights begin at
    a, so that without a step this is weight matching; other than there the optimizer is Adam, and the permutation that
    is kept is the best one on `held`, of all that an epoch ended with and the start.

    BatchNorm normalises by the statistics of each batch, as those of neither network fit their midpoint; else the
    network is in evaluation mode.

    Args:
        symmetry: of both networks.
        network: of their class, for its code; it stays as it is.
        a, b: their parameters and buffers by name, on its device.
        batches: one epoch, read again in each.
        loss: what is minimised, of a callable that computes what the network does, and a batch; a scalar.
        held: batches on which permutations are compared, by the mean of the loss over them; `batches` if None.
        epochs: over the batches.
        learning_rate: of Adam.
        start: permutations to begin with; those of weight matching if None.
        seed: of the order in which groups are visited.
        report: called with how many epochs are done, and how many there are.

    Returns:
        The best permutations; scores are the loss of the midpoint on `held`, negated, those of the start and of each
        epoch.

    Raises:
        OptionError: epochs or a learning rate that cannot be used.
        DataError: no batches, batches that can be read only once, or a loss that is NaN or infinite.
        NetworkError: a tensor is missing.
    """
    epochs = whole_number(epochs, 0, "epochs must be a whole number, not negative")
    require(learning_rate > 0, "the learning rate must be above 0")
    held = batches if held is None else held
    for given in (batches, held):
        if isinstance(given, Iterator):
            raise DataError("batches can be read only once here; give a list or a loader, as every epoch reads them")
    pair = _pair(symmetry, network, a, b, loss)
    found = _start(symmetry, pair, seed) if start is None else tuple(start)
    symmetry.check(found)
    first = pair.value(found, held)
    tried = [(first, found)]
    generator = np.random.default_rng([seed, 1])
    latent = {name: pair.a[name].clone() for name in pair.axes}
    optimizer = torch.optim.Adam([{"params": list(latent.values())}], lr=learning_rate)
    passes = 0
    for epoch in range(epochs if latent else 0):
        report(epoch, epochs)
        for batch in batches:
            passes, found = passes + 1, pair.projected(latent, found, generator)
            for name, gradient in pair.gradients(found, batch).items():
                latent[name].grad = gradient / 2
            optimizer.step()
        passes, found = passes + 1, pair.projected(latent, found, generator)
        tried.append((pair.value(found, held), found))
    best, found = min(tried, key=lambda one: one[0])
    before = pair.value(symmetry.identity(), held)
    note = f"loss of the midpoint {best:.6g}, {first:.6g} where the learning began"
    return Match(found, -best, -before, tuple(-value for value, _ in tried), passes, (note,))


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two networks, and the loss at their midpoint.

    Attributes:
        symmetry: of both.
        network: a copy that is in the mode for the midpoint.
        a, b: their tensors, by the network's names, tied ones once.
        axes: those of the parameters that move.
        buffers: those of the buffers that move.
        loss: of a callable and a batch.
    """

    symmetry: Symmetry
    network: nn.Module
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    axes: Mapping[str, tuple[Axis, ...]]
    buffers: Mapping[str, tuple[Axis, ...]]
    loss: Loss

    def projected(
        self, latent: Mapping[str, Tensor], found: Permutations, generator: np.random.Generator
    ) -> Permutations:
        """The permutation under which b is most like the latent weights, as far as one pass from this one finds it."""
        items = [Item(latent[name], self.b[name], axes) for name, axes in self.axes.items()]
        return ascend(self.symmetry.groups, items, found, generator, most=1)[1]

    def gradients(self, permutations: Permutations, batch: Any) -> dict[str, Tensor]:
        """Those of the midpoint's loss, of the parameters that move."""
        point = self._midpoint(permutations)
        weights = {name: point[name].requires_grad_() for name in self.axes}
        value = self._loss(point, batch)
        found = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(weights, found, strict=True))

    @torch.no_grad()
    def value(self, permutations: Permutations, batches: Iterable[Any]) -> float:
        """The mean of the midpoint's loss over batches.

        Raises:
            DataError: there are none.
        """
        found = [float(self._loss(self._midpoint(permutations), batch)) for batch in batches]
        if not found:
            raise DataError("there is no batch to learn permutations on; give some")
        return sum(found) / len(found)

    def _loss(self, point: Mapping[str, Tensor], batch: Any) -> Tensor:
        value = self.loss(lambda *args, **kwargs: functional_call(self.network, dict(point), args, kwargs), batch)
        if not value.isfinite():
            raise DataError("the loss of the midpoint is NaN or infinite; see whether data and weights are finite")
        return value

    def _midpoint(self, permutations: Permutations) -> dict[str, Tensor]:
        """New tensors, halfway between a's and b's that are permuted; what cannot be halved is a's."""
        axes = {**self.axes, **self.buffers}
        return {
            name: 0.5 * one + 0.5 * moved(self.b[name], axes.get(name, ()), permutations)
            if one.is_floating_point() or one.is_complex()
            else one.clone()
            for name, one in self.a.items()
        }


def _pair(
    symmetry: Symmetry, network: nn.Module, a: Mapping[str, Tensor], b: Mapping[str, Tensor], loss: Loss
) -> _Pair:
    """Two networks with their tensors by the names that the network has for them.

    Raises:
        NetworkError: one is missing.
    """
    own = copy.deepcopy(network).eval()
    for layer in running_statistics_layers(own):
        layer.train()
    aliases: dict[Tensor, list[str]] = {}
    for name, tensor in (*own.named_parameters(remove_duplicate=False), *own.named_buffers(remove_duplicate=False)):
        aliases.setdefault(tensor, []).append(name)
    tensors: list[dict[str, Tensor]] = [{}, {}]
    axes: dict[bool, dict[str, tuple[Axis, ...]]] = {True: {}, False: {}}
    saved = own.state_dict()
    for tensor, names in aliases.items():
        if not any(name in saved for name in names):
            continue
        for state, found in zip((a, b), tensors, strict=True):
            given = next((name for name in names if name in state), None)
            if given is None:
                raise NetworkError(f"{names[0]} is missing; give all parameters and buffers of the network")
            found[names[0]] = state[given].detach()
        known = next((name for name in names if name in symmetry.tensors), None)
        if known is not None:
            axes[isinstance(tensor, nn.Parameter)][names[0]] = symmetry.tensors[known]
    return _Pair(symmetry, own, tensors[0], tensors[1], axes[True], axes[False], loss)


def _start(symmetry: Symmetry, pair: _Pair, seed: int) -> Permutations:
    """The permutations of weight matching."""
    items = [{name: state[name] for name in pair.axes} for state in (pair.a, pair.b)]
    own = Symmetry(symmetry.groups, pair.axes, symmetry.shapes, {}, {})
    return match_weights(own, *items, seed=seed).permutations
