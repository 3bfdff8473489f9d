"""Curvature in instability studies: of the network at k and of the copies, against `sharpness` of each."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from loops import points
from modeconn import get_task, instability, load_result, sharpness
from modeconn.analysis.instability.figures import curvature_figure, save_figures
from modeconn.analysis.instability.options import StudyOptions
from modeconn.errors import OptionError
from modeconn.execution import Store
from modeconn.training.fork import fork, trunk
from modeconn.training.jobs import load_state
from modeconn.training.task_training import prepare

CONV = get_task("digits-conv", width=0.25).shortened(16)


@pytest.fixture
def study(tmp_path, data_dir):
    def run(task=CONV, rewind_iters=(0, 8), **options):
        given = {"replicates": 1, "alphas": 3, "workers": 0, "device": "cpu", "calibration": 100, "together": "no"}
        given |= {"store": tmp_path / "store", "data_dir": data_dir, "curvature": True, "curvature_examples": 40}
        return instability(task, rewind_iters, **(given | options))

    return run


def test_studies_without_curvature_keep_their_names():
    assert not {"curvature", "curvature_examples"} & StudyOptions().asked().keys()
    assert StudyOptions(curvature=True).asked()["curvature"] is True
    with pytest.raises(OptionError, match="at least one training example"):
        StudyOptions(curvature_examples=0)


@pytest.mark.slow
def test_curvature_is_that_of_the_networks_at_k_and_of_the_copies(study, tmp_path, data_dir):
    result = study(measure_at="12", seed=2, splits=["test"], out=tmp_path / "out")
    training = prepare(CONV, data_dir=data_dir, device="cpu").training
    store = Store(tmp_path / "store")
    images, labels = next(iter(training.batches("train")))
    rows = {(row["rewind_iter"], row["copy"], row["iteration"]): row for row in result.curvature}
    assert sorted(rows) == [(k, copy, at) for k in (0, 8) for copy, at in ((0, k), (1, 12), (1, 16), (2, 12), (2, 16))]

    def check(job, row):
        network = training.network()
        network.load_state_dict(load_state(store.require(job)).model)
        found = sharpness(network, (images[:40], labels[:40]), 1, trace=10)
        assert row["eigenvalue"] == pytest.approx(found.largest, rel=1e-3)
        assert row["trace"] == pytest.approx(found.trace, rel=1e-3)
        assert row["trace_error"] == pytest.approx(found.trace_error, rel=1e-2)
        assert row["loss"] == pytest.approx(found.loss, rel=1e-5)

    for state, k in zip(trunk(training, (0, 8), seed=2, replicate=0), (0, 8), strict=True):
        check(state, rows[k, 0, k])
        for number, copy in enumerate(fork(state, 2, seed=2, replicate=0), 1):
            for iteration in (12, 16):
                check(replace(copy, iteration=iteration), rows[k, number, iteration])

    again = load_result(tmp_path / "out")
    assert again.curvature == result.curvature
    assert str(again) == str(result)
    assert "curvature of the training loss, on 40 training examples" in str(result)
    for name in ("curvature.csv", "curvature.png"):
        assert (tmp_path / "out" / name).stat().st_size
        assert "curvature" in str(result)
    assert len(curvature_figure(again).axes) == 3


@pytest.mark.slow
def test_what_is_stored_is_read_and_measures_go_with_it(study, tmp_path):
    first = study(rewind_iters=(8,))
    names = set(Store(tmp_path / "store").names())
    second = study(rewind_iters=(8,), measures=("ends",), out=tmp_path / "out")
    assert second.curvature == first.curvature
    assert names < set(Store(tmp_path / "store").names())
    assert not [name for name in set(Store(tmp_path / "store").names()) - names if name.startswith("curvature")]
    again = load_result(tmp_path / "out")
    assert again.curvature == second.curvature
    assert again.trunk == second.trunk
    assert again.trunk
    save_figures(again)


@pytest.mark.parametrize("fault", ["entries", "derivative"])
def test_losses_that_cannot_be_differentiated_are_refused_before_training(fault, tmp_path):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, slope):
            return slope.clone()

    class Through(torch.nn.Module):
        def forward(self, x):
            return Once.apply(x)

    def init(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(6, 2), Through() if fault == "derivative" else torch.nn.Tanh())

    def train(state, start, stop, seed):
        raise AssertionError("it trains")

    def evaluate(network, batch):
        x, y = batch if fault == "derivative" else (batch["input"], batch["class"])
        return {"error": (float((network(x).argmax(1) != y).sum()), len(y))}

    inputs, labels = points(40, 0)
    data = (inputs, labels) if fault == "derivative" else [{"input": inputs, "class": labels}]
    given = {"replicates": 1, "alphas": 3, "workers": 0, "device": "cpu", "store": tmp_path / "store"}
    said = "through Once" if fault == "derivative" else "the network fails on a batch"
    with pytest.raises(OptionError, match=f"cannot be measured, so leave curvature=.*{said}"):
        instability(
            "own", (0,), iterations=4, train=train, init=init, data={"test": data, "train": data}, evaluate=evaluate,
            curvature=True, **given,
        )  # fmt: skip


@pytest.mark.slow
def test_networks_that_diverged_have_none(study):
    result = study(replace(CONV, learning_rate=1e20, name="wild"), rewind_iters=(0,))
    at_k, *copies = result.curvature
    assert np.isfinite(at_k["eigenvalue"])
    assert all(np.isnan(row["eigenvalue"]) for row in copies)
    assert "curvature" in str(result)
