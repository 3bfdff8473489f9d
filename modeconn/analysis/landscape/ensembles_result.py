"""Result of `ensembles`: averaged predictions beside averaged weights, and the diversity of the members."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict

import numpy as np

from modeconn.analysis.connectivity.samples import measured
from modeconn.result import JsonResult, Number, from_jsonable, note_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _Member(TypedDict):
    """A network in JSON."""

    group: str
    name: str
    error: Number
    loss: Number
    disagreement: Number
    possible: Number


class _Prefix(TypedDict):
    """The first networks of a group in JSON."""

    group: str
    members: int
    ensemble_error: Number
    ensemble_loss: Number
    averaged_error: Number
    averaged_loss: Number


class _Fields(TypedDict):
    """Ensembles in JSON."""

    members: list[_Member]
    prefixes: list[_Prefix]
    reference: str
    batchnorm: Literal["none", "interpolate", "recalibrate"]
    notes: list[str]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Member:
    """A network of a group by itself.

    Attributes:
        group, name: which.
        error: fraction of examples, or tokens.
        loss: mean cross-entropy in nats.
        disagreement: fraction that it labels otherwise than the reference.
        possible: the largest such fraction that two networks of these errors can have.
    """

    group: str
    name: str
    error: float
    loss: float
    disagreement: float
    possible: float

    @property
    def diversity(self) -> float:
        """The disagreement over the network's own error (Fort et al. 2019, section 4.2); NaN without errors."""
        return self.disagreement / self.error if self.error else math.nan


@dataclass(frozen=True)
class Prefix:
    """The first networks of a group together.

    Attributes:
        group: which.
        members: how many of its networks, from the first.
        ensemble_error, ensemble_loss: of their averaged probabilities.
        averaged_error, averaged_loss: of the network with their averaged weights.
    """

    group: str
    members: int
    ensemble_error: float
    ensemble_loss: float
    averaged_error: float
    averaged_loss: float


@dataclass(frozen=True, eq=False)
class Ensembles(JsonResult):
    """Groups of networks: the ensemble of their predictions, the average of their weights, and their diversity.

    Attributes:
        members: the networks, group after group.
        prefixes: for each group, its first 1, 2, ... networks together.
        reference: the network that diversity is measured against, the first of all.
        batchnorm: what was done to running statistics: `"none"` (there are none), `"recalibrate"` or `"interpolate"`.
        notes: everything that was decided.
        settings: what was measured, precision, device, versions; JSON.
    """

    _FORMAT = "modeconn ensembles 1"
    _NAME = "ensembles"
    _SCHEMA = _Fields

    members: tuple[Member, ...]
    prefixes: tuple[Prefix, ...]
    reference: str
    batchnorm: str = "none"
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups, in order."""
        return tuple(dict.fromkeys(member.group for member in self.members))

    def whole(self, group: str) -> Prefix:
        """All networks of a group together."""
        return [prefix for prefix in self.prefixes if prefix.group == group][-1]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each network: itself, and what it and those before it in its group are together."""
        return [
            asdict(member) | {"diversity": member.diversity} | asdict(prefix)
            for member, prefix in zip(self.members, self.prefixes, strict=True)
        ]

    def __str__(self) -> str:
        lines = [f"ensembles of predictions and averages of weights{measured(self.settings)}", ""]
        width = max(len("group"), *map(len, self.groups))
        lines.append(f"{'group':{width}}  networks  mean error  of the ensemble  of the average  diversity")
        for group in self.groups:
            whole, own = self.whole(group), [member for member in self.members if member.group == group]
            others = [member.diversity for member in own if member.name != self.reference]
            error = float(np.mean([member.error for member in own]))
            lines.append(
                f"{group:{width}}  {whole.members:>8}  {100 * error:>8.4g} %  {100 * whole.ensemble_error:>13.4g} %  "
                f"{100 * whole.averaged_error:>12.4g} %  {float(np.mean(others)):>9.3g}"
            )
        lines += [
            "",
            "Errors are those of averaged probabilities (ensemble) and of averaged weights (average). Diversity is the "
            f"part of the examples on which a network differs from {self.reference}, over its own error.",
        ]
        return "\n".join([*lines, *note_lines(self.notes)])

    def plot(self) -> "Figure":
        """Draw error over the number of members, and diversity over error with its bounds, in two panels."""
        from modeconn.style import BATCHNORM, PALETTE, panels, share_legend

        with panels(1, 2, 8.4, 3.4) as (figure, axes):
            left, right = axes[0]
            for place, group in enumerate(self.groups):
                color = PALETTE[place % len(PALETTE)]
                of = [prefix for prefix in self.prefixes if prefix.group == group]
                x = [prefix.members for prefix in of]
                left.plot(x, [100 * one.ensemble_error for one in of], "o-", color=color, markersize=4, label=group)
                left.plot(x, [100 * one.averaged_error for one in of], "s--", color=color, markersize=4, mfc="white")
                own = [one for one in self.members if one.group == group and one.name != self.reference]
                x_own = [100 * one.error for one in own]
                right.plot(x_own, [one.diversity for one in own], "o", color=color, markersize=4, label=group)
            left.plot([], [], "o-", color="0.3", markersize=4, label="averaged predictions")
            left.plot([], [], "s--", color="0.3", markersize=4, mfc="white", label="averaged weights")
            left.set(xlabel="networks", ylabel="error (%)")
            left.xaxis.get_major_locator().set_params(integer=True)
            if max(one.averaged_error for one in self.prefixes) > 4 * max(one.error for one in self.members):
                left.set_yscale("log")
            left.set_title(BATCHNORM[self.batchnorm])
            self._draw_bounds(right)
            right.set(xlabel="error of the network (%)", ylabel="diversity (disagreement / error)")
            right.set_title(f"compared with {self.reference}")
            share_legend(figure, (left, right))
            return figure

    def _draw_bounds(self, ax: Any) -> None:
        """Shade the diversity that is possible: from that of the difference of the errors to that of their sum."""
        ordered = sorted((one for one in self.members if one.error), key=lambda one: one.error)
        base = next(member.error for member in self.members if member.name == self.reference)
        x = np.array([one.error for one in ordered])
        low, high = np.abs(x - base) / x, np.array([one.possible for one in ordered]) / x
        ax.fill_between(100 * x, low, high, color="0.85", linewidth=0, label="possible with these errors")

    def _fields(self) -> dict[str, Any]:
        return {
            "members": [asdict(member) for member in self.members],
            "prefixes": [asdict(prefix) for prefix in self.prefixes],
            "reference": self.reference,
            "batchnorm": self.batchnorm,
            "notes": list(self.notes),
            "settings": dict(self.settings),
        }

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        members = tuple(Member(**_row(one)) for one in content["members"])
        prefixes = tuple(Prefix(**_row(one)) for one in content["prefixes"])
        if [one.group for one in members] != [one.group for one in prefixes] or not members:
            raise ValueError("its networks are not those of its groups")
        if content["reference"] != members[0].name:
            raise ValueError("its reference is not its first network")
        return cls(
            members, prefixes, content["reference"], content["batchnorm"], tuple(content["notes"]), content["settings"]
        )


def _row(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a row in JSON: names and counts as they are, measured numbers as numbers."""
    kept = ("group", "name", "members")
    return {name: value if name in kept else from_jsonable(value) for name, value in content.items()}
