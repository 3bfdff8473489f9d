"""The evaluator of paths: what it measures is what a plain network measures, whatever was measured before."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import make_line
from modeconn.analysis.paths.recalibrate import recalibrate
from modeconn.analysis.paths.repair import channel_statistics, interpolate_statistics, repaired
from modeconn.evaluation.measure import measure
from modeconn.evaluation.meters import CLASSIFICATION
from modeconn.weights.sources import weights_of
from networks import by_name

CASE = by_name("batchnorm")
SPLITS = {"test": CASE.batches()[:1], "train": CASE.batches()[1:]}


class Passes:
    """Batches that know how often they were gone through."""

    def __init__(self, batches):
        self.batches, self.count = batches, 0

    def __iter__(self):
        self.count += 1
        return iter(self.batches)


def evaluator(batchnorm, calibration=()):
    return PathEvaluator(CASE.network(3), CLASSIFICATION, SPLITS, calibration, batchnorm)


def line():
    a, b = CASE.pair()
    return make_line(weights_of(a, "a"), weights_of(b, "b"), [name for name, _ in a.named_parameters()])


def at(alpha):
    """A network of the weights at alpha."""
    network = CASE.network(4)
    line().load(network, alpha)
    return network


def losses(found):
    return {split: measured.mean("loss") for split, measured in found.items()}


def expected(network):
    return losses({split: measure(network, data, CLASSIFICATION) for split, data in SPLITS.items()})


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_point_is_what_a_network_of_its_weights_gives_on_each_split(alpha):
    assert losses(evaluator("interpolate").measure_at(line(), alpha)) == expected(at(alpha))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_recalibration_is_of_every_point_ends_included(alpha):
    network, calibration = at(alpha), CASE.batches(5)
    recalibrate(network, calibration, lambda batch: network(batch[0]))
    assert losses(evaluator("recalibrate", calibration).measure_at(line(), alpha)) == expected(network)


def test_repair_is_of_points_between_the_ends_alone():
    calibration = CASE.batches()[:1]
    ends = [channel_statistics(network, [calibration[0][0]]) for network in CASE.pair()]
    network, found = at(0.3), evaluator("repair", calibration)
    with repaired(network, [calibration[0][0]], interpolate_statistics(*ends, 0.3)):
        assert losses(found.measure_at(line(), 0.3)) == expected(network)
    for alpha in (0.0, 1.0):
        assert losses(found.measure_at(line(), alpha)) == expected(at(alpha))


def test_an_end_is_the_same_for_every_line_that_ends_there():
    found, path = evaluator("repair", CASE.batches()), line()
    assert losses(found.measure_end(path.b)) == losses(found.measure_at(path, 1.0))


def test_the_ends_statistics_are_measured_once_and_anew_on_other_calibration_data():
    first, other = Passes(CASE.batches()), Passes(CASE.batches(5)[:2])
    path, found = line(), evaluator("repair", first)
    for alpha in (0.2, 0.4, 0.6):
        found.measure_at(path, alpha)
    assert first.count == 1 + 2 + 3  # the first batch alone shows what is repaired
    again = replace(found, calibration=other)
    moved = losses(again.measure_at(path, 0.4))
    assert moved == losses(evaluator("repair", other.batches).measure_at(path, 0.4))
    assert moved != losses(found.measure_at(path, 0.4))
    assert (first.count, other.count) == (7, 4)


def test_a_network_that_writes_to_its_input_finds_the_same_calibration_data_at_every_alpha():
    class Writing(nn.Sequential):
        def forward(self, x):
            return super().forward(x.mul_(2))

    batches = CASE.batches()
    before = [x.clone() for x, _ in batches]
    PathEvaluator(Writing(*CASE.network(3)), CLASSIFICATION, {}, batches, "recalibrate").measure_at(line(), 0.5)
    assert all(torch.equal(x, y) for (x, _), y in zip(batches, before, strict=True))
