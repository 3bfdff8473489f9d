"""Steps that are recorded once and replayed: with a recorder that takes them again, and on a GPU as CUDA graphs."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cases import NAMED, OWN
from modeconn.analysis.connectivity import networks
from modeconn.analysis.connectivity.options import ComparisonOptions
from modeconn.data import load_data
from modeconn.errors import OptionError
from modeconn.evaluation.compute import autocast, check_precision, computing
from modeconn.evaluation.measure import measure
from modeconn.evaluation.meters import CLASSIFICATION
from modeconn.tasks import get_task
from modeconn.training import cuda_graphs as graphed
from modeconn.training.cohort.training import Member, train_cohort_until
from modeconn.training.cuda_graphs import NotRecordable
from modeconn.training.noise import Noise
from modeconn.training.splits import SplitBatches
from modeconn.training.state import State, state_from_bytes, state_to_bytes
from modeconn.training.task_training import prepare
from modeconn.training.trainer import CHUNK, build_task_network, train_until
from trajectories import same

pytestmark = pytest.mark.slow  # whole trainings and commands

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
# Learning rates are float32 where steps are recorded; this one is the same there.
TASK = replace(get_task("digits-conv").shortened(120), learning_rate=2**-5)
ADAM = {"optimizer": "adam", "learning_rate": 2**-10, "momentum": 0.0, "weight_decay": 0.01}
TASKS = {
    "sgd with momentum": TASK,
    "sgd with nesterov": replace(TASK, nesterov=True, weight_decay=0.01),
    "plain sgd": replace(TASK, momentum=0.0),
    "adam": replace(TASK, **ADAM),
    "adamw": replace(TASK, **(ADAM | {"optimizer": "adamw"})),
    "a schedule": replace(TASK, schedule="step", milestones=(20,), gamma=0.5),
    "dropout": replace(TASK, model="cases:with_dropout"),
    "dropout and batchnorm": replace(TASK, model="cases:with_batchnorm"),
    "augmentation": replace(TASK, augmentation="crop-flip", batch_size=600),  # of 1,437
    "tied weights": replace(TASK, model="cases:with_tied_weights"),
}
SMALL = [case.model for case in (*NAMED, *OWN) if case.shape == (1, 8, 8)]
COHORT = [Member(seed, noise) for seed, noise in enumerate((Noise.of(1), Noise.of(1).fork(2, 2), Noise.of(3)))]


@pytest.fixture(scope="module")
def data(data_dir):
    return load_data("digits", data_dir)


@pytest.fixture
def again(monkeypatch) -> list[int]:
    """Steps are recorded by a recorder that takes some, as a graph's does, and gives the step itself."""
    recorded: list[int] = []

    def record(step, generators):
        recorded.append(len(generators))
        for _ in range(3):
            step()
        return step

    monkeypatch.setattr(graphed, "recorder_of", lambda device: record)
    return recorded


def run(task, stop, data, state=None, device=CPU, **options):
    options = {"noise": Noise.of(1), "init_seed": 0} | options
    return train_until(state, stop, task=task, data=data, device=device, **options)


def through_files(state: State) -> State:
    return state_from_bytes(state_to_bytes(state), state.iteration)


