"""Unusual lottery-ticket studies: what diverges, what is left out, what is decided in the last bit."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from modeconn import get_task, load_result, lottery
from modeconn.data import normalize
from modeconn.errors import ModeconnError, OptionError
from modeconn.execution import Store
from modeconn.execution.names import job_name
from modeconn.pruning.masks import Mask
from modeconn.pruning.selection import counts_after
from modeconn.tickets.lottery import with_early_stopping
from modeconn.tickets.matching import with_matching
from modeconn.tickets.options import LotteryOptions, pruning_of
from modeconn.tickets.plan import plan_lottery, plan_replicate
from modeconn.tickets.result import LotteryResult
from modeconn.tickets.scoring import labelled
from modeconn.training.jobs import read_metrics
from modeconn.training.task_training import prepare

K = 2
TASK = replace(get_task("digits-conv", evaluate_every=4), iterations=8)
SMALL = {"levels": 1, "fraction": 0.4, "rewind_iter": K, "replicates": 1, "conditions": ["imp"], "alphas": 3}


def settings(store, data_dir):
    return {"workers": 0, "store": store, "data_dir": data_dir, "device": "cpu", "calibration": 100, "per_class": 2}


def planned(data_dir, task=TASK, **options):
    prepared = prepare(with_early_stopping(task, data_dir, None), data_dir=data_dir, device="cpu")
    options = LotteryOptions(**SMALL | options)
    return list(plan_replicate(plan_lottery(prepared, options, options.rewind_iter), 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"levels": 0},
        {"copies": 3},
        {"splits": ["test"]},
        {"validation": 0},
        {"conditions": ["snip"]},
        {"conditions": ["grasp", "grasp-abs"]},
        {"conditions": ["random"], "barriers_of": []},
        {"scope": "layerwise", "fix": False},
    ],
    ids=str,
)
def test_unusual_studies_run_and_draw_their_figures(options, tmp_path, data_dir):
    given = SMALL | options
    result = lottery(TASK, **given, **settings(tmp_path / "store", data_dir), out=tmp_path / "out")
    assert [row["condition"] for row in result.rows] == ["dense", *(given["conditions"] if given["levels"] else [])]
    assert not any(np.isnan(row["test_error"]) for row in result.rows)
    assert (tmp_path / "out" / "lottery.png").is_file()
    assert str(result)


@pytest.mark.slow
def test_what_an_earlier_study_left_in_the_folder_is_not_taken_for_ours(tmp_path, data_dir):
    where = {**settings(tmp_path / "store", data_dir), "out": tmp_path / "out"}
    lottery(TASK, **SMALL | {"levels": 2}, **where)
    lottery(TASK, **SMALL | {"barriers": []}, **where)
    assert [file.name for file in (tmp_path / "out" / "masks").iterdir()] == ["replicate-0-level-1-imp.safetensors"]
    assert not list((tmp_path / "out").glob("barriers.*"))


@pytest.mark.slow
def test_the_dense_network_may_stop_early_before_k(tmp_path, data_dir):
    """Its training begins at 0, wherever subnetworks are rewound to; a rate that is too high makes it best early."""
    task = replace(TASK, iterations=24, learning_rate=1.5)
    options = SMALL | {"rewind_iter": 20, "levels": 0}
    (row,) = lottery(task, **options, **settings(tmp_path, data_dir)).rows
    (dense,) = planned(data_dir, task, **options)
    rows = read_metrics(Store(tmp_path), dense.copies[0])
    losses = {row["iteration"]: row["loss"] for row in rows if row["split"] == "validation"}
    assert row["early_stop_iter"] == min(losses, key=losses.get) <= 20
    errors = {row["iteration"]: row["error"] for row in rows if row["split"] == "test"}
    assert row["early_stop_error"] == errors[row["early_stop_iter"]]


# --- what is pruned

FROM_FRAMEWORK = {(0, 1): 0.2, (2,): 0.0}  # of Frankle et al. 2020: globally, the output left out


@pytest.mark.parametrize(
    ("model", "options", "removed"),
    [  # layers that are compared with each other, and what a level of 20 % removes of them
        ("lenet-30-10", {}, FROM_FRAMEWORK),
        ("lenet-30-10", {"rates": ()}, {(0, 1, 2): 0.2}),
        ("lenet-30-10", {"scope": "layerwise"}, {(0,): 0.2, (1,): 0.2, (2,): 0.0}),
        ("lenet-30-10", {"scope": "layerwise", "rates": [("output", 0.5)]}, {(0,): 0.2, (1,): 0.2, (2,): 0.1}),
        ("digits-conv", {}, {tuple(range(7)): 0.2}),
        ("resnet-8", {}, {tuple(range(10)): 0.2}),
        # Frankle & Carbin 2019, Figure 2
        ("conv-2", {}, {(0,): 0.1, (1,): 0.1, (2,): 0.2, (3,): 0.2, (4,): 0.1}),
        ("conv-6", {}, {**{(i,): 0.15 for i in range(6)}, (6,): 0.2, (7,): 0.2, (8,): 0.1}),
    ],
    ids=str,
)
def test_networks_are_pruned_as_their_papers_say_unless_asked_otherwise(model, options, removed, data_dir):
    task = replace(TASK, model=model, width=0.125, norm="none")
    mask = planned(data_dir, task, fraction=0.2, **options)[1].mask
    with mask.source.training.computing():
        weights = {name: kept.numel() for name, kept in Mask.of(mask.source.training.network()).items()}
    names, how = list(weights), mask.how
    assert sorted(i for pool in removed for i in pool) == list(range(len(names)))
    found = counts_after(weights, mask.fraction, scope=how.scope, rates=dict(how.rates))
    sizes = {pool: sum(weights[names[i]] for i in pool) for pool in removed}
    assert found == {tuple(names[i] for i in pool): n - round(removed[pool] * n) for pool, n in sizes.items()}
    assert pruning_of("vgg-16") == pruning_of("lenet-300-100")


def test_lenet_has_the_densities_that_its_first_paper_prints():
    """Frankle & Carbin 2019, Figure 3: layerwise and the output at half the rate, of all weights so many remain."""
    lenet = {"fc1": 235_200, "fc2": 30_000, "out": 1_000}
    left = [
        sum(counts_after(lenet, 0.2, scope="layerwise", rates={"out": 0.5}, levels=n).values()) / 266_200
        for n in (3, 7, 12, 15, 18)
    ]
    assert [f"{100 * density:.1f}" for density in left] == ["51.3", "21.1", "7.0", "3.6", "1.9"]


@pytest.mark.slow
def test_a_study_says_what_it_pruned(tmp_path, data_dir):
    options = SMALL | {"fraction": 0.2, "barriers": []}
    result = lottery(replace(TASK, model="lenet-30-10", norm="none"), **options, **settings(tmp_path, data_dir))
    assert (result.summary["scope"], result.summary["rates"]) == ("global", [["output", 0.0]])
    assert "\nEach level prunes 20 % of the remaining weights, the smallest of the network; output not.\n" in str(
        result
    )
    assert [row["kept"] < row["weights"] for row in result.layers] == [True, True, False]


# --- criteria


@pytest.mark.slow
def test_only_criteria_that_need_data_read_them(tmp_path, data_dir, monkeypatch):
    def refuse(*_):
        raise AssertionError("nobody needs examples")

    monkeypatch.setattr("modeconn.tickets.scoring.labelled", refuse)
    options = SMALL | {"conditions": ["imp", "synflow", "magnitude"], "barriers": []}
    assert len(lottery(TASK, **options, **settings(tmp_path, data_dir)).rows) == 4


def test_examples_for_criteria_are_so_many_of_each_class_in_mixed_batches(data_dir):
    training = planned(data_dir)[0].start.training
    ((images, labels),) = labelled(training, 3)
    assert labels.tolist() == list(range(10)) * 3
    data = training.data()
    second = torch.cat([(data.train.labels == label).nonzero()[1] for label in range(10)])
    assert torch.equal(images[10:20], normalize(data.train.images.read(second), data))
    assert [len(batch) for _, batch in labelled(training, 60)] == [250, 250, 100]


@pytest.mark.slow
def test_layers_with_rates_of_their_own_have_the_same_counts_under_every_condition(tmp_path, data_dir):
    options = SMALL | {"levels": 2, "rates": [("output", 0.5), ("first", 0)], "barriers": []}
    result = lottery(TASK, **options | {"conditions": ["imp", "magnitude", "snip"]}, **settings(tmp_path, data_dir))
    output = 80
    for level in (1, 2):
        output -= round(0.2 * output)
        assert len({row["weights"] for row in result.rows if row["level"] == level}) == 1
        of_level = [row for row in result.layers if row["level"] == level]
        assert {row["kept"] for row in of_level if row["layer"] == "0.weight"} == {72}
        assert {row["kept"] for row in of_level if row["layer"] == "22.weight"} == {output}


def test_magnitude_at_the_end_of_training_is_imps_first_level(data_dir):
    plan = planned(data_dir, levels=2, conditions=["imp", "magnitude"], prune_iter="100%")
    one, same, two, other = plan[1:]
    assert job_name(one.copies[0]) == job_name(same.copies[0])
    assert job_name(two.mask) != job_name(other.mask)


# --- what goes wrong


class Biases(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(10))

    def forward(self, x):
        return x.flatten(1)[:, :10] + self.bias


def biases_alone():
    return Biases()


def test_a_network_without_weights_to_prune_is_refused(tmp_path, data_dir):
    task = replace(TASK, model=f"{__name__}:biases_alone", norm="none", init="own")
    with pytest.raises(ModeconnError, match="no weights that can be pruned"):
        lottery(task, **SMALL, **settings(tmp_path / "store", data_dir))
    assert not list(tmp_path.glob("store/runs/*"))


def test_finetuning_at_a_rate_of_next_to_nothing_is_refused(tmp_path, data_dir):
    task = replace(TASK, schedule="cosine", milestones=(), iterations=4000)
    with pytest.raises(OptionError, match="would change nothing"):
        lottery(task, **SMALL | {"retrain": "finetune"}, **settings(tmp_path / "store", data_dir))
    assert not list(tmp_path.glob("store/runs/*"))


def test_a_study_that_would_not_fit_on_the_disk_is_refused(tmp_path, data_dir, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))(10**12, 10**12, 10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModeconnError, match="free some, or choose another store="):
        lottery(TASK, **SMALL, **settings(tmp_path / "store", data_dir))
    assert not list(tmp_path.glob("store/runs/*"))


def test_a_diverged_training_is_reported_and_ends_its_levels(tmp_path, data_dir):
    task = replace(TASK, model="cases:exploding", norm="none", init="own", iterations=30, learning_rate=0.5)
    options = SMALL | {"rewind_iter": 0, "conditions": ["imp", "invert"]}
    result = lottery(task, **options, **settings(tmp_path / "store", data_dir), out=tmp_path / "out")
    assert [row["diverged_at"] is not None for row in result.rows] == [True, False, False]
    assert all(np.isnan(row["test_error"]) for row in result.rows)
    assert (len(result.summary["diverged"]), result.summary["not_trained"]) == (1, 2)
    assert result.sparsest_matching()["imp"]["matching_02"] is None
    assert "Diverged: replicate 0, level 0, condition dense" in str(result)


class Breaking(torch.nn.Module):
    """Its loss is NaN once it is pruned."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x):
        pruned = (self.layer.weight == 0).float().mean() > 0.2
        return self.layer(x.flatten(1)) + torch.where(pruned, torch.nan, 0.0)


