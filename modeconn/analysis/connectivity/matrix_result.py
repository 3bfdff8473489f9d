"""What `barrier_matrix` found: the barriers between all pairs of networks, and the groups that they form."""

import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.errors import OptionError, unknown
from modeconn.options import THRESHOLD
from modeconn.result import jsonable, reading, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEFINITIONS = ("barrier", "chord_barrier")
_FORMAT = "modeconn barrier matrix 1"
_NAMED = 4  # pairs that a note names; more are counted


@dataclass(frozen=True, eq=False)
class BarrierMatrix:
    """The barriers between every two of n networks.

    `barrier` and `chord_barrier` are those of `metric`; `matrix(definition, name)` gives those of any other. All
    matrices are symmetric with a diagonal of zeros: a path back is the path there.

    Attributes:
        names: what the networks are called.
        pairs: the path of each pair, from the earlier network to the later one, in the order of
            `itertools.combinations`. Their curves are those of all examples together.

    >>> from modeconn.analysis.connectivity.barrier_result import Samples
    >>> def path(error: float, *names: str) -> Barrier:
    ...     samples = Samples(np.array([[10.0], [100 * error], [10.0]]), np.full((3, 1), 100), "all")
    ...     return Barrier(np.array([0, 0.5, 1]), {"error": samples}, "error", names=names)
    >>> result = BarrierMatrix(("a", "b", "c"), (path(0.5, "a", "b"), path(0.11, "a", "c"), path(0.4, "b", "c")))
    >>> result.barrier.round(9).tolist()
    [[0.0, 0.4, 0.01], [0.4, 0.0, 0.3], [0.01, 0.3, 0.0]]
    >>> result.groups(threshold=0.02)
    [['a', 'c'], ['b']]
    """

    names: tuple[str, ...]
    pairs: tuple[Barrier, ...]

    @property
    def metric(self) -> str:
        """The one that is meant by `barrier`: the error, or else the first."""
        return self.pairs[0].metric

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics."""
        return self.pairs[0].metrics

    @property
    def higher_is_better(self) -> frozenset[str]:
        """The metrics for which a barrier is a dip."""
        return self.pairs[0].higher_is_better

    @property
    def batchnorm(self) -> str:
        """What was done to normalization on the paths."""
        return self.pairs[0].batchnorm

    @property
    def settings(self) -> dict[str, Any]:
        """Data, meter, precision, device, versions; JSON."""
        return dict(self.pairs[0].settings)

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything that was decided, with the pairs that it is about if these are not all."""
        about: dict[str, list[str]] = {}
        for pair in self.pairs:
            for note in pair.notes:
                about.setdefault(note, []).append(" and ".join(pair.names))
        return tuple(
            note if len(pairs) == len(self.pairs) else f"{_some(pairs)}: {note}" for note, pairs in about.items()
        )

    @property
    def barrier(self) -> np.ndarray:
        """Largest value on each path minus the mean of its ends (Frankle et al. 2020), float64 [n, n]."""
        return self.matrix("barrier")

    @property
    def chord_barrier(self) -> np.ndarray:
        """Largest excess over the straight line between the ends (Entezari et al. 2022), float64 [n, n]."""
        return self.matrix("chord_barrier")

    @property
    def distance(self) -> np.ndarray:
        """L2 norm of the difference of the parameters of each two, float64 [n, n]."""
        return _symmetric(pair.ends.l2 for pair in self.pairs)

    @property
    def errors(self) -> np.ndarray:
        """The error of each network, or its first metric if there is no error, float64 [n]."""
        return self.values()

    def values(self, metric: str | None = None) -> np.ndarray:
        """A metric of each network, float64 [n].

        Raises:
            OptionError: no such metric.
        """
        of_first = self.pairs[: len(self.names) - 1]  # the paths from the first network to every other
        return np.array([of_first[0].end_values(metric)[0], *(pair.end_values(metric)[1] for pair in of_first)])

    def matrix(self, definition: str = "barrier", metric: str | None = None) -> np.ndarray:
        """The barriers by a definition and of a metric, float64 [n, n]; NaN where a path was not finite.

        Args:
            definition: `"barrier"` or `"chord_barrier"`.
            metric: the one that `barrier` is of, if None.

        Raises:
            OptionError: no such definition or metric.
        """
        if definition not in DEFINITIONS:
            raise unknown("definition", str(definition), DEFINITIONS)
        return _symmetric(getattr(pair.heights(metric), definition) for pair in self.pairs)

    def pair(self, a: int | str, b: int | str) -> Barrier:
        """The path from one network to another: curves, barriers, distance, disagreement, notes.

        It was walked from the earlier network to the later; the other way round, it is mirrored.

        Args:
            a, b: their names, or their positions from 0.

        Raises:
            OptionError: no such network, or the same one twice.
        """
        first, second = self._position(a), self._position(b)
        if first == second:
            raise OptionError(f"between {self.names[first]} and itself there is no path; its barrier is 0")
        places = dict(zip(itertools.combinations(range(len(self.names)), 2), self.pairs, strict=True))
        return places[first, second] if first < second else _mirrored(places[second, first])

    def groups(
        self, threshold: float = THRESHOLD, definition: str = "barrier", metric: str | None = None
    ) -> list[list[str]]:
        """Linearly connected groups: within each, every two networks have a barrier strictly below the threshold.

        Complete linkage on the matrix of barriers, cut at the threshold: the two groups whose largest barrier between
        members is least are joined, again and again. Connectivity is not transitive, so the groups need not be the
        largest possible; where barriers are equal, the order of the networks decides. A barrier that is not finite
        connects nothing.

        Juneja et al. (2022) find such groups among fine-tuned networks by spectral clustering, into a number of
        clusters that is given, on their convexity gap: the largest excess over the chord of any part of the path. Here
        the number follows from the threshold, and barriers are over the ends of the whole path.

        Args:
            threshold: in the unit of the metric; 0.02 is 2 points of error (Frankle et al. 2020, section 3).
            definition: `"barrier"`, or `"chord_barrier"`, by which networks that differ much in error can be connected.
            metric: the one that `barrier` is of, if None.

        Returns:
            Names, the largest group first, those of one size in the order of their first members.

        Raises:
            OptionError: the threshold is not a positive number; no such definition or metric.
        """
        found = connected_groups(self.matrix(definition, metric), threshold)
        return [[self.names[index] for index in group] for group in found]

    def order(self, definition: str = "barrier", metric: str | None = None) -> np.ndarray:
        """Positions of the networks, int [n], so that connected ones are side by side: the leaves of the same linkage.

        Every group of `groups`, at any threshold, is one stretch of it.

        Raises:
            OptionError: no such definition or metric.
        """
        return leaves_list(_tree(self.matrix(definition, metric))).astype(int)

    def plot(self, ax: "Axes | None" = None, **options: Any) -> "Axes":
        """Draw the heat map; see `modeconn.plots.matrix.plot_matrix`."""
        from modeconn.plots.matrix import plot_matrix

        return plot_matrix(self, ax=ax, **options)

    def rows(self) -> list[dict[str, Any]]:
        """One for each pair: a, b, barrier, chord_barrier, alpha_at_max, distance, and the metric of both.

        The last two are called `error_a` and `error_b`, or after another metric; alpha is 0 at `a`.
        """
        rows = []
        for pair in self.pairs:
            ends = dict(zip((f"{self.metric}_a", f"{self.metric}_b"), pair.end_values(), strict=True))
            distance = {"distance": pair.ends.l2}
            rows.append({"a": pair.names[0], "b": pair.names[1]} | asdict(pair.heights()) | distance | ends)
        return rows

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame (pandas must be installed)."""
        import pandas

        return pandas.DataFrame(self.rows())

    def to_json(self, path: str | Path | None = None) -> str:
        """The result as JSON text, also written to a file if a path is given.

        `barrier`, `chord_barrier`, `distance` and `errors` are for readers; `pairs` hold what they come from.

        Raises:
            StoreError: the file cannot be written.
        """
        content = {
            "format": _FORMAT,
            "names": list(self.names),
            "metric": self.metric,
            **{name: jsonable(getattr(self, name)) for name in (*DEFINITIONS, "distance", "errors")},
            "settings": self.settings,
            "pairs": [_content_of(pair) for pair in self.pairs],
        }
        return write_text(json.dumps(content, indent=1, allow_nan=False), path)

    @staticmethod
    def from_json(source: str | Path) -> "BarrierMatrix":
        """The result that `to_json` wrote, from its text or its file.

        Raises:
            DataError: there is no such file, or it is not such a result.
        """
        with reading(source, _FORMAT, "a barrier matrix") as content:
            names, settings = content["names"], content["settings"]
            pairs = [Barrier.from_json(json.dumps(pair | {"settings": settings})) for pair in content["pairs"]]
            if [pair.names for pair in pairs] != list(itertools.combinations(names, 2)) or not pairs:
                raise ValueError("its pairs are not those of its names")
            return BarrierMatrix(tuple(names), tuple(pairs))

    def __str__(self) -> str:
        unit, word = (100, "points of error") if self.metric == "error" else (1, self.metric)
        width = max(9, *(len(name) + 2 for name in self.names))
        lines = [f"barriers between {len(self.names)} networks ({word}); on the diagonal, each network's own", ""]
        lines.append(" " * width + "".join(f"{name:>{width}}" for name in self.names))
        table = self.barrier + np.diag(self.errors)
        for name, row in zip(self.names, unit * table, strict=True):
            lines.append(f"{name:{width}}" + "".join(f"{value:>{width}.4g}" for value in row))
        if self.metric == "error":  # the usual threshold is one of error
            lines += ["", f"Linearly connected groups (every barrier below {unit * THRESHOLD:g}):"]
            lines += [f"  {', '.join(group)}" for group in self.groups()]
        lines += ["", *(f"Note: {note}." for note in self.notes)] if self.notes else []
        return "\n".join(lines)

    def _position(self, network: int | str) -> int:
        if isinstance(network, Integral) and not isinstance(network, bool) and 0 <= int(network) < len(self.names):
            return int(network)
        if network not in self.names:
            raise unknown("network", str(network), [*self.names, *map(str, range(len(self.names)))])
        return self.names.index(str(network))


def connected_groups(barriers: np.ndarray, threshold: float) -> list[list[int]]:
    """Groups within which every barrier is strictly below the threshold; see `BarrierMatrix.groups`.

    Args:
        barriers: [n, n], symmetric, of at least two networks.
        threshold: in their unit.

    Returns:
        Positions, the largest group first.

    Raises:
        OptionError: the threshold is not a positive number.

    Not transitive: the middle one is connected to both others, but these are not connected.

    >>> connected_groups(np.array([[0, 0.01, 0.05], [0.01, 0, 0.015], [0.05, 0.015, 0]]), 0.02)
    [[0, 1], [2]]
    """
    if not isinstance(threshold, Real) or not 0 < float(threshold) < math.inf:
        raise OptionError(f"the threshold must be a positive number; got {threshold!r}")
    below = np.nextafter(float(threshold), -math.inf)  # SciPy joins what is at the distance too
    labels = fcluster(_tree(barriers, float(threshold)), below, "distance").tolist()
    groups = [[i for i, other in enumerate(labels) if other == label] for label in dict.fromkeys(labels)]
    return sorted(groups, key=len, reverse=True)


def _tree(barriers: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """SciPy's linkage matrix. Paths that were not finite are farther apart than all others, and than the threshold."""
    distances = squareform(barriers, checks=False)
    finite = np.isfinite(distances)
    beyond = 1 + 2 * max(threshold, *distances[finite], 0.0)
    return linkage(np.where(finite, distances, beyond), "complete", optimal_ordering=True)


def _symmetric(values: Iterable[float]) -> np.ndarray:
    return squareform(np.fromiter(values, np.float64))


def _mirrored(barrier: Barrier) -> Barrier:
    samples = {name: replace(s, sums=s.sums[::-1], counts=s.counts[::-1]) for name, s in barrier.samples.items()}
    return replace(barrier, alphas=1 - barrier.alphas[::-1], samples=samples, names=barrier.names[::-1])


def _content_of(pair: Barrier) -> dict[str, Any]:
    """Without the settings, which all pairs share."""
    return json.loads(replace(pair, settings={}).to_json())


def _some(pairs: list[str]) -> str:
    more = len(pairs) - _NAMED
    return "; ".join(pairs) if more < 2 else f"{'; '.join(pairs[:_NAMED])}; {more} other pairs"
