"""`error_barrier(..., align=)`: the path with and without alignment."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeconn import Alignment, Barrier, align, error_barrier
from modeconn.analysis.alignment.symmetry import SymmetryError
from modeconn.errors import DataError, ModeconnError, OptionError
from networks import each_network, with_statistics


def mlp(seed: int, width: int = 12) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def convolutional(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3)
    return with_statistics(nn.Sequential(*layers))


def data(examples: int = 60, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, *(shape or (5,)), generator=generator)
    return inputs, torch.randint(0, 3, (examples,), generator=generator)


def shuffled(network: nn.Module, alignment: Alignment, seed: int = 0) -> nn.Module:
    """The network with its units in a random order."""
    order = alignment.symmetry.random(np.random.default_rng(seed))
    return replace(alignment, permutations=order).apply(network)


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module, Alignment, Barrier]:
    """Two networks, their alignment, and the barrier with it."""
    a, b = mlp(1), mlp(2)
    return a, b, align(a, b), error_barrier(a, b, data(), alphas=5, align="weights")


# --- identities


def test_a_network_in_another_order_is_behind_a_barrier_until_it_is_aligned():
    a = mlp(1)
    b = shuffled(a, align(a, a))
    inputs, _ = data()
    result = error_barrier(a, b, (inputs, a(inputs).argmax(1)), alphas=5, align="weights")
    for metric in result.metrics:
        assert result.heights(metric).barrier == 0
    assert result.unaligned.heights("loss").barrier > 0
    assert result.ends.l2 == 0 < result.unaligned.ends.l2
    assert np.array_equal(result.loss, result.unaligned.loss[[0] * 5])


@pytest.mark.parametrize("how", [{}, {"alphas": "adaptive"}, {"decide": 0.02}, {"alphas": [0, 0.4, 1]}])
def test_before_alignment_it_is_the_plain_barrier_to_the_bit(how):
    a, b = mlp(1), mlp(2)
    plain, both = error_barrier(a, b, data(), **how), error_barrier(a, b, data(), align="weights", **how)
    assert plain.unaligned is None
    assert both.unaligned.to_json() == plain.to_json()
    assert str(both.unaligned) == str(plain)
    assert (both.decided is None) == ("decide" not in how)


@pytest.mark.slow
@each_network
def test_of_anyones_network_too_and_the_aligned_end_computes_what_it_did(case):
    """Networks that write to their inputs, share weights, hold infinite buffers, are pruned or reparametrized."""
    a, b = case.pair()
    how = {"evaluate": case.evaluate, "alphas": 3}
    plain, both = (error_barrier(a, b, case.batches(), align=align, **how) for align in (None, "weights"))
    assert both.unaligned.to_json() == plain.to_json()
    assert both.values()[0] == plain.values()[0]
    assert both.ends.l2 <= plain.ends.l2
    for name in set(both.metrics) - {"error"}:
        assert both.values(name)[-1] == pytest.approx(plain.values(name)[-1], rel=max(1e-4, case.batchwise))


@pytest.mark.parametrize("batchnorm", ["interpolate", "recalibrate", "repair"])
def test_with_batchnorm_too_it_is_the_plain_barrier_to_the_bit(batchnorm):
    a, b = convolutional(1), convolutional(2)
    how = {"alphas": 3, "batchnorm": batchnorm, "calibration": data(40, 1, 5, 5)}
    plain, both = (error_barrier(a, b, data(60, 1, 5, 5), align=align, **how) for align in (None, "weights"))
    assert both.unaligned.to_json() == plain.to_json()
    said = [note for note in both.notes if 'batchnorm="recalibrate" or "repair"' in note]
    assert len(said) == (batchnorm == "interpolate")


def test_after_alignment_it_is_the_barrier_to_the_aligned_network(pair):
    a, b, alignment, result = pair
    plain = error_barrier(a, alignment.apply(b), data(), alphas=5)
    assert np.array_equal(result.loss, plain.loss)
    assert result.ends == plain.ends
    assert 0 < result.ends.l2 < result.unaligned.ends.l2


@torch.no_grad()
def test_the_middle_equals_plain_code(pair):
    a, b, alignment, result = pair
    order = alignment.permutations
    middle = copy.deepcopy(a)
    for index, (rows, columns) in {0: (order[0], None), 2: (order[1], order[0]), 4: (None, order[1])}.items():
        weight, bias = b[index].weight, b[index].bias
        if columns is not None:
            weight = weight[:, columns]
        if rows is not None:
            weight, bias = weight[rows], bias[rows]
        middle[index].weight.copy_((a[index].weight + weight) / 2)
        middle[index].bias.copy_((a[index].bias + bias) / 2)
    inputs, labels = data()
    assert result.loss[2] == pytest.approx(float(nn.functional.cross_entropy(middle(inputs), labels)), rel=1e-6)


def test_an_alignment_that_was_found_before_gives_the_same(pair):
    a, b, alignment, result = pair
    given = error_barrier(a, b, data(), alphas=5, align=alignment)
    assert np.array_equal(given.loss, result.loss)
    assert given.unaligned.to_json() == result.unaligned.to_json()


@pytest.mark.parametrize("method", ["activations", "straight-through"])
def test_units_are_matched_on_calibration_data_or_on_the_data_with_a_note(pair, monkeypatch, method):
    a, b, alignment, _ = pair
    seen = []

    def look(scratch, weights, names, options, *, batches, graph):
        seen.append((options.method, [len(batch[0]) for batch in batches]))
        return alignment

    monkeypatch.setattr("modeconn.analysis.connectivity.aligning.find_alignment", look)
    how = {"alphas": 3, "align": method, "batch_size": 40}
    results = [error_barrier(a, b, data(), calibration=given, **how) for given in (data(50), None)]
    error_barrier(a, b, data(), calibration_batches=1, **how)
    assert seen == [(method, [25, 25]), (method, [30, 30]), (method, [30])]
    note = f"units are matched (by {method}) on the data that errors are measured on"
    assert [any(note in said for said in result.notes) for result in results] == [False, True]


def test_the_users_networks_and_random_state_are_left_alone():
    a, b = mlp(1).train(), mlp(2)
    before = [copy.deepcopy(network.state_dict()) for network in (a, b)]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    error_barrier(a, b, data(), alphas=3, align="weights")
    assert torch.equal(torch.rand(2), expected)
    assert a.training
    for network, state in zip((a, b), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


# --- what the result says


def test_in_words_there_are_both_barriers_and_what_was_matched(pair):
    *_, alignment, result = pair
    text = str(result)
    assert text.startswith("path from a to b, aligned, 5 alphas")
    before, after = 100 * result.unaligned.barrier, 100 * result.barrier
    assert f"The barrier is {before:.4g} percentage points before alignment, and {after:.4g} after." in text
    assert f"{alignment.found[1]}." in text
    assert f"unaligned {result.unaligned.barrier:.4g}" in repr(result)
    said = result.settings["alignment"]
    assert (said["method"], said["score"], said["moved"]) == ("weights", alignment.score, alignment.moved)
    assert said["stays"]["an output of the network"] == 2
    decided = str(error_barrier(pair[0], pair[1], data(), decide=0.9, align="weights"))
    assert "Before alignment: The error barrier is below 90 points" in decided


def test_json_there_and_back_keeps_both(pair):
    result = pair[-1]
    back = Barrier.from_json(result.to_json())
    assert back.to_json() == result.to_json()
    assert back.unaligned.interval() == result.unaligned.interval()
    assert str(back) == str(result)
    summed = result.without_examples()
    assert {sample.per for one in (summed, summed.unaligned) for sample in one.samples.values()} == {"all"}


def test_a_barrier_without_alignment_says_nothing_of_it():
    content = json.loads(error_barrier(mlp(1), mlp(2), data(), alphas=3).to_json())
    assert "unaligned" not in content
    assert "alignment" not in content["settings"]


@pytest.mark.parametrize("harm", [{"unaligned": 3}, {"unaligned": {}}])
def test_a_damaged_one_is_refused(pair, harm):
    content = json.loads(pair[-1].to_json()) | harm
    with pytest.raises(DataError, match="not a barrier that to_json wrote"):
        Barrier.from_json(json.dumps(content))


def test_rows_say_which_path_they_are_of(pair):
    result = pair[-1]
    rows = result.rows()
    assert [row["path"] for row in rows] == ["unaligned"] * 5 + ["aligned"] * 5
    assert [row["loss"] for row in rows] == [*result.unaligned.loss, *result.loss]
    assert result.to_frame().columns.tolist() == ["path", "alpha", "error", "loss"]


def test_one_picture_has_both_curves(pair):
    result = pair[-1]
    ax = result.plot(metric="loss")
    curves = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert np.array_equal(curves["loss, aligned"], result.loss)
    assert np.array_equal(curves["loss, unaligned"], result.unaligned.loss)
    assert f"before alignment {result.unaligned.heights('loss').barrier:.3g}" in ax.get_title()


# --- bad input


def test_what_is_no_alignment_is_refused_before_anything_is_measured(pair):
    a, b, alignment, _ = pair
    with pytest.raises(OptionError, match="unknown method of alignment 'wieghts'; did you mean 'weights'"):
        error_barrier(a, b, data(), align="wieghts")
    with pytest.raises(OptionError, match=r"align= must be a method \(weights, .*\) or what modeconn.align gave"):
        error_barrier(a, b, data(), align=True)
    with pytest.raises(SymmetryError, match="alignment of another architecture"):
        error_barrier(mlp(1, 9), mlp(2, 9), data(), align=alignment)
    with pytest.raises(ModeconnError, match="NaN or infinite"):
        error_barrier(a, nn.Sequential(*[copy.deepcopy(b[0]), *b[1:4], _broken(b[4])]), data(), align="weights")


def test_an_alignment_of_a_network_with_the_same_shapes_and_another_function_is_refused(pair):
    a, b, alignment, _ = pair
    first, *others = alignment.symmetry.tensors["2.weight"]
    tensors = {**alignment.symmetry.tensors, "2.weight": (first,)}  # as if what reads the first layer's units stayed
    wrong = replace(alignment, symmetry=replace(alignment.symmetry, tensors=tensors))
    assert others
    with pytest.raises(SymmetryError, match="so it is one of another network"):
        error_barrier(a, b, data(), align=wrong)


def test_a_measure_of_ones_own_needs_no_batch_that_the_network_takes():
    a, b = mlp(1), mlp(2)
    inputs, labels = data()

    def measure(network: nn.Module, batch: int) -> dict[str, tuple[Tensor, int]]:
        return {"error": ((network(inputs).argmax(1) != labels).float(), 1)}

    result = error_barrier(a, b, [0], evaluate=measure, alphas=3, align="weights")
    assert np.array_equal(result.error, error_barrier(a, b, data(), alphas=3, align="weights").error)
    given = error_barrier(a, b, [0], evaluate=measure, alphas=3, align=align(a, b))
    assert np.array_equal(given.error, result.error)


def _broken(layer: nn.Linear) -> nn.Linear:
    broken = copy.deepcopy(layer)
    nn.init.constant_(broken.bias, float("nan"))
    return broken
