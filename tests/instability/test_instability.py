import csv
import json
import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from torch.nn.functional import cross_entropy

from modeconn import InstabilityResult, ModeconnError, get_task, instability, load_data, load_result
from modeconn.errors import OptionError, StoreError
from modeconn.tasks import Task
from modeconn.training.noise import batch_indices
from modeconn.training.trainer import build_task_network

pytestmark = pytest.mark.slow  # whole trainings and commands

MLP = replace(get_task("digits-conv", model="lenet-16", norm="none", learning_rate=0.05), name="mlp").shortened(60)
CONV = get_task("digits-conv").shortened(60)
QUICK = {"replicates": 1, "alphas": 5, "workers": 0}


@pytest.fixture
def study(tmp_path, data_dir):
    def run(task: Task, rewind_iters=(0,), **options) -> InstabilityResult:
        places = {"store": tmp_path / "store", "data_dir": data_dir}
        return instability(task, rewind_iters, **(QUICK | places | options))

    return run


def ends(store: Path, k: int, total: int) -> list[Path]:
    """Folders of the two copies forked at k, in the order of their seeds in the specs of paths."""
    for spec_file in store.glob("runs/path-*/spec.json"):
        spec = json.loads(spec_file.read_text())
        folders = [store / "runs" / spec[end] for end in ("a", "b")]
        specs = [json.loads((folder / "spec.json").read_text()) for folder in folders]
        if all(s["iteration"] == total and s["noise"][-1]["from"] == k for s in specs):
            return folders
    raise AssertionError(f"no copies forked at {k}")


def pixels(data, split: str) -> tuple[np.ndarray, np.ndarray]:
    part = data.split(split)
    images = part.images.read(torch.arange(len(part))).numpy().astype(np.float64)
    return (images / 255 - data.mean[0]) / data.std[0], part.labels.numpy()


def test_the_barrier_of_an_mlp_is_that_of_plain_numpy(study, tmp_path, data_dir):
    result = study(MLP)
    data = load_data("digits", data_dir)
    a, b = (load_file(folder / "weights.safetensors") for folder in ends(tmp_path / "store", 0, 60))
    for split in ("test", "train"):
        x, y = pixels(data, split)
        errors, losses = [], []
        for alpha in np.linspace(0, 1, 5):
            w = {name: (1 - alpha) * a[name].astype(np.float64) + alpha * b[name] for name in a}
            hidden = np.maximum(x.reshape(len(x), -1) @ w["1.weight"].T + w["1.bias"], 0)
            logits = hidden @ w["3.weight"].T + w["3.bias"]
            errors.append((logits.argmax(1) != y).mean())
            top = logits.max(1)
            log_sum = np.log(np.exp(logits - top[:, None]).sum(1)) + top
            losses.append((log_sum - logits[np.arange(len(y)), y]).mean())
        row = next(row for row in result.rows if row["split"] == split)
        assert row["barrier"] == pytest.approx(max(errors) - (errors[0] + errors[-1]) / 2, abs=1e-6)
        assert row["loss_barrier"] == pytest.approx(max(losses) - (losses[0] + losses[-1]) / 2, abs=1e-6)
        measured = [p["error"] for p in result.paths if p["split"] == split]
        assert measured == pytest.approx(errors, abs=1e-6)
        assert row["barrier"] > 0
    distance = math.sqrt(sum(((a[name].astype(np.float64) - b[name]) ** 2).sum() for name in a))
    assert result.rows[0]["l2_distance"] == pytest.approx(distance)


