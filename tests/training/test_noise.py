import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.stats import chisquare, kstest

from modeconn.data import load_data
from modeconn.data.augment import augment
from modeconn.errors import OptionError
from modeconn.execution.names import job_name
from modeconn.seeds import mix
from modeconn.tasks import NOISE_SOURCES, get_task
from modeconn.training.fork import fork, trunk
from modeconn.training.noise import (
    Epochs,
    Noise,
    augmentation_draws,
    batch_indices,
    dropout_seed,
    epoch_length,
    gaussian_numbers,
    whole_below,
)
from modeconn.training.step_inputs import choose_inputs
from modeconn.training.task_training import prepare

SEEDS = st.integers(0, 2**63 - 1)


def epoch(seed: int, number: int, examples: int, batch: int) -> list[int]:
    length = epoch_length(examples, batch)
    batches = [batch_indices(seed, number * length + i, examples, batch) for i in range(length)]
    return torch.cat(batches).tolist()


@given(SEEDS, st.integers(0, 1000), st.integers(1, 60), st.integers(1, 70))
def test_an_epoch_has_every_example_once(seed, number, examples, batch):
    assert sorted(epoch(seed, number, examples, batch)) == list(range(examples))


@given(SEEDS, st.integers(1, 50))
def test_seed_s_at_epoch_e_is_not_seed_s_plus_1_at_epoch_e_minus_1(seed, number):
    assert epoch(seed, number, 50, 8) != epoch(seed + 1, number - 1, 50, 8)
    drawn = augmentation_draws(seed, number, 50, 50, torch.arange(50), 3)
    assert not torch.equal(drawn, augmentation_draws(seed + 1, number - 1, 50, 50, torch.arange(50), 3))
    assert dropout_seed(seed, number) != dropout_seed(seed + 1, number - 1)


