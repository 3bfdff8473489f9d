"""The lottery-ticket study, end to end, on digits."""

import csv
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from modeconn import InstabilityResult, Mask, error_barrier, get_task, load_data, load_result, lottery
from modeconn.analysis.instability.instability import conduct
from modeconn.errors import ModeconnError, OptionError
from modeconn.execution import Store
from modeconn.execution.names import job_name
from modeconn.models import build_network
from modeconn.pruning.prunable import prunable
from modeconn.tasks import Task
from modeconn.tickets.lottery import with_early_stopping
from modeconn.tickets.options import LotteryOptions
from modeconn.tickets.plan import plan_lottery, plan_replicate
from modeconn.tickets.result import LotteryResult
from modeconn.tickets.rewind import choose_rewind_iter, explain, plan_dense
from modeconn.tickets.tables import COLUMNS
from modeconn.training.jobs import load_state, read_metrics
from modeconn.training.runner import open_runner
from modeconn.training.splits import evaluate
from modeconn.training.task_training import prepare
from modeconn.weights.masks import MASK, mask_from_bytes

pytestmark = pytest.mark.slow  # whole studies

K, T, LEVELS, FRACTION = 4, 16, 2, 0.4
# Of the criteria, and what is made of them, the others are in test_lottery_cases and test_conditions.
CONDITIONS = ("imp", "random", "reinit", "shuffle", "invert", "rewind0", "magnitude", "snip")
TASK = get_task("digits-conv", evaluate_every=4).shortened(T)
OPTIONS = {
    "levels": LEVELS,
    "fraction": FRACTION,
    "rewind_iter": K,
    "replicates": 2,
    "conditions": CONDITIONS,
    "alphas": 3,
    "calibration": 100,
    "per_class": 2,
}
COMMAND = "modeconn lottery ..."
WEIGHTS = 3032  # prunable, of the digits network


