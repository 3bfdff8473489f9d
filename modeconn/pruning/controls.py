"""Control masks with the layerwise densities of a ticket's mask (Frankle et al. 2020 and 2021)."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from modeconn.seeds import mix


def random_mask(like: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Draw a random mask that keeps as many weights of each layer as another.

    Masks from one seed are nested, as those of successive levels of pruning are: what a smaller one keeps, a larger
    one of the same shapes keeps too.

    >>> mask = random_mask({"weight": torch.tensor([[True, False], [True, False]])}, seed=0)
    >>> int(mask["weight"].sum())
    2
    """
    return {name: _first(_order(kept, mix(seed, "random", name)), kept) for name, kept in like.items()}


def shuffled_mask(mask: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Permute the entries of a mask within each layer, at random.

    >>> mask = {"weight": torch.tensor([True, True, False, False, False, False])}
    >>> int(shuffled_mask(mask, seed=0)["weight"].sum())
    2
    """
    return {
        name: kept.flatten()[_order(kept, mix(seed, "shuffle", name))].view(kept.shape) for name, kept in mask.items()
    }


def inverted_mask(like: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep the weights of smallest magnitude, as many of each layer as another mask; of ties the first.

    >>> like = {"weight": torch.tensor([True, False, False])}
    >>> inverted_mask(like, {"weight": torch.tensor([3.0, -1.0, 2.0])})
    {'weight': tensor([False,  True, False])}
    """
    return {name: _first(weights[name].abs().flatten().argsort(stable=True), kept) for name, kept in like.items()}


def _first(order: Tensor, like: Tensor) -> Tensor:
    """A mask of the first weights in an order, as many as another keeps."""
    mask = torch.zeros(like.numel(), dtype=torch.bool)
    mask[order[: int(like.sum())]] = True
    return mask.view(like.shape)


def _order(like: Tensor, seed: int) -> Tensor:
    """A random permutation: the order of random 64-bit keys, which NumPy promises not to change."""
    return torch.from_numpy(np.argsort(np.random.Philox(key=seed).random_raw(like.numel()), kind="stable"))
