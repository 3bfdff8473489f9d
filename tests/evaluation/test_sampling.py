"""Examples of data in a fixed random order."""

import copy

import numpy as np
import pytest
import torch

from modeconn.data import load_data
from modeconn.evaluation.batches import Batches
from modeconn.evaluation.sampling import RandomAccess, RandomSubset, every_nth_batch, order, random_access
from modeconn.training.splits import SplitBatches
from networks import EXAMPLES, NETWORKS

CPU = torch.device("cpu")


@pytest.mark.parametrize("examples", [1, 2, 1000])
def test_the_order_is_a_permutation_that_depends_on_the_number_alone(examples):
    first = order(examples)
    torch.manual_seed(1)
    assert torch.equal(first, order(examples))
    assert sorted(first.tolist()) == list(range(examples))


def test_the_order_is_not_that_of_the_data():
    """The mean place of the first half is that of all, to 4 standard errors."""
    assert abs(order(10_000)[:5000].double().mean() - 4999.5) < 4 * 10_000 / np.sqrt(12 * 2 * 5000)


@pytest.mark.parametrize("case", NETWORKS, ids=lambda case: case.name)
def test_batches_that_can_be_taken_apart_give_every_example_once(case):
    found = random_access(Batches(copy.deepcopy(case.batches()), CPU), EXAMPLES)
    assert found is not None
    assert len(found) == EXAMPLES
    whole = _leaves(case.data)
    for size in (5, EXAMPLES):
        (batch,) = RandomSubset(found, EXAMPLES - size, EXAMPLES)
        for leaf, given in zip(_leaves(batch), whole, strict=True):
            assert torch.equal(leaf, given[order(EXAMPLES)[-size:]])


def _leaves(batch):
    if isinstance(batch, dict):
        return list(batch.values())
    return list(batch) if isinstance(batch, tuple | list) else [batch]


@pytest.mark.parametrize(
    "batches",
    [
        [(torch.zeros(4, 3), torch.zeros(4)), (torch.zeros(4, 2), torch.zeros(4))],  # texts of different lengths
        [(torch.zeros(4, 3), torch.zeros(4)), (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))],
        [(torch.zeros(5, 8), torch.zeros(8)), (torch.zeros(5, 8), torch.zeros(8))],  # examples come second
        [{"x": torch.zeros(8), "name": "eight"}],
        [(torch.zeros(8), torch.tensor(1))],
        [torch.zeros(3), torch.zeros(3)],  # as many were measured as there are not
        [{"x": torch.zeros(4)}, {"y": torch.zeros(4)}],
    ],
)
def test_others_cannot(batches):
    assert random_access(batches, 8) is None


def test_one_batch_in_so_many_is_evenly_spread():
    assert every_nth_batch(range(40), 8) == [4, 12, 20, 28, 36]


def test_a_split_of_a_task_is_read_in_any_order(data_dir):
    split = SplitBatches(load_data("digits", data_dir), "test")
    assert isinstance(split, RandomAccess)
    assert random_access(split, len(split)) is split
    images, labels = (torch.cat(parts) for parts in zip(*split, strict=True))
    assert len(labels) == len(split)
    drawn, of_drawn = (torch.cat(parts) for parts in zip(*RandomSubset(split, 10, 300), strict=True))
    assert torch.equal(drawn, images[order(len(split))[10:300]])
    assert torch.equal(of_drawn, labels[order(len(split))[10:300]])
