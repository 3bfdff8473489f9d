"""Averages against plain code, over the whole list of networks."""

import random
import weakref
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from safetensors.torch import save_file
from torch import Tensor, nn

from direct import equal
from modeconn import Run
from modeconn.analysis.averaging.average import average
from modeconn.analysis.connectivity.averaging import mean_of
from modeconn.analysis.paths.linear import make_line
from modeconn.errors import NetworkError, OptionError
from modeconn.weights.plain_copy import plain_copy
from modeconn.weights.sources import weights_of
from modeconn.weights.state_dicts import Weights
from networks import Network, by_name, each_network

integers_differ = pytest.mark.filterwarnings("ignore:integers are not averaged")


def effective(case: Network) -> dict[str, Any]:
    """Options with which an average has names of effective weights, where it would have those of weight norm."""
    return {"model": plain_copy(case.network(1))} if case.name == "weight norm" else {}


@integers_differ
@each_network
def test_an_average_is_the_weighted_sum_of_each_tensor(case: Network) -> None:
    networks, weights = [case.network(seed) for seed in (1, 2, 3)], [0.5, 0.2, 0.3]
    found = average(networks, weights, **effective(case))
    states = [case.plain(network).state_dict() for network in networks]
    assert found.keys() == states[0].keys()
    for name, tensor in found.items():
        first = states[0][name]
        assert (tensor.dtype, tensor.shape, tensor.device) == (first.dtype, first.shape, first.device)
        if not (first.is_floating_point() or first.is_complex()):
            assert torch.equal(tensor, first)
            continue
        expected = sum(w * _double(state[name]) for w, state in zip(weights, states, strict=True))
        torch.testing.assert_close(tensor, expected.to(first.dtype))


@each_network
def test_the_average_of_one_network_is_that_network_bit_for_bit(case: Network) -> None:
    network = case.network(1)
    assert equal(average([network], **effective(case)), case.plain(network).state_dict())


@each_network
def test_the_average_of_equal_networks_is_that_network_whatever_the_weights(case: Network) -> None:
    assert equal(average([case.network(1) for _ in range(3)], [0.1, 0.7, 0.2]), average([case.network(1)]))


@integers_differ
@each_network
def test_the_average_of_two_is_the_middle_of_their_path_bit_for_bit(case: Network) -> None:
    a, b = case.pair()
    middle = plain_copy(a)
    line = make_line(weights_of(a, "a"), weights_of(b, "b"), [name for name, _ in middle.named_parameters()])
    line.load(middle, 0.5)
    assert equal(average([a, b], **effective(case)), middle.state_dict())


@integers_differ
@each_network
def test_an_average_fits_the_network_and_keeps_its_ties(case: Network) -> None:
    a, b = case.pair()
    found, plain = average([a, b], **effective(case)), plain_copy(a)
    tied = {(x, y) for x, p in plain.state_dict().items() for y, q in plain.state_dict().items() if _shared(p, q)}
    assert {(x, y) for x, p in found.items() for y, q in found.items() if _shared(p, q)} == tied
    plain.load_state_dict(found)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_an_average_does_not_depend_on_the_order(parts: list[float], shuffled: random.Random) -> None:
    states = [{"w": torch.randn(5, generator=torch.Generator().manual_seed(seed))} for seed in range(len(parts))]
    weights = [part / sum(parts) for part in parts]
    order = list(range(len(parts)))
    shuffled.shuffle(order)
    there = average(states, weights)["w"]
    back = average([states[i] for i in order], [weights[i] for i in order])["w"]
    torch.testing.assert_close(there, back, rtol=1e-5, atol=1e-6)
    assert torch.all(there <= torch.stack([state["w"] for state in states]).max(0).values + 1e-6)


def test_a_network_of_weight_zero_does_not_count_even_if_it_is_broken() -> None:
    a, b = ({"w": torch.randn(4), "calls": torch.tensor(calls)} for calls in (1, 2))
    b["w"][0] = torch.nan
    assert equal(average([b, a], [0.0, 1.0]), a)


def test_many_half_precision_networks_are_averaged_in_single_precision() -> None:
    states = [{"w": torch.full((3,), 1 + step / 128, dtype=torch.bfloat16)} for step in (0, 1, 2, 3, 4, 5, 6)]
    found = average(states)["w"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torch.full((3,), 1 + 3 / 128, dtype=torch.bfloat16))
    third = average([{"w": torch.ones(1).bfloat16() * value} for value in (1, 0, 0)])["w"]
    assert torch.equal(third, torch.tensor([1 / 3]).bfloat16())


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.float16, torch.float32, torch.float32),
        (torch.bfloat16, torch.float64, torch.float64),
        (torch.complex64, torch.complex128, torch.complex128),
        (torch.float64, torch.float64, torch.float64),
    ],
)
def test_networks_of_different_types_have_an_average_that_is_wide_enough(
    one: torch.dtype, other: torch.dtype, common: torch.dtype
) -> None:
    a, b = torch.randn(9).to(one), torch.randn(9).to(other)
    found = average([{"w": a}, {"w": b}])["w"]
    assert found.dtype == common
    torch.testing.assert_close(found, ((_double(a) + _double(b)) / 2).to(common))


