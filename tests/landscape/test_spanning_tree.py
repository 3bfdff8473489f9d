"""Spanning trees of networks, against brute force, and curves along their edges."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from trained import TRAIN, mlp, trained

from modeconn import barrier_matrix
from modeconn.analysis.landscape.curves.spanning_tree import connect, spanning_tree
from modeconn.analysis.landscape.curves.tree_result import SpanningTree
from modeconn.errors import DataError, OptionError

VALUES = st.one_of(st.sampled_from([0.0, 1.0, math.inf, math.nan]), st.floats(-5, 5))


@st.composite
def matrices(draw: Any) -> np.ndarray:
    n = draw(st.integers(2, 5))
    values = np.zeros((n, n))
    for i, j in itertools.combinations(range(n), 2):
        values[i, j] = values[j, i] = draw(VALUES)
    return values


def highest_on_any_path(values: np.ndarray, i: int, j: int) -> float:
    """The lowest highest value over all paths through other networks, each of which is tried."""
    others = [k for k in range(len(values)) if k not in (i, j)]
    found = math.inf
    for count in range(len(others) + 1):
        for through in itertools.permutations(others, count):
            stops = (i, *through, j)
            along = [values[x, y] for x, y in itertools.pairwise(stops)]
            found = min(found, max(math.inf if math.isnan(value) else value for value in along))
    return found


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_the_bounds_are_the_lowest_of_all_paths_through_other_networks(values: np.ndarray) -> None:
    tree = spanning_tree(values)
    n = len(values)
    assert len(tree.edges) == n - 1
    for i, j in itertools.combinations(range(n), 2):
        assert tree.bound(str(i), str(j)) == highest_on_any_path(values, i, j)
        assert tree.bounds[i, j] == tree.bounds[j, i] <= (math.inf if math.isnan(values[i, j]) else values[i, j])
    for i, j, k in itertools.permutations(range(n), 3):
        assert tree.bounds[i, k] <= max(tree.bounds[i, j], tree.bounds[j, k])


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_no_spanning_tree_has_lower_edges(values: np.ndarray) -> None:
    """Of all sets of n - 1 edges that connect every network, its sorted edges are the lowest, place by place."""
    n = len(values)
    filled = np.where(np.isnan(values), math.inf, values)
    own = sorted(math.inf if math.isnan(edge.value) else edge.value for edge in spanning_tree(values).edges)
    for chosen in itertools.combinations(itertools.combinations(range(n), 2), n - 1):
        reached = {0}
        for _ in range(n):
            reached |= {x for pair in chosen for x in pair if reached & set(pair)}
        if len(reached) == n:
            assert all(x <= y for x, y in zip(own, sorted(filled[pair] for pair in chosen), strict=True))


def test_a_barrier_matrix_gives_the_highest_values_on_its_paths() -> None:
    networks = [trained(mlp(seed), seed, 30) for seed in range(3)]
    matrix = barrier_matrix(networks, TRAIN, alphas=3)
    tree = spanning_tree(matrix, metric="loss")
    assert tree.names == matrix.names
    for (i, j), path in zip(itertools.combinations(range(3), 2), matrix.pairs, strict=True):
        assert tree.values[i, j] == path.worst("loss")
    assert spanning_tree(matrix).metric == "error"
    again = SpanningTree.from_json(tree.to_json())
    assert again.rows() == tree.rows()
    assert str(again) == str(tree)
    assert len(tree.to_frame()) == 3
    assert tree.plot(Figure().subplots()).get_title() == "2 paths connect 3 networks"


def test_curves_along_the_tree_bound_what_lies_between_all_pairs() -> None:
    networks = [trained(mlp(seed), seed, 60) for seed in range(3)]
    seen: list[Any] = []
    tree = connect(networks, TRAIN, alphas=5, options={"epochs": 4, "learning_rate": 0.05}, report=seen.append)
    assert [progress.done for progress in seen] == [1, 2]
    straight = spanning_tree(barrier_matrix(networks, TRAIN, alphas=5), metric="loss")
    assert {(edge.a, edge.b) for edge in tree.edges} == {(edge.a, edge.b) for edge in straight.edges}
    for edge in tree.edges:
        assert edge.value == tree.measured[edge.a, edge.b].curve.worst("loss")
        assert edge.value < 0.8 * straight.values[straight.names.index(edge.a), straight.names.index(edge.b)]
    (one, other) = tree.edges
    (first, last) = {one.a, one.b} ^ {other.a, other.b}
    assert tree.bound(first, last) == max(one.value, other.value)


@pytest.mark.parametrize(
    ("paths", "how", "says"),
    [
        ([[0, 1], [2, 0]], {}, "symmetric"),
        ([[0, 1, 2], [1, 0, 2]], {}, r"the shape \[2, 3\]"),
        ([[0]], {}, "at least two networks"),
        ("nothing", {}, "a matrix of numbers"),
        ([[0, 1], [1, 0]], {"names": ["a"]}, "give 2 different names"),
        ([[0, 1], [1, 0]], {"names": "aa"}, "give 2 different names"),
    ],
)
def test_what_is_no_matrix_of_paths(paths: Any, how: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        spanning_tree(paths, **how)


def test_unknown_names_and_methods() -> None:
    tree = spanning_tree([[0, 1], [1, 0]], names="ab")
    with pytest.raises(OptionError, match="unknown network 'c'"):
        tree.bound("a", "c")
    with pytest.raises(OptionError, match="did you mean 'neb'"):
        connect([mlp(1), mlp(2)], TRAIN, method="nebs")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="unknown metric 'los'"):
        spanning_tree(barrier_matrix([mlp(1), mlp(2)], TRAIN, alphas=3), metric="los")
    with pytest.raises(DataError, match="edges"):
        SpanningTree.from_json(tree.to_json().replace('"b": "b"', '"b": "c"'))


def test_training_data_of_an_iterator_serve_all_paths() -> None:
    batches = [(TRAIN[0][at : at + 30], TRAIN[1][at : at + 30]) for at in range(0, 90, 30)]
    how: dict[str, Any] = {"alphas": 3, "options": {"steps": 2}}
    networks = [mlp(seed) for seed in (1, 2, 3)]
    assert connect(networks, iter(batches), **how).edges == connect(networks, batches, **how).edges
