"""SGD noise as a function of (seed, t): examples, augmentation and dropout of iteration t depend on nothing else.

So any iteration can be reached without replaying the earlier ones, and a fork is another seed from k on. With n
examples in batches of B, iteration t is at position p of epoch e, where `e, p = divmod(t, ceil(n / B))`, and

    order           argsort(Philox(mix(seed, "order", e)))[p B : (p + 1) B]
    augmentation    (Philox(mix(seed, "augmentation", e)) >> 40) / 2^24, in [0, 1), row by row of the examples
    dropout         a generator seeded with mix(seed, "dropout", t)

The numbers are the raw 64-bit output of NumPy's Philox generator, which NumPy promises not to change, through integer
arithmetic and a stable sort, so that they are the same on every machine and version.
"""

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from modeconn.errors import OptionError, unknown
from modeconn.seeds import mix
from modeconn.tasks import NOISE_SOURCES


@dataclass(frozen=True)
class Seeds:
    """One seed for each source of SGD noise."""

    order: int
    augmentation: int
    dropout: int

    @classmethod
    def all(cls, seed: int) -> "Seeds":
        """The same seed for every source; the sources stay independent, as each mixes in its name."""
        return cls(seed, seed, seed)


@dataclass(frozen=True)
class Noise:
    """The seeds in force from each iteration on: `((0, trunk seeds), (k, copy seeds))`.

    >>> trunk = Noise.of(0)
    >>> copy = trunk.fork(20, seed=1, sources=["order"])
    >>> copy.at(19).order, copy.at(20).order, copy.at(20).augmentation
    (0, 1, 0)
    """

    segments: tuple[tuple[int, Seeds], ...]

    @classmethod
    def of(cls, seed: int) -> "Noise":
        """One seed from iteration 0 on."""
        return cls(((0, Seeds.all(seed)),))

    def fork(self, iteration: int, seed: int, sources: Iterable[str] = NOISE_SOURCES) -> "Noise":
        """This noise up to an iteration, and from there on another seed for the given sources.

        Raises:
            OptionError: unknown source.
        """
        sources = tuple(sources)
        for source in sources:
            if source not in NOISE_SOURCES:
                raise unknown("source of noise", source, NOISE_SOURCES)
        if iteration < self.segments[-1][0]:
            raise OptionError(f"cannot fork at iteration {iteration}, before the last fork at {self.segments[-1][0]}")
        forked = replace(self.segments[-1][1], **dict.fromkeys(sources, seed))
        return Noise((*self.segments, (iteration, forked)))._simplified()

    def until(self, iteration: int) -> "Noise":
        """The part that a state at `iteration` has seen, for its name: nothing at 0, and common to all copies at k."""
        return Noise(tuple(segment for segment in self.segments if segment[0] < iteration))

    def at(self, iteration: int) -> Seeds:
        """The seeds in force at an iteration."""
        return next(seeds for start, seeds in reversed(self.segments) if start <= iteration)

    def spec(self) -> list[dict[str, int]]:
        """For the name of a run."""
        return [{"from": start, **asdict(seeds)} for start, seeds in self.segments]

    def _simplified(self) -> "Noise":
        """Without segments that have no iterations or change nothing, so that equal noise has one name."""
        kept: list[tuple[int, Seeds]] = []
        for start, seeds in self.segments:
            if kept and kept[-1][0] == start:
                kept.pop()
            if not kept or kept[-1][1] != seeds:
                kept.append((start, seeds))
        return Noise(tuple(kept))


def epoch_length(examples: int, batch_size: int) -> int:
    """Iterations in an epoch. The last, short batch is kept, as the authors' framework does."""
    return -(-examples // batch_size)


class Epochs:
    """The permutations and uniform numbers of the epochs that a run is in, each computed once.

    A few at a time: when a copy forks in the middle of an epoch, that of the trunk and its own.
    """

    def __init__(self, held: int = 2) -> None:
        self.permutation = functools.lru_cache(maxsize=held)(_permutation)
        self.uniform = functools.lru_cache(maxsize=held)(_uniform)


def batch_indices(seed: int, iteration: int, examples: int, batch_size: int, epochs: Epochs | None = None) -> Tensor:
    """The examples of iteration t, int64 [batch]: its place in its epoch's permutation."""
    epoch, position = divmod(iteration, epoch_length(examples, batch_size))
    order = (epochs or _EPOCHS).permutation(seed, epoch, examples)
    return order[position * batch_size : (position + 1) * batch_size]


def augmentation_draws(
    seed: int,
    iteration: int,
    examples: int,
    batch_size: int,
    indices: Tensor,
    n: int,
    epochs: Epochs | None = None,
) -> Tensor:
    """`n` uniform numbers for each example of a batch, float32 [batch, n].

    They belong to the example and its epoch, not to its place in the batch: with this seed held, an example has the
    same crops whatever the data order.
    """
    epoch = iteration // epoch_length(examples, batch_size)
    return (epochs or _EPOCHS).uniform(seed, epoch, examples, n)[indices]


def dropout_seed(seed: int, iteration: int) -> int:
    """The seed of the generator that dropout masks are drawn from at an iteration."""
    return mix(seed, "dropout", iteration)


def gaussian_numbers(seed: int, n: int) -> Tensor:
    """`n` independent standard Gaussian numbers, float64 [n], by Box and Muller from two uniform ones each.

    >>> gaussian_numbers(0, 100_000).std().item()  # doctest: +ELLIPSIS
    1.00...
    """
    uniform = (_raw(mix(seed, "gaussian"), 2 * n) >> 11) * 2.0**-53  # in [0, 1)
    return torch.from_numpy(np.sqrt(-2 * np.log1p(-uniform[:n])) * np.cos(2 * np.pi * uniform[n:]))


def whole_below(n: int, seed: int) -> int:
    """A whole number in 0, ..., n - 1, each as likely."""
    return mix(seed, "whole") % n


def _permutation(seed: int, epoch: int, examples: int) -> Tensor:
    keys = _raw(mix(seed, "order", epoch), examples)
    return torch.from_numpy(np.argsort(keys, kind="stable"))


def _uniform(seed: int, epoch: int, examples: int, n: int) -> Tensor:
    raw = _raw(mix(seed, "augmentation", epoch), examples * n)
    return torch.from_numpy(((raw >> 40).astype(np.float32) * np.float32(2**-24)).reshape(examples, n))


def _raw(seed: int, n: int) -> np.ndarray:
    return np.random.Philox(key=seed).random_raw(n)


_EPOCHS = Epochs(held=4)  # of whoever trains one network at a time
