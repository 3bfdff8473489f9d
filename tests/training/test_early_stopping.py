"""The test error at the lowest validation loss, which is looked at once, at the end of a training."""

import functools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from modeconn.data import load_data
from modeconn.evaluation.compute import computing
from modeconn.execution import Store
from modeconn.execution.names import job_name
from modeconn.tasks import Task
from modeconn.training.cohort.jobs import train_together
from modeconn.training.cohort.training import Member, train_cohort_until
from modeconn.training.jobs import BEST, TrainJob, load_train_result
from modeconn.training.noise import Noise
from modeconn.training.splits import evaluate
from modeconn.training.state import State, early_stop, iteration_to_test
from modeconn.training.task_training import prepare
from modeconn.training.trainer import TrainResult, build_task_network, train_until

CPU = torch.device("cpu")
T, EVERY = 30, 4
# Rates so high that the validation loss is lowest neither at first nor at last. One keeps running statistics.
LENET = Task(
    model="lenet-16", norm="none", optimizer="adam", learning_rate=0.5, batch_size=32, iterations=T,
    evaluate_every=EVERY, validation=143,
)  # fmt: skip
CONV = replace(LENET, model="digits-conv", width=0.25, norm="batch", learning_rate=1.0)
MEMBERS = [Member(seed, Noise.of(seed + 1)) for seed in (1, 2, 0)]
looked_at: Counter[str] = Counter()


@pytest.fixture(scope="module")
def data(data_dir):
    return load_data("digits", data_dir, validation=143)


@pytest.fixture(autouse=True)
def looks(monkeypatch) -> Counter[str]:
    """How often each split was evaluated."""
    looked_at.clear()

    def spy(network, data, split, *rest):
        looked_at[split] += 1
        return evaluate(network, data, split, *rest)

    monkeypatch.setattr("modeconn.training.trainer.evaluate", spy)
    return looked_at


def run(task, data, begin=None, stop=T, member=MEMBERS[0], **options) -> TrainResult:
    there = begin or TrainResult(None)
    return train_until(
        there.state, stop, task=task, data=data, noise=member.noise, init_seed=member.init_seed, device=CPU,
        metrics=there.metrics, best=there.best, **options,
    )  # fmt: skip


def row(task, data, state, split) -> dict:
    """Of a fresh network with these weights."""
    with computing(CPU, "float32"):
        network = build_task_network(task, data, 0)
        network.load_state_dict(state.model)
        found = evaluate(network, data, split)
    return {"iteration": state.iteration, "split": split, "loss": found.loss, "error": found.error}


def due(task) -> list[int]:
    return [*range(task.evaluate_every, T, task.evaluate_every), T]


def plainly(task, data, states) -> list[dict]:
    """The rows of a training whose states are given: all are tested, and the one with the lowest loss is chosen."""
    validation = [row(task, data, state, "validation") for state in states]
    test = [row(task, data, state, "test") for state in states]
    return [*validation, test[int(np.argmin([one["loss"] for one in validation]))]]


def states_of(task, data, iterations) -> list[State]:
    """Of one training, in which nothing is evaluated."""
    now, states = TrainResult(None), []
    for stop in iterations:
        now = run(replace(task, evaluate_every=0), data, now, stop)
        states.append(now.state)
    return states


@functools.cache
def expected(task, data) -> list[dict]:
    return plainly(task, data, states_of(task, data, due(task)))


@pytest.mark.parametrize("task", [LENET, CONV], ids=["lenet", "conv"])
def test_it_is_that_of_a_training_all_of_whose_states_are_tested(task, data, looks):
    found = run(task, data)
    assert found.metrics == expected(task, data)
    assert due(task)[0] < found.metrics[-1]["iteration"] < T
    assert looks == {"validation": len(due(task)), "test": 1}
    assert found.best is None


def test_without_held_out_examples_both_splits_are_looked_at_every_time(data_dir, looks):
    task = replace(LENET, validation=0)
    rows = run(task, load_data("digits", data_dir)).metrics
    assert [(one["iteration"], one["split"]) for one in rows] == [(t, s) for t in due(task) for s in ("train", "test")]
    assert looks == {"train": len(due(task)), "test": len(due(task))}


# --- interruptions


@pytest.fixture(scope="module")
def training(data_dir):
    return prepare(LENET, data_dir=data_dir, device="cpu", checkpoint_every=0.0).training


def files_of(store, job) -> dict[str, bytes]:
    artifact = store.require(job)
    return {name: artifact.read(name) for name in artifact.hashes}