@pytest.mark.parametrize("batchnorm", ["interpolate", pytest.param("recalibrate", marks=pytest.mark.slow)])
def test_the_barrier_with_batchnorm_is_that_of_a_plain_loop(batchnorm, study, tmp_path, data_dir):
    result = study(CONV, batchnorm=[batchnorm], calibration=1437)
    data = load_data("digits", data_dir)
    a, b = (load_tensors(folder / "weights.safetensors") for folder in ends(tmp_path / "store", 0, 60))

    def forward(w: dict[str, torch.Tensor], x: torch.Tensor, statistics: dict[int, list] | None = None):
        """The digits network written out; with `statistics`, inputs of norms are noted and normalize themselves."""
        for conv in (0, 3, 7, 10, 14, 17):  # places in the Sequential; each is followed by its norm
            if conv in (7, 14):
                x = torch.nn.functional.max_pool2d(x, 2)
            x = torch.nn.functional.conv2d(x, w[f"{conv}.weight"], padding=1)
            norm = conv + 1
            if statistics is None:
                mean, var = w[f"{norm}.running_mean"], w[f"{norm}.running_var"]
            else:
                statistics.setdefault(norm, []).append(x)
                mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            scale = w[f"{norm}.weight"] / (var + 1e-5).sqrt()
            x = ((x - mean[:, None, None]) * scale[:, None, None] + w[f"{norm}.bias"][:, None, None]).relu()
        return x.mean((2, 3)) @ w["22.weight"].T + w["22.bias"]

    for split in ("test", "train"):
        x, y = (torch.from_numpy(array) for array in pixels(data, split))
        train, _ = pixels(data, "train")
        errors = []
        for alpha in np.linspace(0, 1, 5):
            w = {n: (1 - alpha) * a[n].double() + alpha * b[n].double() for n in a if a[n].is_floating_point()}
            if batchnorm == "recalibrate":
                seen: dict[int, list] = {}
                for t in range(6):
                    forward(w, torch.from_numpy(train)[batch_indices(0, t, 1437, 240)], seen)
                for norm, inputs in seen.items():
                    w[f"{norm}.running_mean"] = torch.cat(inputs).mean((0, 2, 3))
                    w[f"{norm}.running_var"] = torch.cat(inputs).var((0, 2, 3), correction=0)
            errors.append(float((forward(w, x).argmax(1) != y).double().mean()))
        row = next(row for row in result.rows if row["split"] == split)
        assert row["barrier"] == pytest.approx(max(errors) - (errors[0] + errors[-1]) / 2, abs=1e-6)


def test_copies_forked_at_the_end_have_no_barrier(study):
    result = study(MLP, (0, 60))
    last = [row for row in result.rows if row["rewind_iter"] == 60]
    assert all((row["barrier"], row["l2_distance"]) == (0, 0) for row in last)
    assert all(row["l2_distance"] > 0 for row in result.rows if row["rewind_iter"] == 0)
    assert result.summary["identical_pairs"] == []  # by construction, so no surprise to speak of


def test_copies_with_the_same_noise_are_the_same_and_it_is_said(study, caplog):
    with caplog.at_level(logging.WARNING):
        result = study(MLP, noise=["augmentation", "dropout"])
    assert all((row["barrier"], row["l2_distance"]) == (0, 0) for row in result.rows)
    assert "ended in the same weights (distance 0)" in caplog.text
    assert len(result.summary["identical_pairs"]) == 1


def test_every_pair_of_copies_is_measured_and_shares_its_ends(study):
    result = study(MLP, (0, 30), copies=3, replicates=2)
    pairs = [(1, 2), (1, 3), (2, 3)]
    found = [(r["replicate"], r["rewind_iter"], (r["copy_a"], r["copy_b"]), r["split"]) for r in result.rows]
    assert found == [(r, k, p, s) for r in (0, 1) for k in (0, 30) for p in pairs for s in ("test", "train")]
    errors: dict[tuple, set[float]] = {}
    for row in result.rows:
        for end in ("a", "b"):
            place = row["replicate"], row["rewind_iter"], row[f"copy_{end}"], row["split"]
            errors.setdefault(place, set()).add(row[f"error_{end}"])
    assert all(len(values) == 1 for values in errors.values())
    assert len({row["l2_distance"] for row in result.rows}) == 12  # replicates, k and pairs all differ


def test_a_finished_study_is_read_and_not_computed(study):
    first, reports = study(MLP, (0, 30)), []
    again = study(MLP, (0, 30), report=reports.append)
    (announced,) = reports
    assert announced.jobs == 0
    assert announced.about.startswith("0 of 6 jobs to compute")
    assert again.rows == first.rows


def test_results_do_not_depend_on_what_the_store_held(study, tmp_path):
    study(MLP, (30,))
    shared = study(MLP, (0, 15, 30))
    alone = study(MLP, (0, 15, 30), store=tmp_path / "other")
    assert shared.rows == alone.rows
    assert shared.paths == alone.paths