def settings(store, data_dir):
    return {"workers": 0, "store": store, "data_dir": data_dir, "device": "cpu"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("lottery") / "store"


@pytest.fixture(scope="module")
def result(store, data_dir):
    return lottery(TASK, **OPTIONS, **settings(store, data_dir), command=COMMAND)


@pytest.fixture(scope="module")
def folder(result, store, data_dir):
    """The files of the study, of which the figures take long."""
    out = store.parent / "out"
    lottery(TASK, **OPTIONS, **settings(store, data_dir), out=out, command=COMMAND)
    return out


@pytest.fixture(scope="module")
def plan(result, data_dir):
    """The same study's jobs, planned again."""
    task = with_early_stopping(TASK, data_dir, None)
    prepared = prepare(task, data_dir=data_dir, device="cpu")
    study = plan_lottery(prepared, LotteryOptions(**OPTIONS), K)
    return [found for replicate in range(2) for found in plan_replicate(study, replicate)]


def by(plan, **wanted):
    return [found for found in plan if all(getattr(found, name) == value for name, value in wanted.items())]


def mask_of(store, found):
    return mask_from_bytes(Store(store).require(found.mask).read(MASK))


def state_of(store, job):
    return load_state(Store(store).require(job))


# --- what is trained


def test_there_is_a_row_for_every_replicate_level_and_condition(result):
    places = [(row["replicate"], row["level"], row["condition"]) for row in result.rows]
    expected = [(r, 0, "dense") for r in range(2)]
    expected += itertools.product(range(2), range(1, LEVELS + 1), CONDITIONS)
    assert sorted(places) == sorted(expected)


def test_counts_are_exact_at_every_level(result, plan, store):
    ladder = [WEIGHTS]
    for _ in range(LEVELS):
        ladder.append(ladder[-1] - round(FRACTION * ladder[-1]))
    for found in plan:
        kept = ladder[found.level]
        row = next(
            r for r in result.rows if all(r[n] == getattr(found, n) for n in ("replicate", "level", "condition"))
        )
        assert (row["weights"], row["density"]) == (kept, kept / WEIGHTS)
        if found.mask:
            assert sum(int(m.sum()) for m in mask_of(store, found).values()) == kept


@pytest.mark.parametrize("condition", ["random", "reinit", "shuffle", "invert", "rewind0"])
def test_controls_have_the_layerwise_density_of_the_ticket(condition, plan, store):
    for found in by(plan, condition=condition):
        (ticket,) = by(plan, condition="imp", level=found.level, replicate=found.replicate)
        mask, like = mask_of(store, found), mask_of(store, ticket)
        assert {n: int(m.sum()) for n, m in mask.items()} == {n: int(m.sum()) for n, m in like.items()}
        same = all(torch.equal(mask[name], like[name]) for name in like)
        assert same == (condition in ("reinit", "rewind0"))


def test_random_masks_of_a_replicate_are_nested_and_shuffled_ones_are_not(plan, store):
    for replicate in range(2):
        for condition, nested in (("random", True), ("shuffle", False)):
            larger, smaller = (mask_of(store, found) for found in by(plan, condition=condition, replicate=replicate))
            assert all(bool((larger[name] | ~kept).all()) for name, kept in smaller.items()) == nested
    one, other = (mask_of(store, found) for found in by(plan, condition="random", level=1))
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_inverted_masks_keep_the_smallest_weights_of_the_trained_dense_network(plan, store):
    for found in by(plan, condition="invert"):
        (dense,) = by(plan, condition="dense", replicate=found.replicate)
        weights = state_of(store, dense.copies[0]).model
        for name, kept in mask_of(store, found).items():
            if 0 < kept.sum() < kept.numel():
                assert weights[name].abs()[kept].max() <= weights[name].abs()[~kept].min()


def test_masks_of_successive_levels_are_nested_and_prune_the_smallest_trained_weights(plan, store):
    """One level of IMP in plain NumPy, from the network that the level before trained."""
    for found in by(plan, condition="imp"):
        (before,) = [
            p for p in by(plan, level=found.level - 1, replicate=found.replicate) if p.condition in ("imp", "dense")
        ]
        trained = state_of(store, before.copies[0]).model
        mask = mask_of(store, found)
        old = mask_of(store, before) if before.mask else {n: torch.ones_like(m) for n, m in mask.items()}
        magnitudes = np.concatenate([trained[n][old[n]].abs().numpy() for n in mask])
        expected = np.ones(len(magnitudes), bool)
        expected[np.argsort(magnitudes, kind="stable")[: round(FRACTION * len(magnitudes))]] = False
        assert np.array_equal(np.concatenate([mask[n][old[n]].numpy() for n in mask]), expected)
        assert not any((mask[n] & ~old[n]).any() for n in mask)


def test_survivors_are_rewound_to_the_trunks_state_bit_for_bit_with_batchnorms_statistics(plan, store):
    for found in plan:
        if found.condition in ("dense", "reinit"):
            continue
        (dense,) = by(plan, condition="dense", replicate=found.replicate)
        ticket = state_of(store, found.start)
        trunk = state_of(store, dense.start)
        mask = mask_of(store, found)
        assert any("running_mean" in name and bool(value.any()) for name, value in trunk.model.items())
        if found.condition == "rewind0":
            trunk = replace(trunk, iteration=0, model=initial(dense))
        assert ticket.iteration == trunk.iteration
        for name, value in trunk.model.items():
            kept = mask.get(name, torch.ones_like(value, dtype=torch.bool))
            assert torch.equal(ticket.model[name][kept], value[kept])
            assert not ticket.model[name][~kept].any()
        assert ticket.optimizer == {}  # it starts anew


def initial(found):
    """The weights at iteration 0 of a run's initialisation, computed anew."""
    return build_network("digits-conv", (1, 8, 8), 10, seed=found.start.init_seed).state_dict()


def test_every_saved_state_of_a_subnetwork_is_pruned(plan, store):
    for found in plan:
        for end in found.copies if found.mask else ():
            model = state_of(store, end).model
            assert not any(model[name][~kept].any() for name, kept in mask_of(store, found).items())


def test_reinitialised_weights_are_of_another_initialisation(plan, store):
    for found in by(plan, condition="reinit", level=1):
        (imp,) = by(plan, condition="imp", level=1, replicate=found.replicate)
        mask = mask_of(store, found)
        fresh, rewound = (state_of(store, start).model for start in (found.start, imp.start))
        assert all(not torch.equal(fresh[name][kept], rewound[name][kept]) for name, kept in mask.items())
        assert all(torch.equal(fresh[name][kept], initial(found)[name][kept]) for name, kept in mask.items())
        assert found.start.init_seed != imp.start.init_seed
        assert found.start.iteration == K


def test_criteria_score_the_network_at_initialisation(plan, store, data_dir):
    found, other = by(plan, condition="magnitude", level=1)[0], by(plan, condition="snip", level=1)[0]
    initial = state_of(store, found.mask.source)
    assert initial.iteration == 0
    mask = mask_of(store, found)
    magnitudes = torch.cat([initial.model[name].abs().flatten() for name in mask])
    kept = torch.cat([m.flatten() for m in mask.values()])
    assert magnitudes[kept].min() >= magnitudes[~kept].max()
    assert not all(torch.equal(mask[name], m) for name, m in mask_of(store, other).items())


def test_each_level_trains_under_noise_of_its_own_and_so_does_each_copy(plan):
    imp = by(plan, replicate=0, condition="imp")
    (dense,) = by(plan, replicate=0, condition="dense")
    seeds = [end.noise.at(K) for found in (dense, *imp) for end in found.copies]
    assert len(set(seeds)) == len(seeds) == 2 * (LEVELS + 1)
    # Conditions of a level are compared under the same noise.
    of_level = {found.copies[0].noise.at(K) for found in by(plan, replicate=0, level=1)}
    assert of_level == {imp[0].copies[0].noise.at(K)}


def test_the_dense_network_is_the_instability_studys(plan, data_dir):
    """So that auto and the tickets share their trainings."""
    task = with_early_stopping(TASK, data_dir, None)
    study = plan_dense(
        prepare(task, data_dir=data_dir, device="cpu"), LotteryOptions(**OPTIONS | {"rewind_iters": [K]})
    )
    from modeconn.analysis.instability.plan import plan_pairs

    pairs = list(plan_pairs(study))
    for replicate, dense in enumerate(by(plan, condition="dense")):
        names = {job_name(job) for way in pairs[replicate].measurements.values() for job in way.jobs}
        assert {job_name(job) for pair in dense.instability[""] for job in pair.jobs} <= names
        assert {job_name(job) for pair in dense.instability["_fixed"] for job in pair.jobs} <= names


# --- what is measured


def network_at(plan, store, job):
    network = job.training.network()
    network.load_state_dict(state_of(store, job).model)
    return network


def test_errors_are_those_of_the_first_copy(result, plan, store, data_dir):
    data = load_data("digits", data_dir, validation=143)
    for found in by(plan, replicate=1, level=2)[:3]:
        network = network_at(plan, store, found.copies[0])
        row = next(r for r in result.rows if r["ticket"] == job_name(found.start))
        assert row["test_error"] == evaluate(network, data, "test").error
        assert row["train_error"] == evaluate(network, data, "train").error


def test_barriers_equal_those_of_error_barrier_on_the_same_networks(result, plan, store, data_dir):
    found = by(plan, replicate=0, level=2, condition="imp")[0]
    before = by(plan, replicate=0, level=1, condition="imp")[0]
    (dense,) = by(plan, replicate=0, condition="dense")
    row = next(r for r in result.rows if r["ticket"] == job_name(found.start))
    batches = list(found.start.training.batches("test"))
    calibration = found.start.training.calibration(100)

    def barrier(a, b, **how):
        return error_barrier(network_at(plan, store, a), network_at(plan, store, b), batches, alphas=3, **how)

    for column, a, b in (
        ("instability_test", *found.copies),
        ("barrier_to_previous", before.copies[0], found.copies[0]),
        ("barrier_to_dense", dense.copies[0], found.copies[0]),
    ):
        plain = barrier(a, b, batchnorm="interpolate")
        fixed = barrier(a, b, batchnorm="recalibrate", calibration=calibration)
        assert row[column] == pytest.approx(plain.barrier, abs=1e-9)
        assert row[f"{column}_fixed"] == pytest.approx(fixed.barrier, abs=1e-9)
        if column != "instability_test":
            assert row[f"chord_{column}"] == pytest.approx(plain.chord_barrier, abs=1e-9)
            assert row[f"chord_{column}_fixed"] == pytest.approx(fixed.chord_barrier, abs=1e-9)
            assert row[f"chord_{column}"] < row[column]


def test_only_the_asked_conditions_have_barriers_and_more_than_one_copy(result, plan):
    for row in result.rows:
        measured = not np.isnan(row["instability_test"])
        assert measured == (row["condition"] in ("dense", "imp"))
        assert (not np.isnan(row["barrier_to_dense"])) == (row["condition"] == "imp")
    assert {(found.condition, len(found.copies)) for found in plan if len(found.copies) > 1} == {
        ("dense", 2),
        ("imp", 2),
    }


def test_early_stopping_is_where_the_validation_loss_is_lowest(result, plan, store, data_dir):
    for found in plan[:4]:
        rows = read_metrics(Store(store), found.copies[0])
        validation = {r["iteration"]: r["loss"] for r in rows if r["split"] == "validation"}
        assert (min(validation) <= K) == (found.condition == "dense")
        row = next(r for r in result.rows if r["ticket"] == job_name(found.start))
        assert row["early_stop_iter"] == min(validation, key=validation.get)
        at = replace(found.copies[0], iteration=row["early_stop_iter"])
        network = found.start.training.network()
        mask = mask_of(store, found) if found.mask else None
        start = state_of(store, found.start) if found.mask else None
        state = at.training.train_until(
            start, at.iteration, noise=at.noise, init_seed=at.init_seed, metrics=[],
            on_chunk=lambda progress: None, mask=mask,
        ).state  # fmt: skip
        network.load_state_dict(state.model)
        assert row["early_stop_error"] == evaluate(network, load_data("digits", data_dir), "test").error


@pytest.mark.slow
def test_a_network_without_batchnorm_has_its_barriers_to_other_levels_repaired(tmp_path, data_dir):
    task = Task(data="digits", model="lenet-16", norm="none", batch_size=32, iterations=40, learning_rate=0.2)
    options = {"levels": 1, "fraction": 0.5, "rewind_iter": 0, "replicates": 1, "conditions": ["reinit"], "alphas": 3}
    options |= {"barriers": ["instability", "dense"], "barriers_of": ["reinit"]}
    result = lottery(task, **options, **settings(tmp_path / "store", data_dir))
    row = result.rows[1]
    assert result.summary["statistics_fix"] == "repair"
    assert np.isnan(row["instability_test_fixed"])
    assert not np.isnan(row["instability_test"])
    prepared = prepare(with_early_stopping(task, data_dir, None), data_dir=data_dir, device="cpu")
    dense, other = plan_replicate(plan_lottery(prepared, LotteryOptions(**options), 0), 0)
    ends = [network_at(None, tmp_path / "store", found.copies[0]) for found in (dense, other)]
    data, calibration = list(prepared.training.batches("test")), prepared.training.calibration(5000)
    plain = error_barrier(*ends, data, alphas=3).barrier
    repaired = error_barrier(*ends, data, alphas=3, batchnorm="repair", calibration=calibration).barrier
    assert row["barrier_to_dense"] == pytest.approx(plain, abs=1e-9)
    assert row["barrier_to_dense_fixed"] == pytest.approx(repaired, abs=1e-9)
    assert abs(plain - repaired) > 0.01


# --- files


@pytest.mark.slow
def test_files_hold_what_the_result_does(result, folder):
    with open(folder / "lottery.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert [float(row["test_error"]) for row in rows] == [row["test_error"] for row in result.rows]
    assert rows[0]["barrier_to_previous"] == ""  # missing, to pandas and R
    loaded = load_result(folder)
    assert isinstance(loaded, LotteryResult)
    assert str(loaded.rows) == str(result.rows)
    assert loaded.layers == result.layers
    assert loaded.summary == result.summary
    masks = sorted((folder / "masks").iterdir())
    assert len(masks) == 2 * LEVELS * len(CONDITIONS)
    assert Mask.load(folder / "masks" / "replicate-1-level-2-imp.safetensors").kept == 1091
    for name in ("lottery", "barriers"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert (folder / f"{name}.pdf").is_file()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["rewind_iter"] == K
    assert summary["command"] == COMMAND
    assert summary["sparsest_matching"] == result.sparsest_matching()


@pytest.mark.slow
def test_pandas_reads_it(result, folder):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(folder / "lottery.csv")
    assert frame.groupby("condition").test_error.mean()["imp"] > 0
    assert len(result.to_frame()) == len(frame)


def test_layers_are_in_the_networks_order(result, data_dir, plan):
    names = list(prunable(plan[0].start.training.network()))
    assert [row["layer"] for row in result.layers[: len(names)]] == names


@pytest.mark.slow
def test_the_same_study_again_computes_nothing_and_gives_the_same_files(store, result, folder, data_dir, tmp_path):
    computed = []
    lottery(
        TASK, **OPTIONS, **settings(store, data_dir), out=tmp_path / "again", command=COMMAND,
        report=computed.append,
    )  # fmt: skip
    assert all(progress.about.startswith("0 of ") and not progress.jobs for progress in computed)
    for file in sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()):
        assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_a_level_is_trained_once_whoever_asks(store, result, data_dir):
    """Fewer levels and replicates of the same study are all there; another k shares the trunk alone."""
    computed = []
    fewer = OPTIONS | {"levels": 1, "replicates": 1}
    lottery(TASK, **fewer, **settings(store, data_dir), report=computed.append)
    assert all(progress.about.startswith("0 of ") and not progress.jobs for progress in computed)
    lottery(TASK, **fewer | {"rewind_iter": 6}, **settings(store, data_dir), report=computed.append)
    assert computed[-1].jobs > 5


@pytest.mark.slow
def test_a_condition_is_trained_once_whoever_asks_where_networks_train_one_by_one(tmp_path, data_dir):
    """Together, those that train beside it are part of what it is."""
    every = OPTIONS | {"levels": 1, "replicates": 1, "together": "no"}
    fewer = every | {"conditions": ["reinit"], "barriers": []}
    lottery(TASK, **every, **settings(tmp_path, data_dir))
    computed = []
    lottery(TASK, **fewer, **settings(tmp_path, data_dir), report=computed.append)
    assert computed
    assert all(progress.about.startswith("0 of ") and not progress.jobs for progress in computed)


def test_rewinding_to_0_is_computed_once_where_k_is_0(data_dir):
    task = with_early_stopping(TASK, data_dir, None)
    options = LotteryOptions(**OPTIONS | {"rewind_iter": 0, "conditions": ["imp", "rewind0"]})
    study = plan_lottery(prepare(task, data_dir=data_dir, device="cpu"), options, 0)
    plan = list(plan_replicate(study, 0))
    for level in (1, 2):
        imp, again = by(plan, level=level)
        assert job_name(imp.copies[0]) == job_name(again.copies[0])


# --- retraining (Renda et al. 2020)


@pytest.mark.parametrize("retrain", ["rate", "finetune"])
def test_other_ways_of_retraining_go_on_from_the_trained_weights(retrain, data_dir):
    task = with_early_stopping(get_task("digits-conv").shortened(400), data_dir, None)
    options = LotteryOptions(levels=2, rewind_iter=100, conditions=["imp"], retrain=retrain)
    study = plan_lottery(prepare(task, data_dir=data_dir, device="cpu"), options, 100)
    dense, first, second = plan_replicate(study, 0)
    assert first.start.source == dense.copies[0]
    assert second.start.source == first.copies[0]
    assert first.start.iteration == 100
    assert first.copies[0].iteration == 400
    changed = first.copies[0].training.task
    if retrain == "rate":
        assert changed == task
    else:
        assert (changed.schedule, changed.milestones, changed.warmup) == ("constant", (), 0)
        assert changed.learning_rate == pytest.approx(0.1 * 0.1**2)
    assert second.copies[0].training.task == changed


@pytest.mark.slow
@pytest.mark.parametrize("retrain", ["rate", "finetune"])
def test_other_ways_of_retraining_run(retrain, tmp_path, data_dir):
    result = lottery(
        TASK, **OPTIONS | {"conditions": ["imp"], "retrain": retrain, "replicates": 1},
        **settings(tmp_path, data_dir),
    )  # fmt: skip
    assert [row["condition"] for row in result.rows] == ["dense", "imp", "imp"]
    assert not any(np.isnan(row["test_error"]) for row in result.rows)


def test_optimizer_state_can_be_carried_on_at_a_rewind_and_is_in_the_name(data_dir):
    task = with_early_stopping(TASK, data_dir, None)
    prepared = prepare(task, data_dir=data_dir, device="cpu")
    names = []
    for carry in (False, True):
        options = LotteryOptions(**OPTIONS | {"conditions": ["imp"], "carry_optimizer": carry})
        dense, first, _ = plan_replicate(plan_lottery(prepared, options, K), 0)
        names.append((job_name(first.copies[0]), job_name(dense.copies[0])))
    assert names[0][0] != names[1][0]
    assert names[0][1] == names[1][1]


def test_a_carried_optimizer_state_is_the_trunks(tmp_path, data_dir):
    options = OPTIONS | {"conditions": ["imp"], "carry_optimizer": True, "replicates": 1, "levels": 1, "barriers": []}
    result = lottery(TASK, **options, **settings(tmp_path, data_dir))
    opened = Store(tmp_path)
    ticket, trunk = (load_state(opened.finished(row["ticket"])) for row in reversed(result.rows))
    assert ticket.optimizer
    assert all(torch.equal(ticket.optimizer[n], trunk.optimizer[n]) for n in trunk.optimizer)


# --- the rewinding iteration


@pytest.mark.parametrize(
    ("instability", "k"), [((0.3, 0.01, 0.005), 4), ((0.01, 0.3, 0.005), 12), ((0.01, 0.005, 0.004), 0)]
)
def test_auto_takes_the_smallest_k_from_which_it_stays_stable(instability, k):
    rows = [
        {"replicate": 0, "rewind_iter": at, "copy_a": 1, "copy_b": 2, "split": split, "batchnorm": "none", "barrier": b}
        for split, offset in (("test", 0.0), ("train", 0.5))  # train does not decide
        for at, b in zip((0, 4, 12), np.add(instability, offset), strict=True)
    ]
    study = InstabilityResult(rows, [], {"replicates": 1, "copies": 2})
    assert explain(study, LotteryOptions(), T).rewind_iters == (k,)


def test_the_batchnorm_choice_that_decides_comes_first_in_the_study():
    assert LotteryOptions().study().batchnorm == ("interpolate", "recalibrate")
    assert LotteryOptions(batchnorm="recalibrate").study().batchnorm == ("recalibrate", "interpolate")
    assert LotteryOptions(batchnorm="recalibrate", fix=False).study().batchnorm == ("recalibrate",)
    assert LotteryOptions(splits=["train", "test"]).study().splits[0] == "test"


@pytest.mark.slow
def test_auto_takes_what_the_study_of_the_same_network_says(tmp_path, data_dir):
    said = []
    options = OPTIONS | {"conditions": ["imp"], "barriers": [], "levels": 1, "threshold": 0.9}
    options |= {"rewind_iter": "auto", "rewind_iters": "0,4,12"}
    result = lottery(TASK, **options, **settings(tmp_path, data_dir), say=said.append)
    prepared = prepare(with_early_stopping(TASK, data_dir, None), data_dir=data_dir, device="cpu")
    runner = open_runner("instability", prepared, {}, store=tmp_path, workers=0)
    again = conduct(plan_dense(prepared, LotteryOptions(**options)), runner)
    assert result.summary["rewind_iter"] == again.stable_from(0.9)["test"]["interpolate"]
    mean = again.mean["test"]["interpolate"]
    assert said == [result.summary["rewind_iter_because"]]
    assert all(f"{100 * m:.2f} at {k}" in said[0] for m, k in zip(mean, (0, 4, 12), strict=True))
    assert "stable is below 90" in said[0]


@pytest.mark.slow
def test_auto_says_so_when_no_k_is_stable(tmp_path, data_dir):
    options = OPTIONS | {"rewind_iter": "auto", "rewind_iters": "0,4", "threshold": 1e-9}
    with pytest.raises(OptionError, match=r"no iteration from which on .* at 0, .* at 4.*rewind_iter=K"):
        lottery(TASK, **options, **settings(tmp_path, data_dir))


@pytest.mark.slow
def test_search_gives_the_same_k_as_the_grid(tmp_path, data_dir):
    prepared = prepare(with_early_stopping(TASK, data_dir, None), data_dir=data_dir, device="cpu")
    options = OPTIONS | {"rewind_iter": "auto", "rewind_iters": "0,1,2,4,8,12", "threshold": 0.2}
    runner = open_runner("lottery", prepared, {}, store=tmp_path, workers=0)
    found = choose_rewind_iter(prepared, LotteryOptions(**options, search=True), runner)
    grid = choose_rewind_iter(prepared, LotteryOptions(**options), runner)
    assert found.rewind_iters == grid.rewind_iters
    assert len(found.facts["rewind_iters"]) < len(grid.facts["rewind_iters"])


# --- refusals, before anything is computed


def test_one_copy_will_do_where_nothing_is_compared(tmp_path, data_dir):
    given = OPTIONS | {"barriers": [], "barriers_of": [], "conditions": ["imp"], "rewind_iter": 0, "levels": 1}
    one, two = (
        lottery(TASK, **given | {"copies": copies}, **settings(tmp_path / "store", data_dir)) for copies in (1, 2)
    )
    assert [row["test_error"] for row in one.rows] == [row["test_error"] for row in two.rows]
    assert "instability" not in str(one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": -1}, "levels are a whole number"),
        ({"fraction": 0}, "between 0 and 1; got 0"),
        ({"fraction": 1.0}, "between 0 and 1"),
        ({"fraction": float("nan")}, "between 0 and 1"),
        ({"fraction": 0.9, "levels": 5}, "nothing would remain"),
        ({"rates": [("nobody.weight", 0.5)]}, "nobody.weight"),
        ({"rates": [("22.weight", -1)]}, "22.weight"),
        ({"rates": [("22.weight", 0.5), ("22.weight", 0.3)], "rewind_iter": "auto"}, "two rates"),
        ({"rates": [("output", 3)], "rewind_iter": "auto", "rewind_iters": "0"}, "below 1"),
        ({"carry_optimizer": True, "retrain": "rate", "conditions": ["imp"]}, "no optimizer state"),
        ({"rewind_iter": T + 1}, "outside the training"),
        ({"rewind_iter": T}, "nothing to train"),
        ({"rewind_iter": f"0,{T}", "conditions": ["imp"]}, "nothing to train"),
        ({"rewind_iter": "0,4"}, "leave rewind0 out"),
        ({"rewind_iter": ["auto", 4], "conditions": ["imp"]}, "auto or iterations"),
        ({"rewind_iter": [], "conditions": ["imp"]}, "names no iteration"),
        ({"prune_iter": "0,4"}, "one iteration"),
        ({"rewind_iter": "soon"}, "soon"),
        ({"rewind_iter": "auto", "rewind_iters": f"0,{T}"}, "nothing is left to train"),
        ({"prune_iter": T + 1}, "outside the training"),
        ({"conditions": ["imp", "luck"]}, "unknown condition 'luck'"),
        ({"conditions": "imp"}, "in a list"),
        ({"barriers": ["dense", "dense"]}, "once"),
        ({"retrain": "never"}, "unknown retrain"),
        ({"retrain": "rate", "conditions": ["imp", "random"]}, "random would be something else"),
        ({"scope": "local"}, "unknown scope"),
        ({"copies": 1}, "at least 2"),
        ({"copies": 0, "barriers": [], "rewind_iter": 0}, "at least 2"),
        ({"copies": 1, "barriers": [], "rewind_iter": "auto"}, "at least 2"),
        ({"copies": 1, "barriers": ["previous", "instability"], "rewind_iter": 0}, "at least 2"),
        ({"replicates": 0}, "at least one replicate"),
        ({"splits": ["train"]}, "must contain test"),
        ({"validation": 5000}, "5000 of 1437"),
        ({"validation": -1}, "not negative"),
        ({"alphas": "adaptive"}, "one grid"),
        ({"batchnorm": "repair"}, "unknown BatchNorm choice"),
    ],
    ids=str,
)
def test_bad_options_are_refused_before_anything_is_computed(options, message, tmp_path, data_dir):
    with pytest.raises(ModeconnError, match=message):
        lottery(TASK, **OPTIONS | options, **settings(tmp_path / "store", data_dir))
    assert not list(tmp_path.glob("store/runs/*"))
