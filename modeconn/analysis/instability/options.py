"""Options of an instability study. Imports no torch, so that help is quick."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from typing import Any

from modeconn.analysis.paths.alphas import grid
from modeconn.errors import OptionError, unknown
from modeconn.options import (
    BATCHNORM,
    CALIBRATION,
    SPLITS,
    THRESHOLD,
    chosen_names,
    number,
    option,
    require,
    require_jobs,
    whole_number,
)
from modeconn.tasks import NOISE_SOURCES
from modeconn.training.perturbation import Perturbation

SEARCHED = "0,0.1%,0.2%,0.4%,0.8%,1.6%,3.125%,6.25%,12.5%,25%,50%"  # by default: bisection makes many k cheap
TOGETHER = ("auto", "yes", "no")
MEASURES = ("ends",)
COPIES_TRAIN = ("rest", "whole")
FORK_OPTIMIZER = ("carry", "reset")
ALIGN = ("weights",)


@dataclass(frozen=True)
class StudyOptions:
    """The options of a study, besides its task and where it is computed; see `modeconn.instability`.

    Raises:
        OptionError: an option is out of its range; the message names it.

    >>> StudyOptions(alphas=5).points
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """

    rewind_iters: str | int | Iterable[str | int] = option(
        "0,1%,3%,10%,30%", "rewinding iterations k: iterations, epochs or percentages (500, 500it, 2ep, 3%%)"
    )
    search: bool = option(False, "find the smallest stable k by bisection and confirm it, instead of measuring every k")
    replicates: int = option(3, "initialisations, each with its own trunk and copies")
    copies: int = option(2, "copies forked at each k; every pair of them is measured")
    alphas: int | str | Sequence[float] = option(
        31,
        "points on a path, ends included: how many, which (0,0.5,1), paper, or adaptive (fewer, where it is highest)",
    )
    batchnorm: Sequence[str] = option(
        BATCHNORM, "BatchNorm's running statistics on the path: interpolate, recalibrate, or both"
    )
    splits: Sequence[str] = option(SPLITS, "where errors are measured: test, train, or both")
    noise: Sequence[str] = option(NOISE_SOURCES, "sources of SGD noise that differ between copies")
    threshold: float = option(THRESHOLD, "instability below which a network is stable")
    calibration: int = option(CALIBRATION, "training examples to recalibrate on, at most")
    together: str = option("auto", "train the copies of one k as one program: yes, no, or where that is much faster")
    seed: int = option(0, "seed of the whole study")
    measure_at: str | int | Iterable[str | int] = option(
        (), "iterations to measure the barriers between copies at, besides the last (10%%,25%%,2ep)"
    )
    measures: Sequence[str] = option(
        (), "what else is measured: ends (how copies differ in weights, labels and losses), or none"
    )
    copies_train: str = option(
        "rest", "how long copies train: the rest of the T iterations, or a whole T on the schedule begun anew"
    )
    fork_optimizer: str = option("carry", "the optimizer's state (momentum) at the fork: carry it on, or reset it")
    perturb: str | None = option(
        None, "copies share all noise and all but the first are perturbed at k: weight, gaussian:NORM or batch"
    )
    align: str | None = option(
        None, "also measure barriers after the units of each pair's second copy are permuted to fit the first: weights"
    )

    curvature: bool = option(
        False, "also the largest eigenvalue and the trace of the Hessian of the training loss, at k and of the copies"
    )
    curvature_examples: int = option(1000, "training examples that the curvature is of, at most")

    def __post_init__(self) -> None:
        for name, least, why in _WHOLE:
            object.__setattr__(self, name, whole_number(getattr(self, name), least, why))
        require_jobs(jobs_of_copies(self.replicates, self.copies), self._asked())
        object.__setattr__(self, "threshold", number("the threshold", self.threshold))
        require(0 < self.threshold < 1, f"the threshold must be between 0 and 1 of error; got {self.threshold}")
        for name, choices in _CHOICES:
            if getattr(self, name) not in choices:
                raise unknown(f"choice for {name}", str(getattr(self, name)), choices)
        if self.perturb is not None:
            Perturbation.parse(self.perturb)
            require(
                (self.copies_train, self.fork_optimizer) == ("rest", "carry") and self.together != "yes",
                "perturbed copies differ by nothing else; leave copies_train=, fork_optimizer= and together= at "
                "their defaults",
            )
        if self.align not in (None, *ALIGN):
            raise unknown("choice for align", str(self.align), ALIGN)
        for name, kind, known in _NAMES:
            object.__setattr__(self, name, chosen_names(kind, getattr(self, name), known))
        object.__setattr__(self, "measures", chosen_names("measure", self.measures, MEASURES, least=0))
        for name, what in _ITERATIONS:
            given = getattr(self, name)
            if isinstance(given, Iterable) and not isinstance(given, str):
                object.__setattr__(self, name, tuple(given))  # an iterator would be used up
            else:
                require(isinstance(given, str | Integral), f"{what} are whole numbers or text; got {given!r}")
        if self.search and self.rewind_iters == StudyOptions.rewind_iters:
            object.__setattr__(self, "rewind_iters", SEARCHED)
        if not isinstance(self.alphas, str) or self.alphas != "adaptive":
            object.__setattr__(self, "alphas", self.points)

    @property
    def points(self) -> tuple[float, ...]:
        """The alphas themselves, ascending from 0 to 1.

        Raises:
            OptionError: they are adaptive, other ones on each path.
        """
        if isinstance(self.alphas, str) and self.alphas == "adaptive":
            raise OptionError("all paths of this study are measured on one grid; alphas are a count, a list or paper")
        return grid(self.alphas)

    def require_room(self, ks: int, choices: int, measured: int = 1) -> None:
        """Refuse more jobs than a study can have.

        Args:
            ks: how many rewinding iterations there are.
            choices: how many BatchNorm choices.
            measured: at how many iterations copies are measured.

        Raises:
            OptionError: there would be too many.
        """
        jobs = ks * choices * measured * jobs_of_copies(self.replicates, self.copies)
        often = f", each measured {measured:,} times" if measured > 1 else ""
        require_jobs(jobs, f"{self._asked()} at {ks:,} k{often}")

    def asked(self) -> dict[str, Any]:
        """For the name of a study's record: the options, but those that came later only where they are in use."""
        off = {field.name: field.default for field in fields(self) if field.name in _LATER}
        return {name: value for name, value in asdict(self).items() if name not in off or value != off[name]}

    def _asked(self) -> str:
        return f"{self.replicates:,} replicates of {self.copies:,} copies"


def jobs_of_copies(replicates: int, copies: int) -> int:
    """How many trainings, measurements of ends and of paths between all pairs of copies there are for one k."""
    return replicates * (1 + 2 * copies + math.comb(copies, 2))


# Options that came after version 0.1.0, whose records keep their names.
_LATER = (
    *("measure_at", "measures", "copies_train", "fork_optimizer", "perturb", "align"),
    *("curvature", "curvature_examples"),
)
_ITERATIONS = (("rewind_iters", "rewinding iterations"), ("measure_at", "iterations to measure at"))
_WHOLE = (
    ("replicates", 1, "there must be at least one replicate"),
    ("copies", 2, "instability compares copies, so there must be at least 2"),
    ("calibration", 2, "recalibration needs at least 2 examples"),
    ("curvature_examples", 1, "curvature is of at least one training example"),
    ("seed", 0, "the seed must be a whole number, not negative"),
)
_CHOICES = (("together", TOGETHER), ("copies_train", COPIES_TRAIN), ("fork_optimizer", FORK_OPTIMIZER))
_NAMES = (
    ("batchnorm", "BatchNorm choice", BATCHNORM),
    ("splits", "split", SPLITS),
    ("noise", "source of noise", NOISE_SOURCES),
)
