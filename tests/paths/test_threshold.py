"""`error_barrier(..., decide=)`: above or below a threshold, from as few examples as it takes."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from direct import barrier_of, everything, refused
from modeconn import Barrier, error_barrier
from modeconn.errors import DataError, OptionError
from modeconn.evaluation.sampling import order
from networks import by_name


def labelled(examples, wrong):
    """Two linear networks that agree with the labels of some examples, and data on which `wrong` is the error."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, 8, generator=generator)
    labels = (inputs[:, 0] > 0).long()
    flipped = torch.randperm(examples, generator=generator)[: round(wrong * examples)]
    labels[flipped] = 1 - labels[flipped]
    return inputs, labels


def network(weights):
    made = nn.Linear(8, 2, bias=False)
    with torch.no_grad():
        made.weight.zero_()
        made.weight[1, :2] = torch.tensor(weights)
    return made


def low():
    """Halfway, a weight that only errs is gone."""
    return network([1.0, 0.2]), network([1.0, -0.2])


def high():
    """The other end errs nearly always, far above the mean of the ends."""
    return network([1.0, 0.0]), network([-1.0, 0.0])


@pytest.mark.parametrize(("ends", "decision"), [(low, "below"), (high, "above")])
def test_the_decision_is_that_of_the_full_count_from_a_part_of_the_examples(ends, decision):
    data = labelled(5000, 0.1)
    full = error_barrier(*ends(), data, alphas=11)
    assert (full.barrier >= 0.02) == (decision == "above")
    assert full.decided is None
    found = error_barrier(*ends(), data, alphas=11, decide=0.02)
    assert found.decided.decision == decision
    assert (found.decided.examples, found.decided.threshold, found.decided.error_probability) == (5000, 0.02, 0.001)
    assert found.decided.drawn <= 2500
    assert max(found.decided.counts) == found.decided.drawn
    assert sum(found.decided.counts) < 0.5 * 11 * 5000


def test_what_is_measured_are_the_first_examples_of_the_order():
    data = labelled(5000, 0.1)
    full, found = (error_barrier(*low(), data, alphas=5, decide=decide) for decide in (None, 0.02))
    for index, count in enumerate(found.decided.counts):
        drawn = order(5000)[:count].numpy()
        for name in ("error", "loss"):
            samples = found.samples[name]
            np.testing.assert_allclose(samples.sums[index, :count], full.samples[name].sums[index, drawn], rtol=1e-5)
            assert samples.counts[index].tolist() == [1] * count + [0] * (found.decided.drawn - count)
            assert found.values(name)[index] == pytest.approx(full.samples[name].sums[index, drawn].mean(), rel=1e-5)


def test_the_distance_of_losses_stands_for_that_of_all_examples():
    """A norm over the examples that were drawn is too small; it is scaled to how many there are."""
    full, found = (error_barrier(*low(), labelled(5000, 0.1), alphas=3, decide=decide) for decide in (None, 0.02))
    drawn = order(5000)[: found.decided.drawn].numpy()
    losses = full.samples["loss"].sums[:, drawn].astype(np.float64)
    of_drawn = np.linalg.norm(losses[0] - losses[-1])
    assert found.decided.drawn < 5000
    assert found.ends.loss_l2 == pytest.approx(of_drawn * math.sqrt(5000 / found.decided.drawn), rel=1e-5)
    assert found.ends.loss_l2 == pytest.approx(full.ends.loss_l2, rel=0.1)


def test_a_result_says_that_its_numbers_are_estimates_and_survives_its_file():
    found = error_barrier(*high(), labelled(5000, 0.1), decide=0.02)
    again = Barrier.from_json(found.to_json())
    assert again.decided == found.decided
    assert str(again) == str(found)
    said = f"above 2 points, decided from {found.decided.drawn} of 5000 examples"
    assert said in str(found)
    assert said in repr(found)
    assert "estimates" in str(found)
    assert "95 % interval" not in str(found)
    assert found.plot().get_title().startswith("estimated barrier")
    for ask in (found.interval, found.cross_fitted):
        with pytest.raises(OptionError, match="full count"):
            ask()
    assert "decided" not in error_barrier(*high(), labelled(50, 0.1), alphas=3).to_json()


