"""Controls: masks with the layerwise density of a ticket's, and nothing else of it (Frankle et al. 2020 and 2021)."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from modeconn.seeds import mix


def random_mask(like: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A random mask with as many weights of each layer as another.

    Masks from one seed are nested, as those of successive levels of pruning are: what a smaller one keeps, a larger
    one of the same shapes keeps too.

    >>> mask = random_mask({"weight": torch.tensor([[True, False], [True, False]])}, seed=0)
    >>> int(mask["weight"].sum())
    2
    """
    return {name: _first(_order(kept, mix(seed, "random", name)), kept) for name, kept in like.items()}


def shuffled_mask(mask: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The mask with its entries permuted within each layer.

    >>> mask = {"weight": torch.tensor([True, True, False, False, False, False])}
    >>> int(shuffled_mask(mask, seed=0)["weight"].sum())
    2
    """
    return {
        name: kept.flatten()[_order(kept, mix(seed, "shuffle", name))].view(kept.shape) for name, kept in mask.items()
    }


def inverted_mask(like: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of smallest magnitude, as many of each layer as another mask has; ties go by position.

    >>> like = {"weight": torch.tensor([True, False, False])}
    >>> inverted_mask(like, {"weight": torch.tensor([3.0, -1.0, 2.0])})
    {'weight': tensor([False,  True, False])}
    """
    return {name: _first(weights[name].abs().flatten().argsort(stable=True), kept) for name, kept in like.items()}


def _first(order: Tensor, like: Tensor) -> Tensor:
    mask = torch.zeros(like.numel(), dtype=torch.bool)
    mask[order[: int(like.sum())]] = True
    return mask.view(like.shape)


def _order(like: Tensor, seed: int) -> Tensor:
    return torch.from_numpy(np.argsort(np.random.Philox(key=seed).random_raw(like.numel()), kind="stable"))