def test_augmentation_is_new_in_every_epoch_and_dropout_in_every_iteration(data_dir):
    """As the training loop chooses them, by the definitions at the head of `modeconn.training.noise`."""
    task = get_task("digits-conv", augmentation="crop-flip", batch_size=500)  # 3 iterations in an epoch
    data, noise = load_data("digits", data_dir), Noise.of(7).fork(4, 8)
    drawn, dropout = {}, []
    for t in range(9):
        inputs = choose_inputs(task, data, noise, t)
        seed = 7 if t < 4 else 8
        raw = np.random.Philox(key=mix(seed, "augmentation", t // 3)).random_raw(1437 * 3).reshape(1437, 3) >> 40
        assert np.array_equal(inputs.draws.numpy(), (raw * 2.0**-24)[inputs.indices.numpy()].astype(np.float32))
        assert list(inputs.seeds) == [mix(seed, "dropout", t)]
        drawn[seed, t // 3] = raw.ravel().astype(float)
        dropout.append(inputs.seeds[0])
    correlations = np.corrcoef(list(drawn.values())) - np.eye(len(drawn))
    assert abs(correlations).max() < 5 / np.sqrt(1437 * 3)
    assert len(set(dropout)) == 9


def test_batches_depend_on_seed_and_iteration_alone():
    forward = [batch_indices(3, t, 100, 7) for t in range(40)]
    backward = [batch_indices(3, t, 100, 7) for t in reversed(range(40))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))


def test_the_order_is_the_same_on_every_machine():
    # Written down once: a change of these numbers changes every published run.
    assert mix(0, "order", 0) == 1014162656242027106
    assert epoch(0, 0, 10, 10) == [9, 7, 3, 6, 8, 2, 0, 4, 5, 1]
    drawn = augmentation_draws(0, 0, 2, 2, torch.arange(2), 1)
    assert drawn.flatten().tolist() == [0.12958449125289917, 0.7981834411621094]


def test_examples_with_equal_keys_keep_their_order(monkeypatch):
    keys = np.arange(1000, dtype=np.uint64) * 7919 % 5
    monkeypatch.setattr("modeconn.training.noise._raw", lambda seed, n: keys)
    found = batch_indices(0, 0, 1000, 1000, Epochs())
    assert found.tolist() == sorted(range(1000), key=lambda example: keys[example])


def test_gaussian_numbers_are_box_and_mullers_of_their_seed():
    raw = [int(one) for one in np.random.Philox(key=mix(3, "gaussian")).random_raw(14)]
    pairs = zip(raw[:7], raw[7:], strict=True)
    expected = [
        math.sqrt(-2 * math.log(1 - (one >> 11) / 2**53)) * math.cos(2 * math.pi * (other >> 11) / 2**53)
        for one, other in pairs
    ]
    found = gaussian_numbers(3, 7)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    drawn = gaussian_numbers(0, 20_000).numpy()
    assert kstest(drawn, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(drawn, gaussian_numbers(1, 20_000).numpy())[0, 1]) < 5 / 20_000**0.5
    assert gaussian_numbers(0, 0).shape == (0,)


def test_whole_numbers_are_each_as_likely_and_their_seeds():
    assert [whole_below(n, seed) for n, seed in ((7, 0), (10**12, 3))] == [
        mix(seed, "whole") % n for n, seed in ((7, 0), (10**12, 3))
    ]
    assert chisquare(np.bincount([whole_below(7, seed) for seed in range(7000)], minlength=7)).pvalue > 1e-4


def test_positions_in_the_order_are_uniform():
    first = [epoch(seed, 0, 10, 10)[0] for seed in range(5000)]
    assert chisquare(np.bincount(first, minlength=10)).pvalue > 1e-4


def test_crops_and_flips_are_uniform():
    examples = 20_000
    # One bright pixel in the middle shows where each image was cut from and whether it was flipped.
    image = torch.zeros(1, 1, 9, 10, dtype=torch.uint8)
    image[0, 0, 4, 4] = 1
    draws = augmentation_draws(5, 0, examples, examples, torch.arange(examples), 3)
    seen = augment(image.expand(examples, -1, -1, -1), draws, "crop-flip")
    bright = seen[:, 0].nonzero()  # [examples, 3]; every crop still contains the pixel
    assert len(bright) == examples
    assert chisquare(np.bincount(bright[:, 1].numpy(), minlength=9)).pvalue > 1e-4
    flipped = (draws[:, 2] < 0.5).numpy()
    assert chisquare([flipped.sum(), (~flipped).sum()]).pvalue > 1e-4
    columns = np.where(flipped, 9 - bright[:, 2].numpy(), bright[:, 2].numpy())
    assert chisquare(np.bincount(columns, minlength=9)).pvalue > 1e-4


def test_sources_of_one_seed_are_independent():
    order = torch.tensor(epoch(7, 0, 4000, 4000)).float()
    draws = augmentation_draws(7, 0, 4000, 4000, torch.arange(4000), 3)
    table = torch.cat([order[:, None], draws], 1).T
    correlation = torch.corrcoef(table) - torch.eye(4)
    assert correlation.abs().max() < 5 / 4000**0.5


def test_an_example_keeps_its_crops_when_only_the_order_differs():
    def crops(order_seed: int) -> dict[int, list[float]]:
        found = {}
        for t in range(epoch_length(50, 8)):
            indices = batch_indices(order_seed, t, 50, 8)
            draws = augmentation_draws(1, t, 50, 8, indices, 3)
            found |= dict(zip(indices.tolist(), draws.tolist(), strict=True))
        return found

    assert crops(1) == crops(2)


@pytest.mark.parametrize("source", ["order", "augmentation", "dropout"])
def test_varying_one_source_leaves_the_seeds_of_the_others(source):
    trunk = Noise.of(11)
    copy = trunk.fork(20, 12, [source])
    assert copy.at(19) == trunk.at(19)
    changed = {name for name in ("order", "augmentation", "dropout") if getattr(copy.at(20), name) != 11}
    assert changed == {source}


@given(st.integers(0, 100), SEEDS, SEEDS)
def test_a_fork_shares_its_past_and_its_name_up_to_k(k, a, b):
    trunk = Noise.of(a)
    copy = trunk.fork(k, b)
    assert copy.until(k) == trunk.until(k)
    assert (copy.until(k + 1) == trunk.until(k + 1)) == (a == b)
    assert all(copy.at(t) == trunk.at(t) for t in range(k))


def test_a_fork_at_zero_is_nothing_but_another_seed():
    assert Noise.of(1).fork(0, 2) == Noise.of(2)


def test_a_copy_forked_within_an_epoch_goes_on_at_that_place_of_its_own_order():
    copy = Noise.of(1).fork(3, 2)
    seen = torch.cat([batch_indices(copy.at(t).order, t, 50, 10) for t in range(5)]).tolist()
    assert seen == epoch(1, 0, 50, 10)[:30] + epoch(2, 0, 50, 10)[30:]


def test_an_unknown_source_is_named():
    with pytest.raises(OptionError, match=r"'ordr'.*'order'"):
        Noise.of(0).fork(1, 1, ["ordr"])


@pytest.mark.parametrize(
    ("change", "unused"),
    [
        ({}, {"augmentation", "dropout"}),
        ({"augmentation": "flip"}, {"dropout"}),
        ({"model": "lenet-16", "dropout": 0.1}, {"augmentation"}),
        ({"model": "lenet-16", "dropout": 0.1, "augmentation": "flip"}, set()),
        ({"model": "cases:with_dropout"}, {"augmentation"}),  # nobody knows what a network of one's own draws
    ],
)
def test_forks_of_sources_that_a_task_lacks_have_the_names_of_the_same_bits(change, unused, data_dir):
    prepared = prepare(get_task("digits-conv", norm="none", name="t", **change), data_dir=data_dir, device="cpu")
    start = next(trunk(prepared.training, [5], 0, 0))

    def names(*sources):
        return [job_name(copy) for copy in fork(start, 2, 0, 0, sources)]

    used = [source for source in NOISE_SOURCES if source not in unused]
    assert names(*used) == names(*NOISE_SOURCES)
    assert len(set(names(*used))) == 2
    assert len(set(names(*unused))) == 1  # copies that see the same noise
    assert names("order", *unused) == names("order")
    for source in used:
        assert names(source, *unused) == names(source)
    subsets = [tuple(names(*of)) for n in range(len(used) + 1) for of in itertools.combinations(used, n)]
    assert len(set(subsets)) == 2 ** len(used)


def test_a_fork_before_a_fork_is_refused():
    with pytest.raises(OptionError, match="before the last fork at 10"):
        Noise.of(0).fork(10, 1).fork(5, 2)


def test_the_spec_of_noise_is_what_names_have_always_held():
    noise = Noise.of(3).fork(5, 4, ["dropout"])
    assert noise.spec() == [
        {"from": 0, "order": 3, "augmentation": 3, "dropout": 3},
        {"from": 5, "order": 3, "augmentation": 3, "dropout": 4},
    ]
    assert noise.until(5).spec() == noise.spec()[:1]
    assert Noise.of(3).until(0).spec() == []


def test_the_permutations_of_two_epochs_are_held(monkeypatch):
    computed = []
    monkeypatch.setattr("modeconn.training.noise._permutation", lambda *asked: computed.append(asked) or len(computed))
    monkeypatch.setattr("modeconn.training.noise._uniform", lambda *asked: computed.append(asked) or len(computed))
    for held in (Epochs().permutation, Epochs().uniform):
        computed.clear()
        assert [held(0, e, 9) for e in (0, 1, 0, 1, 2, 1, 0)] == [1, 2, 1, 2, 3, 2, 4]


def test_refusals_name_the_source_and_the_last_fork():
    with pytest.raises(OptionError, match=r"^unknown source of noise 'odrer'; did you mean 'order'"):
        Noise.of(0).fork(1, 1, ["odrer"])
    with pytest.raises(OptionError, match="cannot fork at iteration 6, before the last fork at 7"):
        Noise.of(0).fork(5, 1).fork(7, 2).fork(6, 3)


def test_uniform_numbers_are_float32():
    assert augmentation_draws(0, 0, 4, 2, torch.arange(4), 3).dtype == torch.float32
