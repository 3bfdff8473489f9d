"""How copies go on from a fork: for how long, with which optimizer state, and from which weights."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

import loops
from modeconn import get_task, instability, load_result
from modeconn.errors import OptionError
from modeconn.execution import Store
from modeconn.seeds import mix
from modeconn.training.fork import trunk
from modeconn.training.jobs import load_state
from modeconn.training.noise import Noise
from modeconn.training.schedule import learning_rate
from modeconn.training.step_inputs import training_batch
from modeconn.training.task_training import prepare

MLP = get_task("digits-conv", model="lenet-16", norm="none", learning_rate=0.05, momentum=0.9, weight_decay=1e-4)
MLP = replace(MLP, name="mlp", schedule="step", milestones=(12, 18), warmup=4, iterations=24)


@pytest.fixture
def study(tmp_path, data_dir):
    def run(task=MLP, rewind_iters=(8,), **options):
        given = {"replicates": 1, "alphas": 3, "workers": 0, "device": "cpu", "calibration": 100, "together": "no"}
        given |= {"store": tmp_path / "store", "data_dir": data_dir}
        return instability(task, rewind_iters, **(given | options))

    return run


def final_states(store: Store, result) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of the last states that are the ends of paths, by label."""
    found = {}
    for name in store.names():
        facts = store.finished(name).facts
        if name.startswith("state-") and facts["iteration"] == result.summary["iterations"]:
            found[facts["label"]] = load_state(store.finished(name)).model
    return found


