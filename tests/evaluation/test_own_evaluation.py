"""Sums and counts that the caller's own `evaluate` gives."""

import numpy as np
import pytest
import torch
from torch import nn

from modeconn.errors import DataError, OptionError
from modeconn.evaluation.measure import measure
from modeconn.evaluation.meters import choose_meter

BATCHES = [torch.arange(4.0), torch.arange(4.0, 8.0), torch.arange(8.0, 9.0)]  # 0, ..., 8


def run(evaluate, batches=BATCHES):
    network = nn.Identity()
    return measure(network, batches, choose_meter(evaluate, network, batches[0]))


FORMS = {
    "vectors": lambda x: (x, torch.ones_like(x)),
    "vectors and one count for each": lambda x: (x, 1),
    "arrays": lambda x: (x.numpy(), np.ones(len(x))),
    "lists": lambda x: (x.tolist(), [1] * len(x)),
    "a list of a pair": lambda x: [x, torch.ones(len(x), dtype=torch.int32)],
    "tensors without dimensions": lambda x: (x.sum(), torch.tensor(len(x))),
    "numbers": lambda x: (float(x.sum()), len(x)),
    "whole numbers": lambda x: (int(x.sum()), float(len(x))),
    "numbers of NumPy": lambda x: (np.float64(x.sum()), np.int32(len(x))),
    "half precision": lambda x: (x.bfloat16(), torch.ones(len(x)).half()),
}
FOR_A_BATCH = {"tensors without dimensions", "numbers", "whole numbers", "numbers of NumPy"}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_mean_over_all_examples(form):
    """The mean of batch means would be (1.5 + 5.5 + 8) / 3 = 5."""
    result = run(lambda _, x: {"m": FORMS[form](x)})
    assert result.mean("m") == 4
    assert result.whole == ({"m"} if form in FOR_A_BATCH else frozenset())
    assert len(result.sums["m"]) == (3 if form in FOR_A_BATCH else 9)
    assert result.predictions is None


def test_metrics_of_different_kinds_go_side_by_side():
    result = run(lambda _, x: {"each": (x > 3, torch.ones(len(x))), "batch": (len(x), 1), 7: (2 * x, 1)})
    assert (result.mean("each"), result.mean("batch"), result.mean("7")) == (5 / 9, 3, 8)
    assert result.whole == {"batch"}


def test_counts_may_differ_between_examples_and_be_zero():
    result = run(lambda _, x: {"m": (x * (x > 6), x > 6)})
    assert result.mean("m") == 7.5


def test_gradients_are_let_go():
    weight = torch.ones((), requires_grad=True)

    @torch.enable_grad()
    def evaluate(network, x):
        return {"m": (weight * x, weight * torch.ones(len(x)))}

    assert run(evaluate).mean("m") == 4


def test_numbers_keep_the_precision_of_python():
    assert run(lambda _, x: {"m": (16_777_217.0, 1.0)}).mean("m") == 16_777_217


def test_a_vector_with_the_count_of_the_batch_is_refused():
    """It would be divided twice."""
    with pytest.raises(OptionError, match="m"):
        run(lambda _, x: {"m": (x, len(x))}, BATCHES[:1])


@pytest.mark.parametrize("given", [None, {}, 0.5, [("m", (1, 1))], (1, 1)])
def test_what_is_no_mapping_is_refused(given):
    with pytest.raises(OptionError, match=r"evaluate must give {name: \(sum, count\)}; it gives"):
        run(lambda _, x: given)


@pytest.mark.parametrize("pair", [0.5, torch.tensor(1.0), "ab", None, (1,), (1, 2, 3), ("a", "b"), (None, 1)])
def test_what_is_no_pair_is_refused_by_name(pair):
    with pytest.raises(OptionError, match=r"\(sum, count\) for 'm'"):
        run(lambda _, x: {"m": pair})


@pytest.mark.parametrize(
    "pair",
    [(1, torch.ones(4)), (torch.ones(4), torch.ones(3)), (torch.ones(2, 2), torch.ones(2, 2)), (1j, 1)],
)
def test_what_is_no_number_or_vector_is_refused_with_its_shape(pair):
    with pytest.raises(OptionError, match=r"vectors with one entry per example, as sum and count of 'm'; it gives"):
        run(lambda _, x: {"m": pair})


@pytest.mark.parametrize("count", [-1, float("nan"), torch.tensor([1.0, -1.0])])
def test_a_negative_count_is_refused(count):
    with pytest.raises(OptionError, match="count for 'm'"):
        run(lambda _, x: {"m": (torch.ones(2) if isinstance(count, torch.Tensor) else 1, count)})


def test_names_that_change_from_batch_to_batch_are_refused():
    with pytest.raises(OptionError, match="evaluate gives m for one batch and m, more for another"):
        run(lambda _, x: {"m": (1, 1)} | ({"more": (1, 1)} if len(x) == 1 else {}))


def test_where_nothing_counts_there_is_nothing_to_divide_by():
    with pytest.raises(DataError, match="nothing counts for 'm'"):
        run(lambda _, x: {"m": (x, 0 * x)})


def test_a_network_is_evaluated_in_evaluation_mode_and_put_back():
    network = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    network[0].eval()
    seen = []

    def evaluate(net, x):
        seen.append(any(module.training for module in net.modules()) or torch.is_grad_enabled())
        return {"m": (x, 1)}

    measure(network, BATCHES, choose_meter(evaluate, network, BATCHES[0]))
    assert seen == [False] * 3
    assert [module.training for module in network.modules()] == [True, False, True]


def test_errors_of_ones_own_code_come_through():
    def evaluate(network, x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(evaluate)
