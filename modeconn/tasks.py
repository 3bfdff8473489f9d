"""Tasks (what is trained, and how), with the papers' as presets. Imports no torch, so that help is quick."""

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

from modeconn.errors import OptionError, unknown
from modeconn.options import option

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "step", "linear", "cosine")
NORMS = ("batch", "layer", "group", "none")
INITS = ("glorot", "kaiming", "open-lth", "own")
NOISE_SOURCES = ("order", "augmentation", "dropout")  # what SGD noise is made of
AUGMENTATIONS = ("none", "flip", "crop-flip", "resized-crop-flip")
_MOST = 10**9  # iterations, or examples of a batch: a thousand times those of any preset
_KINDS = {int: "whole number", float: "number", str: "text", bool: "truth value", tuple: "list of whole numbers"}


@dataclass(frozen=True)
class Task:
    """Everything but the seeds that decides on a training: data, network, optimizer, schedule, batch size, length T.

    Times are iterations (optimizer steps). `source` and `name` are for people; every other field is part of a
    run's name.

    Raises:
        OptionError: a field is out of its range; the message names the field.

    >>> get_task("cifar10-resnet20").milestones
    (32000, 48000)
    """

    name: str = option("own", "how the task is called in tables and figures")
    data: str = option("digits", "data set: a name, a prepared .npz, or an ImageNet-style folder")
    model: str = option("digits-conv", "network: a name, or package.module:factory for your own")
    width: float = option(1.0, "multiplies the number of channels of a convolutional network")
    norm: str = option("batch", "normalization layers", NORMS)
    dropout: float = option(0.0, "probability of dropout before the fully-connected layers (LeNet, Conv-N)")
    init: str = option("kaiming", "initialization of weights ('own': as the network's code does it)", INITS)
    optimizer: str = option("sgd", "optimizer", OPTIMIZERS)
    learning_rate: float = option(0.1, "peak learning rate")
    momentum: float = option(0.0, "momentum of SGD")
    nesterov: bool = option(False, "Nesterov momentum")
    weight_decay: float = option(0.0, "weight decay, on every parameter")
    schedule: str = option("constant", "learning rate over iterations", SCHEDULES)
    milestones: tuple[int, ...] = option((), "iterations at which the step schedule multiplies by gamma")
    gamma: float = option(0.1, "factor of the step schedule")
    final_learning_rate: float = option(0.0, "where the linear and cosine schedules end")
    warmup: int = option(0, "iterations of linear warmup")
    batch_size: int = option(128, "examples per iteration")
    iterations: int = option(1000, "length T of a training")
    augmentation: str = option("none", "augmentation of training images", AUGMENTATIONS)
    image_size: int = option(0, "side of the square images cut from an ImageNet-style folder")
    normalize: str = option("", "(pixel / 255 - MEAN) / STD: none, imagenet or MEAN,STD; empty for the data set's own")
    evaluate_every: int = option(0, "iterations between the evaluations in metrics.jsonl; 0: none")
    validation: int = option(0, "training examples that are held out, to choose the iteration of early stopping on")
    source: str = option("", "where the hyperparameters come from")

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            # The way to set a field of a frozen dataclass.
            object.__setattr__(self, entry.name, self._typed(entry.name, type(entry.default)))
            choices = entry.metadata["choices"]
            if choices and getattr(self, entry.name) not in choices:
                raise unknown(entry.name, str(getattr(self, entry.name)), choices)
        for name in ("iterations", "batch_size"):
            self._require(name, 1 <= getattr(self, name) <= _MOST, f"must be at least 1, and at most {_MOST:,}")
        for name in ("warmup", "evaluate_every", "validation", "image_size"):
            self._require(name, 0 <= getattr(self, name) <= _MOST, f"must not be negative, and at most {_MOST:,}")
        for name in ("learning_rate", "gamma", "width"):
            self._require(name, 0 < getattr(self, name) < math.inf, "must be positive")
        for name in ("weight_decay", "final_learning_rate"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "must not be negative")
        for name in ("momentum", "dropout"):
            self._require(name, 0 <= getattr(self, name) < 1, "must be in [0, 1)")
        self._require("milestones", all(1 <= m <= _MOST for m in self.milestones), "must be positive iterations")
        self._require("nesterov", not self.nesterov or self.momentum > 0, "needs a positive momentum")
        object.__setattr__(self, "normalize", self._scaling())
        self._require("name", bool(self.name) and not set(self.name) & set("/\\\0"), "must be a name without slashes")

    def _typed(self, option: str, kind: type) -> Any:
        """Convert a field's value to exactly its type: a run's name must not depend on how a number was written."""
        value = getattr(self, option)
        if kind is float and isinstance(value, Real) and not isinstance(value, bool):
            return float(value)
        if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
            return int(value)
        if kind is str and isinstance(value, PurePath):
            return str(value)
        if kind is tuple and isinstance(value, list | tuple) and all(isinstance(v, Integral) for v in value):
            return tuple(int(v) for v in value)
        self._require(option, isinstance(value, kind) and kind in (str, bool), f"must be a {_KINDS[kind]}")
        return value

    def _scaling(self) -> str:
        """The field `normalize`, its numbers written in one way; how many there may be, the data set says."""
        if self.normalize in ("", "none", "imagenet"):
            return self.normalize
        try:
            numbers = [float(number) for number in self.normalize.split(",")]
        except ValueError:
            numbers = []
        half = len(numbers) // 2
        sound = numbers and 2 * half == len(numbers) and all(map(math.isfinite, numbers)) and min(numbers[half:]) > 0
        self._require("normalize", bool(sound), "must be none, imagenet or MEAN,STD, such as 0.5,0.5")
        return ",".join(map(repr, numbers))

    def _require(self, option: str, condition: bool, rule: str) -> None:
        if not condition:
            raise OptionError(f"{option} {rule}; got {getattr(self, option)!r}")

    def shortened(self, iterations: int) -> "Task":
        """Scale the task to `iterations` iterations, milestones and warmup in proportion.

        With ratio r = iterations / T, a milestone m becomes `max(1, round(r m))`, and warmup w `round(r w)`.

        >>> get_task("cifar10-resnet20").shortened(3000).milestones
        (1524, 2286)
        """
        if not isinstance(iterations, int | Integral) or not 1 <= iterations <= _MOST:
            raise OptionError(
                f"iterations must be a whole number of at least 1, and at most {_MOST:,}; got {iterations!r}"
            )
        ratio = Fraction(int(iterations), self.iterations)  # exact: a task scaled to its own length is itself
        return dataclasses.replace(
            self,
            iterations=int(iterations),
            milestones=tuple(max(1, round(m * ratio)) for m in self.milestones),
            warmup=round(self.warmup * ratio),
        )

    def changes(self) -> str:
        """Describe in words how the task differs from the preset of its name; empty if it does not.

        >>> get_task("mnist-lenet", batch_size=120).shortened(3000).changes()
        '3,000 of 24,000 iterations, batch size 120'
        """
        preset = PRESETS.get(self.name, self)
        words = []
        if self.iterations != preset.iterations:
            words.append(f"{self.iterations:,} of {preset.iterations:,} iterations")
            preset = preset.shortened(self.iterations)  # a schedule that was scaled along is no further change
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if value != getattr(preset, entry.name) and entry.name not in ("source", "evaluate_every", "validation"):
                words.append(f"{entry.name.replace('_', ' ')} {value}")
        return ", ".join(words)

    def spec(self) -> dict[str, Any]:
        """The fields that are part of a run's name; the data set enters it by its fingerprint instead."""
        fields = dataclasses.asdict(self) | {"milestones": list(self.milestones)}
        # Without options that came later, where they are not given: such runs have had their names since before.
        later = {name for name in ("validation", "normalize") if not getattr(self, name)}
        left_out = {"name", "source", "data"} | later
        return {key: value for key, value in fields.items() if key not in left_out}