def breaking_when_pruned():
    return Breaking()


def test_a_training_that_diverges_later_ends_the_levels_below_it(tmp_path, data_dir):
    task = replace(TASK, model=f"{__name__}:breaking_when_pruned", norm="none", init="own")
    result = lottery(task, **SMALL | {"levels": 2}, **settings(tmp_path / "store", data_dir), out=tmp_path / "out")
    assert [row["diverged_at"] is not None for row in result.rows] == [False, True, False]
    assert [np.isnan(row["test_error"]) for row in result.rows] == [False, True, True]
    assert [row["early_stop_iter"] is None for row in result.rows] == [False, True, True]
    assert (len(result.summary["diverged"]), result.summary["not_trained"]) == (1, 1)
    assert "Not trained, as what they go on from diverged: 1 subnetwork." in str(result)
    assert (tmp_path / "out" / "lottery.png").is_file()
    assert str(load_result(tmp_path / "out")) == str(result)


# --- names and trackers


def test_jobs_of_many_levels_can_be_shown_and_compared(data_dir):
    plan = planned(data_dir, levels=25, fraction=0.1)
    assert len(repr(plan[-1])) < 10_000
    assert plan[-1].copies[0] != plan[-2].copies[0]


@pytest.mark.slow
def test_a_tracker_is_told_every_row_once_though_search_measures_in_several_steps(tmp_path, data_dir):
    told = []
    options = SMALL | {"rewind_iter": "auto", "rewind_iters": "0,2,4", "search": True, "threshold": 0.9, "barriers": []}
    log = lambda metrics, step: told.extend((name, step) for name in metrics)  # noqa: E731
    lottery(TASK, **options, **settings(tmp_path, data_dir), log=log)
    assert any("level 1 imp copy 1" in name for name, _ in told)
    assert len(told) == len(set(told))


