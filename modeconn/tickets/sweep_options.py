"""Options of a sweep over density. Imports no torch, so that help is quick."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from modeconn.analysis.instability.options import StudyOptions
from modeconn.options import option, require, whole_number
from modeconn.tickets.options import LotteryOptions


def _of_lottery(name: str, default: Any = None) -> Any:
    """Declare a field like that of a lottery, with another default if one is given."""
    known = LotteryOptions.__dataclass_fields__[name]
    text, choices = known.metadata["help"], known.metadata["choices"]
    return option(known.default if default is None else default, text, choices)


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep over density, besides its task and where it is computed; see `modeconn.sweep`.

    Raises:
        OptionError: an option is out of its range; the message names it.

    >>> SweepOptions(levels=[3, 1]).levels
    (1, 3)
    """

    levels: tuple[int, ...] = option((1, 3, 5, 7), "levels of pruning that are looked at, each by itself")
    ks: str | int | Iterable[str | int] = option(
        StudyOptions.rewind_iters, "rewinding iterations k to bisect: iterations, epochs or percentages (500, 2ep, 3%%)"
    )
    conditions: Sequence[str] = _of_lottery("conditions", ("imp", "random"))
    fraction: float = _of_lottery("fraction")
    replicates: int = _of_lottery("replicates")
    copies: int = _of_lottery("copies")
    retrain: str = _of_lottery("retrain")
    scope: str | None = _of_lottery("scope")
    rates: Sequence[tuple[str, float]] | None = _of_lottery("rates")
    carry_optimizer: bool = _of_lottery("carry_optimizer")
    prune_iter: str | int = _of_lottery("prune_iter")
    per_class: int = _of_lottery("per_class")
    threshold: float = _of_lottery("threshold")
    batchnorm: str = _of_lottery("batchnorm")
    alphas: int | str | Sequence[float] = _of_lottery("alphas")
    calibration: int = _of_lottery("calibration")
    validation: int | None = _of_lottery("validation")
    seed: int = _of_lottery("seed")
    together: str = _of_lottery("together")

    def __post_init__(self) -> None:
        several = isinstance(self.levels, Iterable) and not isinstance(self.levels, str)
        require(several, f"give levels of pruning in a list; got {self.levels!r}")
        levels = {whole_number(level, 1, "levels of pruning are whole numbers of at least 1") for level in self.levels}
        require(bool(levels), "give at least one level of pruning to look at")
        object.__setattr__(self, "levels", tuple(sorted(levels)))
        if isinstance(self.ks, Iterable) and not isinstance(self.ks, str):
            object.__setattr__(self, "ks", tuple(self.ks))  # an iterator would be used up
        else:
            require(isinstance(self.ks, str | Integral), f"ks are whole numbers or text; got {self.ks!r}")
        require(self.ks not in ((), ""), "give at least one k to look at")
        require("rewind0" not in self.conditions, "rewind0 is not rewound to the k that is looked for; leave it out")
        whole = LotteryOptions(**self.lottery(self.levels, self.ks))  # checks what it shares with this one
        for name in ("conditions", "threshold", "rates", "alphas"):
            object.__setattr__(self, name, getattr(whole, name))

    def lottery(self, levels: Sequence[int], rewind_iter: str | int | Iterable[str | int]) -> dict[str, Any]:
        """The options of a lottery that measures some levels at some k.

        Instability is measured with the BatchNorm choice that decides alone, and as matching, on test data.
        """
        own = ("levels", "ks")
        shared = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in own}
        decided = {"rewind_iter": rewind_iter, "levels": max(levels), "at_levels": tuple(levels), "splits": ("test",)}
        decided |= {"barriers": ("instability",), "barriers_of": self.conditions}
        return shared | decided | {"fix": self.batchnorm == "recalibrate"}
