"""Somebody's own training loop in an instability study."""

import copy
import functools
import json
import random
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import modeconn
from loops import CALLS, DATA, init, points, train
from modeconn.analysis.instability.jobs import path_jobs
from modeconn.analysis.instability.measurement import Measurement
from modeconn.errors import ModeconnError, OptionError
from modeconn.execution.names import job_name
from modeconn.training.fork import fork, trunk
from modeconn.training.noise import Noise
from modeconn.training.own_loop import OwnLoopTraining, prepare_own

pytestmark = pytest.mark.slow  # whole trainings and commands

EXAMPLES = Path(__file__).parents[2] / "examples"


def study(tmp_path, name="own", **options):
    CALLS.clear()
    common = {"train": train, "init": init, "data": DATA, "iterations": 30, "rewind_iters": [0, 10, 20]}
    return modeconn.instability(name, **common | {"replicates": 2, "alphas": 3, "store": tmp_path / "store"} | options)


def test_a_study_calls_the_loop_once_for_each_stretch(tmp_path):
    result = study(tmp_path)
    assert sorted({(start, stop) for start, stop, _ in CALLS}) == [(0, 10), (0, 20), (0, 30), (10, 30), (20, 30)]
    assert len(CALLS) == 2 * (2 + 3 * 2)  # for each replicate: two stretches of trunk, two copies at each k
    assert len({seed for *_, seed in CALLS}) == 2 * (1 + 2)  # trunk and copies have their seeds whatever the k
    assert all(0 <= seed < 2**31 for *_, seed in CALLS)
    assert result.rewind_iters.tolist() == [0, 10, 20]
    assert len(result.rows) == 2 * 3 * 2
    assert result.summary["task"] == "own"


def test_a_network_that_gives_probabilities_has_measurements_of_its_own_name():
    """Under "auto" they were taken for logits."""
    sharp = lambda seed: nn.Sequential(init(seed), nn.Softmax(1))  # noqa: E731
    for evaluate, named in (("auto", "probabilities"), ("classification[0]", "classification[0]")):
        make = sharp if evaluate == "auto" else lambda seed: Pair(init(seed))
        training = prepare_own("x", train, make, DATA, iterations=5, evaluate=evaluate, device="cpu").training
        assert training.measured_spec()["evaluate"] == named
    plain = prepare_own("x", train, init, DATA, iterations=5, device="cpu").training
    assert plain.measured_spec()["evaluate"] == "auto"