def plain_loop(training, state, first: int, last: int, noise: Noise, momentum: bool) -> dict[str, torch.Tensor]:
    """Weights that plain PyTorch trains from a state, on the schedule's iterations from `first` to `last`."""
    task, data = training.task, training.data()
    network = training.network().train()
    network.load_state_dict(state.model)
    optimizer = torch.optim.SGD(network.parameters(), lr=1, momentum=task.momentum, weight_decay=task.weight_decay)
    if momentum:
        for name, parameter in network.named_parameters():
            optimizer.state[parameter]["momentum_buffer"] = state.optimizer[f"{name}/momentum_buffer"].clone()
    for t in range(first, last):
        optimizer.param_groups[0]["lr"] = learning_rate(task, t)
        images, labels = training_batch(task, data, noise.at(t), t)
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("together", ["no", "yes"])
@pytest.mark.parametrize(
    ("how", "first", "momentum"),
    [
        ({"copies_train": "whole"}, 0, True),
        ({"copies_train": "whole", "fork_optimizer": "reset"}, 0, False),
        ({"fork_optimizer": "reset"}, 8, False),
        ({}, 8, True),
    ],
    ids=str,
)
def test_copies_train_as_a_plain_loop_does(how, first, momentum, together, study, tmp_path, data_dir):
    task = MLP if together == "no" else replace(MLP, iterations=12, milestones=(6, 9))
    result = study(task, together=together, **how)
    training = prepare(task, data_dir=data_dir, device="cpu").training
    (state,) = trunk(training, [8], seed=0, replicate=0)
    store = Store(tmp_path / "store")
    begin = load_state(store.require(state))
    ends = final_states(store, result)
    assert len(ends) == 2
    for copy in (1, 2):
        (label,) = (label for label in ends if f"copy {copy} " in label)
        expected = plain_loop(training, begin, first, task.iterations, Noise.of(mix(0, "noise", 0, copy)), momentum)
        for name, value in expected.items():
            torch.testing.assert_close(ends[label][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_other_forks_are_other_runs_and_say_so(study, tmp_path):
    plain = study(rewind_iters=(0, 8), out=tmp_path / "plain")
    assert not {"copies_train", "fork_optimizer", "perturb"} & plain.summary.keys()
    for how, words in (
        ({"copies_train": "whole"}, "Copies trained 24 iterations after the fork, on the schedule from its beginning."),
        ({"fork_optimizer": "reset"}, "The optimizer's state was reset at the fork."),
    ):
        other = study(rewind_iters=(0, 8), out=tmp_path / "other", **how)
        assert words in str(load_result(tmp_path / "other"))
        assert words not in str(plain)
        assert how.items() <= other.summary.items()
        of_k = [[[row for row in of.rows if row["rewind_iter"] == k] for k in (0, 8)] for of in (plain, other)]
        assert of_k[0][0] == of_k[1][0]  # at k = 0 all forks are one
        assert [row["l2_distance"] for row in of_k[0][1]] != [row["l2_distance"] for row in of_k[1][1]]


@pytest.mark.slow
def test_copies_that_train_anew_are_measured_from_the_fork_on(study):
    result = study(rewind_iters=(8, 24), copies_train="whole", fork_optimizer="reset", measure_at="4,12")
    assert result.measured_at == [4, 12, 24]
    assert all(result.at(iteration).rewind_iters.tolist() == [8, 24] for iteration in (4, 12, 24))
    assert all(row["l2_distance"] > 0 for row in result.rows)


@pytest.mark.slow
def test_a_loop_of_ones_own_may_train_whole_copies(study, monkeypatch):
    def train(state, start, stop, seed):
        state = {key: value for key, value in state.items() if key != "seen"} | {"seen": start}
        calls.append((start, stop))
        return loops.train(state, start, stop, seed)

    calls: list[tuple[int, int]] = []
    train.modeconn_name = "whole"
    how = {"init": loops.init, "data": loops.DATA, "iterations": 20, "together": "auto", "copies_train": "whole"}
    study("mine", (5,), train=train, **how)
    assert calls == [(0, 5), (0, 20), (0, 20)]


@pytest.mark.slow
@pytest.mark.parametrize("perturb", ["weight", "gaussian:0.25", "batch"])
def test_perturbed_copies_differ_by_the_perturbation_alone(perturb, study, tmp_path, data_dir):
    result = study(rewind_iters=(0, 8), perturb=perturb, copies=3, seed=5, out=tmp_path / "out")
    assert f"perturbed once, at k ({perturb})" in str(load_result(tmp_path / "out"))
    assert all(row["l2_distance"] > 0 for row in result.rows)
    training = prepare(MLP, data_dir=data_dir, device="cpu").training
    init, state, end = trunk(training, [0, 8, 24], seed=5, replicate=0)
    store = Store(tmp_path / "store")
    states = {store.finished(name).facts["label"]: store.finished(name) for name in store.names() if "state" in name}
    # The unperturbed copy is the trunk's own continuation.
    noise = Noise.of(mix(5, "noise", 0, 0))
    alone = training.train_until(
        None, 24, noise=noise, init_seed=mix(5, "init", 0), metrics=[], on_chunk=lambda progress: None
    )
    assert same(load_state(store.require(end)).model, alone.state.model)
    begin = load_state(store.require(state))
    parameters = [name for name, _ in training.network().named_parameters()]
    for copy in (2, 3):
        label = f"replicate 0 copy {copy} from 8, {perturb.partition(':')[0]} perturbed"
        if perturb == "batch":
            task, data, own = training.task, training.data(), mix(5, "perturb", 0, copy)
            other = Noise.of(mix(5, "noise", 0, 0)).fork(8, own).fork(9, mix(5, "noise", 0, 0))
            for t in (7, 9, 23):
                both = [training_batch(task, data, of.at(t), t)[1] for of in (noise, other)]
                assert torch.equal(*both)
            assert not torch.equal(*(training_batch(task, data, of.at(8), 8)[1] for of in (noise, other)))
            expected = plain_loop(training, begin, 8, 24, other, momentum=True)
        else:
            perturbed = load_state(states[f"{label}, its beginning"])
            assert perturbed.optimizer.keys() == begin.optimizer.keys()
            changed = {name: perturbed.model[name].double() - begin.model[name].double() for name in begin.model}
            length = torch.cat([changed[name].flatten() for name in parameters]).norm()
            if perturb == "weight":
                assert sum(int((value != 0).sum()) for value in changed.values()) == 1
            else:
                start = load_state(store.require(init)).model
                expected_length = 0.25 * torch.cat([start[name].double().flatten() for name in parameters]).norm()
                assert float(length) == pytest.approx(float(expected_length), rel=1e-6)
                assert all(bool((changed[name] != 0).any()) for name in parameters)
            expected = plain_loop(training, perturbed, 8, 24, noise, momentum=True)
        found = load_state(states[label]).model
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    kind = perturb.partition(":")[0]
    ends = [load_state(states[f"replicate 0 copy {copy} from 8, {kind} perturbed"]).model for copy in (2, 3)]
    assert not same(*ends)


@pytest.mark.slow
def test_perturbed_copies_are_measured_on_their_way_and_at_the_end(study):
    result = study(rewind_iters=(8, 24), perturb="gaussian:0.1", measure_at="12", measures=["ends"])
    assert result.measured_at == [12, 24]
    assert all(row["l2_distance"] > 0 for row in result.rows)
    same_batches = study(rewind_iters=(8, 24), perturb="batch")
    assert [row["l2_distance"] > 0 for row in same_batches.rows] == [
        row["rewind_iter"] == 8 for row in same_batches.rows
    ]


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


BAD = [
    ({"perturb": "gaussian"}, "perturb= is weight, batch, or gaussian:NORM"),
    ({"perturb": "gaussian:-1"}, "with a positive NORM"),
    ({"perturb": "weight:1"}, "perturb= is weight"),
    ({"perturb": "weight", "together": "yes"}, "differ by nothing else"),
    ({"perturb": "weight", "copies_train": "whole"}, "differ by nothing else"),
    ({"copies_train": "half"}, "unknown choice for copies_train 'half'"),
    ({"fork_optimizer": "rest"}, "unknown choice for fork_optimizer 'rest'"),
    ({"copies_train": "whole", "rewind_iters": (0, 24)}, "state at the last iteration, 24, is not"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_forks_are_refused_before_anything_is_computed(options, message, study, tmp_path):
    with pytest.raises(OptionError, match=message):
        study(**options)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("options", [{"fork_optimizer": "reset"}, {"perturb": "weight"}])
def test_what_a_loop_of_ones_own_cannot_is_refused(options, study, tmp_path):
    how = {"train": loops.train, "init": loops.init, "data": loops.DATA, "iterations": 20, "together": "auto"}
    with pytest.raises(OptionError, match="loop of your own"):
        study("mine", **how, **options)
    assert not (tmp_path / "store").exists()
