"""error_barrier leaves everything of the caller's as it was, and needs one network of its own."""

import copy
import random
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from direct import everything, random_state
from modeconn import error_barrier
from networks import Network, by_name, each_network


@pytest.fixture(autouse=True)
def _same_surroundings() -> Iterator[None]:
    """Everything that is called here leaves the session as it was."""
    before = _surroundings()
    yield
    assert _surroundings() == before


# --- nothing of the caller's changes


@each_network
def test_nothing_of_the_callers_changes(case: Network) -> None:
    a, b = case.network(1), case.network(2)
    for network in (a, b):
        for index, module in enumerate(network.modules()):
            module.training = index % 2 == 0
        for index, parameter in enumerate(network.parameters()):
            parameter.requires_grad_(index % 3 != 0)
            parameter.grad = torch.ones_like(parameter) if index % 3 else None
        network.register_forward_hook(lambda module, args, output: None)
    before = everything(a), everything(b)
    data, copied = case.batches(), copy.deepcopy(case.batches())
    error_barrier(a, b, data, evaluate=case.evaluate, alphas=3)
    assert (everything(a), everything(b)) == before
    for batch, other in zip(data, copied, strict=True):
        pairs = zip(*(one.values() if isinstance(one, dict) else one for one in (batch, other)), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("fails", [False, True])
def test_settings_and_random_states_are_put_back_also_after_a_failure(fails: bool) -> None:
    """The fixture compares them; here they are not what they mostly are."""
    case, generator = by_name("dropout"), torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(*case.data), batch_size=7, shuffle=True, generator=generator)
    pair = case.pair()
    state, threads, calls = generator.get_state(), torch.get_num_threads(), iter(range(99))

    def measure(network: nn.Module, batch: Any) -> dict[str, tuple[float, int]]:
        assert not torch.is_grad_enabled()
        if fails and next(calls) > 4:
            raise RuntimeError("the measure fails")
        noise = torch.rand(()).item() + random.random() + np.random.rand()
        return {"noise": (noise + float(network(batch[0]).sum()), len(batch[0]))}

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    try:
        before = _surroundings()
        for _ in range(2):
            try:
                error_barrier(*pair, loader, evaluate=measure, alphas=3)
                assert not fails
            except RuntimeError:
                assert fails
        assert _surroundings() == before
        assert torch.equal(generator.get_state(), state)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("context", [torch.inference_mode, torch.enable_grad, torch.no_grad])
def test_the_callers_gradient_mode_does_not_matter(context: Any) -> None:
    case = by_name("mlp")
    with context():
        result = error_barrier(*case.pair(), case.batches(), alphas=3)
    assert np.array_equal(result.loss, error_barrier(*case.pair(), case.batches(), alphas=3).loss)


@pytest.mark.parametrize("name", ["mlp", "batchnorm", "gpt-2"])
def test_the_callers_default_type_does_not_matter(name: str) -> None:
    case = by_name(name)
    pair = case.pair()
    expected = error_barrier(*pair, case.batches(), alphas=3)
    torch.set_default_dtype(torch.float64)
    try:
        assert np.array_equal(error_barrier(*pair, case.batches(), alphas=3).loss, expected.loss)
    finally:
        torch.set_default_dtype(torch.float32)


# --- one scratch network


class Counted(nn.Module):
    """Knows how often it was made or copied, and how many of it there are."""

    made = 0
    alive: ClassVar[weakref.WeakSet[nn.Module]] = weakref.WeakSet()

    def __init__(self) -> None:
        super().__init__()
        Counted.made += 1
        Counted.alive.add(self)
        self.layer = nn.Linear(6, 4)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Counted":
        twin = Counted()
        twin.layer = copy.deepcopy(self.layer, memo)
        return twin

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_there_is_one_scratch_network_however_many_points_there_are() -> None:
    alive: set[int] = set()

    def look(progress: Any) -> None:
        alive.add(len(Counted.alive))

    data = by_name("mlp").data
    with torch.random.fork_rng(devices=[]):
        a, b = Counted(), Counted()
        Counted.made = 0
        error_barrier(a, b, data, alphas=31, report=look)
        # The scratch network; copies of b to see that both agree, and of both ends to measure them, one at a time.
        assert Counted.made <= 1 + 3
        assert alive == {3}
        Counted.made, states = 0, (a.state_dict(), b.state_dict())
        error_barrier(*states, data, alphas=31, model=Counted, report=look)
        assert Counted.made <= 2  # the one that model makes, and a plain copy of it
        assert alive == {3}


def test_making_the_network_for_weights_draws_nothing_from_the_callers_random_state() -> None:
    case = by_name("mlp")
    a, b = (network.state_dict() for network in case.pair())
    error_barrier(a, b, case.data, alphas=3, model=case.build)


def _surroundings() -> list[Any]:
    """The caller's session: random generators, and settings that hold for all of PyTorch."""
    compute, backend = torch.utils.deterministic, torch.backends.cudnn
    return [
        random_state(),
        (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        (torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device()),
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled()),
        (torch.get_float32_matmul_precision(), compute.fill_uninitialized_memory),
        (backend.benchmark, backend.deterministic, backend.allow_tf32),
    ]
