"""Control masks with the layerwise densities of a ticket's mask (Frankle et al. 2020 and 2021)."""

import math
from collections.abc import Mapping, Sequence

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
    return {name: random_mask_of(name, kept.shape, int(kept.sum()), seed) for name, kept in like.items()}


def random_mask_of(name: str, shape: Sequence[int], count: int, seed: int) -> Tensor:
    """Draw the mask of one layer, so many weights of it at random; nested over counts.

    >>> int(random_mask_of("weight", (2, 3), 4, seed=0).sum())
    4
    """
    return _first(_order(math.prod(shape), mix(seed, "random", name)), shape, count)


def shuffled_mask(mask: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Permute the entries of a mask within each layer, at random.

    >>> mask = {"weight": torch.tensor([True, True, False, False, False, False])}
    >>> int(shuffled_mask(mask, seed=0)["weight"].sum())
    2
    """
    return {
        name: kept.flatten()[_order(kept.numel(), mix(seed, "shuffle", name))].view(kept.shape)
        for name, kept in mask.items()
    }


def inverted_mask(like: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep the weights of smallest magnitude, as many of each layer as another mask; of ties the first.

    >>> like = {"weight": torch.tensor([True, False, False])}
    >>> inverted_mask(like, {"weight": torch.tensor([3.0, -1.0, 2.0])})
    {'weight': tensor([False,  True, False])}
    """
    return lowest_mask(like, {name: weights[name].abs() for name in like})


def lowest_mask(like: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep the weights of lowest score, as many of each layer as another mask; of ties the first.

    >>> lowest_mask({"weight": torch.tensor([True, False, False])}, {"weight": torch.tensor([3.0, -1.0, 2.0])})
    {'weight': tensor([False,  True, False])}
    """
    return {
        name: _first(scores[name].cpu().flatten().argsort(stable=True), kept.shape, int(kept.sum()))
        for name, kept in like.items()
    }


def _first(order: Tensor, shape: Sequence[int], count: int) -> Tensor:
    """A mask of so many weights, the first in an order."""
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view(shape)


def _order(size: int, seed: int) -> Tensor:
    """A random permutation: the order of random 64-bit keys, which NumPy promises not to change."""
    return torch.from_numpy(np.argsort(np.random.Philox(key=seed).random_raw(size), kind="stable"))
