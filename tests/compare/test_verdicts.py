"""Pairs of small trained networks whose verdict is known, and its numbers against plain averages."""

import copy
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from trained import TEST, TRAIN, averaged, error, mlp, trained

from modeconn import align, compare
from modeconn.analysis.compare.pair_report import PairReport


def fine_tunes(seed: int, norm: bool) -> tuple[nn.Module, nn.Module]:
    base = trained(mlp(seed, norm), seed)
    return trained(base, 100 + seed, rate=0.05), trained(base, 200 + seed, rate=0.05)


def seeds(seed: int, norm: bool) -> tuple[nn.Module, nn.Module]:
    return trained(mlp(seed, norm), seed), trained(mlp(1000 + seed, norm), 1000 + seed)


def of_one_initialisation(seed: int, norm: bool) -> tuple[nn.Module, nn.Module]:
    return trained(mlp(seed, norm), seed), trained(mlp(seed, norm), 1000 + seed)


def report(pair: tuple[nn.Module, nn.Module], **how) -> PairReport:
    return compare(*pair, TEST, calibration=TRAIN, **how)


def check_verdicts(count: int, norm: bool) -> None:
    """Fine-tunes and copies of one initialisation are siblings, two seeds are not; and the average is as it is."""
    kinds = {"fine-tunes": fine_tunes, "seeds": seeds, "initialisation": of_one_initialisation}
    found: dict[str, Counter] = {kind: Counter() for kind in kinds}
    for seed in range(count):
        for kind, make in kinds.items():
            a, b = make(seed, norm)
            result = report((a, b))
            height = error(averaged(a, b)) - (error(a) + error(b)) / 2
            assert (result.verdict == "average") == (height < 0.02)
            found[kind][result.siblings.answer, result.verdict == "average"] += 1
    print({kind: dict(counter) for kind, counter in found.items()})
    assert found["fine-tunes"] == {("siblings", True): count}
    assert found["seeds"] == {("not siblings", False): count}
    assert {answer for answer, _ in found["initialisation"]} == {"siblings"}


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
def test_fine_tunes_pass_and_seeds_do_not(norm: bool) -> None:
    check_verdicts(1, norm)


@pytest.mark.simulation
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
def test_of_twenty_seeds_all_verdicts_are_right(norm: bool) -> None:
    check_verdicts(20, norm)


def test_numbers_are_those_of_plain_averages() -> None:
    a, b = seeds(0, True)
    result = report((a, b), try_all=True)
    plain, recalibrated, _, aligned, both, _ = result.attempts
    assert plain.ends == pytest.approx((error(a), error(b)))
    assert plain.midpoint == pytest.approx(error(averaged(a, b)))
    assert plain.height == pytest.approx(plain.midpoint - (error(a) + error(b)) / 2)
    assert result.barrier is not None
    with torch.no_grad():
        disagree = (a(TEST[0]).argmax(1) != b(TEST[0]).argmax(1)).double().mean()
    assert result.barrier.ends.disagreement == pytest.approx(float(disagree))
    permuted = align(a, b, example=TEST[0][:8]).apply(b)
    assert aligned.midpoint == pytest.approx(error(averaged(a, permuted)))
    for attempt, other in ((recalibrated, b), (both, permuted)):
        assert attempt.midpoint == pytest.approx(error(with_statistics(averaged(a, other))), abs=2 / 597)
        assert attempt.height == pytest.approx(
            attempt.midpoint - (error(a) + error(b)) / 2
        )  # over the ends as they are


@torch.no_grad()
def with_statistics(network: nn.Module) -> nn.Module:
    """BatchNorm's mean and population variance of all training data, layer after layer."""
    x = TRAIN[0]
    for layer in network:
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.copy_(x.mean(0))
            layer.running_var.copy_(x.var(0, correction=0))
        x = layer(x)
    return network


def test_the_first_way_that_removes_the_barrier_ends_the_search() -> None:
    a, b = seeds(0, True)
    everything, first = report((a, b), try_all=True), report((a, b))
    removed = [attempt.removed for attempt in everything.attempts]
    ways = [attempt.way for attempt in everything.attempts]
    assert ways == ["average", "recalibrate", "repair", "align", "align and recalibrate", "align and repair"]
    assert [attempt.way for attempt in first.attempts] == ways[: removed.index(True) + 1]
    assert first.verdict == everything.verdict
    assert first.verdict.startswith("align first")


def test_without_calibration_data_only_alignment_is_tried() -> None:
    result = compare(*seeds(0, True), TEST)
    assert [attempt.way for attempt in result.attempts] == ["average", "align"]
    assert "recalibration and REPAIR need calibration= training data, and were not tried" in result.notes


def test_a_copy_in_another_order_is_aligned_first() -> None:
    a = trained(mlp(0), 0)
    found = align(a, a, example=TEST[0][:8], tries=1)
    order = found.symmetry.random(np.random.default_rng(0))
    b = type(found)(**{**vars(found), "permutations": order}).apply(a)
    result = report((a, b))
    assert result.siblings.answer == "not siblings"  # as it stands, and said of nothing else
    assert result.verdict == "align first"
    assert result.attempts[-1].height == 0


@torch.no_grad()
def rescaled(network: nn.Module, factor: float) -> nn.Module:
    """The same function: BatchNorm behind a layer takes out what its weights and biases are multiplied by."""
    made = copy.deepcopy(network)
    for layer, norm in itertools.pairwise(made):
        if isinstance(norm, nn.BatchNorm1d):
            layer.weight *= factor
            layer.bias *= factor
            norm.running_mean *= factor
            norm.running_var *= factor**2
    return made


def test_statistics_that_do_not_fit_are_recalibrated() -> None:
    """The mean of variances s^2 and 1 is (s^2 + 1) / 2, where the average's activations have (s + 1)^2 / 4."""
    a = trained(mlp(2, norm=True, depth=6, width=24), 2)
    b = rescaled(a, 1000.0)
    result = report((a, b))
    assert result.siblings.answer == "siblings"
    assert result.verdict == "average and recalibrate"
    assert error(averaged(a, b)) - (error(a) + error(b)) / 2 > 0.05
    assert error(with_statistics(averaged(a, b))) - (error(a) + error(b)) / 2 < 0.02
    assert "after recalibration" in result.reason