# --- matching


def test_both_forms_of_matching_by_hand():
    errors = {("dense", 0): (0.020, 0.024), ("imp", 1): (0.0245, 0.0249), ("imp", 2): (0.0215, 0.0265)}
    rows = [
        {"replicate": r, "level": level, "condition": c, "density": 0.8**level, "test_error": e}
        for (c, level), pair in errors.items()
        for r, e in enumerate(pair)
    ]
    found = {(row["condition"], row["level"], row["replicate"]): row for row in with_matching(rows)}
    # Dense: mean 0.022, deviation 0.00283; replicates 0.020 and 0.024.
    places = [("imp", level, replicate) for level in (1, 2) for replicate in (0, 1)]
    assert [found[place]["matching_std"] for place in places] == [True, False, True, False]
    assert [found[place]["matching_02"] for place in places] == [False, True, True, False]
    sparsest = LotteryResult(list(found.values()), [], {}).sparsest_matching()["imp"]
    assert sparsest["matching_std"]["level"] == 2
    assert sparsest["matching_02"] is None


def test_one_replicate_has_no_deviation_to_match_within():
    rows = [
        dict(replicate=0, level=n, condition=c, density=1 - n / 2, test_error=0.1)
        for n, c in ((0, "dense"), (1, "imp"))
    ]
    assert [row["matching_std"] for row in with_matching(rows)] == [None, None]


