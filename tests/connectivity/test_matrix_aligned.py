"""`barrier_matrix(..., align=)`: the barriers of every pair with and without alignment."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeconn import align, align_many, barrier_matrix, error_barrier
from modeconn.analysis.alignment.symmetry import SymmetryError
from modeconn.analysis.connectivity.matrix_result import BarrierMatrix
from modeconn.errors import OptionError

PAIRS = list(itertools.combinations(range(3), 2))


def mlp(seed: int, width: int = 10) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3))


def data() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    return inputs, mlp(0)(inputs).argmax(1)


@pytest.fixture(scope="module")
def three() -> tuple[list[nn.Module], BarrierMatrix]:
    networks = [mlp(seed) for seed in range(3)]
    return networks, barrier_matrix(networks, data(), alphas=3, align="weights")


def test_each_pair_is_that_of_error_barrier(three):
    networks, result = three
    for i, j in PAIRS:
        expected = error_barrier(networks[i], networks[j], data(), alphas=3, align="weights")
        pair = result.pair(i, j)
        assert np.array_equal(pair.loss, expected.loss)
        assert np.array_equal(pair.unaligned.loss, expected.unaligned.loss)
        assert pair.settings["alignment"]["score"] == expected.settings["alignment"]["score"]
        back = result.pair(j, i)
        assert np.array_equal(back.loss, pair.loss[::-1])
        assert np.array_equal(back.unaligned.loss, pair.unaligned.loss[::-1])


def test_before_alignment_it_is_the_plain_matrix_to_the_bit(three):
    networks, result = three
    plain = barrier_matrix(networks, data(), alphas=3)
    assert plain.unaligned is None
    assert result.unaligned.to_json() == plain.to_json()
    assert "unaligned" not in plain.to_json()
    assert [row["barrier_unaligned"] for row in result.rows()] == [row["barrier"] for row in plain.rows()]


def test_networks_in_another_order_are_one_group_after_alignment():
    a = mlp(0)
    found = align(a, a)
    orders = [found.symmetry.random(np.random.default_rng(seed)) for seed in (1, 2)]
    networks = [a, *(replace(found, permutations=order).apply(a) for order in orders)]
    for how in ("weights", align_many(networks), align_many(networks, reference="common")):
        result = barrier_matrix(networks, data(), alphas=3, align=how)
        assert not result.matrix("barrier", "loss").any()
        assert (result.unaligned.matrix("barrier", "loss")[np.triu_indices(3, 1)] > 0).all()
        assert result.groups() == [["a", "b", "c"]]


def test_one_order_for_all_aligns_each_pair_by_way_of_it(three):
    networks, _ = three
    many = align_many(networks, reference="common")
    result = barrier_matrix(networks, data(), alphas=3, align=many)
    for i, j in PAIRS:
        expected = error_barrier(networks[i], many.between(i, j).apply(networks[j]), data(), alphas=3)
        assert np.array_equal(result.pair(i, j).loss, expected.loss)
    assert "all networks are aligned by one order (common)" in result.notes


def test_json_words_and_figure_have_both(three):
    _, result = three
    back = BarrierMatrix.from_json(result.to_json())
    assert back.to_json() == result.to_json()
    assert json.loads(result.to_json())["settings"].keys() == result.unaligned.settings.keys()
    assert back.pair(0, 2).settings == result.pair(0, 2).settings
    assert back.pair(0, 2).unaligned.settings == result.unaligned.settings
    text = str(result)
    assert text == str(back)
    after, before = text.split("After alignment of each pair:")[1].split("Before:")
    assert f"{100 * result.barrier[0, 2]:.4g}" in after.splitlines()[2]
    assert f"{100 * result.unaligned.barrier[0, 2]:.4g}" in before.splitlines()[2]
    assert "of each pair, the later network is aligned to the earlier one" in text
    assert "pairs aligned" in result.plot().get_title()


def test_alignments_of_other_networks_are_refused(three):
    networks, _ = three
    many = align_many(networks[:2])
    with pytest.raises(OptionError, match="alignments of 2 networks, and there are 3"):
        barrier_matrix(networks, data(), align=many)
    with pytest.raises(SymmetryError, match="another architecture"):
        barrier_matrix([mlp(0, 7), mlp(1, 7)], data(), align=many)
    with pytest.raises(OptionError, match=r"or what modeconn\.align_many gave; got Alignment"):
        barrier_matrix(networks, data(), align=many.between(0, 1))