@pytest.mark.parametrize("kind", ["state", "path", "evaluation"])
def test_a_damaged_artifact_is_computed_again(kind, study, tmp_path, caplog):
    first = study(MLP)
    for file in (tmp_path / "store" / "runs").glob(f"{kind}-*/*"):
        if file.name in ("weights.safetensors", "path.json", "counts.json"):
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
    if kind == "state":  # states are read only when a path needs them
        for done in (tmp_path / "store" / "runs").glob("path-*/done.json"):
            done.unlink()
    with caplog.at_level(logging.WARNING):
        again = study(MLP)
    assert again.rows == first.rows
    assert "set aside" in caplog.text


@pytest.mark.slow
def test_a_diverged_copy_is_reported_and_the_rest_goes_on(study, tmp_path, caplog):
    task = replace(MLP, model="cases:fragile", name="fragile").shortened(40)
    with caplog.at_level(logging.WARNING):
        result = study(task, (0, 10, 30), copies=3, replicates=2, out=tmp_path / "out")
    missing = [row for row in result.rows if math.isnan(row["barrier"])]
    assert missing
    assert len(missing) < len(result.rows)
    assert "a run diverged" in caplog.text
    where = result.summary["diverged"][0]
    assert 0 <= where["iteration"] < 40
    bad = {row["rewind_iter"] for row in missing}
    stable = dict(zip(result.rewind_iters.tolist(), result.stable("test", "none", 0.99), strict=True))
    assert {k for k, is_stable in stable.items() if not is_stable} == bad
    assert np.isnan(pd.read_csv(tmp_path / "out" / "instability.csv")["barrier"]).sum() == len(missing)


def place(row):
    return row["split"], row["batchnorm"], row["rewind_iter"]


