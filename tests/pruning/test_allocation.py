"""Random masks with layerwise densities by a rule: counts, formulas, nesting."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeconn.errors import OptionError
from modeconn.models import build_network
from modeconn.pruning.allocation import SHARES, allocated_mask, layer_counts
from modeconn.pruning.prunable import everything

RESNET = {
    name: tuple(kept.shape) for name, kept in everything(build_network("resnet-20", (3, 32, 32), 10, seed=0)).items()
}
LENET = {"fc1": (300, 784), "fc2": (100, 300), "out": (10, 100)}
_SHAPES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple),
    min_size=1,
    max_size=6,
)


def erdos_renyi_kernel(shapes, density):
    """Densities as the code of Evci et al. (2020) finds them: layers that would be above 1 are dense, then again."""
    dense = set()
    while True:
        divisor = rest = 0.0
        for name, shape in shapes.items():
            if name in dense:
                rest += math.prod(shape) * (1 - density)
            else:
                rest -= math.prod(shape) * density
                divisor += math.prod(shape) * (sum(shape) / math.prod(shape))
        epsilon = -rest / divisor
        over = {n for n, shape in shapes.items() if n not in dense and epsilon * sum(shape) / math.prod(shape) > 1}
        if not over:
            return {n: 1.0 if n in dense else epsilon * sum(s) / math.prod(s) for n, s in shapes.items()}
        dense.add(max(over, key=lambda n: sum(shapes[n]) / math.prod(shapes[n])))


@pytest.mark.parametrize("shapes", [RESNET, LENET], ids=["resnet", "lenet"])
@pytest.mark.parametrize("density", [0.8, 0.512, 0.168, 0.0144])
def test_densities_by_erk_are_those_of_its_formula(shapes, density):
    total = sum(map(math.prod, shapes.values()))
    counts = layer_counts("erk", shapes, round(density * total))
    for name, expected in erdos_renyi_kernel(shapes, round(density * total) / total).items():
        assert abs(counts[name] - expected * math.prod(shapes[name])) <= 1


@given(_SHAPES, st.floats(0, 1), st.sampled_from(list(SHARES)))
def test_counts_are_exact_and_no_layer_has_more_than_its_weights(shapes, density, rule):
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = round(density * sum(sizes.values()))
    counts = layer_counts(rule, shapes, total)
    assert list(counts) == list(shapes)
    assert sum(counts.values()) == total
    assert all(0 <= counts[name] <= sizes[name] for name in shapes)


@given(_SHAPES, st.sampled_from(list(SHARES)))
def test_counts_are_those_of_one_weight_after_the_other(shapes, rule):
    """Webster's method in its own words: each goes where share / (n + 1/2) is highest, in whole numbers."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    shares = {name: SHARES[rule](shape) for name, shape in shapes.items()}
    counts = dict.fromkeys(shapes, 0)
    common = math.lcm(*range(1, 2 * max(sizes.values()) + 2, 2)) if max(sizes.values()) < 60 else None
    if common is None:
        return
    for total in range(1, sum(sizes.values()) + 1):
        best = max((n for n in counts if counts[n] < sizes[n]), key=lambda n: shares[n] * common // (2 * counts[n] + 1))
        counts[best] += 1
        assert layer_counts(rule, shapes, total) == counts


def test_uniform_and_balanced_are_what_they_are_called():
    counts = layer_counts("uniform", LENET, 26_620)
    assert counts == {"fc1": 23_520, "fc2": 3_000, "out": 100}
    assert layer_counts("balanced", LENET, 2_700) == {"fc1": 900, "fc2": 900, "out": 900}
    assert layer_counts("balanced", LENET, 9_000) == {"fc1": 4_000, "fc2": 4_000, "out": 1_000}  # as far as it has them


@pytest.mark.parametrize("rule", SHARES)
def test_masks_have_the_overall_count_leave_whole_layers_and_are_nested(rule):
    like = {name: torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4 for name, shape in LENET.items()}
    like["out"] = torch.ones(LENET["out"], dtype=torch.bool)
    smaller = {name: kept & (torch.arange(kept.numel()).view(kept.shape) % 3 > 0) for name, kept in like.items()}
    masks = [allocated_mask(rule, one, seed=5, whole=["out"]) for one in (like, smaller)]
    for mask, one in zip(masks, (like, smaller), strict=True):
        pruned = sum(int(mask[name].sum()) for name in ("fc1", "fc2"))
        assert pruned == sum(int(one[name].sum()) for name in ("fc1", "fc2"))
        assert bool(mask["out"].all())
        assert list(mask) == list(like)
    assert all(bool((masks[0][name] | ~masks[1][name]).all()) for name in ("fc1", "fc2"))
    other = allocated_mask(rule, like, seed=6, whole=["out"])
    assert not torch.equal(other["fc1"], masks[0]["fc1"])


def test_an_unknown_rule_is_refused():
    with pytest.raises(OptionError, match="did you mean 'erk'"):
        layer_counts("erks", LENET, 10)
