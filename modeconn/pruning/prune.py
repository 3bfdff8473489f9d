"""Pruning of anyone's network by a criterion, in one shot or in steps: `prune(model, criterion, density=...)`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modeconn.errors import OptionError, unknown
from modeconn.evaluation.batches import BATCH, Batches
from modeconn.evaluation.compute import resolve_device
from modeconn.evaluation.losses import Loss
from modeconn.evaluation.measure import device_of
from modeconn.options import SCOPES
from modeconn.pruning.criteria import check_inputs, default_iterations, needs_data, score
from modeconn.pruning.masks import Mask
from modeconn.pruning.prunable import everything
from modeconn.pruning.rates import layer_rates
from modeconn.pruning.selection import check_rates, counts_after, keep_highest
from modeconn.pruning.shared import plain_copy_sharing
from modeconn.weights.masks import check_mask
from modeconn.weights.sources import weights_of


@dataclass(frozen=True)
class Pruning:
    """A rule by which weights are pruned.

    Attributes:
        criterion: one of `modeconn.pruning.criteria.CRITERIA`.
        scope: `"global"` or `"layerwise"`.
        rates: `(layer, rate)`: what to multiply the fraction by in a layer.
        iterations: in how many steps, with new scores in each; None for 100 by SynFlow and 1 by the others.
        seed: of random scores, and of dropout while SNIP and GraSP are computed.

    Raises:
        OptionError: an option that cannot be.

    >>> Pruning("synflow").spec()
    {'criterion': 'synflow', 'scope': 'global', 'rates': {}, 'iterations': 100}
    """

    criterion: str = "magnitude"
    scope: str = "global"
    rates: tuple[tuple[str, float], ...] = ()
    iterations: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        default_iterations(self.criterion)
        if self.scope not in SCOPES:
            raise unknown("scope", str(self.scope), SCOPES)
        check_rates(dict(self.rates))
        if len(dict(self.rates)) < len(self.rates):
            raise OptionError(f"a layer has two rates: {self.rates}")
        if self.iterations is not None and (not isinstance(self.iterations, int) or self.iterations < 1):
            raise OptionError(f"iterations must be a whole number of at least 1; got {self.iterations!r}")

    @property
    def steps(self) -> int:
        """The number of steps in which weights are removed."""
        return self.iterations or default_iterations(self.criterion)

    def spec(self) -> dict[str, Any]:
        """Describe the rule for a mask's name: all that decides on the mask, so that equal masks have one name."""
        uses_seed = self.criterion == "random" or needs_data(self.criterion)
        return {
            "criterion": self.criterion,
            "scope": self.scope,
            "rates": {name: float(rate) for name, rate in sorted(self.rates) if rate != 1},
            "iterations": self.steps,
            **({"seed": self.seed} if uses_seed else {}),
        }


def prune(
    model: nn.Module,
    criterion: str = "magnitude",
    *,
    density: float,
    data: Any = None,
    scope: str = "global",
    rates: Mapping[str, float] | None = None,
    iterations: int | None = None,
    layers: Iterable[str] | None = None,
    mask: Mapping[str, Tensor] | None = None,
    loss: Loss | None = None,
    input_shape: Sequence[int] | None = None,
    device: str | torch.device = "auto",
    batch_size: int = BATCH,
    seed: int = 0,
) -> Mask:
    """Find a mask that keeps a network's most important weights. It is left unchanged; `Mask.apply` prunes it.

    Counts are exact: of n weights n - round((1 - density) n) remain, equal scores being decided by position. With the
    scope `"layerwise"` this holds in each layer. Rates change it in the layers they name.

    Args:
        model: any module. Masks and parametrizations of PyTorch are applied first: see `from_torch_prune`, to go on
            from such a mask.
        criterion: `"magnitude"`, `"random"`, `"snip"`, `"grasp"`, `"grasp-abs"` or `"synflow"`; see
            `modeconn.pruning.criteria.score`.
        density: which fraction of the weights that can be pruned remains, in (0, 1]; of those in `layers` if given.
        data: training data for SNIP and GraSP, of which all is used: a `DataLoader`, a `Dataset`, a tuple of tensors
            `(inputs, targets)`, or any iterable of batches. The authors of SNIP take one batch of 100 examples or so.
        scope: `"global"` compares all weights, `"layerwise"` those of one layer.
        rates: what to multiply the removed fraction by, 0 for what is not to be pruned: by name of a weight, or for
            `"first"`, `"output"`, `"conv"` or `"linear"` layers; see `modeconn.pruning.rates.layer_rates`.
        iterations: in how many steps; None for what the criterion's authors do: 100 for SynFlow, else 1. After step i
            of N a fraction density^(i/N) remains, and scores are computed anew on what remains.
        layers: names of the parameters to prune; if None, all that `prunable` finds.
        mask: from which to go on. What it prunes stays pruned; its layers that are not in `layers` stay as they are,
            and are part of the result. Each pool loses the same fraction of what it has left.
        loss: `loss(network, batch)`, a scalar tensor; if None, what the network says or the target suggests.
        input_shape: of one example, for SynFlow without data.
        device: where to compute; `"auto"` for where the model is.
        batch_size: for data that are not in batches. SNIP depends on it slightly: absolute values are taken per batch.
        seed: of random scores, and of dropout while SNIP and GraSP are computed.

    Raises:
        OptionError: an option that cannot be, before anything is computed; or a density that leaves nothing, or more
            than the mask does.
        NetworkError: nothing can be pruned, a mask that does not fit, or scores that are not finite.
        DataError: data that do not fit the network.

    >>> from modeconn.models import build_network
    >>> network = build_network("lenet-300-100", (1, 28, 28), 10, seed=0)
    >>> prune(network, density=0.8)
    Mask(212,960 of 266,200 weights in 3 layers)
    """
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1:
        raise OptionError(f"density must be above 0 and at most 1, the fraction that remains; got {density!r}")
    how = Pruning(criterion, scope, iterations=iterations, seed=seed)
    check_inputs(criterion, () if data is None else (data,), input_shape)
    weights_of(model, "the model")  # refuses what has no values
    plain = plain_copy_sharing(model, None if device == "auto" else resolve_device(str(device)))
    how = replace(how, rates=tuple(layer_rates(plain, (rates or {}).items()).items()))
    start, others = _start(plain, layers, mask or {})
    if others:  # layers that stay as they are, are pruned as they are while scores are computed
        Mask(others).apply(plain)
    fraction = _fraction(start, density)
    batches = () if data is None else Batches(data, device_of(plain), batch_size=batch_size, split="train")
    found = find_mask(plain, how, fraction, mask=start, batches=batches, loss=loss, input_shape=input_shape) | others
    return Mask({name: found[name] for name, _ in plain.named_parameters(remove_duplicate=False) if name in found})