def get_task(task: str | Task, **options: Any) -> Task:
    """Look up the preset of that name, or take the given task, and replace some of its fields.

    Another network or data set gives it another name, for instance `photos-resnet-32`, unless one is given.

    Raises:
        OptionError: unknown task or field, with near names suggested.

    >>> get_task("mnist-lenet", batch_size=120).batch_size
    120
    """
    if not isinstance(task, Task):
        name = str(task).replace("_", "-")
        if name not in PRESETS:
            raise unknown("task", str(task), PRESETS)
        task = PRESETS[name]
    known = {entry.name for entry in dataclasses.fields(Task)}
    for name in options.keys() - known:
        raise unknown("task option", name, known)
    if {"model", "data"} & options.keys():
        parts = PurePath(options.get("data", task.data)).stem, options.get("model", task.model).replace(":", "-")
        options = {"name": "-".join(parts), **options}
    return dataclasses.replace(task, **options)


def parse_iterations(text: str | int | Iterable[str | int], total: int, per_epoch: int | None) -> tuple[int, ...]:
    """Parse iterations such as `"0,500,500it,2ep,3%"`, or a list of them; sorted, without repetitions.

    Args:
        text: iterations, epochs (`ep`) or percentages of the whole training.
        total: T, the length of the training in iterations.
        per_epoch: iterations in an epoch; None for a training without epochs.

    Raises:
        OptionError: not such a list, negative, or beyond T; or epochs where there are none.

    >>> parse_iterations("0, 20it, 2ep, 10%", total=1000, per_epoch=45)
    (0, 20, 90, 100)
    """
    parts = text.split(",") if isinstance(text, str) else [text] if isinstance(text, int | Integral) else list(text)
    return tuple(sorted({_parse_iteration(str(part).strip(), total, per_epoch) for part in parts}))


