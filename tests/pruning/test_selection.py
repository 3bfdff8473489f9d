"""Which weights go: exact counts, ties by position, and never one back."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cases import NAMED, Case, each_of
from modeconn.errors import NetworkError, OptionError
from modeconn.models import build_network
from modeconn.options import SCOPES
from modeconn.pruning.prunable import prunable
from modeconn.pruning.selection import counts_after, keep_highest


def _everything(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.ones_like(values, dtype=torch.bool) for name, values in scores.items()}


def remove(scores: Any, mask: Mapping[str, Tensor], fraction: Any, **how: Any) -> dict[str, Tensor]:
    """One level of pruning."""
    sizes = {name: int(kept.count_nonzero()) for name, kept in mask.items()}
    return keep_highest(scores, mask, counts_after(sizes, fraction, **how))


# --- counts


@each_of(NAMED)
def test_counts_are_exact_for_three_levels(case: Case) -> None:
    with torch.device("meta"):
        network = build_network(case.model, case.shape, case.classes, seed=0, norm=case.norm)
    scores = {name: torch.rand(weight.shape) for name, weight in prunable(network).items()}
    for scope in SCOPES:
        mask = _everything(scores)
        left = {name: values.numel() for name, values in scores.items()}
        for _ in range(3):
            mask = remove(scores, mask, 0.2, scope=scope)
            if scope == "global":
                left = {"all": sum(left.values())}
            left = {name: n - round(0.2 * n) for name, n in left.items()}
            kept = {name: int(entry.count_nonzero()) for name, entry in mask.items()}
            assert ({"all": sum(kept.values())} if scope == "global" else kept) == left


def test_lenet_counts_by_hand() -> None:
    """20 % at a time of 266,200, where open_lth leaves one less in the first level."""
    sizes = {"fc1": 235_200, "fc2": 30_000, "out": 1_000}
    everything = ("fc1", "fc2", "out")
    by_level = [counts_after(sizes, 0.2, levels=levels)[everything] for levels in (1, 2, 3, 15)]
    assert by_level == [212_960, 170_368, 136_294, 9_366]
    # Frankle & Carbin 2019: each layer by itself, the output layer at half the rate.
    counts = counts_after(sizes, 0.2, scope="layerwise", rates={"out": 0.5})
    assert counts == {("fc1",): 188_160, ("fc2",): 24_000, ("out",): 900}
    # In a global scope such a layer is a pool of its own.
    assert counts_after(sizes, 0.2, rates={"out": 0}) == {("fc1", "fc2"): 212_160, ("out",): 1_000}


def test_part_of_a_level_follows_the_exponential_schedule() -> None:
    kept = [counts_after({"a": 1000}, 0.9, part=step / 4)[("a",)] for step in (1, 2, 3, 4)]
    assert kept == [1000 - round(1000 * (1 - 0.1 ** (step / 4))) for step in (1, 2, 3, 4)] == [562, 316, 178, 100]
    # What a whole level removes is round(p n) and not round((1 - (1 - p)) n), which is another number here.
    assert round((1 - (1 - 0.1)) * 5) == 0 == round(0.1 * 5)
    assert counts_after({"a": 15}, 0.3)[("a",)] == 15 - round(0.3 * 15)


# --- which


def test_the_earliest_of_equals_goes_first() -> None:
    scores = {"b": torch.tensor([[1.0, 0.0], [1.0, 1.0]]), "a": torch.tensor([1.0, 2.0])}
    masks = [remove(scores, _everything(scores), removed / 6) for removed in range(6)]
    kept = [torch.cat([mask["b"].flatten(), mask["a"]]).int().tolist() for mask in masks]
    assert kept == [
        [1, 1, 1, 1, 1, 1],
        [1, 0, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0, 1],
    ]


def test_the_order_of_the_masks_layers_does_not_matter() -> None:
    """A mask from a file may have another order than the network."""
    scores = {"b": torch.ones(3), "a": torch.ones(3)}
    mask = _everything(scores)
    one, other = (remove(scores, order, 0.5) for order in (mask, dict(reversed(mask.items()))))
    assert list(one) == list(other) == ["b", "a"]
    assert not one["b"].any()
    assert not other["b"].any()


_DRAWN = st.fixed_dictionaries(
    {
        "layers": st.lists(
            st.lists(st.tuples(st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0, math.inf]), st.booleans()), max_size=7),
            min_size=1,
            max_size=4,
        ),
        "fraction": st.floats(0, 0.99),
        "scope": st.sampled_from(SCOPES),
        "rates": st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.01]), min_size=4, max_size=4),
    }
)


@given(_DRAWN)
def test_laws(drawn: dict) -> None:
    names = [f"layer{index}" for index in range(len(drawn["layers"]))]
    layers = {
        name: np.array(layer, dtype=float).reshape(-1, 2) for name, layer in zip(names, drawn["layers"], strict=True)
    }
    scores = {name: torch.from_numpy(layer[:, 0]) for name, layer in layers.items()}
    mask = {name: torch.from_numpy(layer[:, 1] == 1) for name, layer in layers.items()}
    rates, fraction = dict(zip(names, drawn["rates"], strict=False)), drawn["fraction"]
    expected = _by_sorting(layers, fraction, drawn["scope"], rates)
    before = {name: entry.clone() for name, entry in mask.items()}
    if not any(entry.any() for entry in expected.values()):
        with pytest.raises(OptionError, match="nothing would remain"):
            remove(scores, mask, fraction, scope=drawn["scope"], rates=rates)
        return
    found = remove(scores, mask, fraction, scope=drawn["scope"], rates=rates)
    assert all(np.array_equal(found[name].numpy(), expected[name]) for name in names)
    assert all(torch.equal(mask[name], before[name]) for name in names)
    assert not any((found[name] & ~mask[name]).any() for name in names)


def _by_sorting(
    layers: dict[str, np.ndarray], fraction: float, scope: str, rates: dict[str, float]
) -> dict[str, np.ndarray]:
    """The same by a stable sort of everything."""
    kept = {name: layer[:, 1] == 1 for name, layer in layers.items()}
    pools: dict[object, list[tuple[float, str, int]]] = {}
    for name, layer in layers.items():
        pool = name if scope == "layerwise" or rates[name] != 1 else None
        pools.setdefault(pool, []).extend((value, name, at) for at, (value, on) in enumerate(layer) if on)
    for entries in pools.values():
        if entries:
            gone = round(fraction * rates[entries[0][1]] * len(entries))
            for _, name, at in sorted(entries, key=lambda entry: entry[0])[:gone]:
                kept[name][at] = False
    return kept


# --- what cannot be


SCORES = {"conv.weight": torch.arange(4.0), "fc.weight": torch.arange(4.0)}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fraction": 1.0}, "at least 0 and below 1; got 1.0"),
        ({"fraction": -0.1}, "got -0.1"),
        ({"fraction": math.nan}, "got nan"),
        ({"fraction": 0.2, "scope": "local"}, "unknown scope 'local'; did you mean 'global'"),
        ({"fraction": 0.2, "rates": {"conv.wight": 0}}, "unknown layer 'conv.wight'; did you mean 'conv.weight'"),
        ({"fraction": 0.2, "rates": {"fc.weight": -1}}, "at least 0; got -1 for fc.weight"),
        ({"fraction": 0.2, "rates": {"fc.weight": math.nan}}, "got nan for fc.weight"),
        ({"fraction": 0, "rates": {"fc.weight": math.inf}}, "got inf for fc.weight"),
        (
            {"fraction": 0.2, "rates": {"fc.weight": "half", "conv.weight": True}},
            "got 'half' for fc.weight, True for c",
        ),
        ({"fraction": 0.5, "rates": {"fc.weight": 2}}, "must be below 1; it is not for fc.weight: 1"),
        ({"fraction": 0.5, "rates": {"fc.weight": 2, "conv.weight": 3}}, "not for fc.weight: 1, conv.weight: 1.5$"),
        (
            {"fraction": 0.99},
            "nothing would remain: removing 0.99 of 8 weights 1 times leaves none; choose a smaller .*s$",
        ),
    ],
)
def test_options_that_cannot_be(options: dict, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        remove(SCORES, _everything(SCORES), **options)


def test_a_study_sees_beforehand_that_its_levels_leave_nothing() -> None:
    assert counts_after({"a": 10}, 0.5, levels=4) == {("a",): 1}  # 10, 5, 3, 1, and round(0.5) is 0
    assert counts_after({"a": 10}, 0.6, levels=2) == {("a",): 2}
    with pytest.raises(OptionError, match=r"removing 0\.6 of 10 weights 4 times leaves none"):
        counts_after({"a": 10}, 0.6, levels=4)


def test_one_layer_may_be_emptied() -> None:
    scores = {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([1.0, 1.0])}
    assert not remove(scores, _everything(scores), 0.5)["a"].any()


def test_scores_that_are_nan_are_named_unless_they_are_pruned_already() -> None:
    scores = {**SCORES, "out.weight": torch.tensor([1.0, math.nan])}
    mask = _everything(scores)
    with pytest.raises(NetworkError, match=r"scores are NaN, .* in out\.weight$"):
        remove(scores, mask, 0.2)
    with pytest.raises(NetworkError, match=r"in fc\.weight, out\.weight$"):
        remove({**scores, "fc.weight": torch.full((4,), math.nan)}, mask, 0.2)
    mask["out.weight"][1] = False
    assert sum(int(entry.sum()) for entry in remove(scores, mask, 0.2).values()) == 7


def test_scores_for_other_weights() -> None:
    mask = {"conv.weight": torch.ones(3, dtype=torch.bool), "out.weight": torch.ones(3, dtype=torch.bool)}
    with pytest.raises(NetworkError) as error:
        remove(SCORES, mask, 0.2)
    assert str(error.value) == (
        "the scores are not for the mask's weights: fc.weight has scores and no mask; "
        "out.weight has a mask and no scores; conv.weight has scores [4] and a mask [3]"
    )


def test_half_precision_scores() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        kept = keep_highest(
            {"a": torch.tensor([2, 1, 3], dtype=dtype)}, {"a": torch.ones(3, dtype=torch.bool)}, {("a",): 2}
        )
        assert kept["a"].tolist() == [True, False, True]
