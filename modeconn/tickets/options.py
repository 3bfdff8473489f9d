"""Options of a lottery-ticket study. Imports no torch, so that help is quick."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from typing import Any

from modeconn.analysis.instability.options import MEASURES, StudyOptions, jobs_of_copies
from modeconn.errors import unknown
from modeconn.options import (
    BATCHNORM,
    CALIBRATION,
    SCOPES,
    SPLITS,
    THRESHOLD,
    chosen_names,
    number,
    option,
    require,
    require_jobs,
    whole_number,
)

CONTROLS = ("random", "reinit", "shuffle", "invert", "rewind0", "sign")  # at the ticket's layerwise density
ALLOCATED = ("uniform", "balanced", "erk")  # random masks at its overall density, divided among layers by a rule
CRITERIA = ("magnitude", "snip", "grasp", "grasp-abs", "synflow")  # at its overall density, found at `prune_iter`
SCORED = (*CRITERIA, "oneshot")  # the last is magnitude at the end of training
ABLATIONS = ("shuffle", "reinit", "invert")  # of a scored mask (Frankle et al. 2021): "snip-shuffle"
DENSE = "dense"  # the condition of level 0, the full network
PLAIN = ("imp", *CONTROLS, *ALLOCATED, *SCORED)
CONDITIONS = (*PLAIN, *(f"{name}-{ablation}" for name in SCORED for ablation in ABLATIONS))
RETRAIN = ("weights", "rate", "finetune")  # Renda et al. 2020: weight rewinding, learning rate rewinding, fine-tuning
BARRIERS = ("instability", "previous", "dense")
DETAILS = ("paths", "curves")

_Rates = Sequence[tuple[str, float]]
_AS_FRAMEWORK = ("global", (("output", 0.0),))  # Frankle et al. 2020, the output left out as in their framework
_PAPERS: dict[str, tuple[str, _Rates]] = {  # how the networks of the papers are pruned, by how their names begin
    "lenet-": _AS_FRAMEWORK,
    "vgg-": _AS_FRAMEWORK,
    # Frankle & Carbin 2019, Figure 2, for a fraction of 0.2: convolutions lose 10 or 15 %, the output half of 20 %.
    "conv-2": ("layerwise", (("conv", 0.5), ("output", 0.5))),
    "conv-4": ("layerwise", (("conv", 0.5), ("output", 0.5))),
    "conv-6": ("layerwise", (("conv", 0.75), ("output", 0.5))),
}


def pruning_of(model: str) -> tuple[str, _Rates]:
    """Where the weights of a network compete and which of its layers lose more or less, as its paper has it.

    >>> pruning_of("conv-2"), pruning_of("resnet-20")
    (('layerwise', (('conv', 0.5), ('output', 0.5))), ('global', ()))
    """
    return next((how for name, how in _PAPERS.items() if model.startswith(name)), ("global", ()))


def scored_by(condition: str) -> tuple[str | None, str | None]:
    """By what a condition's mask is scored, and what is done to it; None for nothing.

    >>> scored_by("grasp-abs-shuffle"), scored_by("oneshot"), scored_by("shuffle")
    (('grasp-abs', 'shuffle'), ('oneshot', None), (None, None))
    """
    for name in SCORED:
        for ablation in (None, *ABLATIONS):
            if condition == "-".join(filter(None, (name, ablation))):
                return name, ablation
    return None, None


def draws_weights(condition: str) -> bool:
    """Whether a condition's weights are of another initialisation than the dense network's.

    >>> draws_weights("sign"), draws_weights("snip-reinit"), draws_weights("rewind0")
    (True, True, False)
    """
    return condition in ("reinit", "sign") or scored_by(condition)[1] == "reinit"


@dataclass(frozen=True)
class LotteryOptions:
    """Options of a lottery-ticket study, besides its task and where it is computed; see `modeconn.lottery`.

    Level n leaves a density of (1 - fraction)^n, up to rounding and `rates`. A `scope` and `rates` that are None are
    those of the network's paper. By default tickets are compared with both controls of Frankle & Carbin (2019) and
    Frankle et al. (2020): random masks, and the ticket's mask on new weights.

    Raises:
        OptionError: an option is out of its range; the message names it.

    >>> LotteryOptions(levels=2, fraction=0.5).conditions
    ('imp', 'random', 'reinit')
    """

    levels: int = option(8, "levels of pruning; level 0 is the dense network")
    fraction: float = option(0.2, "fraction of the remaining weights that each level prunes")
    rewind_iter: str | int | Iterable[str | int] = option(
        "auto", "rewinding iteration k (500, 2ep, 3%%), several (0,500,3%%), or auto: where instability says"
    )
    rewind_iters: str | int | Iterable[str | int] = option(
        StudyOptions.rewind_iters, "the k that auto measures the dense network's instability at"
    )
    search: bool = option(False, "auto finds k by bisection over rewind-iters, and confirms it at the next ones")
    replicates: int = option(2, "initialisations, each with its own masks")
    copies: int = option(2, "trainings of a subnetwork, for its instability between all pairs of them")
    conditions: Sequence[str] = option(
        ("imp", "random", "reinit"),
        "what is trained at every level; snip-shuffle, snip-reinit and snip-invert are controls of snip, and so of all "
        f"that is scored, {' to '.join(SCORED[:: len(SCORED) - 1])}",
        PLAIN,
    )
    barriers: Sequence[str] = option(
        BARRIERS,
        "which are measured: instability, to the previous level, to the dense network; or none",
        BARRIERS,
    )
    barriers_of: Sequence[str] = option(("imp",), "conditions whose barriers are measured; others are trained once")
    retrain: str = option(
        "weights",
        "what is rewound before retraining: weights and schedule, the schedule (rate), or neither (finetune)",
        RETRAIN,
    )
    scope: str | None = option(
        None, "whether weights compete within the network or within their layer: global, layerwise", SCOPES
    )
    rates: Sequence[tuple[str, float]] | None = option(
        None,
        "what loses a multiple of the fraction: output=0.5, or 0 for never; first, output, conv, linear, a name; none",
    )
    carry_optimizer: bool = option(False, "carry the optimizer's state on at a rewind; by default it starts anew")
    prune_iter: str | int = option(
        0, "iteration of the network that snip, synflow, ... score (0, 3%%, 100%%), or rewind"
    )
    per_class: int = option(10, "training examples of each class that snip and grasp score with")
    threshold: float = option(THRESHOLD, "instability below which a network is stable")
    batchnorm: str = option(BATCHNORM[0], "BatchNorm choice whose instability decides about k", BATCHNORM)
    fix: bool = option(True, "measure barriers with a statistics fix too: recalibrated BatchNorm, or REPAIR without")
    alphas: int | str | Sequence[float] = option(11, "points on a path, ends included: how many, which, or paper")
    splits: Sequence[str] = option(SPLITS, "where errors are measured: test, or both test and train")
    calibration: int = option(CALIBRATION, "training examples to take statistics on, at most")
    validation: int | None = option(
        None, "training examples to hold out for early stopping; by default 5000, at most a tenth"
    )
    seed: int = option(0, "seed of the whole study")
    reinits: int = option(1, "new initialisations of each ticket, where a condition draws weights anew")
    sign_flips: bool = option(False, "count the weights whose sign changes between k and the end of training")
    at_levels: tuple[int, ...] = option(
        (), "levels at which barriers are measured and conditions beside imp trained; none stands for all"
    )
    details: Sequence[str] = option(
        (), "tables to keep, too: paths (errors between copies), curves (errors during training)", DETAILS
    )
    measures: Sequence[str] = option(
        (), "what else is measured between copies: ends (how they differ in weights, labels and losses), or none"
    )
    together: str = option(
        "auto", "train the networks of one level as one program: yes, no, or where that is much faster"
    )

    def __post_init__(self) -> None:
        for name, least, why in _WHOLE:
            self._set(name, whole_number(getattr(self, name), least, why))
        held_out = self.validation
        require(
            held_out is None or (isinstance(held_out, Integral) and held_out >= 0),
            f"validation is a number of examples, not negative; got {held_out!r}",
        )
        self._set("fraction", number("fraction", self.fraction))
        require(0 < self.fraction < 1, f"the fraction that a level prunes must be between 0 and 1; got {self.fraction}")
        self._set("conditions", chosen_names("condition", self.conditions, CONDITIONS))
        self._set("barriers", chosen_names("barrier", self.barriers, BARRIERS, least=0))
        require(
            self.copies > 1 or not ("instability" in self.barriers or self.rewind_iter == "auto"),
            f"{_COPIES}; got {self.copies}",
        )
        self._set("barriers_of", chosen_names("condition", self.barriers_of, CONDITIONS, least=0))
        self._set("details", chosen_names("table", self.details, DETAILS, least=0))
        self._set("measures", chosen_names("measure", self.measures, MEASURES, least=0))
        require(
            not self.measures or "instability" in self.barriers,
            "measures compare the copies whose instability is measured, and barriers leave it out; add instability to "
            "barriers, or leave measures out",
        )
        self._set("at_levels", tuple(sorted({whole_number(level, 1, _LEVEL) for level in self.at_levels})))
        require(
            not self.at_levels or self.at_levels[-1] <= self.levels,
            f"at-levels names level {max(self.at_levels, default=0)} of {self.levels}; give levels up to the last",
        )
        for name, value, known in (("retrain", self.retrain, RETRAIN), ("scope", self.scope, (None, *SCOPES))):
            if value not in known:
                raise unknown(name, str(value), [word for word in known if word])
        if self.batchnorm not in BATCHNORM:
            raise unknown("BatchNorm choice", str(self.batchnorm), BATCHNORM)
        others = [name for name in self.conditions if name != "imp"]
        require(
            self.retrain == "weights" or not others,
            f"retrain={self.retrain!r} goes on from the ticket's own weights, so that {', '.join(others)} would be "
            "something else; compare them with retrain='weights'",
        )
        require(
            self.retrain == "weights" or not self.carry_optimizer,
            f"retrain={self.retrain!r} goes on from the end of a training, where no optimizer state is kept",
        )
        if self.rates is not None:
            self._set("rates", tuple((str(name), number(f"rate of {name}", rate)) for name, rate in self.rates))
        for name in ("rewind_iter", "rewind_iters"):
            given = getattr(self, name)
            if isinstance(given, Iterable) and not isinstance(given, str):
                self._set(name, tuple(given))  # an iterator would be used up
        several = self._given_ks
        require(
            several == 1 or "rewind0" not in self.conditions,
            "the condition rewind0 compares with weights from iteration 0, which several rewind_iter= contain as "
            "rewind_iter=0; leave rewind0 out",
        )
        subnetworks = 1 + self.levels * sum(map(self.draws, self.conditions))
        require_jobs(
            several * subnetworks * jobs_of_copies(self.replicates, self.copies),
            f"{self.levels:,} levels of {len(self.conditions)} conditions in {self.replicates:,} replicates of "
            f"{self.copies:,} copies" + (f" at {several:,} k" if several > 1 else ""),
        )
        study = self.study()  # checks what it shares with this one
        for name in ("threshold", "splits"):
            self._set(name, getattr(study, name))
        require("test" in self.splits, "matching is about test error, so splits must contain test")
        self._set("alphas", study.points)

    @property
    def points(self) -> tuple[float, ...]:
        """The alphas of a path, ascending from 0 to 1."""
        return self.study().points

    def draws(self, condition: str) -> int:
        """How many subnetworks of a condition there are at each level of a replicate."""
        return self.reinits if draws_weights(condition) else 1

    def asked(self) -> dict[str, Any]:
        """For the name of a study's record: the options, but those that came later only where they are in use."""
        off = {field.name: field.default for field in fields(self) if field.name in _LATER}
        return {name: value for name, value in asdict(self).items() if name not in off or value != off[name]}

    def study(self) -> StudyOptions:
        """The options of the instability study of the dense network."""
        return StudyOptions(
            rewind_iters=self.rewind_iters,
            search=self.search,
            replicates=self.replicates,
            copies=max(2, self.copies),  # with one, nothing of this study is computed
            alphas=self.alphas,
            # What decides about k comes first.
            batchnorm=tuple(dict.fromkeys((self.batchnorm, *(BATCHNORM if self.fix else ())))),
            splits=sorted(self.splits),
            threshold=self.threshold,
            calibration=self.calibration,
            together=self.together,  # its copies are the dense networks
            seed=self.seed,
        )

    @property
    def _given_ks(self) -> int:
        """How many rewinding iterations are given, at most; some may turn out to be the same."""
        given = self.rewind_iter.split(",") if isinstance(self.rewind_iter, str) else self.rewind_iter
        return len(given) if isinstance(given, Sequence) else 1

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


# Options that came after version 0.1.0, whose records keep their names.
_LATER = ("reinits", "sign_flips", "at_levels", "details", "measures", "together")
_COPIES = "instability compares copies, so there must be at least 2"
_LEVEL = "levels are whole numbers, from 1 on"
_WHOLE = (
    ("levels", 0, "levels are a whole number, not negative"),
    ("replicates", 1, "there must be at least one replicate"),
    ("copies", 1, _COPIES),
    ("reinits", 1, "there must be at least one new initialisation"),
    ("per_class", 1, "a criterion needs at least one example of each class"),
)