def half(task, data) -> dict[str, torch.Tensor]:
    """A mask of every matrix."""
    weights = dict(build_task_network(task, data, 0).named_parameters())
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(w.shape, generator=generator) < 0.5 for name, w in weights.items() if w.ndim > 1}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "augmentation" else ()) for name in TASKS]
)
@pytest.mark.parametrize("masked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_recorded_steps_give_the_bits_of_plain_ones(name, masked, data, again, monkeypatch):
    options = {"mask": half(TASKS[name], data)} if masked else {}
    recorded = run(TASKS[name], 60, data, **options)
    assert len(again) == 2  # the last batch of an epoch is a short one
    monkeypatch.setattr(graphed, "recorder_of", lambda device: None)
    assert same(recorded.state, run(TASKS[name], 60, data, **options).state)


@pytest.mark.parametrize("name", ["sgd with momentum", "adam", "dropout and batchnorm"])
@pytest.mark.parametrize("cut", [7, 50])
def test_an_interruption_leaves_no_trace_in_recorded_steps(name, cut, data, again):
    whole = run(TASKS[name], 60, data).state
    assert same(run(TASKS[name], 60, data, through_files(run(TASKS[name], cut, data).state)).state, whole)


@pytest.mark.parametrize("model", ["cases:exploding", "cases:fragile"])
def test_divergence_is_found_where_plain_steps_find_it(model, data, again, monkeypatch):
    task = replace(TASK, model=model, learning_rate=0.125, momentum=0.0)
    recorded = run(task, 120, data)
    assert len(again) > 2  # two sizes of batches, and once more from the last state that was looked at
    monkeypatch.setattr(graphed, "recorder_of", lambda device: None)
    plain = run(task, 120, data)
    assert recorded.diverged_at == plain.diverged_at is not None
    assert same(recorded.state, plain.state)


@pytest.mark.parametrize("changes", [{}, ADAM, {"model": "lenet-16", "norm": "none", "dropout": 0.5}])
def test_a_cohorts_recorded_steps_give_the_bits_of_plain_ones(changes, data, again, monkeypatch):
    task = replace(TASK, **changes)
    options = {"task": task, "data": data, "device": CPU}
    recorded = train_cohort_until(COHORT, [None] * 3, 60, **options)
    assert set(again) == {3}
    monkeypatch.setattr(graphed, "recorder_of", lambda device: None)
    plain = train_cohort_until(COHORT, [None] * 3, 60, **options)
    assert all(same(one.state, other.state) for one, other in zip(recorded, plain, strict=True))


def refusing(taking: Callable[[graphed.Replay], None]) -> graphed.Record:
    def record(step, generators):
        taking(step)
        raise NotRecordable("of its colour")

    return record


def failing_halfway(step: graphed.Replay) -> None:
    step()
    with patch("modeconn.training.optimizer.Optimizer.step", side_effect=RuntimeError), pytest.raises(RuntimeError):
        step()


@pytest.mark.parametrize("taking", [lambda step: None, lambda step: step(), failing_halfway])
def test_what_cannot_be_recorded_is_trained_all_the_same_and_said(taking, data, monkeypatch, caplog):
    plain = run(TASK, 60, data)
    monkeypatch.setattr(graphed, "recorder_of", lambda device: refusing(taking))
    with caplog.at_level(logging.WARNING):
        assert same(run(TASK, 60, data).state, plain.state)
    assert [record.getMessage() for record in caplog.records] == [
        "the network is trained without a CUDA graph, which is slower: of its colour"
    ]


@pytest.mark.parametrize(
    ("model", "why"),
    [("replacing_its_buffer", "replaces tensors of its own"), ("recurrent", "recurrent layer's dropout")],
)
def test_what_a_replay_would_get_wrong_is_not_replayed(model, why, data, monkeypatch, caplog):
    def record(step, generators):
        step()
        return lambda: pytest.fail("replayed")

    task = replace(TASK, model=f"cases:{model}")
    plain = run(task, 60, data)
    monkeypatch.setattr(graphed, "recorder_of", lambda device: record)
    found = run(task, 60, data)
    assert why in caplog.text
    assert same(found.state, plain.state)


class Looks(TorchDispatchMode):
    """Counts how often an element of a tensor becomes a number of Python, for which a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def looks_of(iterations: int, data, **changes) -> int:
    """How often a training looks that is one chunk and no more."""
    assert iterations <= CHUNK
    with Looks() as looks:
        run(replace(TASK, **changes), iterations, data)
    return looks.count


@pytest.mark.parametrize("model", SMALL)
def test_nothing_is_looked_at_inside_a_chunk(model, data, again):
    """However many iterations it has, a short last batch of an epoch among them or not."""
    changes = {"model": model, "augmentation": "crop-flip"}
    assert looks_of(5, data, **changes) == looks_of(45, data, **changes)
    assert len(again) == 3


def test_a_look_inside_a_chunk_would_be_seen(data, again):
    assert looks_of(5, data, model="cases:waiting") < looks_of(45, data, model="cases:waiting")


def test_nothing_is_looked_at_while_a_split_is_measured(data):
    network = build_task_network(TASK, data, 0)
    with Looks() as looks, torch.no_grad():
        for batch in SplitBatches(data, "test"):
            CLASSIFICATION.measure(network, batch)
    assert looks.count == 0


# The rules of PyTorch for a graph, with a double that refuses to break them.


class FakeStream:
    """Counts the work it was given, and knows of other streams what it has waited for."""

    def __init__(self) -> None:
        self.work = 0
        self.waited_for: dict[FakeStream, int] = {}

    def wait_stream(self, other: "FakeStream") -> None:
        self.waited_for[other] = other.work


class FakeGraph:
    """Takes the step that was captured again, to where its loss was."""

    def __init__(self) -> None:
        self.generators: list[torch.Generator] = []

    def register_generator_state(self, generator) -> None:
        self.generators.append(generator)

    def replay(self) -> None:
        self.loss.copy_(self.step())


class FakeCuda:
    """Stands for `torch.cuda`: steps are taken on the CPU, and rules that are broken are noted.

    Steps that are to be captured must run on a stream of their own that waited for the main one; a capture needs steps
    before it, every generator registered, and nothing in it that waits for the GPU.
    """

    CUDAGraph = FakeGraph

    def __init__(self) -> None:
        self.main = self.current = FakeStream()
        self.main.work = 1
        self.side: list[FakeStream] = []
        self.sync_mode = "default"
        self.waits = False  # whether the network waits for the GPU
        self.capturing: FakeGraph | None = None
        self.captured: list[FakeGraph] = []
        self.broken: list[str] = []

    def record(self, step, generators):
        def observed():
            self.require(self.current is not self.main, "a step on the main stream")
            self.require(self.current.waited_for.get(self.main) == self.main.work, "a stream that did not wait")
            if self.waits and self.sync_mode == "error":
                raise RuntimeError("called a synchronizing CUDA operation")
            self.current.work += 1
            loss = step()
            if self.capturing:
                self.require(not self.waits, "a capture that waits, which leaves PyTorch in disorder")
                self.require(self.current.work > 3, "a capture without steps before it")
                self.require(self.capturing.generators == list(generators), "a generator that is not registered")
                self.capturing.step, self.capturing.loss = step, loss
            return loss

        return graphed.cuda_graph(CPU, observed, generators)

    def require(self, kept: bool, rule: str) -> None:
        if not kept:
            self.broken.append(rule)

    def check(self, captures: int) -> None:
        """No rule was broken, all is as it was, and the main stream waits for what was done beside it."""
        assert self.broken == []
        assert len(self.captured) == captures
        assert self.current is self.main
        assert self.sync_mode == "default"
        assert self.side
        assert all(self.main.waited_for[stream] == stream.work for stream in self.side)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph, stream):
        self.require(stream is self.current, "a capture on another stream")
        self.capturing = graph
        yield
        self.capturing = None
        self.captured.append(graph)

    def get_sync_debug_mode(self):
        return self.sync_mode

    def set_sync_debug_mode(self, mode) -> None:
        self.sync_mode = mode

    def Stream(self, device):
        self.side.append(FakeStream())
        return self.side[-1]

    def current_stream(self, device):
        return self.current


@pytest.fixture
def fake(monkeypatch) -> FakeCuda:
    fake = FakeCuda()
    for name in (
        "Stream",
        "CUDAGraph",
        "current_stream",
        "stream",
        "graph",
        "get_sync_debug_mode",
        "set_sync_debug_mode",
    ):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(graphed, "recorder_of", lambda device: fake.record)
    return fake


def test_a_graph_is_captured_as_pytorch_asks(data, fake, monkeypatch):
    found = run(TASK, 50, data).state
    fake.check(captures=2)  # the last batch of an epoch is a short one
    monkeypatch.setattr(graphed, "recorder_of", lambda device: None)
    assert same(found, run(TASK, 50, data).state)


def test_a_step_that_waits_is_seen_before_it_is_captured(data, fake, caplog):
    fake.waits = True
    run(TASK, 10, data)
    assert "called a synchronizing CUDA operation" in caplog.text
    fake.check(captures=0)


def test_random_numbers_of_the_host_are_seen(data, fake, caplog):
    run(replace(TASK, model="cases:fragile"), 3, data)
    assert "draws random numbers on the CPU" in caplog.text
    fake.check(captures=0)


def test_memory_that_runs_out_is_an_error_and_no_reason_to_go_on_otherwise(data, fake):
    with (
        patch.object(FakeGraph, "register_generator_state", side_effect=torch.OutOfMemoryError),
        pytest.raises(torch.OutOfMemoryError),
    ):
        run(TASK, 3, data)
    fake.check(captures=0)


# Paths


@pytest.mark.parametrize(("rows", "device"), [(3, "meta"), (1 << 14, "meta"), ((1 << 14) + 1, "cpu")])
def test_the_ends_of_a_path_are_sent_to_a_device_once_unless_they_are_large(rows, device, monkeypatch):
    """More than 2 GiB together, of numbers that take no memory. The meta device stands for a GPU."""
    monkeypatch.setattr(networks, "resolve_device", lambda name: torch.device("meta"))
    model = nn.Linear(1 << 14, rows, bias=False, device="meta")
    state = {"weight": torch.zeros(1).expand(rows, 1 << 14)}
    ends = networks.open_networks([state, dict(state)], ComparisonOptions(model=model, device="cuda")).weights
    for end in ends:
        assert end.read("weight").device.type == device
        assert (end.read("weight") is end.read("weight")) == (device == "meta")


# TF32


def test_tf32_is_for_gpus(data_dir):
    for device in (None, GPU):
        check_precision("tf32", device)
    with pytest.raises(OptionError, match="on the CPU choose float32 or bfloat16"):
        check_precision("tf32", CPU)
    with pytest.raises(OptionError, match="tf32"):
        prepare(TASK, data_dir=data_dir, device="cpu", precision="tf32")


def tf32() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(params=[(False, True), (True, False)])
def before(request) -> Iterator[tuple[bool, bool]]:
    """The caller's settings."""
    own = tf32()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = own


def test_settings_of_tf32_are_those_of_the_precision_and_return(before):
    for precision, inside in (("float32", False), ("bfloat16", False), ("tf32", True)):
        with computing(CPU, precision):
            assert tf32() == (inside, inside)
            with autocast(CPU, precision):
                assert tf32() == (inside, inside)
        assert tf32() == before
    with autocast(CPU, "tf32"):
        assert tf32() == (True, True)
    assert tf32() == before


# On a GPU


def plainly(device):
    return graphed.take_again


@on_gpu
@pytest.mark.parametrize("name", TASKS)
def test_a_graph_trains_as_plain_steps_do(name, data, monkeypatch, caplog):
    """The same kernels on the same numbers: what differs is which of equally good ones a library chose."""
    replayed = run(TASKS[name], 60, data, device=GPU).state
    assert "without a CUDA graph" not in caplog.text
    monkeypatch.setattr(graphed, "recorder_of", plainly)
    plain = run(TASKS[name], 60, data, device=GPU).state
    for found, expected in ((replayed.model, plain.model), (replayed.optimizer, plain.optimizer)):
        assert found.keys() == expected.keys()
        for slot in found:
            torch.testing.assert_close(found[slot], expected[slot], rtol=1e-3, atol=1e-4)


@on_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "tf32"])
@pytest.mark.parametrize("name", TASKS)
def test_an_interruption_leaves_no_trace_on_a_gpu(name, precision, data):
    whole = run(TASKS[name], 60, data, device=GPU, precision=precision).state
    for cut in (7, 50):
        first = through_files(run(TASKS[name], cut, data, device=GPU, precision=precision).state)
        assert same(run(TASKS[name], 60, data, first, device=GPU, precision=precision).state, whole)


