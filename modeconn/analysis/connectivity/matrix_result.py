"""Result of `barrier_matrix`: the barriers between all pairs of networks, and the groups that they form."""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self, TypedDict

import numpy as np
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

from modeconn.analysis.connectivity.barrier_result import Barrier
from modeconn.analysis.connectivity.samples import measured
from modeconn.errors import OptionError, unknown
from modeconn.options import THRESHOLD
from modeconn.result import JsonResult, count, note_lines, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEFINITIONS = ("barrier", "chord_barrier")
_OWN = "alignment"  # the one setting that pairs have each for itself
_NAMED = 4  # pairs that a note names; more are counted
_WRITTEN = 12  # networks up to which a figure has the values in its cells


class _Fields(TypedDict):
    """A barrier matrix in JSON."""

    names: list[str]
    settings: dict[str, Any]
    pairs: list[dict[str, Any]]


@dataclass(frozen=True, eq=False, repr=False)
class BarrierMatrix(JsonResult):
    """The barriers between every two of n networks.

    `barrier` and `chord_barrier` are those of `metric`; `matrix(definition, name)` gives those of any other. All
    matrices are symmetric with a diagonal of zeros: a path back is the path there.

    Attributes:
        names: what the networks are called.
        pairs: the path of each pair, from the earlier network to the later one, in the order of
            `itertools.combinations`. Their curves are those of all examples together.

    >>> from modeconn.analysis.connectivity.samples import Samples
    >>> def path(error: float, *names: str) -> Barrier:
    ...     samples = Samples(np.array([[10.0], [100 * error], [10.0]]), np.full((3, 1), 100), "all")
    ...     return Barrier(np.array([0, 0.5, 1]), {"error": samples}, "error", names=names)
    >>> result = BarrierMatrix(("a", "b", "c"), (path(0.5, "a", "b"), path(0.11, "a", "c"), path(0.4, "b", "c")))
    >>> result.barrier.round(9).tolist()
    [[0.0, 0.4, 0.01], [0.4, 0.0, 0.3], [0.01, 0.3, 0.0]]
    >>> result.groups(threshold=0.02)
    [['a', 'c'], ['b']]
    """

    _FORMAT = "modeconn barrier matrix 1"
    _NAME = "a barrier matrix"
    _SCHEMA = _Fields

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
        """How normalization was treated on the paths: as `Barrier.batchnorm`."""
        return self.pairs[0].batchnorm

    @property
    def settings(self) -> dict[str, Any]:
        """Data, meter, precision, device, versions; JSON. How a pair was aligned is in its own."""
        return {name: value for name, value in self.pairs[0].settings.items() if name != _OWN}

    @property
    def unaligned(self) -> "BarrierMatrix | None":
        """The matrix of the networks as they were, if pairs were aligned."""
        pairs = [pair.unaligned for pair in self.pairs if pair.unaligned is not None]
        return replace(self, pairs=tuple(pairs)) if pairs else None

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
        return _symmetric(pair.distance for pair in self.pairs)

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

        It was measured from the earlier network to the later; the other way round, it is mirrored.

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
        self, threshold: float = THRESHOLD, definition: str = "chord_barrier", metric: str | None = None
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
            definition: `"chord_barrier"`, which between networks of one error is the same as `"barrier"`. Between
                others `"barrier"` is half the difference of their errors at least, however flat the path.
            metric: the one that `barrier` is of, if None.

        Returns:
            Names, the largest group first, those of one size in the order of their first members.

        Raises:
            OptionError: the threshold is not a positive number; no such definition or metric.
        """
        found = connected_groups(self.matrix(definition, metric), threshold)
        return [[self.names[index] for index in group] for group in found]

    def order(self, definition: str = "chord_barrier", metric: str | None = None) -> np.ndarray:
        """Positions of the networks, int [n], so that connected ones are side by side: the leaves of the same linkage.

        Every group of `groups`, at any threshold, is one stretch of it.

        Raises:
            OptionError: no such definition or metric.
        """
        return leaves_list(_tree(self.matrix(definition, metric))).astype(int)

    def plot(
        self,
        ax: "Axes | None" = None,
        metric: str | None = None,
        definition: str = "chord_barrier",
        threshold: float | None = None,
        *,
        annotate: bool = True,
    ) -> "Axes":
        """Draw the barriers as a heat map, connected networks side by side, with a border around each group.

        Cells of paths that were not finite are grey. Up to 12 networks, the values are written in the cells.

        Args:
            ax: where to draw; a new figure if None.
            metric: which one; the one that `barrier` is of, if None.
            definition: `"chord_barrier"`, by which groups are formed, or `"barrier"`.
            threshold: of the groups, in the unit of the metric; 2 points of error if None, and no groups for another
                metric.
            annotate: whether there is a title.

        Raises:
            OptionError: no such metric or definition, or a threshold that is not a positive number.
        """
        import matplotlib
        from matplotlib.patches import Rectangle

        from modeconn.style import BATCHNORM, COLORS, drawing

        metric = metric or self.metric
        scale, unit = unit_of(metric)
        order = self.order(definition, metric)
        values = scale * self.matrix(definition, metric)[np.ix_(order, order)]
        names = [self.names[index] for index in order]
        threshold = THRESHOLD if threshold is None and metric == "error" else threshold
        groups = self.groups(threshold, definition, metric) if threshold is not None else []
        with drawing(ax, *_size(names)) as ax:
            top = float(np.max(values, initial=0, where=np.isfinite(values)))
            colors = matplotlib.colormaps["Blues"].with_extremes(bad="#cccccc")
            image = ax.imshow(values, cmap=colors, vmin=0, vmax=top or 1)
            ax.grid(False)
            ax.spines[:].set_visible(False)
            ax.set_xticks(range(len(names)), names, rotation=0 if _fit_side_by_side(names) else 90)
            ax.set_yticks(range(len(names)), names)
            room = 72 * ax.get_window_extent().height / ax.figure.dpi / len(names)  # points for a label
            ax.tick_params(length=0, labelsize=min(9, max(3, 0.7 * room)))
            if len(names) <= _WRITTEN:
                _write_values(ax, values, top)
            for group in groups:
                first = min(names.index(name) for name in group) - 0.5
                border = Rectangle((first, first), len(group), len(group), fill=False, clip_on=False)
                border.set(edgecolor=COLORS["train"], linewidth=1.6)
                ax.add_patch(border)
            word = "barrier over the mean of the ends" if definition == "barrier" else "barrier over the chord"
            ax.figure.colorbar(image, ax=ax, label=f"{word} ({unit})", shrink=0.85)
            points = " points" if metric == "error" else ""
            below = "" if threshold is None else f"with every barrier below {scale * threshold:g}{points}"
            aligned = "pairs aligned" if self.unaligned else ""
            lines = (f"{count(len(groups), 'group')} {below}" if below else "", aligned, BATCHNORM[self.batchnorm])
            if annotate:
                ax.set_title("\n".join(filter(None, lines)))
            return ax

    def rows(self) -> list[dict[str, Any]]:
        """One for each pair: a, b, barrier, chord_barrier, alpha_at_max, distance, and the metric of both.

        The last two are called `error_a` and `error_b`, or after another metric; alpha is 0 at `a`. After alignment,
        also both barriers and the distance before it, `barrier_unaligned` and so on.
        """
        rows = []
        for pair in self.pairs:
            ends = dict(zip((f"{self.metric}_a", f"{self.metric}_b"), pair.end_values(), strict=True))
            distance = {"distance": pair.distance}
            before = {} if pair.unaligned is None else _unaligned_columns(pair.unaligned)
            rows.append({"a": pair.names[0], "b": pair.names[1]} | asdict(pair.heights()) | distance | ends | before)
        return rows

    def __str__(self) -> str:
        unit, word = unit_of(self.metric)
        width = max(9, *(len(name) + 2 for name in self.names))
        title = f"barriers between {len(self.names)} networks ({word}){measured(self.settings)}"
        lines = [title, f"Above the diagonal, over the mean of the two's {self.metric}; below it, over the chord, the"]
        lines += [f"straight line between them; on it, each network's own {self.metric}.", ""]
        lines += ["After alignment of each pair:"] if self.unaligned else []
        lines += self._table(width)
        lines += ["", "Before:", *self.unaligned._table(width)] if self.unaligned else []
        if self.metric == "error":  # the usual threshold is one of error
            after = " after alignment" if self.unaligned else ""
            limit = f"every barrier over the chord below {unit * THRESHOLD:g}"
            lines += ["", f"Linearly connected groups{after} ({limit}):"]
            lines += [f"  {', '.join(group)}" for group in self.groups()]
        return "\n".join([*lines, *note_lines(self.notes)])

    def _table(self, width: int) -> list[str]:
        """Lines of both barriers between every two, and what each network has itself."""
        unit, _ = unit_of(self.metric)
        lines = [" " * width + "".join(f"{name:>{width}}" for name in self.names)]
        table = np.triu(self.barrier, 1) + np.tril(self.chord_barrier, -1) + np.diag(self.errors)
        for name, row in zip(self.names, unit * table, strict=True):
            lines.append(f"{name:{width}}" + "".join(f"{value:>{width}.4g}" for value in row))
        return lines

    def _fields(self) -> dict[str, Any]:
        return {
            "names": self.names,
            "metric": self.metric,
            # For readers; they come from the pairs.
            **{name: getattr(self, name) for name in (*DEFINITIONS, "distance", "errors")},
            "settings": self.settings,
            "pairs": [_without_settings(pair).content() for pair in self.pairs],  # which are the same in all
        }

    @classmethod
    def _from_fields(cls, content: dict[str, Any]) -> Self:
        names, settings = content["names"], content["settings"]
        pairs = [_with_settings(Barrier.from_content(pair), settings) for pair in content["pairs"]]
        if len(pairs) != math.comb(len(names), 2) or not pairs:
            raise ValueError("it does not have a pair for every two of its names")
        if [pair.names for pair in pairs] != list(itertools.combinations(names, 2)):
            raise ValueError("its pairs are not those of its names")
        if len({(pair.metric, pair.metrics) for pair in pairs}) > 1:
            raise ValueError("its pairs were measured by different metrics")
        return cls(tuple(names), tuple(pairs))

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
    unaligned = barrier.unaligned and _mirrored(barrier.unaligned)
    turned = replace(barrier, alphas=1 - barrier.alphas[::-1], samples=samples, names=barrier.names[::-1])
    return replace(turned, unaligned=unaligned)


def _without_settings(pair: Barrier) -> Barrier:
    """A pair with those settings alone that are its own."""
    own = {name: value for name, value in pair.settings.items() if name == _OWN}
    return replace(pair, settings=own, unaligned=pair.unaligned and _without_settings(pair.unaligned))


def _with_settings(pair: Barrier, settings: Mapping[str, Any]) -> Barrier:
    """A pair with the settings of all, and its own."""
    unaligned = pair.unaligned and _with_settings(pair.unaligned, settings)
    return replace(pair, settings={**settings, **pair.settings}, unaligned=unaligned)


def _unaligned_columns(pair: Barrier) -> dict[str, float]:
    heights = pair.heights()
    found = {"barrier": heights.barrier, "chord_barrier": heights.chord_barrier, "distance": pair.distance}
    return {f"{name}_unaligned": value for name, value in found.items()}


def _some(pairs: list[str]) -> str:
    more = len(pairs) - _NAMED
    return "; ".join(pairs) if more < 2 else f"{'; '.join(pairs[:_NAMED])}; {more} other pairs"


def _size(names: list[str]) -> tuple[float, float]:
    """Width and height of a figure with these names beside and below its cells, in inches."""
    side = 0.5 * len(names) if len(names) <= _WRITTEN else min(12.0, max(6.0, 0.18 * len(names)))
    written = 0.07 * max(map(len, names))
    return max(2.2, side) + written + 1.2, max(2, side) + 0.6 + (0 if _fit_side_by_side(names) else written)


def _fit_side_by_side(names: list[str]) -> bool:
    return max(map(len, names)) <= 5 and len(names) <= _WRITTEN


def _write_values(ax: "Axes", values: np.ndarray, top: float) -> None:
    decimals = max(0, 2 - int(np.floor(np.log10(top)))) if top else 0  # the largest has three digits
    for (row, column), value in np.ndenumerate(values):
        if row != column:
            shown = f"{value:.{decimals}f}" if np.isfinite(value) else "-"
            color = "white" if np.isfinite(value) and value > 0.6 * top else "black"
            ax.text(column, row, shown, ha="center", va="center", fontsize=7.5, color=color)
