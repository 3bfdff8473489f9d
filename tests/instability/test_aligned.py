"""`instability(..., align="weights")`: the barrier between copies after one is aligned to the other."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from modeconn import align, error_barrier, get_task, instability, load_result
from modeconn.analysis.instability.align import AlignJob, read_alignment
from modeconn.analysis.instability.curves import read_curve
from modeconn.analysis.instability.jobs import path_jobs
from modeconn.analysis.instability.measurement import Measurement
from modeconn.analysis.instability.options import StudyOptions
from modeconn.errors import OptionError
from modeconn.execution import Store, process_pool, run_jobs
from modeconn.execution.names import job_name
from modeconn.seeds import mix
from modeconn.training.fork import fork, trunk
from modeconn.training.jobs import load_state
from modeconn.training.task_training import prepare

CONV = get_task("digits-conv", width=0.25).shortened(24)
MLP = replace(get_task("digits-conv", model="lenet-16", norm="none", learning_rate=0.05), name="mlp").shortened(24)
COLUMNS = ["barrier_aligned", "chord_barrier_aligned", "loss_barrier_aligned", "l2_distance_aligned", "moved"]


@pytest.fixture
def study(tmp_path, data_dir):
    def run(task, rewind_iters=(0, 8), **options):
        given = {"replicates": 1, "alphas": 3, "workers": 0, "device": "cpu", "calibration": 100, "together": "no"}
        given |= {"store": tmp_path / "store", "data_dir": data_dir, "align": "weights"}
        return instability(task, rewind_iters, **(given | options))

    return run


def artifacts(store):
    return {name: Store(store).finished(name).hashes for name in Store(store).names()}


def test_studies_without_alignment_keep_their_names():
    assert "align" not in StudyOptions().asked()
    assert StudyOptions(align="weights").asked()["align"] == "weights"
    with pytest.raises(OptionError, match=r"unknown choice for align 'weight'.*did you mean 'weights'"):
        StudyOptions(align="weight")


@pytest.mark.slow
def test_an_aligned_barrier_is_that_of_error_barrier(study, tmp_path, data_dir):
    result = study(MLP, measure_at="12", seed=2, splits=["test"])
    training = prepare(MLP, data_dir=data_dir, device="cpu").training
    store = Store(tmp_path / "store")

    def network(job) -> nn.Module:
        found = training.network().eval()
        found.load_state_dict(load_state(store.require(job)).model)
        return found

    for state, k in zip(trunk(training, (0, 8), seed=2, replicate=0), (0, 8), strict=True):
        for iteration in (12, 24):
            a, b = (network(replace(copy, iteration=iteration)) for copy in fork(state, 2, seed=2, replicate=0))
            batch = next(iter(training.batches("test")))
            expected = error_barrier(a, b, training.batches("test"), alphas=3, align="weights")
            (row,) = (r for r in result.at(iteration).rows if r["rewind_iter"] == k)
            assert row["barrier"] == pytest.approx(expected.unaligned.barrier, abs=1e-12)
            assert row["barrier_aligned"] == pytest.approx(expected.barrier, abs=1e-12)
            assert row["loss_barrier_aligned"] == pytest.approx(expected.heights("loss").barrier, abs=1e-6)
            assert row["l2_distance_aligned"] == pytest.approx(expected.ends.l2, rel=1e-6)
            assert row["moved"] == align(a, b, example=batch).moved


@pytest.mark.parametrize("alphas", [(0.0, 0.25, 1.0), "adaptive"])
def test_networks_of_two_initialisations_are_aligned_on_the_path(store, data_dir, alphas):
    """Copies of one initialisation hardly move; here most units do."""
    training = prepare(MLP, data_dir=data_dir, device="cpu").training
    (a,) = trunk(training, [0], seed=0, replicate=0)
    b, measurement, examples = replace(a, init_seed=mix(1)), Measurement(("test",), None), {"test": 359}
    job = AlignJob(a, b, "weights", "test", 1.0)
    jobs = path_jobs(a, b, alphas, measurement, examples, align=job)
    assert run_jobs(jobs.jobs, store, lambda: process_pool(0), 1) == {}
    networks = [training.network().eval() for _ in range(2)]
    for network, one in zip(networks, (a, b), strict=True):
        network.load_state_dict(load_state(store.require(one)).model)
    alignment = read_alignment(store, job)
    assert alignment.moved > 0.9
    assert all(map(np.array_equal, alignment.permutations, align(*networks, example=_images(training)).permutations))
    curve = read_curve(store, jobs)
    aligned = alignment.apply(networks[1])
    expected = error_barrier(networks[0], aligned, training.batches("test"), alphas=curve.alphas["test"])
    assert [counts.loss for counts in curve.counts["test"]] == pytest.approx(expected.loss, rel=1e-5)
    assert curve.l2_distance == pytest.approx(expected.ends.l2, rel=1e-6)
    plain = path_jobs(a, b, alphas, measurement, examples)
    assert job_name(plain.path) != job_name(jobs.path)
    assert "alignment" not in plain.path.spec()


def _images(training) -> torch.Tensor:
    return next(iter(training.batches("test")))[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"alphas": "adaptive", "splits": ["test"]}, {"measures": ["ends"]}], ids=str)
def test_all_else_is_what_it_is_without(how, study, tmp_path):
    """Trainings and measurements that a store holds are read, and none gets another name."""
    plain = study(CONV, store=tmp_path / "store", align=None, **how)
    before = artifacts(tmp_path / "store")
    aligned = study(CONV, out=tmp_path / "out", **how)
    after = artifacts(tmp_path / "store")
    assert before.items() <= after.items()
    kinds = sorted(name.rpartition("-")[0] for name in after.keys() - before.keys())
    assert kinds == ["alignment"] * 2 + ["path"] * 4  # two k, two BatchNorm choices
    assert aligned.paths == plain.paths
    assert aligned.stable_from() == plain.stable_from()
    for row, other in zip(plain.rows, aligned.rows, strict=True):
        assert [name for name in other if name not in row] == COLUMNS
        assert {name: other[name] for name in row} == row
    table = pd.read_csv(tmp_path / "out" / "instability.csv")
    assert set(COLUMNS) <= set(table.columns)
    back = load_result(tmp_path / "out")
    assert back.rows == aligned.rows
    assert str(back).splitlines()[:8] == str(aligned).splitlines()[:8]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["align"] == "weights"


@pytest.mark.slow
def test_words_and_figure_say_what_alignment_did(study):
    result = study(MLP, splits=["test"])
    row = result.by_iteration()[0]
    assert row["aligned"] == result.mean_of("barrier_aligned")["test"]["none"][0]
    assert row["moved"] == result.mean_of("moved")["test"]["none"][0]
    text = str(result)
    assert text.splitlines()[3].split()[:6] == ["k", "of", "T", "error", "mean", "std"]
    assert "aligned" in text.splitlines()[3]
    higher = replace(result, rows=[r | {"barrier": 0.4, "barrier_aligned": 0.3, "moved": 0.25} for r in result.rows])
    assert "copies from k = 0 have a barrier of 40.00 points, and of 30.00 after one is aligned" in str(higher)
    assert "(25 % of the units change their place), so that" in str(higher)
    assert "not all that is between them" in str(higher)
    gone = replace(result, rows=[r | {"barrier": 0.4, "barrier_aligned": 0.01} for r in result.rows])
    assert "below 2 percentage points: the barrier was one of permutations" in str(gone)
    assert "test, aligned" in [line.get_label() for line in higher.plot().lines]


@pytest.mark.slow
def test_what_diverged_has_no_aligned_barrier(study):
    hot = replace(MLP, model="cases:fragile", name="fragile").shortened(40)
    result = study(hot, (0,), copies=4)
    missing = [row for row in result.rows if math.isnan(row["barrier"])]
    assert missing
    assert all(math.isnan(row[name]) for row in missing for name in COLUMNS)


class Opaque(nn.Module):
    """A network whose graph depends on its data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x) if float(x.sum()) > 0 else -self.layer(x)


@pytest.mark.slow
def test_a_network_without_a_graph_is_refused_before_it_is_trained(tmp_path):
    def never(state, start, stop, seed):
        raise AssertionError("it was trained")

    data = torch.randn(20, 4), torch.arange(20) % 2
    with pytest.raises(OptionError, match="cannot be aligned, so leave align="):
        instability(
            "own", [0], train=never, init=lambda seed: Opaque(), data=data, iterations=4, align="weights",
            store=tmp_path / "store",
        )  # fmt: skip
