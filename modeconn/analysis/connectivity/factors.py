"""Paths between adapters by their factors: W0 + scale B(alpha) A(alpha), where B and A are interpolated apart."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from modeconn.analysis.paths.linear import Line, equal_values
from modeconn.errors import NetworkError, OptionError, unknown
from modeconn.weights.low_rank import LowRank
from modeconn.weights.state_dicts import Weights, state_tensors

_NAMED = re.compile(r"(^|[._])lora_(embedding_)?A\b")
_SHOWN = 5  # differences in a message
ADAPTER = ("products", "factors")  # what is interpolated between adapters, or averaged


def check_adapter(adapter: str) -> str:
    """The same, if it is one of the two.

    Raises:
        OptionError: it is not.
    """
    if adapter not in ADAPTER:
        raise unknown("way to interpolate adapters", str(adapter), ADAPTER)
    return adapter


def factor_line(line: Line) -> "FactorLine":
    """The path between two adapters by their factors, with the ends of a line between the merged networks.

    Raises:
        OptionError: an end is no adapter.
        NetworkError: the two have factors of other weights, of other ranks, or with other scales.
    """
    a, b = line.a, line.b
    for end in (a, b):
        if not end.low_rank:
            raise OptionError(
                f'adapter="factors" is a path between two adapters, and {end.origin} is none; leave it out'
            )
    problems = [f"{name} has factors in {a.origin} alone" for name in a.low_rank.keys() - b.low_rank.keys()]
    problems += [f"{name} has factors in {b.origin} alone" for name in b.low_rank.keys() - a.low_rank.keys()]
    for name in a.low_rank.keys() & b.low_rank.keys():
        one, other = a.low_rank[name], b.low_rank[name]
        ranks = [len(update.a()) for update in (one, other)]
        if ranks[0] != ranks[1]:
            problems.append(f"the rank of {name} is {ranks[0]} in {a.origin} and {ranks[1]} in {b.origin}")
        if one.scale != other.scale:
            problems.append(f"the scale of {name} is {one.scale:g} in {a.origin} and {other.scale:g} in {b.origin}")
    if problems:
        more = f" and {len(problems) - _SHOWN} more differences" if len(problems) > _SHOWN else ""
        shown = "; ".join(sorted(problems)[:_SHOWN])
        raise NetworkError(f'adapter="factors" needs adapters of one shape: {shown}{more}; take adapter="products"')
    # Factors can differ where their products are equal: those of -B and -A.
    updates = {
        name: (one, b.low_rank[name])
        for name, one in a.low_rank.items()
        if name in line.moving or not _equal(one, b.low_rank[name])
    }
    return FactorLine(**vars(replace(line, moving=line.moving | updates.keys())), updates=updates)


@dataclass(frozen=True, eq=False)
class FactorLine(Line):
    """A path that is straight but for the weights with factors, whose factors are interpolated instead.

    Attributes:
        updates: those weights by name, as they are at either end.
    """

    updates: Mapping[str, tuple[LowRank, LowRank]]

    @torch.no_grad()
    def load(self, network: nn.Module, alpha: float) -> None:
        """Put the weights at alpha into a network, in place; the ends are those of the line."""
        super().load(network, alpha)
        if alpha in (0, 1):
            return
        targets = state_tensors(network)
        for name, (one, other) in self.updates.items():
            a, b = (_between(x, y, alpha) for x, y in ((one.a(), other.a()), (one.b(), other.b())))
            targets[name].copy_(one.merged(a, b))


def refuse_factors(adapter: str, what: str) -> None:
    """Refuse paths by factors where there are none.

    Raises:
        OptionError: they are asked for.
    """
    if adapter == "factors":
        raise OptionError(f'{what} takes adapters by their products, as merged networks; leave out adapter="factors"')


def notes_on_adapters(weights: Sequence[Weights], adapter: str) -> list[str]:
    """How adapters among the networks are interpolated, and factors that networks have as weights; nothing without."""
    if any(_NAMED.search(name) for one in weights for name in one.layout):
        return [
            "the networks have factors of low-rank updates as weights (lora_A, lora_B), which are interpolated apart; "
            "the path between their products is another one, that of the merged networks"
        ]
    if not any(one.low_rank for one in weights):
        return []
    if adapter == "factors":
        return [
            "adapters are interpolated by their factors: between the ends a weight is W0 + scale B A with A and B "
            "interpolated apart; distances are of the merged weights"
        ]
    return [
        "adapters are interpolated by their products, W0 + scale B A, which is the path between the merged networks; "
        'that of their factors is another one, adapter="factors"'
    ]


def _equal(one: LowRank, other: LowRank) -> bool:
    return equal_values(one.a(), other.a()) and equal_values(one.b(), other.b())


def _between(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    wide = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return torch.lerp(x.to(wide), y.to(wide), alpha)
