"""`recalibrate` on anyone's network and data, against plain computations."""

import copy
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from modeconn.analysis.averaging.recalibrate import recalibrate
from modeconn.errors import DataError, NetworkError, OptionError

INPUTS = torch.randn(120, 5, generator=torch.Generator().manual_seed(1)) * 3 + 1
LABELS = (INPUTS[:, 0] > 1).long()
BATCHES = list(INPUTS.split(50))  # a tuple would be taken for inputs and targets


def make(norm: Callable[[int], nn.Module] = nn.BatchNorm1d, dropout: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), norm(6), nn.ReLU(), nn.Dropout(dropout), nn.Linear(6, 2))


def expected(network: nn.Module, inputs: Tensor = INPUTS) -> tuple[Tensor, Tensor]:
    """Mean and population variance of the hidden layer, in float64."""
    hidden = network[0](inputs).detach().double()
    return hidden.mean(0), hidden.var(0, correction=0)


def fits(network: nn.Module, inputs: Tensor = INPUTS) -> bool:
    found = network[1].running_mean.double(), network[1].running_var.double()
    return all(
        torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(found, expected(network, inputs), strict=True)
    )


@settings(max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(-100, 100), st.floats(0.01, 100))
def test_statistics_are_those_of_all_values_however_they_are_divided(sizes: list[int], mean: float, std: float) -> None:
    inputs = torch.randn(sum(sizes) + 1, 3, dtype=torch.float64) * std + mean
    network = nn.Sequential(nn.BatchNorm1d(3)).double()
    found = recalibrate(network, list(inputs.split([*sizes, 1])))
    layer = found.network[0]
    torch.testing.assert_close(layer.running_mean, inputs.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.running_var, inputs.var(0, correction=0), rtol=1e-6, atol=1e-6)
    assert (found.examples, found.batches) == (len(inputs), len(sizes) + 1)


def test_a_copy_is_changed_unless_the_network_itself_is_asked_for() -> None:
    network = make().train()
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    result = recalibrate(network, BATCHES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert fits(result.network)
    assert result.network.training
    assert result.recalibrated == ("1",)
    assert torch.equal(torch.get_rng_state(), random)
    same = recalibrate(network, BATCHES, inplace=True)
    assert same.network is network
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"1.running_mean", "1.running_var"}


