import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeconn.pruning.controls import inverted_mask, random_mask, shuffled_mask

SHAPES = {"a.weight": (12, 5), "b.weight": (3, 4, 3, 3), "c.weight": (2, 30)}


def _mask(density, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) < density for name, shape in SHAPES.items()}


def _counts(mask):
    return {name: int(kept.sum()) for name, kept in mask.items()}


@given(st.floats(0, 1), st.integers(0, 2**40))
def test_every_control_has_the_layerwise_counts_of_the_other_mask(density, seed):
    mask = _mask(density, seed)
    weights = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    for control in (random_mask(mask, seed), shuffled_mask(mask, seed), inverted_mask(mask, weights)):
        assert _counts(control) == _counts(mask)
        assert all(kept.dtype == torch.bool and kept.shape == mask[name].shape for name, kept in control.items())


@pytest.mark.parametrize("draw", [random_mask, shuffled_mask])
def test_drawn_masks_differ_in_every_layer_from_the_other_and_between_seeds_but_not_for_one_seed(draw):
    mask = _mask(0.5)
    one, again, other = draw(mask, 1), draw(mask, 1), draw(mask, 2)
    for name, kept in mask.items():
        assert not torch.equal(one[name], kept)
        assert torch.equal(one[name], again[name])
        assert not torch.equal(one[name], other[name])


def test_no_control_changes_the_mask_that_it_is_given():
    mask = _mask(0.5)
    before = {name: kept.clone() for name, kept in mask.items()}
    (
        random_mask(mask, 0),
        shuffled_mask(mask, 0),
        inverted_mask(mask, {name: torch.randn(s) for name, s in SHAPES.items()}),
    )
    assert all(torch.equal(mask[name], before[name]) for name in mask)


def test_random_masks_of_falling_density_are_nested():
    dense, sparse = (random_mask(_mask(density), seed=3) for density in (0.7, 0.2))
    assert all(bool((dense[name] | ~sparse[name]).all()) for name in SHAPES)


def test_random_masks_keep_every_weight_equally_often():
    like = {"weight": torch.arange(10) < 4}
    kept = sum(random_mask(like, seed)["weight"].double() for seed in range(2000)) / 2000
    assert torch.allclose(kept, torch.full((10,), 0.4, dtype=torch.float64), atol=0.05)  # 4.5 deviations


def test_an_inverted_mask_keeps_the_smallest_and_the_first_of_equal_ones():
    weights = {"weight": torch.tensor([[0.5, -0.1], [0.1, -2.0], [0.1, 3.0]])}
    like = {"weight": torch.tensor([[True, True], [False, False], [False, False]])}
    assert inverted_mask(like, weights)["weight"].tolist() == [[False, True], [True, False], [False, False]]