def test_files_are_as_documented(finished_study, data_dir):
    result, out, _ = finished_study
    rows = pd.read_csv(out / "instability.csv")
    assert ",".join(rows.columns) == (
        "replicate,rewind_iter,copy_a,copy_b,split,barrier,chord_barrier,alpha_at_max,error_a,error_b,"
        "loss_barrier,l2_distance,batchnorm,iteration"
    )
    assert len(rows) == 2 * 2 * 2  # k, split, BatchNorm choice
    paths = pd.read_csv(out / "paths.csv")
    assert ",".join(paths.columns) == "replicate,rewind_iter,copy_a,copy_b,split,batchnorm,alpha,error,loss,iteration"
    assert len(paths) == len(rows) * 3
    summary = json.loads((out / "summary.json").read_text())
    assert {"task", "stable_from", "threshold", "replicates", "copies", "data_note", "command", "versions"} <= set(
        summary
    )
    assert set(summary["machine"]) == {"processor", "cores", "instructions", "threads", "gpu", "commit"}
    assert f"CPU capability usage: {summary['machine']['instructions']}\n" in torch.__config__.show()
    assert summary["seconds"] > 0
    most = {
        split: np.bincount(np.load(data_dir / "digits.npz")[f"{split}_labels"]).max() for split in ("test", "train")
    }
    assert summary["chance"] == pytest.approx({"test": 1 - most["test"] / 360, "train": 1 - most["train"] / 1437})
    assert len(summary["results"]) == len(rows)  # one replicate with one pair
    for answer, row in zip(sorted(summary["results"], key=place), sorted(result.rows, key=place), strict=True):
        assert answer["mean"] == row["barrier"]
        assert answer["error"] == (row["error_a"] + row["error_b"]) / 2
        assert answer["interval"] == [None, None]
    assert summary["stable_from"] == result.stable_from()
    for name in ("instability", "paths"):
        assert (out / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (out / f"{name}.pdf").read_bytes()[:4] == b"%PDF"
    loaded = load_result(out)
    assert loaded.rows == result.rows
    assert loaded.paths == result.paths
    # To the last digit, which not every pandas reads by default.
    with open(out / "instability.csv") as file:
        assert result.to_frame()["barrier"].tolist() == [float(row["barrier"]) for row in csv.DictReader(file)]


def test_alphas_can_be_given(study):
    result = study(MLP, alphas=[0.9, 0.2])
    assert [p["alpha"] for p in result.paths if p["split"] == "test"] == [0.0, 0.2, 0.9, 1.0]


def test_anyones_network_goes_through(study):
    for model in ("cases:with_dropout", "cases:with_batchnorm", "cases:with_tied_weights"):
        result = study(replace(MLP, model=model))
        assert all(np.isfinite(row["barrier"]) for row in result.rows)


HEIGHTS = st.lists(st.lists(st.floats(0, 0.1), min_size=1, max_size=4), min_size=1, max_size=6)


@given(HEIGHTS, st.floats(0.001, 0.1))
def test_stable_from_is_the_first_of_the_stable_end(heights, threshold):
    rows = [
        {"replicate": r, "rewind_iter": 10 * k, "split": "test", "batchnorm": "none", "barrier": height}
        for k, group in enumerate(heights)
        for r, height in enumerate(group)
    ]
    result = InstabilityResult(rows, [], {})
    k = result.stable_from(threshold)["test"]["none"]
    means = [np.mean(group) for group in heights]
    assert np.array_equal(result.mean["test"]["none"], means)
    start = len(heights) if k is None else k // 10
    assert all(mean < threshold for mean in means[start:])
    assert start == 0 or means[start - 1] >= threshold


BAD = [
    ({"rewind_iters": "-1"}, "outside the training"),
    ({"rewind_iters": "61"}, "iterations 0 to 60"),
    ({"rewind_iters": "soon"}, "write 500, 500it, 2ep or 3%"),
    ({"rewind_iters": "200%"}, "outside the training"),
    ({"copies": 1}, "at least 2"),
    ({"replicates": 0}, "at least one replicate"),
    ({"alphas": 2}, "at least 3 alphas"),
    ({"alphas": [0, 1]}, "at least 3 alphas"),
    ({"alphas": [0, 0.5, 1.5]}, "between 0 and 1"),
    ({"batchnorm": ["recalibrated"]}, "did you mean 'recalibrate'"),
    ({"splits": ["tests"]}, "did you mean 'test'"),
    ({"splits": []}, "at least one split"),
    ({"noise": ["ordr"]}, "did you mean 'order'"),
    ({"threshold": 2}, "between 0 and 1 of error"),
    ({"workers": -1}, "not negative"),
    ({"precision": "float16"}, "unknown precision"),
    ({"device": "cuda:63"}, "no device"),
    ({"checkpoint_every": -1}, "must not be negative"),
    ({"iterations": 0}, "at least 1"),
    ({"task": "mnist-lent"}, "did you mean 'mnist-lenet'"),
    ({"task": replace(MLP, data="digit")}, "did you mean 'digits'"),
    ({"task": replace(MLP, model="lenet300")}, "unknown network"),
    ({"task": replace(MLP, model="cases:without_parameters")}, "no parameters"),
    ({"task": replace(MLP, model="cases:not_a_module")}, "not a torch.nn.Module"),
    ({"task": replace(MLP, model="cases:failing")}, "out of paint"),
    ({"task": replace(MLP, model="cases:nobody")}, "no function 'nobody'"),
    ({"task": replace(MLP, model="nowhere:net")}, "cannot import 'nowhere'"),
    ({"task": replace(MLP, model="cases:with_nine_outputs")}, r"must give \[batch, 10\]"),
    ({"task": replace(MLP, model="vgg-11")}, "at least 16 pixels"),
    ({"task": replace(MLP, augmentation="resized-crop-flip")}, "needs an ImageNet-style folder"),
    ({"task": replace(MLP, model="cases:with_batchnorm_1d", batch_size=359)}, "a last batch of one"),
    ({"task": replace(MLP, model="cases:with_lazy_layer")}, "gave lazy layers that have no shapes yet"),
    ({"task": None}, "unknown task"),
    ({"rewind_iters": []}, "at least one rewinding iteration"),
    ({"rewind_iters": 0.5}, "whole numbers or text"),
    ({"copies": 2.5}, "at least 2; got 2.5"),
    ({"seed": "x"}, "seed must be a whole number"),
    ({"splits": None}, "in a list"),
    ({"alphas": "0,0.5,1"}, "a whole number or a list of numbers"),
    ({"checkpoint_every": math.nan}, "must not be negative"),
    ({"out": "/dev/null/x"}, "cannot write"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_options_fail_before_anything_is_computed(options, message, tmp_path, data_dir):
    with pytest.raises(ModeconnError, match=message):
        instability(**({"task": MLP, "store": tmp_path / "store", "data_dir": data_dir} | QUICK | options))
    assert not (tmp_path / "store").exists()


def test_a_study_larger_than_the_disk_is_refused(study, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(StoreError, match="choose another store="):
        study(MLP)
    assert not list((tmp_path / "store" / "runs").iterdir())


def test_numbers_of_numpy_are_numbers(study):
    plain = study(MLP, [0], copies=2, alphas=5, seed=3)
    numpy = study(
        MLP, np.array([0]), copies=np.int64(2), alphas=np.int64(5), seed=np.int64(3), threshold=np.float32(0.02)
    )
    assert numpy.rows == plain.rows
    json.dumps(numpy.summary)


def test_a_network_may_write_to_its_input(study):
    """Every alpha sees the same images, so more alphas leave the values at the old ones as they were."""
    task = replace(MLP, model="cases:writing_to_its_input")
    few = study(task, alphas=[0.9], batchnorm=["recalibrate"])
    many = study(task, alphas=[0.1, 0.3, 0.5, 0.7, 0.9], batchnorm=["recalibrate"])
    for split in ("test", "train"):
        at = [next(p["error"] for p in r.paths if (p["alpha"], p["split"]) == (0.9, split)) for r in (few, many)]
        assert at[0] == at[1]


def test_weights_that_are_not_finite_are_not_stable(study):
    """A blow-up in the very last step, whose loss nobody sees."""
    task = replace(MLP, schedule="step", milestones=(59,), gamma=1e38)
    result = study(task)
    assert all(math.isnan(row["barrier"]) for row in result.rows)
    assert result.stable_from() == {"test": {"none": None}, "train": {"none": None}}
    assert result.summary["diverged"][0]["iteration"] == 60


def test_the_number_of_classes_is_part_of_a_name(study, data_dir, tmp_path):
    load_data("digits", data_dir)
    arrays = dict(np.load(data_dir / "digits.npz"))
    for split in ("train", "test"):
        keep = arrays[f"{split}_labels"] < 8
        arrays |= {f"{split}_{part}": arrays[f"{split}_{part}"][keep] for part in ("images", "labels")}
    (tmp_path / "eight").mkdir()
    np.savez(tmp_path / "eight" / "digits.npz", **arrays)
    by_name = study(MLP, data_dir=tmp_path / "eight")
    by_path = study(replace(MLP, data=str(tmp_path / "eight" / "digits.npz")))
    alone = study(replace(MLP, data=str(tmp_path / "eight" / "digits.npz")), store=tmp_path / "alone")
    assert by_path.rows == alone.rows != by_name.rows


def test_a_study_needs_its_measurements_and_not_its_states(study, tmp_path):
    first = study(MLP)
    for folder in (tmp_path / "store" / "runs").glob("state-*"):
        shutil.rmtree(folder)
    assert study(MLP).rows == first.rows


def test_what_is_stored_needs_no_room(study, monkeypatch):
    first = study(MLP)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert study(MLP).rows == first.rows


def test_a_task_that_differs_from_its_preset_says_so(finished_study):
    assert finished_study.result.title == "digits-conv, 40 of 400 iterations"


def test_results_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ModeconnError, match=r"no file instability\.csv"):
        load_result(tmp_path)
    (tmp_path / "instability.csv").write_text("replicate,barrier\n1,x\n")
    with pytest.raises(ModeconnError):
        load_result(tmp_path)


def test_one_split_and_one_choice_can_be_asked_for(study):
    result = study(CONV, splits=["train"], batchnorm=["recalibrate"])
    assert result.choices == [("train", "recalibrate")]


def test_an_unknown_choice_of_plot_is_refused(study):
    result = study(CONV, batchnorm=["interpolate"])
    with pytest.raises(OptionError, match="BatchNorm choice"):
        result.plot(batchnorm="recalibrate")


def test_the_loss_on_a_path_is_finite_and_its_ends_are_evaluations(study, tmp_path, data_dir):
    result = study(CONV, batchnorm=["interpolate"])
    a, _ = (load_tensors(folder / "weights.safetensors") for folder in ends(tmp_path / "store", 0, 60))
    data = load_data("digits", data_dir)
    network = build_task_network(CONV, data, 0).eval()
    network.load_state_dict(a)
    x, y = (torch.from_numpy(array) for array in pixels(data, "test"))
    with torch.no_grad():
        loss = cross_entropy(network(x.float()), y)
    row = next(p for p in result.paths if p["split"] == "test" and p["alpha"] == 0)
    assert row["loss"] == pytest.approx(float(loss), rel=1e-5)