def find_mask(
    network: nn.Module,
    how: Pruning,
    fraction: float,
    *,
    levels: int = 1,
    mask: Mapping[str, Tensor] | None = None,
    batches: Iterable[Any] = (),
    loss: Loss | None = None,
    input_shape: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Prune a fraction p of the remaining weights: round(p n) of the n in each pool.

    In N steps, n - round((1 - (1 - p)^(i/N)) n) remain after step i, and scores are computed anew on the masked
    network. The network is left unchanged.

    Args:
        network: plain, as `plain_copy` gives it.
        how: by what, and in how many steps.
        fraction: of what remains, in [0, 1).
        levels: as many go as if that fraction were removed so often, one after the other.
        mask: what remains now; its names are the layers that are pruned. Everything that can be pruned if None.
        batches: on the network's device, gone through again and again.
        loss, input_shape: as in `prune`.

    Raises:
        ModeconnError: as for `prune`; what can be seen beforehand is, before anything is computed.
    """
    check_inputs(how.criterion, batches, input_shape)
    kept = everything(network) if mask is None else dict(mask)
    check_mask(kept, network)
    sizes, rates = {name: int(entry.count_nonzero()) for name, entry in kept.items()}, dict(how.rates)
    # All counts before the first score, so that an impossible option fails before anything is computed.
    schedule = [
        counts_after(sizes, fraction, scope=how.scope, rates=rates, levels=levels, part=step / how.steps)
        for step in range(1, how.steps + 1)
    ]
    for counts in schedule:
        scores = score(network, how.criterion, batches, mask=kept, loss=loss, seed=how.seed, input_shape=input_shape)
        kept = keep_highest(scores, kept, counts)
    return kept


def _start(
    network: nn.Module, layers: Iterable[str] | None, mask: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The mask to begin with: of the layers to prune, and of those that stay as they are."""
    check_mask(mask, network)
    start = everything(network)
    if layers is not None:
        chosen = [layers] if isinstance(layers, str) else list(layers)
        for name in chosen:
            if name not in start:
                raise unknown("layer", name, start)
        if not chosen:
            raise OptionError("layers= is empty; name those to prune, or leave it out for all")
        start = {name: kept for name, kept in start.items() if name in chosen}
    start |= {name: mask[name].to(start[name].device) for name in start if name in mask}
    return start, {name: kept for name, kept in mask.items() if name not in start}


def _fraction(kept: Mapping[str, Tensor], density: float) -> float:
    """The fraction of what remains that has to go, so that `density` of all remains."""
    total = sum(entry.numel() for entry in kept.values())
    left = sum(int(entry.count_nonzero()) for entry in kept.values())
    removed = round(1 - density, 12)  # 1 - 0.95 is not quite 0.05
    target = total - round(removed * total)
    if not 1 <= target <= left:
        raise OptionError(
            f"a density of {density:g} is {target} of {total} weights, and the mask has {left} left, "
            f"a density of {left / total:g}; " + ("choose a higher one" if target < 1 else "choose a lower one")
        )
    return removed if left == total else (left - target) / left
