"""Data and measures that cannot be used are refused with a message that says why."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from direct import barrier_of, refused
from modeconn import ModeconnError, error_barrier
from modeconn.errors import DataError, OptionError
from modeconn.evaluation.batches import Batches
from networks import CLASSES, EXAMPLES, by_name

MLP = by_name("mlp")
_X, _Y = MLP.data


# --- data


@pytest.mark.parametrize(
    "empty",
    [
        lambda: [],
        lambda: iter([]),
        lambda: (_X[:0], _Y[:0]),
        lambda: TensorDataset(_X[:0], _Y[:0]),
        lambda: DataLoader(TensorDataset(_X, _Y), batch_size=99, drop_last=True),
    ],
)
def test_empty_data_are_refused(empty: Any) -> None:
    refused(DataError, "the data are empty", data=empty())


def test_data_that_are_none_or_of_no_known_kind_are_refused() -> None:
    a, b = MLP.pair()
    with pytest.raises(OptionError, match="give data=: a DataLoader, a Dataset, a tuple of tensors"):
        error_barrier(a, b)
    refused(OptionError, "only stored runs know their own", data="test")
    for wrong in (3, _X, len):
        refused(DataError, f"data of type {type(wrong).__name__} are not known", data=wrong)
    refused(DataError, "different numbers of examples: (float32[16, 6], int64[3])", data=(_X, _Y[:3]))


@pytest.mark.parametrize(
    ("batch", "parts"),
    [
        ((_X, _X, _Y), ["the network fails on a batch (float32[16, 6], float32[16, 6], int64[16])", "evaluate="]),
        ((_X[:, :5], _Y), ["the network fails in its module 0 on a batch (float32[16, 5], int64[16]): RuntimeError"]),
        ({"image": _X, "mask": _X, "label": _Y}, ["{image: float32[16, 6], mask: float32[16, 6], label: int64[16]}"]),
        (_X, ["the target is none", "evaluate="]),
        ((_X, _Y[:, None].expand(-1, 2)), ["cannot tell what to measure", "float32[16, 4]", "int64[16, 2]"]),
        ("text", ["the network fails in its module 0 on a batch str: TypeError"]),
    ],
)
def test_a_loader_that_yields_something_else_than_the_network_takes(batch: Any, parts: list[str]) -> None:
    refused(ModeconnError, *parts, data=[batch])


@pytest.mark.parametrize(("label", "shown"), [(CLASSES, "4"), (99, "99"), (-1, "-1"), (-100, "-100")])
def test_labels_out_of_range_are_refused(label: int, shown: str) -> None:
    labels = _Y.clone()
    labels[9] = label  # in the second batch
    message = f"a label is {shown}, but the network gives 4 classes"
    refused(DataError, message, data=(_X, labels))
    refused(DataError, message, data=[(_X[:7], labels[:7]), (_X[7:], labels[7:])])


@pytest.mark.parametrize("label", [11, -5])
def test_tokens_out_of_range_are_refused(label: int) -> None:
    case = by_name("tied")
    inputs, labels = (tensor.clone() for tensor in case.data)
    labels[3, 2] = label
    with pytest.raises(DataError, match=f"a label is {label}, but the network gives 11 classes"):
        error_barrier(*case.pair(), (inputs, labels), alphas=3)
    labels[3, 2] = -100  # which does not count
    assert error_barrier(*case.pair(), (inputs, labels), alphas=3).samples["loss"].counts[0, 3] == 4


def test_data_that_can_be_gone_through_once_are_kept_with_a_note() -> None:
    result = barrier_of(data=(batch for batch in MLP.batches()))
    assert np.array_equal(result.loss, barrier_of(data=MLP.batches()).loss)
    assert any("gone through once only" in note for note in result.notes)


class Exhausted:
    """Each pass goes on where the one before stopped."""

    def __init__(self, batches: Any) -> None:
        self.rest = iter(batches)

    def __iter__(self) -> Iterator[Any]:
        return (batch for batch in self.rest)


@pytest.mark.parametrize("batchnorm", ["recalibrate", "repair"])
@pytest.mark.parametrize(
    ("calibration", "one"),
    [
        (lambda x, y: (x[:1], y[:1]), True),
        (lambda x, y: iter([x[:1]]), True),
        (lambda x, y: list(x.split(1)), False),
        (lambda x, y: DataLoader(TensorDataset(x, y), batch_size=1, shuffle=True), False),
        (lambda x, y: (x[:2], y[:2]), False),
    ],
)
def test_statistics_of_one_example_are_told_of(batchnorm: str, calibration: Any, one: bool) -> None:
    case = by_name("batchnorm")
    given, data = calibration(*case.data), case.data
    result = error_barrier(*case.pair(), data, batchnorm=batchnorm, calibration=given, alphas=3)
    assert any("the calibration data are one example" in note for note in result.notes) == one


def test_data_that_lose_a_batch_at_every_look_are_not_silently_shortened() -> None:
    try:
        result = barrier_of(data=Exhausted(MLP.batches()))
    except DataError:
        return
    assert result.samples["error"].sums.shape[1] == EXAMPLES


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Randomly changed in a way that no seed reaches."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        byte = os.urandom(1)[0]
        if self.how == "noise":
            return _X[index] + byte / 256, _Y[index]
        return (_X[index].flip(0) if byte % 2 else _X[index]), _Y[index]


@pytest.mark.parametrize("how", ["noise", "flips"])
def test_data_that_change_between_passes_are_refused_where_they_cannot_be_kept(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Augmented(how)
    kept = barrier_of(b=MLP.network(1), data=data)
    assert len(set(kept.loss)) == 1  # kept in memory, they are the same in every pass
    monkeypatch.setitem(Batches.__init__.__kwdefaults__, "keep", 0)
    refused(DataError, "other ones in a second pass", "without random augmentation", data=data)
    assert np.array_equal(barrier_of(data=MLP.batches()).loss, barrier_of(data=MLP.data, batch_size=7).loss)


# --- measures of one's own


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (None, "it gives NoneType"),
        (0.5, "it gives float"),
        (torch.ones(3), "it gives Tensor"),
        ({}, "{name: (sum, count)}"),
        ([("loss", (1.0, 1))], "it gives list"),
        ({"loss": 0.5}, "(sum, count) for 'loss'"),
        ({"loss": (1, 2, 3)}, "(sum, count) for 'loss'"),
        ({"loss": ("a", 1)}, "(sum, count) for 'loss'"),
        ({"loss": (None, 1)}, "(sum, count) for 'loss'"),
        ({"loss": {"sum": 1, "count": 2}}, "(sum, count) for 'loss'"),
        ({"loss": torch.ones(2)}, "(sum, count) for 'loss'"),
        ({"loss": (torch.ones(2, 2), 1)}, "it gives float32[2, 2]"),
        ({"loss": (torch.ones(3), torch.ones(2))}, "float32[3] and float32[2]"),
        ({"loss": (torch.ones(3), torch.ones(3, 1))}, "float32[3] and float32[3, 1]"),
        ({"loss": (torch.tensor(1j), 1)}, "it gives complex64[]"),
        ({"loss": (1.0, 1j)}, "complex"),
        ({"loss": (1.0, -1)}, "negative count for 'loss'"),
        ({"loss": (1.0, float("nan"))}, "count for 'loss'"),
        ({"loss": (1.0, float("inf"))}, "count for 'loss'"),
        ({"loss": (1.0, 0)}, "every count is 0"),
    ],
)
def test_a_measure_that_gives_the_wrong_thing_is_refused(given: Any, part: str) -> None:
    refused(ModeconnError, part, evaluate=lambda network, batch: given)


def test_a_measure_that_gives_other_names_or_numbers_later_is_refused() -> None:
    refused(
        OptionError,
        "evaluate gives error for one batch and loss for another",
        data=MLP.batches(),
        evaluate=lambda network, batch: {"error" if len(batch[0]) == 7 else "loss": (1.0, 1)},
    )
    ends = [network[0].bias.detach() for network in MLP.pair()]

    def fewer_between(network: Any, batch: Any) -> dict[str, Any]:
        between = not any(torch.equal(network[0].bias, bias) for bias in ends)
        return {"loss": (torch.ones(5 if between else 16), 1)}

    refused(DataError, "another number of examples", alphas=5, evaluate=fewer_between)


def test_an_error_in_ones_own_measure_is_passed_on_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        barrier_of(evaluate=lambda network, batch: {"loss": (1 / 0, 1)})


def test_one_logit_with_labels_of_0_and_1_is_told_what_it_may_be() -> None:
    data = torch.randn(16, 6, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2
    a, b = torch.nn.Linear(6, 1), torch.nn.Linear(6, 1)
    with pytest.raises(DataError, match='the logit of a binary classification, say evaluate="multi-label"'):
        error_barrier(a, b, data, evaluate="classification", alphas=3)
    assert error_barrier(a, b, data, evaluate="multi-label", alphas=3).settings["measured"] == "multi-label"