def test_a_level_that_matches_after_one_that_does_not_is_said_to_be_alone():
    errors = {("dense", 0): 0.02, ("imp", 1): 0.05, ("imp", 2): 0.0205, ("imp", 3): 0.07}
    rows = [
        {"replicate": 0, "level": n, "condition": c, "density": 0.8**n, "test_error": e} for (c, n), e in errors.items()
    ]
    found = LotteryResult(with_matching(rows), [], {}).sparsest_matching()["imp"]["matching_02"]
    assert (found["level"], found["unbroken"]) == (2, False)


@pytest.mark.parametrize("examples", [360, 500, 1000, 10_000])
def test_what_loses_exactly_two_tenths_of_a_point_does_not_match(examples):
    """Whatever the last bit of a difference of two fractions is."""
    lost = examples // 500
    for wrong in range(0, examples - lost, max(1, examples // 200)):
        rows = [
            {"replicate": 0, "level": n, "condition": c, "density": 1.0, "test_error": e / examples}
            for n, c, e in ((0, "dense", wrong), (1, "imp", wrong + lost))
        ]
        exact = lost / examples == 0.002
        assert with_matching(rows)[1]["matching_02"] is not exact
        assert (LotteryResult(rows, [], {}).sparsest_matching()["imp"]["matching_02"] is None) == exact
