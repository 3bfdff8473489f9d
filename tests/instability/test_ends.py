"""How copies differ apart from the path between them, and the network at k."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

import loops
from modeconn import error_barrier, get_task, instability, load_result
from modeconn.analysis.instability.ends import ends_job, read_ends
from modeconn.analysis.instability.figures import measures_figure
from modeconn.errors import OptionError
from modeconn.execution import Store, process_pool, run_jobs
from modeconn.seeds import mix
from modeconn.training.fork import fork, trunk
from modeconn.training.jobs import load_state
from modeconn.training.task_training import prepare

CONV = get_task("digits-conv", width=0.25).shortened(24)
MLP = replace(get_task("digits-conv", model="lenet-16", norm="none", learning_rate=0.05), name="mlp").shortened(24)
ADDED = ("cosine_distance", "disagreement", "possible_disagreement", "loss_l2", "l2_from_init_a", "l2_from_init_b")


@pytest.fixture
def study(tmp_path, data_dir):
    def run(task, rewind_iters=(0, 8), **options):
        given = {"replicates": 1, "alphas": 3, "workers": 0, "device": "cpu", "calibration": 100, "together": "no"}
        given |= {"store": tmp_path / "store", "data_dir": data_dir, "measures": ["ends"]}
        return instability(task, rewind_iters, **(given | options))

    return run


def flat(weights) -> np.ndarray:
    return np.concatenate([value.detach().double().flatten().numpy() for value in weights])


@pytest.mark.slow
def test_ends_and_trunk_are_those_of_a_plain_computation(study, tmp_path, data_dir):
    result = study(MLP, measure_at="12", seed=2)
    training = prepare(MLP, data_dir=data_dir, device="cpu").training
    store = Store(tmp_path / "store")

    def network(job):
        found = training.network().eval()
        found.load_state_dict(load_state(store.require(job)).model)
        return found

    @torch.no_grad()
    def answers(of, split):
        outputs, labels = zip(*((of(images), labels) for images, labels in training.batches(split)), strict=True)
        logits, labels = torch.cat(outputs), torch.cat(labels)
        losses = cross_entropy(logits, labels, reduction="none").double()
        return logits.argmax(1).numpy(), losses.numpy(), labels.numpy()

    init, *states = trunk(training, (0, 8), seed=2, replicate=0)
    at_start = flat(network(init).parameters())
    for state, k in zip((init, *states), (0, 8), strict=True):
        for iteration in (12, 24):
            copies = [replace(copy, iteration=iteration) for copy in fork(state, 2, seed=2, replicate=0)]
            networks = [network(copy) for copy in copies]
            weights = [flat(one.parameters()) for one in networks]
            for split in ("test", "train"):
                (row,) = (r for r in result.at(iteration).rows if (r["rewind_iter"], r["split"]) == (k, split))
                (labels_a, losses_a, right), (labels_b, losses_b, _) = (answers(one, split) for one in networks)
                errors = (labels_a != right).mean() + (labels_b != right).mean()
                norms = np.linalg.norm(weights[0]) * np.linalg.norm(weights[1])
                assert row["cosine_distance"] == pytest.approx(1 - weights[0] @ weights[1] / norms, abs=1e-7)
                assert row["disagreement"] == (labels_a != labels_b).mean()
                assert row["possible_disagreement"] == pytest.approx(min(1, errors))
                assert row["loss_l2"] == pytest.approx(math.sqrt(((losses_a - losses_b) ** 2).sum()), rel=1e-5)
                for end, own in zip("ab", weights, strict=True):
                    assert row[f"l2_from_init_{end}"] == pytest.approx(np.linalg.norm(own - at_start), rel=1e-6)
                expected = error_barrier(*networks, training.batches(split), alphas=3).ends
                assert (row["disagreement"], row["loss_l2"]) == (expected.disagreement, expected.loss_l2)
        for split in ("test", "train"):
            (row,) = (r for r in result.trunk if (r["rewind_iter"], r["split"]) == (k, split))
            labels, losses, right = answers(network(state), split)
            assert row["error"] == (labels != right).mean()
            assert row["loss"] == pytest.approx(losses.mean(), rel=1e-5)
            distance = np.linalg.norm(flat(network(state).parameters()) - at_start)
            assert row["l2_from_init"] == pytest.approx(distance, rel=1e-6)


@pytest.mark.slow
def test_all_else_is_as_it_is_without(study, tmp_path):
    plain = study(CONV, measures=[], out=tmp_path / "plain")
    asked = study(CONV, out=tmp_path / "asked")
    assert asked.paths == plain.paths
    assert [{name: row[name] for name in plain.rows[0]} for row in asked.rows] == plain.rows
    assert list(pd.read_csv(tmp_path / "asked" / "instability.csv").columns) == [*plain.rows[0], *ADDED]
    assert list(asked.to_frame().columns) == [*plain.to_frame().columns, *ADDED]
    again = load_result(tmp_path / "asked")
    assert (again.rows, again.trunk, str(again)) == (asked.rows, asked.trunk, str(asked))
    files = {path.name for path in (tmp_path / "asked").iterdir()} - {p.name for p in (tmp_path / "plain").iterdir()}
    assert files == {"trunk.csv", "measures.png", "measures.pdf"}
    assert "(instability.csv, paths.csv, trunk.csv, summary.json, instability, paths and measures .png .pdf)" in str(
        asked
    )
    disagreement = measures_figure(asked).axes[3].lines[0].get_ydata()
    assert disagreement == pytest.approx(100 * asked.mean_of("disagreement")["test"]["interpolate"])
    recalibrated = [row["disagreement"] for row in asked.rows if row["batchnorm"] == "recalibrate"]
    assert recalibrated != [row["disagreement"] for row in asked.rows if row["batchnorm"] == "interpolate"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No artists with labels")  # a figure without a curve, as all diverged
def test_a_diverged_copy_has_no_distances(study, tmp_path):
    result = study(replace(MLP, learning_rate=1e30, name="hot"), (0, 8), out=tmp_path / "out")
    assert all(math.isnan(row[name]) for row in result.rows for name in ADDED)
    assert math.isnan(result.trunk[-1]["error"])
    assert math.isnan(load_result(tmp_path / "out").trunk[-1]["l2_from_init"])


@pytest.mark.slow
def test_a_loop_of_ones_own_has_ends_too(study):
    how = {"train": loops.train, "init": loops.init, "data": loops.DATA, "iterations": 20, "together": "auto"}
    result = study("mine", (0, 5), **how)
    for row in result.rows:
        assert 0 < row["disagreement"] <= row["possible_disagreement"] <= 1
        assert row["l2_distance"] <= row["l2_from_init_a"] + row["l2_from_init_b"]
    assert [row["l2_from_init"] == 0 for row in result.trunk] == [row["rewind_iter"] == 0 for row in result.trunk]


def test_weights_alone_are_compared_on_no_split(store, data_dir):
    training = prepare(MLP, data_dir=data_dir, device="cpu").training
    (state,) = trunk(training, [0], seed=0, replicate=0)
    other = replace(state, init_seed=mix(1))
    job = ends_job(state, other, (), {})
    assert run_jobs([job], store, lambda: process_pool(0), 1) == {}
    models = [load_state(store.require(one)).model for one in (state, other)]
    a, b = (flat(model[name] for name in sorted(model)) for model in models)
    found = read_ends(store, job)
    assert found.l2 == pytest.approx(np.linalg.norm(a - b), rel=1e-6)
    assert found.outcomes == {}


def test_an_unknown_measure_is_refused(study):
    with pytest.raises(OptionError, match=r"unknown measure 'end'.*did you mean 'ends'"):
        study(MLP, measures=["end"])
