"""Studies whose copies train together."""

import json
import logging
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from loops import DATA, init, train
from modeconn import get_task, instability
from modeconn.errors import NetworkError, OptionError

CONV = get_task("digits-conv").shortened(40)
MLP = replace(get_task("digits-conv", model="lenet-16", norm="none", learning_rate=0.05), name="mlp").shortened(40)


@pytest.fixture
def study(tmp_path, data_dir):
    def run(task=CONV, rewind_iters=(0, 20), **options):
        given = {"replicates": 2, "alphas": 3, "workers": 0, "device": "cpu", "calibration": 100, "together": "yes"}
        given |= {"store": tmp_path / "store", "data_dir": data_dir}
        return instability(task, rewind_iters, **(given | options))

    return run


def finished(store, kind):
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob(f"runs/{kind}-*/done.json")}


@pytest.mark.slow
def test_copies_that_train_together_are_those_that_train_alone_but_for_rounding(study, tmp_path):
    """After four steps; later, training amplifies the difference."""
    task = replace(CONV, iterations=4, learning_rate=0.01)
    found = {}
    for together in ("yes", "no"):
        study(task, (0, 2), together=together, store=tmp_path / together)
        for folder in (tmp_path / together).glob("runs/state-*"):
            spec = json.loads((folder / "spec.json").read_text())
            key = (spec["init_seed"], json.dumps(spec["noise"]), spec["iteration"])
            found.setdefault(key, []).append((load_file(folder / "weights.safetensors"), spec.get("cohort")))
    assert len(found) == 2 * (2 * 2 + 2)  # replicates, each with copies of two k, and the trunk's two states
    for (_, _, iteration), ((one, first), (other, second)) in found.items():
        assert (first is None, second) == (iteration < 4, None)
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_result_says_whether_copies_trained_together(study, tmp_path):
    together, alone = study(), study(together="no")
    assert (together.summary["together"], alone.summary["together"]) == (True, False)
    assert len(finished(tmp_path / "store", "cohort")) == 2  # one for each k
    assert together.rows != alone.rows


def test_by_default_the_digits_train_together_and_others_do_not(study):
    assert study(CONV, (20,), replicates=1, together="auto").summary["together"] is True
    assert study(MLP, (20,), replicates=1, together="auto").summary["together"] is False


@pytest.mark.slow
def test_another_k_leaves_the_trainings_of_the_others_alone(study, tmp_path):
    study(rewind_iters=(20,))
    before = finished(tmp_path / "store", "cohort")
    shared = study(rewind_iters=(0, 20))
    after = finished(tmp_path / "store", "cohort")
    assert len(before) == 1
    assert before.items() <= after.items()
    assert shared.rows == study(store=tmp_path / "other").rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["state", "cohort"])
def test_a_damaged_member_is_computed_again(kind, study, tmp_path, caplog):
    first = study()
    for pattern in ("path-*/done.json", "evaluation-*/done.json", *(["state-*/done.json"] if kind == "cohort" else [])):
        for done in (tmp_path / "store" / "runs").glob(pattern):
            done.unlink()
    for file in (tmp_path / "store" / "runs").glob(f"{kind}-*/*weights.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = study()
    assert again.rows == first.rows
    assert "set aside" in caplog.text


def test_a_member_that_diverges_is_reported_and_the_others_go_on(study):
    hot = replace(MLP, name="hot", learning_rate=1e4, momentum=0.99)
    result = study(hot, (0, 20))
    assert {where["rewind_iter"] for where in result.summary["diverged"]} == {0, 20}
    assert all(math.isnan(row["barrier"]) for row in result.rows)


@pytest.mark.slow
def test_a_search_has_the_copies_of_one_replicate_train_together(study, tmp_path):
    result = study(rewind_iters=(0, 5, 20), search=True, threshold=0.9)
    assert result.stable_from(0.9)["test"]["interpolate"] == 0
    specs = [json.loads(path.read_text()) for path in (tmp_path / "store").glob("runs/cohort-*/spec.json")]
    assert all(len(spec["members"]) == 2 for spec in specs)


def test_what_cannot_train_together_is_refused_before_anything_is_computed(study, tmp_path):
    with pytest.raises(OptionError, match="unknown choice for together 'maybe'"):
        study(together="maybe")
    with pytest.raises(NetworkError, match="random numbers of its own"):
        study(replace(MLP, model="cases:fragile", name="fragile"))
    with pytest.raises(OptionError, match="training loop of your own"):
        study("mine", (0,), train=train, init=init, data=DATA, iterations=20)
    assert not (tmp_path / "store").exists()