@pytest.fixture(scope="module")
def whole(training, tmp_path_factory):
    """The files of the training that nothing interrupted."""
    store, job = Store(tmp_path_factory.mktemp("whole")), TrainJob(training, 1, MEMBERS[0].noise, T)
    job.run(store)
    return files_of(store, job)


@pytest.mark.parametrize("cuts", [(1, 4, 7, 28, 29), pytest.param(range(1, T), marks=pytest.mark.slow)], ids=len)
def test_a_training_in_two_parts_gives_the_same_files_wherever_it_is_cut(cuts, training, whole, data, tmp_path, looks):
    """The first part is the trunk, which copies go on from, too."""
    kept = set()
    for k in cuts:
        store = Store(tmp_path / str(k))
        trunk = TrainJob(training, 1, MEMBERS[0].noise, k)
        copy = TrainJob(training, 1, MEMBERS[0].noise, T, start=trunk)
        trunk.run(store)
        assert all(one["split"] == "validation" for one in load_train_result(store.require(trunk)).metrics)
        assert not looks["test"]
        if BEST in files_of(store, trunk):
            kept.add(k)
        copy.run(store)
        assert files_of(store, copy) == whole
        assert looks.pop("test") == 1
    # Weights are kept from the first iteration after the first evaluation on, but for where they are the state's own.
    lowest, best = math.inf, set()
    for one in expected(LENET, data)[:-1]:
        if one["loss"] < lowest:
            lowest = one["loss"]
            best.add(one["iteration"])
    assert kept == {k for k in cuts if k >= due(LENET)[0]} - best


class Interrupted(Exception):
    pass


def interrupted(job, store, monkeypatch, saves: int) -> None:
    """Compute a job until it has saved so often."""
    write = Store.write

    def stopping(self, *args, **options):
        nonlocal saves
        write(self, *args, **options)
        saves -= 1
        if not saves:
            raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", stopping)
        with pytest.raises(Interrupted):
            job.run(store)


@pytest.mark.parametrize("saves", range(1, len(due(LENET))))
def test_a_training_that_was_interrupted_gives_the_same_files(saves, training, whole, tmp_path, monkeypatch, looks):
    store, job = Store(tmp_path), TrainJob(training, 1, MEMBERS[0].noise, T)
    interrupted(job, store, monkeypatch, saves)
    assert store.partial(job).facts["iteration"] == due(LENET)[saves - 1]
    job.run(store)
    assert files_of(store, job) == whole
    assert looks["test"] == 1


def test_what_earlier_versions_left_gives_the_same_choice(data, looks):
    """They had the test error wherever the validation loss was lower than before, and kept no weights."""
    *validation, chosen = expected(LENET, data)
    old, lowest = [], math.inf
    for one, state in zip(validation[:-1], states_of(LENET, data, due(LENET)), strict=False):
        k = state.iteration
        old.append(one)
        if one["loss"] < lowest:
            lowest = one["loss"]
            old.append(row(LENET, data, state, "test"))
        looks.clear()
        rows = run(LENET, data, TrainResult(state, old)).metrics
        assert rows[: len(old)] == old
        assert [one for one in rows if one["split"] == "validation"] == validation
        assert [one for one in rows if one["split"] == "test"][-1] == chosen
        assert looks["test"] == (chosen["iteration"] > k)


# --- divergence


def sick(state):
    """Of a training that is about to diverge, as its momentum is enormous."""
    return replace(state, optimizer={name: value * 1e30 for name, value in state.optimizer.items()})


SGD = replace(LENET, optimizer="sgd", learning_rate=0.3, momentum=0.9)


def test_a_training_that_diverges_is_tested_where_it_was_best_before(data, looks):
    begin = run(SGD, data, stop=2 * EVERY)
    found = run(SGD, data, replace(begin, state=sick(begin.state)))
    assert found.diverged_at is not None
    assert found.metrics == plainly(SGD, data, states_of(SGD, data, (EVERY, 2 * EVERY)))
    assert looks["test"] == 1


def test_what_is_not_finite_is_nowhere_tested():
    def rows(*losses):
        return [{"iteration": t, "split": "validation", "loss": loss} for t, loss in enumerate(losses)]

    assert early_stop([]) is None
    assert early_stop(rows(2.0, 1.0, 1.0))["iteration"] == 1
    assert iteration_to_test(rows(math.inf, 1.0, 2.0)) == 1
    assert iteration_to_test(rows(2.0, math.nan, 1.0)) == 2
    assert iteration_to_test(rows(math.inf, math.inf)) is None
    assert iteration_to_test(rows(math.nan, 1.0)) is None
    assert iteration_to_test([*rows(2.0, 1.0), {"iteration": 1, "split": "test", "loss": 3.0}]) is None
    assert iteration_to_test([*rows(2.0, 1.0), {"iteration": 0, "split": "test", "loss": 3.0}]) == 1


