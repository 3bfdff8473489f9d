"""Minimum spanning trees over networks: how low a path between any two of them can be bound (Draxler et al. 2018)."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack

import numpy as np

from modeconn.analysis.connectivity.matrix import barrier_matrix
from modeconn.analysis.connectivity.matrix_result import BarrierMatrix
from modeconn.analysis.connectivity.networks import Source, names_of
from modeconn.analysis.connectivity.options import OptionKeywords
from modeconn.analysis.landscape.curves.curve_fit import fit_curve
from modeconn.analysis.landscape.curves.neb import neb
from modeconn.analysis.landscape.curves.tree_result import Edge, SpanningTree
from modeconn.errors import OptionError, unknown
from modeconn.progress import Progress, Report, silent

_METHODS = {"fit_curve": fit_curve, "neb": neb}


def spanning_tree(
    paths: BarrierMatrix | np.ndarray | Sequence[Sequence[float]],
    names: Sequence[str] | None = None,
    metric: str | None = None,
) -> SpanningTree:
    r"""The minimum spanning tree of networks by the highest value on the path between each two of them.

    Paths from A to B and from B to C make one from A to C, so that the lowest possible highest loss obeys
    \(L_{AC} \le \max(L_{AB}, L_{BC})\) (Draxler et al. 2018, section 4). The tree has the lowest such bounds for all
    pairs at once: that of two networks is the highest value on the tree's path between them.

    Args:
        paths: what `modeconn.barrier_matrix` gives; or the highest values, symmetric [n, n], whose diagonal is not
            looked at. NaN is a path that was not measured, or whose values are not finite: it is the highest of all.
        names: of the networks, if `paths` are values.
        metric: of a barrier matrix, the one to take; what its `barrier` is of, if None. Of values, what to call them.

    Raises:
        OptionError: values that are no such matrix, networks that are not all connected, an unknown metric, or one that
            falls where a path is bad.

    >>> tree = spanning_tree([[0, 5, 1], [5, 0, 2], [1, 2, 0]], names="abc", metric="loss")
    >>> [(edge.a, edge.b, edge.value) for edge in tree.edges]
    [('a', 'c', 1.0), ('b', 'c', 2.0)]
    >>> tree.bound("a", "b")
    2.0
    """
    if isinstance(paths, BarrierMatrix):
        metric = paths.metric if metric is None else metric
        if metric not in paths.metrics:
            raise unknown("metric", metric, paths.metrics)
        if metric in paths.higher_is_better:
            raise OptionError(f"{metric} falls where a path is bad; a spanning tree is of values that rise there")
        values, called = _highest(paths, metric), paths.names
    else:
        values = _checked(paths)
        called = tuple(str(i) for i in range(len(values))) if names is None else tuple(map(str, names))
        if len(called) != len(values) or len(set(called)) < len(called):
            raise OptionError(f"give {len(values)} different names, one for each network; got {names!r}")
    edges = tuple(Edge(called[i], called[j], float(values[i, j])) for i, j in _tree(values))
    return SpanningTree(called, values, edges, metric or "value")


def connect(
    networks: Sequence[Source],
    train: Any = None,
    data: Any = None,
    *,
    method: Literal["fit_curve", "neb"] = "fit_curve",
    metric: str = "loss",
    alphas: int = 11,
    options: Mapping[str, Any] | None = None,
    report: Report = silent,
    **how: Unpack[OptionKeywords],
) -> SpanningTree:
    """Fit curves along a spanning tree of networks, and bound the highest value between any two of them.

    The tree is that of the segments between all pairs; on its n - 1 edges curves are fitted and measured. So n - 1
    curves say for all n (n - 1) / 2 pairs how low a path between them can be at most.

    Args:
        networks: at least two, as `modeconn.error_barrier` takes them.
        train: training data, as `modeconn.fit_curve` takes them.
        data: what paths are measured on, the training data if None.
        method: `"fit_curve"` or `"neb"`.
        metric: whose highest values are bound.
        alphas: points on every path.
        options: of that method, such as `{"epochs": 10}`.
        report: called after every edge.
        **how: options of `modeconn.error_barrier`, for training and measurement. `batchnorm` is `"recalibrate"` by
            default, on the training data.

    Raises:
        ModeconnError: an option, networks or data that do not fit.

    Returns:
        The tree with the curves' highest values, and the curves with their measurements by pair.
    """
    if method not in _METHODS:
        raise unknown("method", str(method), _METHODS)
    # Each is read many times.
    train, data = (list(given) if isinstance(given, Iterator) else given for given in (train, data))
    sources = list(networks)
    called = names_of(sources, how.get("names"))
    known = "train" if train is None else train
    measured: dict[str, Any] = {"batchnorm": "recalibrate", "calibration": train, **how, "names": called}
    held = known if data is None else data
    straight = spanning_tree(barrier_matrix(sources, held, alphas=alphas, **measured), metric=metric)
    values = np.full((len(sources), len(sources)), math.nan)
    curves, results, edges = {}, {}, []
    for number, edge in enumerate(straight.edges, start=1):
        pair = edge.a, edge.b
        i, j = map(called.index, pair)
        of_pair: dict[str, Any] = {**how, "names": pair}
        fitted = {name: value for name, value in of_pair.items() if name not in ("batchnorm", "calibration")}
        curve = _METHODS[method](sources[i], sources[j], train, **(options or {}), **fitted)  # type: ignore[operator]
        found = curve.barrier(held, alphas=alphas, **of_pair)
        curves[pair], results[pair] = curve, found
        values[i, j] = values[j, i] = found.curve.worst(metric)
        edges.append(Edge(*pair, float(values[i, j])))
        report(Progress.counted(number, len(straight.edges), "curves"))
    ordered = tuple(sorted(edges, key=lambda edge: edge.value))
    return SpanningTree(called, values, ordered, metric, curves, results)


def _highest(matrix: BarrierMatrix, metric: str) -> np.ndarray:
    """The highest value between each two, [n, n]; NaN where one on the path is."""
    n = len(matrix.names)
    values = np.zeros((n, n))
    for (i, j), path in zip(itertools.combinations(range(n), 2), matrix.pairs, strict=True):
        values[i, j] = values[j, i] = path.worst(metric)
    return values


def _checked(paths: Any) -> np.ndarray:
    try:
        values = np.array(paths, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"paths are a barrier matrix, or a matrix of numbers [n, n]; got {type(paths).__name__}"
        ) from error
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 2:
        raise OptionError(f"paths are a matrix [n, n] of at least two networks; got the shape {list(values.shape)}")
    np.fill_diagonal(values, 0.0)
    if not np.array_equal(values, values.T, equal_nan=True):
        raise OptionError("a path back has the values of the path there: give a symmetric matrix")
    return values


def _tree(values: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of the minimum spanning tree, the lowest first."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    # By rank, which leaves the tree as it is: SciPy takes a value of 0 for no edge.
    above = np.triu_indices(len(values), 1)
    sizes = np.where(np.isnan(values[above]), np.inf, values[above])
    ranks = np.zeros_like(values)
    ranks[above] = np.unique(sizes, return_inverse=True)[1] + 1
    tree = minimum_spanning_tree(csr_array(ranks)).tocoo()
    pairs = sorted(
        zip(tree.row.tolist(), tree.col.tolist(), strict=True), key=lambda pair: (ranks[min(pair), max(pair)], pair)
    )
    return [(min(pair), max(pair)) for pair in pairs]