class Pair(nn.Module):
    """Gives logits and features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.network(x), x


def test_the_curve_is_that_of_plain_code(tmp_path):
    result = study(tmp_path, replicates=1, rewind_iters=[10], splits=["test"])
    trunk, first, second = CALLS
    assert trunk[:2] == (0, 10)
    (init_seed,) = {job["init_seed"] for job in specs(tmp_path)}
    begin = {"model": init(init_seed % 2**31).state_dict()}
    middle = train(begin, *trunk)
    ends = []
    for call in (first, second):
        state = {"model": middle["model"].state_dict(), "optimizer": middle["optimizer"], "seen": 10}
        ends.append(train(copy.deepcopy(state), *call)["model"])
    inputs, labels = DATA["test"]
    errors = []
    for alpha in (0, 0.5, 1):
        network = init(0)
        weights = [end.state_dict() for end in ends]
        network.load_state_dict({n: (1 - alpha) * weights[0][n] + alpha * weights[1][n] for n in weights[0]})
        errors.append(float((network(inputs).argmax(1) != labels).double().mean()))
    measured = [row["error"] for row in result.paths]
    assert measured == pytest.approx(errors, abs=1e-12)
    assert result.rows[0]["barrier"] == pytest.approx(max(errors) - (errors[0] + errors[2]) / 2, abs=1e-12)


def specs(tmp_path):
    runs = (tmp_path / "store" / "runs").glob("state-*/spec.json")
    return [json.loads(file.read_text()) for file in runs]


def test_what_is_stored_is_not_called_again(tmp_path):
    before = study(tmp_path)
    again = study(tmp_path)
    assert CALLS == []
    assert again.rows == before.rows
    more = study(tmp_path, copies=3)
    assert {stop for _, stop, _ in CALLS} == {30}  # the third copies alone
    assert len(CALLS) == 2 * 3
    assert [r for r in more.rows if (r["copy_a"], r["copy_b"]) == (1, 2)] == before.rows


@pytest.mark.slow
def test_an_interrupted_study_goes_on_and_gives_the_same(tmp_path):
    def stopped_after(calls):
        def fragile(state, start, stop, seed):
            if len(CALLS) == calls:
                raise KeyboardInterrupt
            return train(state, start, stop, seed)

        fragile.modeconn_name = "the same"
        return fragile

    whole = study(tmp_path / "whole")
    for calls in (3, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            study(tmp_path / "parts", train=stopped_after(calls))
    parts = study(tmp_path / "parts", train=stopped_after(-1))
    assert 0 < len(CALLS) <= 2 * (2 + 3 * 2) - 9
    assert parts.rows == whole.rows


@pytest.mark.slow
def test_another_source_name_length_or_seed_is_another_study(tmp_path):
    study(tmp_path)
    for change in ({"name": "another"}, {"init": functools.partial(init)}, {"iterations": 31}, {"seed": 1}):
        study(tmp_path, **change)
        assert CALLS or change.get("init"), change


def test_the_list_of_k_does_not_change_any_of_them(tmp_path):
    alone = study(tmp_path, rewind_iters=[20], replicates=1)
    several = study(tmp_path / "other", rewind_iters=[0, 15, 20], replicates=1)
    assert [row for row in several.rows if row["rewind_iter"] == 20] == alone.rows
    more = study(tmp_path, rewind_iters=[10, 20], replicates=1)
    assert {start for start, *_ in CALLS} == {0, 10}  # what is new, alone
    assert [row for row in more.rows if row["rewind_iter"] == 20] == alone.rows


@pytest.mark.slow
def test_a_study_with_another_setting_does_not_get_the_numbers_of_the_first(tmp_path):
    """The rate sits in a closure, in an attribute, in the middle of a large array, and in a global of this file."""

    def by_closure(rate):
        return lambda state, start, stop, seed: scaled(state, start, stop, seed, rate)

    def by_array(rate):
        values = torch.zeros(5000)
        values[2500] = rate
        return functools.partial(by_array_loop, values)

    for make in (by_closure, ByAttribute, by_array):
        rows = []
        for rate in (0.05, 0.5, 0.05):
            result = study(tmp_path, train=make(rate), init=init, rewind_iters=[0], replicates=1)
            rows.append((len(CALLS), result.rows))
        assert [calls for calls, _ in rows] == [2, 2, 0], make
        assert rows[0][1] == rows[2][1] != rows[1][1]


class ByAttribute:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, state, start, stop, seed):
        return scaled(state, start, stop, seed, self.rate)


def by_array_loop(values, state, start, stop, seed):
    return scaled(state, start, stop, seed, float(values.max()))


def scaled(state, start, stop, seed, rate):
    later = train({"model": state["model"], "seen": start}, start, stop, seed)["model"].state_dict()
    return {"model": {name: old + rate * (later[name] - old) for name, old in state["model"].items()}}


def test_data_do_not_enter_the_names_of_states(tmp_path):
    study(tmp_path)
    result = study(tmp_path, data={"test": points(50, 9)})
    assert CALLS == []
    assert {row["split"] for row in result.rows} == {"test"}


def test_the_callers_random_state_and_threads_are_left_alone(tmp_path):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    study(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_loop_may_return_the_network_alone(tmp_path):
    def bare(state, start, stop, seed):
        return train({"model": state["model"], "seen": start}, start, stop, seed)["model"]

    assert len(study(tmp_path, train=bare).rows) == 12


def test_a_state_that_diverged_is_reported(tmp_path):
    def exploding(state, start, stop, seed):
        later = train(state, start, stop, seed)
        if start:
            with torch.no_grad():
                later["model"][0].weight[0, 0] = torch.nan
        return later

    result = study(tmp_path, train=exploding, rewind_iters=[0, 10], replicates=1)
    assert {where["rewind_iter"] for where in result.summary["diverged"]} == {10}


def test_workers_need_functions_that_can_be_sent(tmp_path):
    with pytest.raises(OptionError, match="workers=0"):
        study(tmp_path, train=lambda state, start, stop, seed: state, workers=2)


def ignores_its_seed(state, start, stop, seed):
    return train(state, start, stop, 0)


def test_a_loop_that_ignores_its_seed_is_an_error_and_it_shows_at_the_first_pair(tmp_path):
    with pytest.raises(OptionError, match=r"same weights for two seeds .* argument seed"):
        study(tmp_path, train=ignores_its_seed)
    assert [(start, stop) for start, stop, _ in CALLS] == [(0, 30), (0, 30)]
    study(tmp_path, train=ignores_its_seed, rewind_iters=[30])  # copies at the end are the same by construction
    with pytest.raises(OptionError, match="one seed for all of its noise"):
        study(tmp_path, noise=["augmentation"])


def test_fresh_computes_all_of_the_study_anew_and_replaces_what_was_there(tmp_path):
    options = {"rewind_iters": [10], "replicates": 1}
    first = study(tmp_path, **options)
    again = study(tmp_path, **options, fresh=True)
    assert len(CALLS) == 3
    assert again.rows == first.rows
    kept = study(tmp_path, **options)
    assert (len(CALLS), kept.rows) == (0, first.rows)
    counts = [result.summary["measurements"] for result in (first, again, kept)]
    assert counts == [{"read": 0, "computed": 3}, {"read": 0, "computed": 3}, {"read": 3, "computed": 0}]
    assert "3 of 3 measurements read from the store, 0 computed." in str(kept)


def returns_nothing(state, start, stop, seed):
    return None


def carries_code(state, start, stop, seed):
    return {"model": state["model"], "path": Path(".")}


def other_network(state, start, stop, seed):
    return nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": None}, "needs init="),
        ({"data": None}, "data="),
        ({"iterations": None}, "iterations="),
        ({"iterations": 0}, "at least 1"),
        ({"rewind_iters": [40]}, "outside the training"),
        ({"rewind_iters": "0,2ep"}, "no epochs, as in '2ep'; give iterations or percentages"),
        ({"splits": ["validation"]}, "split"),
        ({"init": lambda seed: "no network"}, "must return a network"),
        ({"train": returns_nothing}, "must return a network"),
        ({"train": carries_code}, r"without pickling code \(pathlib"),
        ({"train": other_network}, "weight"),
        ({"evaluate": lambda network, batch: {"loss": (1.0, 1)}}, "instability is of the error"),
        ({"data": {"test": []}}, "empty"),
        ({"train": None}, "goes with train="),
    ],
)
def test_what_cannot_work_is_said(tmp_path, options, message):
    with pytest.raises(ModeconnError, match=message):
        study(tmp_path, **options)


def test_batchnorm_is_recalibrated_on_the_training_data_or_the_lack_is_said(tmp_path):
    def with_norm(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def norm_loop(state, start, stop, seed):
        network = with_norm(0)
        network.load_state_dict(state["model"])
        for parameter in network.parameters():
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        return network

    options = {"train": norm_loop, "init": with_norm, "rewind_iters": [0], "replicates": 1}
    assert {row["batchnorm"] for row in study(tmp_path, **options).rows} == {"interpolate", "recalibrate"}
    with pytest.raises(OptionError, match="needs training data"):
        study(tmp_path, **options, data=DATA["test"])
    assert study(tmp_path, **options, data=DATA["test"], batchnorm=["interpolate"]).rows


@pytest.mark.parametrize("calibration", [None, 40])
def test_measurements_are_named_by_what_they_are_measured_with(calibration):
    """Precision, data and what is measured; with recalibration too, which reads the training data."""

    def names(**options):
        prepared = prepare_own("x", train, init, **{"data": DATA, "iterations": 30, "device": "cpu"} | options)
        copies = fork(next(trunk(prepared.training, [0], 0, 0)), 2, 0, 0)
        jobs = path_jobs(*copies, (0.0, 0.5, 1.0), Measurement(("test",), calibration), {"test": 60, "train": 80}).jobs
        return job_name(copies[0]), *map(job_name, jobs)

    def tenth(network, batch):
        return {"error": (0.1 * len(batch[1]), len(batch[1]))}

    state, *measured = names()
    changes = (
        {"precision": "bfloat16"},
        {"data": DATA | {"train": points(80, 9)}},
        {"data": DATA | {"test": points(60, 9)}},
        {"evaluate": tenth},
    )
    for change in changes:
        same_state, *others = names(**change)
        assert same_state == state, change
        assert not set(measured) & set(others), change


@pytest.mark.slow
def test_a_state_may_carry_random_states_and_numbers_of_numpy(tmp_path):
    def with_more(state, start, stop, seed):
        later = train(
            {name: state[name] for name in state if name in ("model", "optimizer", "seen")}, start, stop, seed
        )
        if start:
            assert state["best"] == np.float32(0.5)
            assert [type(part) for part in state["numpy"]] == [str, np.ndarray, int, int, float]
            assert np.array_equal(state["numpy"][1], np.random.RandomState(3).get_state()[1])
        return later | {
            "numpy": np.random.RandomState(3).get_state(),
            "python": random.getstate(),
            "best": np.float32(0.5),
        }

    assert study(tmp_path, train=with_more, rewind_iters=[10], replicates=1).rows


def test_init_may_carry_more_than_a_network(tmp_path):
    loop = prepare_own("x", train, lambda seed: {"model": init(seed), "seen": 0}, DATA, iterations=5).training
    assert isinstance(loop, OwnLoopTraining)
    later = loop.train_until(None, 5, noise=Noise.of(3), init_seed=1, metrics=[], on_chunk=lambda progress: None)
    assert later.state.rest["seen"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_loop", "own_loop_lottery", "hf_trainer"])
def test_the_examples_run(tmp_path, monkeypatch, name):
    if name == "hf_trainer":
        pytest.importorskip("transformers")
        pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "out")])
    source = (EXAMPLES / f"{name}.py").read_text()
    short = tmp_path / f"{name}.py"
    shorter = {
        "own_loop": {
            "replicates=2": "replicates=1",
            "alphas=11": "alphas=3",
            "[0, 6, 30, 90]": "[0, 12]",
            "ITERATIONS = 300": "ITERATIONS = 24",
        },
        "own_loop_lottery": {
            "replicates=1": "replicates=1, alphas=3, threshold=0.9",
            "[0, 20, 60, 100]": "[0, 12]",
            "levels=4": "levels=1",
            "ITERATIONS = 200": "ITERATIONS = 24",
        },
        "hf_trainer": {
            "replicates=1": "replicates=1, alphas=3",
            "[0, 20, 60]": "[0, 6]",
            "ITERATIONS = 120": "ITERATIONS = 12",
        },
    }[name]
    for old, new in shorter.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    short.write_text(source)
    runpy.run_path(str(short), run_name="__main__")
    kind = "lottery" if name.endswith("lottery") else "instability"
    assert (tmp_path / "out" / f"{kind}.csv").is_file()
    assert (tmp_path / "out" / f"{kind}.png").is_file()


class Inside(nn.Module):
    """A network as one part of another."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.body = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@pytest.mark.parametrize(
    ("make", "into", "said"),
    [
        (init, nn.DataParallel, r"have 'module\.' where .*\(module\.0\.bias\).*wrapped, or into network\.module$"),
        (lambda seed: nn.DataParallel(init(seed)), nn.DataParallel, r"have 'module\.'.*, or into network\.module$"),
        (
            lambda seed: Inside(init(seed)),
            lambda network: Inside(nn.DataParallel(network)),
            r"have 'module\.' where .*\(body\.module\.0\.bias\).*is wrapped$",
        ),
        (lambda seed: Inside(init(seed)), lambda network: network, r"lack 'body\.', .*\(body\.0\.bias\); have both"),
    ],
)
def test_a_prefix_that_train_or_init_has_alone_is_named(make, into, said):
    def loads(state, start, stop, seed):
        network = into(init(0))
        network.load_state_dict(state["model"])
        return network

    loop = prepare_own("x", loads, make, DATA, iterations=5, device="cpu").training
    with pytest.raises(OptionError, match=said) as raised:
        loop.train_until(None, 5, noise=Noise.of(3), init_seed=1, metrics=[], on_chunk=print)
    assert "\n" not in str(raised.value)