def test_integers_come_from_the_first_network_with_a_warning() -> None:
    a, b = ({"w": torch.ones(2), "calls": torch.tensor(calls), "on": torch.tensor(True)} for calls in (1, 5))
    with pytest.warns(UserWarning, match=r"integers are not averaged; .* a's are used: calls$"):
        assert int(average([a, b])["calls"]) == 1


def test_infinities_that_are_equal_are_kept() -> None:
    mask = torch.full((2, 2), -torch.inf).triu(1)
    found = average([{"w": torch.zeros(1) + i, "mask": mask.clone()} for i in range(3)])
    assert torch.equal(found["mask"], mask)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value: float) -> None:
    a, b = ({"w": torch.ones(2), "v": torch.ones(2)} for _ in range(2))
    b["v"][1] = value
    with pytest.raises(NetworkError, match=r"NaN or infinite: v in late"):
        average([a, b], names=["early", "late"])


def test_state_dicts_and_files_need_no_architecture(tmp_path: Path) -> None:
    case = by_name("batchnorm")
    states = [case.network(seed).state_dict() for seed in (1, 2)]
    states[1]["1.num_batches_tracked"] = states[0]["1.num_batches_tracked"].clone()
    states[1]["4.num_batches_tracked"] = states[0]["4.num_batches_tracked"].clone()
    save_file(states[0], tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"module.{name}": t for name, t in states[1].items()}}, tmp_path / "b.ckpt")
    expected = average(states)
    assert equal(average([tmp_path / "a.safetensors", str(tmp_path / "b.ckpt")]), expected)
    swapped = average([tmp_path / "b.ckpt", tmp_path / "a.safetensors"], model=case.build)
    assert list(swapped) == list(expected)


def test_making_the_architecture_draws_nothing_from_the_callers_random_state() -> None:
    case = by_name("mlp")
    state = torch.get_rng_state()
    average([case.network(1).state_dict()], model=case.build)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_state_dict_saved_from_a_parametrized_network_is_read_by_its_effective_weights() -> None:
    case = by_name("weight norm")
    a, b = case.pair()
    assert equal(average([a, b]), average([a.state_dict(), b.state_dict()], model=case.build))


def test_stored_runs_are_averaged(runs: tuple[Run, Run]) -> None:
    found = average(runs)
    assert equal(found, average([run.weights() for run in runs]))
    assert equal(found, average([run.folders[8] for run in runs]))
    torch.testing.assert_close(found["0.weight"], (runs[0].weights()["0.weight"] + runs[1].weights()["0.weight"]) / 2)


def test_no_more_than_two_tensors_of_the_networks_are_in_memory_at_a_time() -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def read(name: str) -> Tensor:
        nonlocal most
        tensor = torch.randn(4)
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    layout = {name: torch.empty(4, device="meta") for name in "abc"}
    mean = mean_of([Weights(layout, read, str(index)) for index in range(10)])
    for name in layout:
        mean.read(name)
        assert not alive
    assert most == 2


@pytest.mark.parametrize(
    ("networks", "weights", "says"),
    [
        ([], None, "no networks to average"),
        (nn.Sequential(nn.Linear(1, 1)), None, "a list of networks; got one Sequential"),
        ({"w": torch.ones(1)}, None, "a list of networks; got one dict"),
        (
            "a.safetensors",
            None,
            "there is no folder a.safetensors; give a folder of checkpoints",
        ),
        ([nn.Linear(1, 1)] * 2, [1.0], "weights must be 2 numbers, one for each network; got 1"),
        ([nn.Linear(1, 1)] * 2, 0.5, "weights must be 2 numbers"),
        ([nn.Linear(1, 1)] * 2, ["a", "b"], "weights must be 2 numbers"),
        ([nn.Linear(1, 1)] * 2, [1.5, -0.5], "must not be negative and have a sum of 1"),
        ([nn.Linear(1, 1)] * 2, [0.5, 0.5001], "must not be negative and have a sum of 1"),
        ([nn.Linear(1, 1)] * 2, [float("nan"), 0.5], "must not be negative and have a sum of 1"),
    ],
)
def test_what_cannot_be_averaged_is_refused(networks: Any, weights: Any, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        average(networks, weights)


def test_a_sum_of_one_up_to_rounding_is_good_enough() -> None:
    average([nn.Linear(1, 1) for _ in range(10)], [0.1 + 1e-8] * 10)


def test_one_of_a_kind_is_said_in_the_singular() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert str(average([network])).startswith("average of 1 network, weights uniform")
    (note,) = average([network, network]).notes
    assert note.startswith("running statistics of 1 layer are averaged like weights")


def test_networks_that_do_not_fit_are_told_apart_by_name() -> None:
    with pytest.raises(NetworkError, match=r"weight is \[3, 2\] in b and \[2, 2\]"):
        average([nn.Linear(2, 2), nn.Linear(2, 3)])
    with pytest.raises(NetworkError, match="bias is only in"):
        average([{"weight": torch.ones(2)}, {"weight": torch.ones(2), "bias": torch.ones(1)}])
    with pytest.raises(NetworkError, match=r"not a torch\.nn\.Module"):
        average([nn.Linear(2, 2)], model=lambda: "a network")  # type: ignore[arg-type, return-value]
    with pytest.raises(OptionError, match="a module or a function that makes one; got str"):
        average([nn.Linear(2, 2)], model="resnet-20")  # type: ignore[arg-type]


def _double(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _shared(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.numel() > 0
