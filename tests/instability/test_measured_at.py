"""Barriers between copies at iterations before the last."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import loops
from modeconn import error_barrier, get_task, instability, load_result
from modeconn.errors import OptionError
from modeconn.execution import Store, run_jobs
from modeconn.execution.names import job_name
from modeconn.execution.pool import process_pool
from modeconn.seeds import mix
from modeconn.training.cohort.jobs import train_together
from modeconn.training.fork import fork, trunk
from modeconn.training.noise import Noise
from modeconn.training.task_training import prepare
from modeconn.training.trainer import TrainResult

CONV = get_task("digits-conv", width=0.25).shortened(24)
MLP = replace(get_task("digits-conv", model="lenet-16", norm="none", learning_rate=0.05), name="mlp").shortened(60)


@pytest.fixture
def study(tmp_path, data_dir):
    def run(task, rewind_iters=(0, 8), **options):
        given = {"replicates": 1, "alphas": 5, "workers": 0, "device": "cpu", "calibration": 100, "together": "no"}
        given |= {"store": tmp_path / "store", "data_dir": data_dir}
        return instability(task, rewind_iters, **(given | options))

    return run


def artifacts(store):
    return {name: Store(store).finished(name).hashes for name in Store(store).names()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [{"together": "no"}, {"together": "yes"}, {"alphas": "adaptive", "splits": ["test"]}], ids=str
)
def test_what_is_measured_at_the_end_is_what_it_is_without(how, study, tmp_path):
    plain = study(CONV, store=tmp_path / "plain", **how)
    several = study(CONV, measure_at="5,12,100%", **how)
    assert several.measured_at == [5, 12, 24]
    assert plain.measured_at == [24]
    assert several.at(24).rows == plain.rows
    assert several.at(24).paths == plain.paths
    assert str(several.summary["results"]) == str(plain.summary["results"])  # NaN equals nothing
    before, after = artifacts(tmp_path / "plain"), artifacts(tmp_path / "store")
    assert before.items() <= after.items()
    trainings = [name for name in after.keys() - before.keys() if name.startswith(("state", "cohort"))]
    cohorts = 3 if how.get("together") == "yes" else 0  # after 5 and 12 iterations from k = 0, after 12 from 8
    assert len(trainings) == 2 * 3 + cohorts


@pytest.mark.slow
def test_an_earlier_measurement_is_that_of_two_networks_trained_until_then(study, data_dir):
    result = study(MLP, (0, 8), measure_at=[30, 5], seed=3, alphas=7)
    assert {k: result.at(k).rewind_iters.tolist() for k in result.measured_at} == {5: [0], 30: [0, 8], 60: [0, 8]}
    training = prepare(MLP, data_dir=data_dir, device="cpu").training
    for iteration, k in ((5, 0), (30, 0), (30, 8)):
        networks = []
        for copy in (1, 2):
            noise = Noise.of(mix(3, "noise", 0, 0)).fork(k, mix(3, "noise", 0, copy))
            reached = training.train_until(
                None, iteration, noise=noise, init_seed=mix(3, "init", 0), metrics=[], on_chunk=lambda progress: None
            )
            networks.append(training.network())
            networks[-1].load_state_dict(reached.state.model)
        for split in ("test", "train"):
            expected = error_barrier(*networks, training.batches(split), alphas=7)
            (row,) = (r for r in result.at(iteration).rows if (r["rewind_iter"], r["split"]) == (k, split))
            assert row["barrier"] == pytest.approx(expected.barrier, abs=1e-12)
            assert row["l2_distance"] == pytest.approx(expected.ends.l2, rel=1e-6)
            index = result.at(iteration).rewind_iters.tolist().index(k)
            assert result.at(iteration).mean[split]["none"][index] == row["barrier"]


@pytest.mark.slow
def test_what_diverged_on_the_way_is_missing_from_then_on(study, tmp_path):
    hot = replace(MLP, model="cases:fragile", name="fragile").shortened(40)
    plain = study(hot, (0,), copies=4, store=tmp_path / "plain")
    several = study(hot, (0,), copies=4, measure_at="3,10,20")
    assert any(math.isnan(row["barrier"]) for row in plain.rows)
    assert str(several.at(40).rows) == str(plain.rows)  # NaN equals nothing
    assert several.summary["diverged"] == plain.summary["diverged"]
    for iteration in (3, 10, 20):
        early = several.at(iteration)
        expected = [where for where in plain.summary["diverged"] if where["iteration"] < iteration]
        assert early.summary["diverged"] == expected
        bad = {where["copy"] for where in expected}
        for row in early.rows:
            assert math.isnan(row["barrier"]) == bool({row["copy_a"], row["copy_b"]} & bad)


@pytest.mark.parametrize(("rate", "begin"), [(0.1, [4, 4]), (1e10, [0, 0])])
def test_a_cohort_goes_on_from_an_earlier_one_unless_a_member_diverged(rate, begin, store, data_dir, monkeypatch):
    """Where a member leaves, rounding may change for the others; that must not depend on where copies were measured."""
    training = prepare(replace(CONV, name="hot", learning_rate=rate), data_dir=data_dir, device="cpu").training
    (start,) = trunk(training, [0], seed=0, replicate=0)
    copies = fork(start, 2, seed=0, replicate=0)
    earlier = train_together([replace(copy, iteration=4) for copy in copies], "earlier")
    assert run_jobs(earlier, store, lambda: process_pool(0), 1) == {}
    assert (store.require(earlier[0]).facts["diverged_at"] is None) == (rate < 1)
    last = train_together(copies, "last", earlier)
    assert job_name(last[0]) == job_name(train_together(copies, "last")[0])
    began = []

    def note(members, progress, *_, **__):
        began.extend(one.state.iteration for one in progress)
        return [TrainResult(one.state) for one in progress]

    monkeypatch.setattr("modeconn.training.cohort.jobs.train_cohort_until", note)
    last[0].cohort.run(store)
    assert began == begin


@pytest.mark.slow
def test_a_loop_of_ones_own_comes_to_each_iteration_from_k(study, monkeypatch):
    monkeypatch.setattr(loops, "CALLS", [])
    how = {"train": loops.train, "init": loops.init, "data": loops.DATA, "iterations": 20, "together": "auto"}
    result = study("mine", (0, 5), measure_at="10", **how)
    assert result.measured_at == [10, 20]
    copies = [call[:2] for call in loops.CALLS if call[2] != loops.CALLS[0][2]]
    assert sorted(set(copies) - {(0, 5)}) == [(0, 10), (0, 20), (5, 10), (5, 20)]
    assert result.at(20).rows == study("mine", (0, 5), fresh=True, **how).rows


@pytest.mark.slow
def test_a_search_decides_by_the_last_iteration(study):
    how = {"search": True, "threshold": 0.5, "replicates": 2}
    plain, several = study(MLP, (0, 5, 20), **how), study(MLP, (0, 5, 20), measure_at="3,30", **how)
    assert several.stable_from(0.5) == plain.stable_from(0.5)
    assert several.summary["replicates_by_k"] == plain.summary["replicates_by_k"]
    assert several.at(60).rows == plain.rows
    assert set(several.at(30).rewind_iters) == set(plain.rewind_iters)


@pytest.mark.slow
def test_files_words_and_figures_of_several_measurements(study, tmp_path):
    result = study(CONV, measure_at="12,6", out=tmp_path / "out")
    out = tmp_path / "out"
    for name in ("instability.csv", "paths.csv"):
        table = pd.read_csv(out / name)
        assert table.columns[-1] == "iteration"
        assert sorted(set(table["iteration"])) == [6, 12, 24]
    assert json.loads((out / "summary.json").read_text())["measured_at"] == [6, 12, 24]
    assert {"training.png", "training.pdf"} <= {path.name for path in out.iterdir()}
    again = load_result(out)
    assert (again.rows, again.paths, str(again)) == (result.rows, result.paths, str(result))
    lines = [line.split() for line in str(result).splitlines()]
    assert ["BatchNorm", "k", "6", "12", "24"] in lines
    means = [result.at(iteration).mean["test"]["recalibrate"] for iteration in (12, 24)]
    assert ["recalibrate", "8", *(f"{100 * mean[1]:.2f}" for mean in means)] in lines
    assert "instability, paths and training .png .pdf" in str(result)
    assert "after 12 iterations" in str(result.at(12))
    assert "after" not in result.at(24).title
    saved = result.at(12).save(tmp_path / "early")
    assert load_result(tmp_path / "early").rows == saved.rows
    with pytest.raises(OptionError, match="unknown iteration of measurement '7'"):
        result.at(7)
    assert np.array_equal(result.rewind_iters, [0, 8])


def test_a_study_measured_at_the_end_alone_says_nothing_of_it(finished_study, tmp_path):
    result, out, _ = finished_study
    assert result.measured_at == [40]
    assert "measured_at" not in result.summary
    assert "training" not in str(result).split("Files")[1]
    assert not (out / "training.png").exists()
    shutil.copytree(out, tmp_path / "old")
    for name in ("instability.csv", "paths.csv"):
        text = (tmp_path / "old" / name).read_text()
        (tmp_path / "old" / name).write_text("".join(f"{line.rpartition(',')[0]}\n" for line in text.splitlines()))
    assert load_result(tmp_path / "old").rows == result.rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure_at": "61"}, "outside the training"),
        ({"measure_at": 0.5}, "iterations to measure at are whole numbers or text"),
        ({"measure_at": "8", "rewind_iters": "8,20"}, "iteration 8 of measure_at= is not after the first k, 8"),
        ({"measure_at": range(1, 60), "copies": 60, "replicates": 30}, "each measured 60 times would be"),
    ],
)
def test_bad_iterations_are_refused_before_anything_is_computed(options, message, study, tmp_path):
    with pytest.raises(OptionError, match=message):
        study(MLP, **options)
    assert not (tmp_path / "store").exists()
