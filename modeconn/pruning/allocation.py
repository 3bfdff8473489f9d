"""Shares of layers in the weights that remain: random pruning by rules that look at the layers' shapes alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from modeconn.errors import unknown
from modeconn.pruning.controls import random_mask_of

SHARES: dict[str, Callable[[Sequence[int]], int]] = {  # of a layer, from the shape of its weight
    "uniform": math.prod,  # the same density in every layer
    "balanced": lambda shape: 1,  # as many weights in every layer
    "erk": sum,  # Erdos-Renyi-kernel: a density of sum(shape) / prod(shape), times what is the same for all layers
}


def layer_counts(rule: str, shapes: Mapping[str, Sequence[int]], total: int) -> dict[str, int]:
    """Divide a number of weights among layers by a rule; a layer that would get more than it has keeps all.

    By `"uniform"` layers have the same density, as under the random pruning of Frankle et al. (2021), but exactly; by
    `"balanced"` the same number of weights; by `"erk"` a density in proportion to sum(shape) / prod(shape), for a
    convolution (n_in + n_out + width + height) / (n_in n_out width height) (Evci et al. 2020, equation 2).

    Rounded by the method of Webster (odd divisors), so that with a larger total no layer has fewer: masks of falling
    density can be nested.

    Args:
        rule: one of `SHARES`.
        shapes: of the layers' weights, by name.
        total: how many weights remain, at most all.

    Raises:
        OptionError: unknown rule.

    >>> shapes = {"conv": (8, 3, 3, 3), "fc": (10, 100)}
    >>> [layer_counts(rule, shapes, 304) for rule in SHARES]
    [{'conv': 54, 'fc': 250}, {'conv': 152, 'fc': 152}, {'conv': 41, 'fc': 263}]
    """
    if rule not in SHARES:
        raise unknown("rule of layerwise densities", rule, SHARES)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    shares = {name: SHARES[rule](shape) for name, shape in shapes.items() if sizes[name]}
    scale = _scale(sizes, shares, total)
    counts = {name: min(sizes[name], math.floor(scale * shares[name] + Fraction(1, 2))) for name in shares}
    _correct(counts, sizes, shares, total)
    return {name: counts.get(name, 0) for name in shapes}


def allocated_mask(rule: str, like: Mapping[str, Tensor], seed: int, whole: Sequence[str] = ()) -> dict[str, Tensor]:
    """Draw a random mask that keeps as many weights as another, divided among its layers by a rule.

    Masks from one seed are nested, as those of `modeconn.pruning.controls.random_mask` are.

    Args:
        rule: as of `layer_counts`.
        like: the other mask.
        seed: of the draw.
        whole: layers that are never pruned, and have no part in the division.

    >>> mask = allocated_mask("balanced", {"a": torch.ones(4) > 0, "b": torch.zeros(6) > 0}, seed=0)
    >>> int(mask["a"].sum()), int(mask["b"].sum())
    (2, 2)
    """
    shapes = {name: tuple(kept.shape) for name, kept in like.items() if name not in whole}
    total = sum(int(like[name].count_nonzero()) for name in shapes)
    counts = layer_counts(rule, shapes, total)
    return {
        name: random_mask_of(name, kept.shape, counts[name], seed) if name in counts else torch.ones_like(kept)
        for name, kept in like.items()
    }


def _scale(sizes: Mapping[str, int], shares: Mapping[str, int], total: int) -> Fraction:
    """What shares are multiplied by, so that all layers, none above its size, have the total."""
    # Layers are full in this order.
    order = sorted(shares, key=lambda name: Fraction(sizes[name], shares[name]))
    left, parts = total, sum(shares.values())
    for name in order:
        if Fraction(left, parts) * shares[name] < sizes[name]:
            return Fraction(left, parts)
        left, parts = left - sizes[name], parts - shares[name]
    return max((Fraction(sizes[name], shares[name]) for name in shares), default=Fraction(0))


def _correct(counts: dict[str, int], sizes: Mapping[str, int], shares: Mapping[str, int], total: int) -> None:
    """Add or remove weights one by one until there are so many, in place: those of the highest share per weight stay.

    The priority of a layer's n-th weight is share / (n - 1/2); of equal ones the earlier layer's goes first.
    """
    place = {name: index for index, name in enumerate(counts)}
    while sum(counts.values()) < total:
        open_ = [name for name in counts if counts[name] < sizes[name]]
        name = max(open_, key=lambda n: (Fraction(shares[n], 2 * counts[n] + 1), -place[n]))
        counts[name] += 1
    while sum(counts.values()) > total:
        some = [name for name in counts if counts[name]]
        name = min(some, key=lambda n: (Fraction(shares[n], 2 * counts[n] - 1), -place[n]))
        counts[name] -= 1