def test_other_names_that_do_not_fit_are_left_to_pytorch():
    def loads(state, start, stop, seed):
        nn.Linear(6, 2).load_state_dict(state["model"])

    loop = prepare_own("x", loads, init, DATA, iterations=5, device="cpu").training
    with pytest.raises(RuntimeError, match="loading state_dict for Linear"):
        loop.train_until(None, 5, noise=Noise.of(3), init_seed=1, metrics=[], on_chunk=print)


def test_a_class_as_init_is_told_what_to_give():
    with pytest.raises(OptionError, match=r"init= is the class Linear, .*such as def make\(seed\): return Linear\(\)"):
        modeconn.instability("mine", train=lambda *_: {}, init=torch.nn.Linear, data=[], iterations=4)


def test_functions_of_a_notebook_are_not_sent_to_workers(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "__module__", "__main__")
    monkeypatch.delattr(
        sys.modules["__main__"], "__file__", raising=False
    )  # as in a notebook, or with code from standard input
    given = {"train": train, "init": init, "data": DATA, "iterations": 4, "store": tmp_path}
    with pytest.raises(OptionError, match=r"train= is defined in a notebook or on standard input, .* leave workers=0"):
        modeconn.instability("mine", **given, workers=2)
    assert not list(tmp_path.glob("runs/*"))