class TwoInputs(nn.Module):
    """Takes named inputs, as Hugging Face's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make()

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.inner(x * scale)


def _named(batch: Tensor) -> dict[str, Tensor]:
    return {"x": batch, "scale": torch.full_like(batch, 2), "labels": torch.zeros(len(batch), dtype=torch.int64)}


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(zip(INPUTS, LABELS, strict=True))


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(TensorDataset(INPUTS, LABELS), 50),
        lambda: DataLoader(TensorDataset(INPUTS, LABELS), 50, shuffle=True),
        lambda: TensorDataset(INPUTS, LABELS),
        lambda: DataLoader(Stream(), 50),
        lambda: (INPUTS, LABELS),
        lambda: (INPUTS.numpy(), LABELS.numpy()),
        lambda: (INPUTS,),
        lambda: {"anything": INPUTS, "labels": LABELS},
        lambda: [{"image": batch} for batch in INPUTS.split(50)],
        lambda: list(INPUTS.split(50)),
        lambda: ((x, y) for x, y in zip(INPUTS.split(50), LABELS.split(50), strict=True)),
    ],
)
def test_data_come_in_any_layout(loader: Callable[[], Any]) -> None:
    result = recalibrate(make(), loader())
    assert fits(result.network)
    assert result.examples == 120


def test_named_inputs_are_passed_by_name_and_labels_are_not() -> None:
    network = TwoInputs()
    assert fits(recalibrate(network, [_named(batch) for batch in BATCHES]).network.inner, 2 * INPUTS)


def test_a_batch_that_the_network_does_not_take_is_passed_as_one_says() -> None:
    batches = [{"features": batch, "meta": ["a", "b"]} for batch in BATCHES]
    with pytest.raises(DataError, match="say with forward= how a batch is passed"):
        recalibrate(make(), batches)
    assert fits(recalibrate(make(), batches, forward=lambda network, batch: network(batch["features"])).network)


def test_a_stream_is_read_once_and_no_further_than_it_is_asked_for() -> None:
    taken = []

    def stream() -> Any:
        for number, batch in enumerate(INPUTS.split(10)):
            taken.append(number)
            yield batch

    batches = stream()
    result = recalibrate(make(), batches, batches=3)
    assert fits(result.network, INPUTS[:30])
    assert taken == [0, 1, 2]
    assert any("those of 30 examples alone" in note for note in result.notes)
    list(batches)
    with pytest.raises(DataError, match="the data are empty"):
        recalibrate(make(), batches)


@pytest.mark.parametrize(
    "norm",
    [
        lambda n: nn.BatchNorm1d(n, momentum=None),
        lambda n: nn.BatchNorm1d(n, momentum=0.0),
        lambda n: nn.BatchNorm1d(n, affine=False),
        lambda n: nn.SyncBatchNorm(n),
    ],
    ids=["momentum None", "momentum 0", "not affine", "in all processes"],
)
def test_kinds_of_batchnorm(norm: Callable[[int], nn.Module]) -> None:
    result = recalibrate(make(norm), BATCHES)
    assert fits(result.network)
    assert int(result.network[1].num_batches_tracked) == 0
    assert result.network[1].momentum == norm(6).momentum


def test_dropout_before_a_layer_is_off() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(5)).train()
    layer = recalibrate(network, BATCHES).network[1]
    torch.testing.assert_close(layer.running_mean, INPUTS.mean(0))
    torch.testing.assert_close(layer.running_var, INPUTS.var(0, correction=0))


class Frozen(nn.BatchNorm1d):
    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


class FrozenInside(nn.Sequential):
    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self[1].eval()
        return self


def _frozen_in_training() -> nn.Module:
    network = make().train()
    network[1].eval()
    return network


@pytest.mark.parametrize(
    "build",
    [lambda: make(Frozen), lambda: FrozenInside(*make()).train(), _frozen_in_training],
    ids=["own", "around", "mode"],
)
def test_frozen_layers_are_named_and_measured_on_request_alone(build: Callable[[], nn.Module]) -> None:
    kept = recalibrate(build(), BATCHES)
    assert (kept.recalibrated, kept.left) == ((), {"1": "frozen"})
    assert torch.equal(kept.network[1].running_var, torch.ones(6))
    assert "Left as they were (frozen): 1." in str(kept)
    found = recalibrate(build(), BATCHES, frozen="recalibrate")
    assert (found.recalibrated, found.left) == (("1",), {})
    assert fits(found.network)
    assert [module.training for module in found.network.modules()] == [module.training for module in build().modules()]


def test_layers_are_skipped_by_their_names_and_those_of_modules_around_them() -> None:
    network = nn.ModuleDict({"backbone": make(), "head": nn.Sequential(nn.BatchNorm1d(2))})
    for skip, recalibrated in (("backbone", "head.0"), ("backbone.1", "head.0"), ("head.0", "backbone.1")):
        result = recalibrate(network, BATCHES, skip=[skip], forward=lambda net, x: net["head"](net["backbone"](x)))
        assert result.recalibrated == (recalibrated,)
        assert set(result.left.values()) == {"skipped"}
    assert recalibrate(make(), BATCHES, skip=["", "1"]).left == {"1": "skipped"}


@pytest.mark.parametrize(
    ("skip", "says"),
    [
        (["backbon"], "unknown layer with running statistics in skip= 'backbon'; did you mean 'backbone'"),
        (["backbone.0"], "unknown layer with running statistics"),
        ("backbone", "skip must be names of layers in a list"),
    ],
)
def test_a_name_that_no_such_layer_has_is_refused(skip: Any, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        recalibrate(nn.ModuleDict({"backbone": make()}), BATCHES, skip=skip)


def test_a_layer_that_no_example_reaches_is_named() -> None:
    network = nn.ModuleDict({"main": make(), "auxiliary": nn.BatchNorm1d(6)})
    result = recalibrate(network, BATCHES, forward=lambda net, x: net["main"](x))
    assert result.left == {"auxiliary": "not reached"}


def test_the_error_before_and_after_is_that_of_the_network() -> None:
    network = make().train()
    x, y = INPUTS, LABELS
    result = recalibrate(network, BATCHES, data=(x, y))
    for values, net in ((result.before, network), (result.after, result.network)):
        output = copy.deepcopy(net).eval()(x).detach()
        assert values["error"] == pytest.approx(float((output.argmax(1) != y).double().mean()))
        assert values["loss"] == pytest.approx(float(F.cross_entropy(output, y)), rel=1e-5)
    losses = [F.cross_entropy(copy.deepcopy(net).eval()(x), y, reduction="none") for net in (network, result.network)]
    change = (losses[1] - losses[0]).detach().double().numpy()
    assert result.standard_error["loss"] == pytest.approx(np.std(change) / np.sqrt(len(change)), rel=1e-4)
    assert [row["metric"] for row in result.rows()] == ["error", "loss"]


def test_it_is_said_where_a_network_gets_worse() -> None:
    network = recalibrate(make(), BATCHES).network
    with torch.no_grad():
        own = INPUTS, copy.deepcopy(network).eval()(INPUTS).argmax(1)  # labels with which it is always right
    other = recalibrate(network, [10 * batch for batch in BATCHES], data=own)
    assert other.before["error"] == 0 < other.after["error"]
    assert "error" in other.worse
    assert "The old statistics are the better ones here" in str(other)
    again = recalibrate(network, BATCHES, data=own)
    assert (again.worse, again.before) == ((), again.after)


def test_a_network_without_running_statistics_is_left_as_it_is_and_no_data_are_read() -> None:
    def never() -> Any:
        raise AssertionError
        yield

    result = recalibrate(nn.Sequential(nn.Linear(5, 2)), never(), data=(INPUTS, LABELS))
    assert (result.recalibrated, result.batches) == ((), 0)
    assert result.before == result.after
    assert "no running statistics" in str(result)
    own = recalibrate(make(lambda n: nn.BatchNorm1d(n, track_running_stats=False)), never())
    assert any("normalize with each batch's own: 1" in note for note in own.notes)


def test_statistics_that_are_not_finite_leave_the_network_as_it_was() -> None:
    network, inputs = make(), INPUTS.clone()
    inputs[7] = torch.nan
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(NetworkError, match="NaN or infinite, and the old ones are kept: 1;"):
        recalibrate(network, list(inputs.split(50)), inplace=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_wrapped_networks_are_recalibrated_inside() -> None:
    averaged = AveragedModel(make())
    result = recalibrate(averaged, BATCHES, inplace=True)
    assert result.network is averaged
    assert fits(averaged.module)
    assert result.recalibrated == ("1",)
    copied = recalibrate(AveragedModel(make()), BATCHES).network
    assert isinstance(copied, AveragedModel)
    assert fits(copied.module)


class NoCopies(nn.Sequential):
    def __deepcopy__(self, memo: Any) -> nn.Module:
        raise TypeError("one of its kind")


@pytest.mark.parametrize(
    ("network", "options", "error", "says"),
    [
        (make(), {"frozen": "thaw"}, OptionError, "unknown choice for frozen layers 'thaw'"),
        (make(), {"batches": 0}, OptionError, "batches must be a whole number of at least 1"),
        (make(), {"data": [INPUTS]}, OptionError, "cannot tell what to measure.*the target is none"),
        (NoCopies(*make()), {}, NetworkError, "one of its kind.*with inplace=True"),
        ("resnet", {}, NetworkError, r"expected a torch\.nn\.Module, not str"),
    ],
)
def test_what_cannot_be_done_is_said(network: Any, options: dict[str, Any], error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        recalibrate(network, BATCHES, **options)