@on_gpu
@pytest.mark.parametrize("changes", [{}, ADAM, {"model": "lenet-16", "norm": "none", "dropout": 0.5}])
def test_a_cohort_in_pieces_equals_one_in_one_piece_on_a_gpu(changes, data, caplog):
    options = {"task": replace(TASK, **changes), "data": data, "device": GPU}
    whole = train_cohort_until(COHORT, [None] * 3, 60, **options)
    assert "without a CUDA graph" not in caplog.text
    first = train_cohort_until(COHORT, [None] * 3, 23, **options)
    first = [replace(one, state=through_files(one.state)) for one in first]
    pieces = train_cohort_until(COHORT, first, 60, **options)
    assert all(same(one.state, other.state) for one, other in zip(pieces, whole, strict=True))


@on_gpu
def test_dropout_under_a_graph_follows_its_seed(data):
    task = replace(TASK, model="cases:with_dropout")
    one, equal = (run(task, 5, data, device=GPU).state for _ in range(2))
    other = run(task, 5, data, device=GPU, noise=Noise.of(1).fork(4, 2, ["dropout"])).state
    assert same(one, equal)
    assert not same(one, other)


@on_gpu
@pytest.mark.parametrize(("model", "why"), [("waiting", "synchroniz"), ("fragile", "random numbers on the CPU")])
def test_a_network_that_cannot_be_captured_is_trained_plainly(model, why, data, caplog, monkeypatch):
    task = replace(TASK, model=f"cases:{model}")
    found = run(task, 3, data, device=GPU).state
    assert why in caplog.text
    if model == "waiting":
        monkeypatch.setattr(graphed, "recorder_of", plainly)
        assert same(found, run(task, 3, data, device=GPU).state)


