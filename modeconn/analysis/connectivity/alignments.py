"""Result of `align_many`: an alignment of each of several networks to one order of units."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

from torch import Tensor

from modeconn.analysis.alignment.alignment import Alignment
from modeconn.analysis.connectivity.averaging import mean_of
from modeconn.errors import unknown
from modeconn.result import Result, Row, note_lines
from modeconn.weights.state_dicts import Weights

COMMON = "common"


@dataclass(frozen=True, eq=False, repr=False)
class Alignments(Result):
    """Several networks in one order of their units.

    Attributes:
        names: what the networks are called.
        alignments: of each, to the reference.
        reference: the name of the network that has the order of all, or `"common"`.
        scores: of a common order: the inner product of the weights of two networks, the mean over all pairs; before,
            and after each pass.
        notes: what was decided.
        settings: how they were found; JSON.
        weights: the networks' own, as they were given.
    """

    names: tuple[str, ...]
    alignments: tuple[Alignment, ...]
    reference: str
    scores: tuple[float, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    weights: tuple[Weights, ...] = field(default=())

    def apply(self, network: int | str) -> dict[str, Tensor]:
        """The state dict of one of the networks, with its units in the order of all; tied tensors are one tensor.

        Args:
            network: its name, or its position from 0.

        Raises:
            OptionError: no such network.
        """
        place = self._position(network)
        return _state(self.alignments[place].permuted(self.weights[place]), self.weights[place])

    def merged(self) -> dict[str, Tensor]:
        """The mean of the aligned networks, as a state dict of their types.

        Running statistics of BatchNorm are averaged like weights, which is not what they should be: measure them anew,
        as `modeconn.soup` does with the state dicts that `apply` gives.
        """
        mean = mean_of([one.permuted(own) for one, own in zip(self.alignments, self.weights, strict=True)])
        return _state(mean, self.weights[0])

    def between(self, a: int | str, b: int | str) -> Alignment:
        """The alignment of one of the networks, b, to another, a, in the order that a has by itself.

        Raises:
            OptionError: no such network.
        """
        first, second = self._position(a), self._position(b)
        found = self.alignments[second].then(self.alignments[first].inverse())
        nothing: dict[str, Any] = {"score": math.nan, "before": math.nan, "scores": (), "change": math.nan, "notes": ()}
        return replace(found, names=(self.names[first], self.names[second]), **nothing)

    def rows(self) -> list[Row]:
        """A row for each network: the share of its units that moved, and its score before and after."""
        return [
            {"network": name, "moved": one.moved, "before": one.before, "score": one.score}
            for name, one in zip(self.names, self.alignments, strict=True)
        ]

    def __str__(self) -> str:
        common = self.reference == COMMON
        to = "a common order, each to the mean of the others" if common else f"the order of {self.reference}"
        width = max(map(len, ("network", *self.names)))
        lines = [f"{len(self.names)} networks aligned to {to}"]
        if common:
            lines.append(
                f"inner product of the weights of two, mean over all pairs: {self.scores[0]:.6g} before, "
                f"{self.scores[-1]:.6g} after {len(self.scores) - 1} passes"
            )
        lines += ["", f"{'network':{width}}{'moved':>10}{'before':>12}{'after':>12}"]
        for row in self.rows():
            numbers = "".join(f"{row[name]:>12.6g}" for name in ("before", "score"))
            shown = "" if row["network"] == self.reference else numbers
            lines.append(f"{row['network']:{width}}{100 * row['moved']:>8.1f} %{shown}")
        return "\n".join([*lines, *note_lines(self.notes)])

    def __repr__(self) -> str:
        return f"Alignments({', '.join(self.names)}; to {self.reference})"

    def _position(self, network: int | str) -> int:
        if isinstance(network, Integral) and not isinstance(network, bool) and 0 <= int(network) < len(self.names):
            return int(network)
        if network not in self.names:
            raise unknown("network", str(network), [*self.names, *map(str, range(len(self.names)))])
        return self.names.index(str(network))


def _state(weights: Weights, like: Weights) -> dict[str, Tensor]:
    """Weights as a state dict whose tensors share nothing but their ties, in the types of others."""
    state: dict[str, Tensor] = {}
    for name, shape in like.layout.items():
        twin = like.aliases.get(name)
        state[name] = state[twin] if twin in state else weights.read(name).to(shape.dtype, copy=True)
    return state
