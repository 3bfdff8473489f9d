"""What an instability study can be asked for. Imports no torch, so that help is quick."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modeconn.errors import OptionError, unknown
from modeconn.tasks import NOISE_SOURCES, option

SPLITS = ("test", "train")
BATCHNORM = ("interpolate", "recalibrate")
THRESHOLD = 0.02  # of error: below it a network is stable (Frankle et al. 2020, section 3)


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
    replicates: int = option(3, "initialisations, each with its own trunk and copies")
    copies: int = option(2, "copies forked at each k; every pair of them is measured")
    alphas: int | Sequence[float] = option(31, "points on a path, ends included: how many, or which (0,0.5,1)")
    batchnorm: Sequence[str] = option(
        BATCHNORM, "BatchNorm's running statistics on the path: interpolate, recalibrate, or both"
    )
    splits: Sequence[str] = option(SPLITS, "where errors are measured: test, train, or both")
    noise: Sequence[str] = option(NOISE_SOURCES, "sources of SGD noise that differ between copies")
    threshold: float = option(THRESHOLD, "instability below which a network is stable")
    calibration: int = option(5000, "training examples to recalibrate on, at most")
    seed: int = option(0, "seed of the whole study")

    def __post_init__(self) -> None:
        _require(self.replicates >= 1, f"there must be at least one replicate; got {self.replicates}")
        _require(self.copies >= 2, f"instability compares copies, so there must be at least 2; got {self.copies}")
        _require(self.calibration >= 2, f"recalibration needs at least 2 examples; got {self.calibration}")
        _require(0 < self.threshold < 1, f"the threshold must be between 0 and 1 of error; got {self.threshold}")
        _check_names("split", self.splits, SPLITS)
        _check_names("BatchNorm choice", self.batchnorm, BATCHNORM)
        _check_names("source of noise", self.noise, NOISE_SOURCES)
        if isinstance(self.rewind_iters, Iterable) and not isinstance(self.rewind_iters, str):
            object.__setattr__(self, "rewind_iters", tuple(self.rewind_iters))  # an iterator would be used up
        for name in ("batchnorm", "splits", "noise"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _ = self.points

    @property
    def points(self) -> tuple[float, ...]:
        """The alphas themselves, ascending from 0 to 1."""
        if isinstance(self.alphas, int):
            _require(
                self.alphas >= 3,
                f"a path needs at least 3 alphas, its ends and one between; got {self.alphas}",
            )
            return tuple(index / (self.alphas - 1) for index in range(self.alphas))
        points = tuple(sorted({0.0, 1.0, *map(float, self.alphas)}))
        _require(all(0 <= p <= 1 for p in points), f"alphas must be between 0 and 1; got {list(self.alphas)}")
        _require(len(points) >= 3, f"a path needs at least 3 alphas, its ends and one between; got {len(points)}")
        return points


def _check_names(kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    _require(not isinstance(given, str) and len(given) > 0, f"give at least one {kind}, as a list; got {given!r}")
    for name in given:
        if name not in known:
            raise unknown(kind, name, known)
    _require(len(set(given)) == len(given), f"each {kind} once, please; got {', '.join(given)}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise OptionError(message)