def test_where_all_examples_are_drawn_the_numbers_are_those_of_the_full_count():
    case = by_name("mlp")
    full, found = (barrier_of(alphas=5, decide=decide) for decide in (None, 0.02))
    assert found.decided.drawn == len(case.data[0])
    assert found.decided.decision == ("above" if full.barrier >= 0.02 else "below")
    assert set(found.decided.counts) == {len(case.data[0])}
    np.testing.assert_allclose(found.error, full.error)
    assert found.barrier == pytest.approx(full.barrier)
    assert found.ends.disagreement == full.ends.disagreement


@pytest.mark.parametrize("batchnorm", ["interpolate", "recalibrate"])
def test_statistics_are_those_of_the_full_count(batchnorm):
    case = by_name("batchnorm")
    how = {"alphas": 5, "batchnorm": batchnorm, "calibration": case.batches()}
    one, other = case.pair()
    before = everything(one), everything(other)
    data = tuple(torch.cat([part] * 20) for part in case.data)
    full, found = (error_barrier(one, other, data, **how, decide=decide) for decide in (None, 0.5))
    counts = found.decided.counts
    assert len(counts) == 5
    for index, count in enumerate(counts):
        drawn = order(len(data[0]))[:count].numpy()
        sums = full.samples["loss"].sums[index, drawn]
        np.testing.assert_allclose(found.samples["loss"].sums[index, :count], sums, rtol=1e-4, atol=1e-5)
    assert (everything(one), everything(other)) == before


def test_stored_runs_are_decided_on_their_own_data(runs, data_dir):
    full, found = (error_barrier(*runs, "train", alphas=5, decide=decide, data_dir=data_dir) for decide in (None, 0.02))
    assert found.decided.decision == ("above" if full.barrier >= 0.02 else "below")
    assert found.decided.examples == 1437


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ({"decide": 0}, ["decide", "between 0 and 1"]),
        ({"decide": True}, ["decide", "between 0 and 1"]),
        ({"decide": "2"}, ["decide", "between 0 and 1"]),
        ({"decide": math.nan}, ["decide", "between 0 and 1"]),
        ({"decide": 0.02, "error_probability": 1}, ["error_probability", "between 0 and 1"]),
        ({"decide": 0.02, "alphas": "adaptive"}, ["not adaptive"]),
        ({"decide": 0.02, "alphas": [-0.5, 0.5], "extrapolate": True}, ["between 0 and 1"]),
        ({"decide": 0.02, "batchnorm": "repair"}, ["REPAIR", "full count"]),
        ({"decide": 0.02, "higher_is_better": True}, ["higher_is_better"]),
        ({"decide": 0.02, "evaluate": "regression", "data": (torch.randn(9, 6), torch.randn(9, 4))}, ["error of each"]),
        ({"decide": 0.02, "evaluate": lambda network, batch: {"error": (3, 7)}}, ["error of each"]),
        ({"decide": 0.02, "evaluate": lambda network, batch: {"error": (2 * torch.ones(16), 1)}}, ["between 0 and 1"]),
    ],
)
def test_what_cannot_be_decided_is_refused(how, parts):
    refused(OptionError, *parts, **how)


def test_empty_data_are_refused():
    refused(DataError, "not one batch", data=[], decide=0.02)


def test_batches_that_cannot_be_taken_apart_are_refused():
    def evaluate(network, batch):
        wrong = torch.ones(len(batch["input"]))
        return {"error": (wrong, 1)}

    batches = [{"input": torch.zeros(4, length)} for length in (3, 5)]
    refused(OptionError, "cannot be taken apart", data=batches, evaluate=evaluate, decide=0.02)