def _parse_iteration(text: str, total: int, per_epoch: int | None) -> int:
    match = re.fullmatch(r"(-?\d{1,1000}(?:\.\d{1,1000})?)(it|ep|%|)", text, re.ASCII)
    if not match:
        raise OptionError(f"{text!r:.60} is not an iteration; write 500, 500it, 2ep or 3%")
    if match[2] == "ep" and per_epoch is None:
        raise OptionError(f"a loop of your own has no epochs, as in {text!r}; give iterations or percentages")
    # Exactly, so that 100% is T and what lies beyond is beyond.
    units = {"": Fraction(1), "it": Fraction(1), "ep": Fraction(per_epoch or 0), "%": Fraction(total, 100)}
    value = Fraction(match[1]) * units[match[2]]
    if match[2] in ("", "it") and value.denominator != 1:
        raise OptionError(f"{text!r} is not a whole number of iterations")
    if not 0 <= value <= total:
        raise OptionError(f"iteration {text!r:.60} is outside the training, which has iterations 0 to {total}")
    return round(value)


_OWN = "this project's default, chosen to show the phenomenon within a minute"
_LMC = "Frankle et al. 2020, Table 1"
_LTH = "Frankle & Carbin 2019, Figure 2"
_IMAGENET_EPOCH = 1252  # iterations: 1,281,167 training images in batches of 1,024; the last, short one counts

_CIFAR = Task(
    data="cifar10",
    init="open-lth",
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="step",
    milestones=(32_000, 48_000),
    batch_size=128,
    iterations=63_000,
    augmentation="crop-flip",
    source=_LMC,
)
_CONV = Task(
    data="cifar10",
    init="glorot",
    norm="none",
    optimizer="adam",
    batch_size=60,
    source=_LTH,
)
_replace = dataclasses.replace

PRESETS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="digits-conv",
            momentum=0.9,
            weight_decay=1e-4,
            schedule="step",
            milestones=(240, 340),
            batch_size=32,
            iterations=400,
            source=_OWN,
        ),
        Task(
            name="mnist-lenet",
            data="mnist",
            model="lenet-300-100",
            norm="none",
            init="glorot",
            optimizer="adam",
            learning_rate=12e-4,
            batch_size=60,
            iterations=24_000,
            source=_LMC,
        ),
        _replace(_CIFAR, name="cifar10-resnet20", model="resnet-20"),
        _replace(_CIFAR, name="cifar10-resnet20-low", model="resnet-20", learning_rate=0.01),
        _replace(_CIFAR, name="cifar10-resnet20-warmup", model="resnet-20", learning_rate=0.03, warmup=30_000),
        _replace(_CIFAR, name="cifar10-vgg16", model="vgg-16"),
        _replace(_CIFAR, name="cifar10-vgg16-low", model="vgg-16", learning_rate=0.01),
        _replace(_CIFAR, name="cifar10-vgg16-warmup", model="vgg-16", warmup=30_000),
        Task(
            name="imagenet-resnet50",
            data="imagenet",
            model="imagenet-resnet50",
            init="open-lth",
            learning_rate=0.4,
            momentum=0.9,
            weight_decay=1e-4,
            schedule="step",
            milestones=(30 * _IMAGENET_EPOCH, 60 * _IMAGENET_EPOCH, 80 * _IMAGENET_EPOCH),
            warmup=5 * _IMAGENET_EPOCH,
            batch_size=1024,
            iterations=90 * _IMAGENET_EPOCH,
            augmentation="resized-crop-flip",
            image_size=224,
            source=_LMC,
        ),
        Task(
            name="imagenet-inception-v3",
            data="imagenet",
            model="imagenet-inception-v3",
            init="own",
            learning_rate=0.03,
            final_learning_rate=0.005,
            momentum=0.9,
            weight_decay=1e-4,
            schedule="linear",
            batch_size=1024,
            iterations=171 * _IMAGENET_EPOCH,
            augmentation="resized-crop-flip",
            image_size=299,
            source=_LMC,
        ),
        _replace(_CONV, name="cifar10-conv2", model="conv-2", learning_rate=2e-4, iterations=20_000),
        _replace(_CONV, name="cifar10-conv4", model="conv-4", learning_rate=3e-4, iterations=25_000),
        _replace(_CONV, name="cifar10-conv6", model="conv-6", learning_rate=3e-4, iterations=30_000),
    )
}