# --- cohorts


def together(task, data, stop, progress=(None,) * 3, **options) -> list[TrainResult]:
    return train_cohort_until(MEMBERS, progress, stop, task=task, data=data, device=CPU, **options)


@pytest.mark.parametrize("task", [LENET, CONV], ids=["lenet", "conv"])
def test_each_member_of_a_cohort_is_tested_once_where_it_was_best(task, data, looks):
    at = [together(replace(task, evaluate_every=0), data, due(task)[0])]
    for stop in due(task)[1:]:
        at.append(together(replace(task, evaluate_every=0), data, stop, at[-1]))
    found = together(task, data, T)
    assert looks == {"validation": 3 * len(due(task)), "test": 3}
    for place, one in enumerate(found):
        assert one.metrics == plainly(task, data, [now[place].state for now in at])
    assert len({one.metrics[-1]["iteration"] for one in found}) > 1


def test_a_member_that_diverges_is_tested_where_it_was_best_before(data, looks):
    begin = together(SGD, data, 2 * EVERY)
    found = together(SGD, data, T, [begin[0], replace(begin[1], state=sick(begin[1].state)), begin[2]])
    assert [one.diverged_at is None for one in found] == [True, False, True]
    at = [together(replace(SGD, evaluate_every=0), data, stop)[1].state for stop in (EVERY, 2 * EVERY)]
    assert found[1].metrics == plainly(SGD, data, at)
    assert looks["test"] == 3


@pytest.mark.parametrize("saves", [2, 5])
def test_a_cohort_that_was_interrupted_gives_the_same_files(saves, training, tmp_path, monkeypatch, looks):
    """Its members begin at trunks that were evaluated before."""
    trunks = [TrainJob(training, member.init_seed, member.noise, EVERY + 1) for member in MEMBERS]
    ends = [TrainJob(training, one.init_seed, one.noise, T, start=one) for one in trunks]
    jobs = train_together(ends, "cohort")
    stores = [Store(tmp_path / name) for name in ("whole", "again")]
    for store in stores:
        for job in trunks:
            job.run(store)
        if store is stores[1]:
            interrupted(jobs[0].cohort, store, monkeypatch, saves)
        jobs[0].cohort.run(store)
        assert looks.pop("test") == 3
        for job in jobs:
            job.run(store)
    for job in jobs:
        assert files_of(stores[0], job) == files_of(stores[1], job)
        assert BEST not in files_of(stores[0], job)
    assert len({job_name(job) for job in jobs}) == 3


# --- how often a training is saved


@pytest.mark.parametrize(
    ("step", "checkpoint_every", "saved"),
    [
        (0.0, 60.0, []),  # all at once: at the end
        (0.5, 60.0, due(LENET)[3:-1:4]),  # a look every half second, with new rows every time
        (3.0, 60.0, due(LENET)[:-1]),
        (0.5, 1.0, due(LENET)[1:-1:2]),
        (0.0, 0.0, due(LENET)[:-1]),
    ],
)
def test_new_metrics_are_saved_every_two_seconds_or_when_a_save_is_due(
    step, checkpoint_every, saved, training, tmp_path, monkeypatch
):
    clock = iter(np.arange(1000) * step)
    monkeypatch.setattr("modeconn.training.jobs.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("modeconn.training.jobs.Heartbeat", lambda *_: lambda fraction: None)
    written = []
    monkeypatch.setattr(Store, "write", lambda self, job, files, facts, done: written.append(facts["iteration"]))
    TrainJob(replace(training, checkpoint_every=checkpoint_every), 0, MEMBERS[0].noise, T).run(Store(tmp_path))
    assert written == [*saved, T]


def test_without_new_metrics_a_training_is_saved_at_its_own_interval(data_dir, tmp_path, monkeypatch):
    task = replace(LENET, iterations=250, evaluate_every=0, validation=0)
    training = prepare(task, data_dir=data_dir, device="cpu", checkpoint_every=3.0).training
    clock = iter(range(1000))  # a look every 50 iterations, one second after the other
    monkeypatch.setattr("modeconn.training.jobs.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("modeconn.training.jobs.Heartbeat", lambda *_: lambda fraction: None)
    written = []
    monkeypatch.setattr(Store, "write", lambda self, job, files, facts, done: written.append(facts["iteration"]))
    TrainJob(training, 1, MEMBERS[0].noise, 250).run(Store(tmp_path))
    assert written == [150, 250]
