"""Weights of odd types and layouts, and older checkpoints that PyTorch loads, against plain tensors."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

from modeconn import average, error_barrier, soup
from modeconn.errors import NetworkError
from networks import by_name

DATA: Any = by_name("mlp").data
BATCHNORM = by_name("batchnorm")


@pytest.mark.slow
def test_float8_is_evaluated_in_float32() -> None:
    a, b = by_name("mlp").pair()
    small = [{name: tensor.to(torch.float8_e4m3fn) for name, tensor in net.state_dict().items()} for net in (a, b)]
    wide = [{name: tensor.float() for name, tensor in state.items()} for state in small]
    expected = error_barrier(*wide, DATA, model=a, alphas=3)
    for ends in ((small[0], small[1]), (small[0], wide[1])):
        result = error_barrier(*ends, DATA, model=a, alphas=3)
        assert np.array_equal(result.loss, expected.loss)
        assert result.ends.l2 == expected.ends.l2
    narrow = [by_name("mlp").network(seed).to(torch.float8_e4m3fn) for seed in (1, 2)]
    assert np.array_equal(error_barrier(*narrow, DATA, alphas=3).loss, expected.loss)
    mean = average([small[0], wide[1]])
    assert all(torch.equal(mean[name], wide[0][name].lerp(wide[1][name], 0.5)) for name in mean)
    assert soup(small, DATA, model=a, gate=None).values == soup(wide, DATA, model=a, gate=None).values


class Graph(nn.Module):
    def __init__(self, adjacency: Tensor, *, persistent: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.register_buffer("adjacency", adjacency, persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return self.adjacency @ self.layer(x)


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
def test_sparse_buffers_stay_and_are_not_interpolated(layout: str, persistent: bool) -> None:
    dense = (torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # beta
        sparse = getattr(dense, layout)()
    dense_pair = [Graph(dense, persistent=persistent) for _ in range(2)]
    pair = [Graph(sparse, persistent=persistent) for _ in range(2)]
    for network, other in zip(pair, dense_pair, strict=True):
        network.layer.load_state_dict(other.layer.state_dict())
    expected, result = (error_barrier(*ends, [DATA], alphas=3) for ends in (dense_pair, pair))
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-5)
    assert result.ends.l2 == expected.ends.l2
    assert list(average(pair)) == list(pair[0].state_dict())
    if persistent:
        pair[1].adjacency = pair[1].adjacency * 2
        with pytest.raises(NetworkError, match="sparse tensors differ, and are not interpolated: adjacency"):
            error_barrier(*pair, [DATA], alphas=3)


def test_checkpoints_from_before_batchnorm_counted_batches() -> None:
    a, b = BATCHNORM.pair()
    old = [
        {name: t for name, t in net.state_dict().items() if not name.endswith("num_batches_tracked")} for net in (a, b)
    ]
    expected = error_barrier(a, b, BATCHNORM.data, alphas=3).loss
    for ends in ((old[0], old[1]), (old[0], b), (a, old[1])):
        assert np.array_equal(error_barrier(*ends, BATCHNORM.data, model=a, alphas=3).loss, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of counters that differ
        assert list(average([old[0], b], model=a)) == list(a.state_dict())


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_former_and_todays_normalizations_read_each_others_checkpoints(kind: str) -> None:
    def make(module: Any) -> nn.Module:
        torch.manual_seed(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.Sequential(getattr(module, kind)(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 4)).eval()

    with torch.random.fork_rng(devices=[]):
        former, today = make(nn.utils), make(parametrizations)
    data = DATA
    for one, other in ((former, today), (today, former)):
        expected = error_barrier(one, one, data, alphas=3).loss
        result = error_barrier(one.state_dict(), one.state_dict(), data, model=other, alphas=3)
        np.testing.assert_allclose(result.loss, expected, rtol=1e-6)
        assert any("former names" in note for note in result.notes)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "ema."])
def test_the_counter_of_averages_is_left_out_behind_every_wrapper(prefix: str) -> None:
    a, b = by_name("mlp").pair()
    saved = [{prefix + name: t for name, t in AveragedModel(net).state_dict().items()} for net in (a, b)]
    result = error_barrier(*saved, DATA, model=a, alphas=3)
    assert np.array_equal(result.loss, error_barrier(a, b, DATA, alphas=3).loss)


def test_what_lightning_keeps_of_a_loss_is_left_out() -> None:
    a, b = by_name("mlp").pair()
    saved = [
        {f"model.{name}": tensor for name, tensor in net.state_dict().items()} | {"criterion.weight": torch.ones(4)}
        for net in (a, b)
    ]
    result = error_barrier(*saved, DATA, model=a, alphas=3)
    assert np.array_equal(result.loss, error_barrier(a, b, DATA, alphas=3).loss)
    assert any("left out: criterion.weight" in note for note in result.notes)


def test_buffers_that_are_not_saved_any_more_are_left_out_if_they_hold_what_the_network_computes() -> None:
    a, b = (Graph(torch.eye(16), persistent=False) for _ in range(2))
    result = error_barrier(a.state_dict() | {"adjacency": torch.eye(16)}, b, [DATA], model=a, alphas=3)
    assert np.array_equal(result.loss, error_barrier(a, b, [DATA], alphas=3).loss)
    with pytest.raises(NetworkError, match="adjacency is only in a"):
        error_barrier(a.state_dict() | {"adjacency": torch.ones(16, 16)}, b, [DATA], model=a, alphas=3)


@pytest.mark.parametrize("inner", ["plain", "weight norm"])
def test_activation_checkpointing_leaves_names_and_numbers_as_they_are(inner: str) -> None:
    def make(wrap: Any) -> nn.Module:
        layer = nn.Linear(6, 8)
        layer = parametrizations.weight_norm(layer) if inner == "weight norm" else layer
        return nn.Sequential(wrap(nn.Sequential(layer, nn.ReLU())), nn.Linear(8, 4))

    plain = [make(lambda module: module) for _ in range(2)]
    wrapped = [make(checkpoint_wrapper) for _ in range(2)]
    for network, other in zip(wrapped, plain, strict=True):
        network.load_state_dict(other.state_dict())
    expected = error_barrier(*plain, DATA, alphas=3)
    states = [network.state_dict() for network in wrapped]
    for ends, model in ((wrapped, None), (states, wrapped[0])):
        result = error_barrier(*ends, DATA, model=model, alphas=3)
        assert np.array_equal(result.loss, expected.loss)
        assert result.ends == expected.ends
    assert not any(re.search("_checkpoint_wrapped", name) for name in average(wrapped))


@pytest.mark.parametrize("kind", ["buffer", "parameter"])
def test_expanded_tensors_are_written_and_the_callers_stay(kind: str) -> None:
    class Expanded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)
            rows = torch.randn(1, 4).expand(16, 4)
            if kind == "buffer":
                self.register_buffer("rows", rows)
            else:
                self.rows = nn.Parameter(rows)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.layer(x) + self.rows) @ torch.eye(4)

    a, b = Expanded(), Expanded()
    tensors = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in (a, b)]
    middle = {name: tensor.lerp(tensors[1][name], 0.5) for name, tensor in tensors[0].items()}
    expected = error_barrier(middle, middle, [DATA], model=Expanded, alphas=3).loss[0]
    for ends, model in (((a, b), None), (tensors, a), (tensors, Expanded)):
        assert error_barrier(*ends, [DATA], model=model, alphas=3).loss[1] == pytest.approx(expected, rel=1e-6)
    assert a.rows.stride(0) == 0