@on_gpu
@pytest.mark.parametrize("name", ["sgd with momentum", "adam"])
def test_a_state_goes_from_a_gpu_to_the_cpu_and_back(name, data):
    there = through_files(run(TASKS[name], 7, data, device=GPU).state)
    here = through_files(run(TASKS[name], 7, data).state)
    assert {key: value.shape for key, value in there.optimizer.items()} == {
        key: value.shape for key, value in here.optimizer.items()
    }
    back = run(TASKS[name], 12, data, through_files(run(TASKS[name], 9, data, there).state), device=GPU).state
    assert all(bool(value.isfinite().all()) for value in (*back.model.values(), *back.optimizer.values()))


@on_gpu
def test_nothing_waits_for_a_gpu_while_a_split_is_measured(data):
    network, there = build_task_network(TASK, data, 0).to(GPU), data.to(GPU)
    found = measure(network, SplitBatches(there, "test"), CLASSIFICATION)
    expected = measure(network.cpu(), SplitBatches(data, "test"), CLASSIFICATION)
    assert found.total("loss") == pytest.approx(expected.total("loss"), rel=1e-3)
    network.to(GPU)
    batches = list(SplitBatches(there, "test"))
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.no_grad():
            for batch in batches:
                CLASSIFICATION.measure(network, batch)
    finally:
        torch.cuda.set_sync_debug_mode(before)
