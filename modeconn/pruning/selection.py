"""Selection of weights by their scores: exact counts round(p n), ties broken by position."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from modeconn.errors import NetworkError, OptionError, unknown
from modeconn.options import SCOPES

Pool = tuple[str, ...]  # the names of the layers that are compared with each other


def counts_after(
    sizes: Mapping[str, int],
    fraction: float,
    *,
    scope: str = "global",
    rates: Mapping[str, float] | None = None,
    levels: int = 1,
    part: float = 1.0,
) -> dict[Pool, int]:
    """Count the weights that remain in each pool after removing a fraction several times, without a network.

    Of n weights, a level leaves n - round(p n), with p the fraction times the pool's rate. So a study can see
    beforehand that its last level leaves something. Of layers in one pool the scores decide which loses how much; what
    all have together is known.

    Args:
        sizes: by layer, how many weights remain before.
        fraction: of what remains in a pool, that goes each time, in [0, 1).
        scope: `"global"` for one pool of all layers, `"layerwise"` for a pool for each.
        rates: by layer, what to multiply the fraction by: 0.5 for half the rate, as Frankle & Carbin (2019) prune
            output layers; 0 for none. A layer with another rate than 1 is a pool of its own.
        levels: how many times; each removes round(p n) of what is left.
        part: how much of a level, in (0, 1], on the exponential schedule: n - round((1 - (1 - p)^part) n) remain.

    Raises:
        OptionError: a fraction, scope or rate that cannot be, or nothing would remain in the network.

    >>> lenet = {"fc1": 235_200, "fc2": 30_000, "out": 1_000}
    >>> counts_after(lenet, 0.2)
    {('fc1', 'fc2', 'out'): 212960}
    >>> counts_after(lenet, 0.2, scope="layerwise", rates={"out": 0.5}, levels=2)
    {('fc1',): 150528, ('fc2',): 19200, ('out',): 810}
    """
    shares = _shares(sizes, fraction, scope, rates or {})
    counts = {pool: sum(sizes[name] for name in pool) for pool in shares}
    for _ in range(levels):
        counts = {pool: n - _removed(n, shares[pool], part) for pool, n in counts.items()}
    if not sum(counts.values()):
        raise OptionError(
            f"nothing would remain: removing {fraction:g} of {sum(sizes.values())} weights {levels} times leaves none; "
            "choose a smaller fraction, a higher density or fewer levels"
        )
    return counts


def keep_highest(
    scores: Mapping[str, Tensor], mask: Mapping[str, Tensor], counts: Mapping[Pool, int]
) -> dict[str, Tensor]:
    """Keep the highest scores among the weights in `mask`, as many in each pool as `counts` says.

    Of equal scores the earlier goes first: layers in the order of `scores`, and row by row in each. What is pruned is
    never restored, whatever its score. Takes time in proportion to the number of weights: nothing is sorted.

    Args:
        scores: by parameter name; higher is more important. Infinities are allowed.
        mask: for the same names, True where a weight remains. Unchanged.
        counts: of `counts_after`.

    Returns:
        By name, in the order of `scores`, where the mask's tensors are. A layer may be left with nothing.

    Raises:
        NetworkError: scores that are NaN, or not for the mask's weights; the layers are named.

    >>> scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([1.0, 2.0])}
    >>> everything = {name: torch.ones(2, dtype=torch.bool) for name in scores}
    >>> keep_highest(scores, everything, {("a", "b"): 3})
    {'a': tensor([ True, False]), 'b': tensor([True, True])}
    """
    _check_scores(scores, mask)
    kept: dict[str, Tensor] = {}
    for pool, count in counts.items():
        names = [name for name in scores if name in pool]  # in this order: it decides between equals
        chosen = _highest([_on_cpu(scores[name]) for name in names], [_on_cpu(mask[name]) for name in names], count)
        kept |= {name: torch.from_numpy(one).to(mask[name].device) for name, one in zip(names, chosen, strict=True)}
    return {name: kept[name] for name in scores}


def check_rates(rates: Mapping[str, float]) -> None:
    """Refuse rates that are no numbers of at least 0, or infinite.

    Raises:
        OptionError: naming the layers.
    """
    wrong = [
        f"{rate!r} for {name}"
        for name, rate in rates.items()
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < math.inf
    ]
    if wrong:
        raise OptionError(f"a rate multiplies the fraction of one layer and is at least 0; got {', '.join(wrong)}")


def _shares(sizes: Iterable[str], fraction: float, scope: str, rates: Mapping[str, float]) -> dict[Pool, float]:
    """Divide layers into pools, and give the fraction that each loses."""
    names = list(sizes)
    if not 0 <= fraction < 1:  # NaN is refused too
        raise OptionError(f"the fraction to remove must be at least 0 and below 1; got {fraction!r}")
    if scope not in SCOPES:
        raise unknown("scope", str(scope), SCOPES)
    check_rates(rates)
    for name in rates:
        if name not in names:
            raise unknown("layer", name, names)
    if wrong := [f"{name}: {rate * fraction:g}" for name, rate in rates.items() if rate * fraction >= 1]:
        raise OptionError(f"a rate times the fraction must be below 1; it is not for {', '.join(wrong)}")
    # In the global scope all layers compete for what remains, except for those with a rate of their own.
    alone = [name for name in names if scope == "layerwise" or rates.get(name, 1) != 1]
    together = tuple(name for name in names if name not in alone)
    pools = ([together] if together else []) + [(name,) for name in alone]
    return {pool: fraction * rates.get(pool[0], 1) for pool in pools}


def _removed(n: int, fraction: float, part: float) -> int:
    # Not by the power at the end of the schedule: 1 - (1 - p) is not quite p.
    return round((fraction if part == 1 else 1 - (1 - fraction) ** part) * n)


def _highest(scores: list[np.ndarray], mask: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Keep the `count` highest scores among the weights in the masks; of equal ones the later.

    By a partition, in linear time. On the CPU: PyTorch has none on GPUs that always gives the same among equals.
    """
    values = np.concatenate([one[remains] for one, remains in zip(scores, mask, strict=True)])
    removed = len(values) - count
    if not removed:
        return [remains.copy() for remains in mask]
    # The highest score that goes. All below it go as well, and of those that equal it the first ones, as many as lack.
    threshold = np.partition(values, removed - 1)[removed - 1]
    equals = removed - np.count_nonzero(values < threshold)
    kept = []
    for one, remains in zip(scores, mask, strict=True):
        chosen = remains & (one >= threshold)
        first = np.flatnonzero(chosen & (one == threshold))[:equals]
        chosen.reshape(-1)[first] = False
        equals -= len(first)
        kept.append(chosen)
    return kept


def _on_cpu(tensor: Tensor) -> np.ndarray:
    """Convert to a NumPy array, row by row; NumPy has no bfloat16."""
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def _check_scores(scores: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> None:
    wrong = [f"{name} has scores and no mask" for name in scores if name not in mask]
    wrong += [f"{name} has a mask and no scores" for name in mask if name not in scores]
    wrong += [
        f"{name} has scores {list(scores[name].shape)} and a mask {list(mask[name].shape)}"
        for name in scores
        if name in mask and scores[name].shape != mask[name].shape
    ]
    if wrong:
        raise NetworkError(f"the scores are not for the mask's weights: {'; '.join(wrong)}")
    if undefined := [name for name in scores if bool((scores[name].isnan() & mask[name]).any())]:
        raise NetworkError(f"scores are NaN, so that they have no order, in {', '.join(undefined)}")
