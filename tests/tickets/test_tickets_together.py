"""Lotteries whose networks of one level train together: which do, and that they are those that train alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeconn import get_task, lottery
from modeconn.analysis.instability.plan import plan_pairs
from modeconn.errors import NetworkError, OptionError
from modeconn.execution import Store
from modeconn.execution.names import job_name
from modeconn.tickets.lottery import with_early_stopping
from modeconn.tickets.options import LotteryOptions
from modeconn.tickets.plan import plan_lottery, plan_replicate
from modeconn.tickets.rewind import plan_dense
from modeconn.training.cohort.jobs import train_in_cohorts
from modeconn.training.jobs import TrainJob, load_state
from modeconn.training.noise import Noise
from modeconn.training.task_training import prepare
from modeconn.weights.masks import MASK, mask_from_bytes

K = 2
CONV = replace(get_task("digits-conv", evaluate_every=0, learning_rate=0.01), iterations=6)
MLP = replace(CONV, model="lenet-16-12", norm="none")
OPTIONS = {"levels": 2, "fraction": 0.4, "rewind_iter": K, "replicates": 1, "validation": 0, "together": "yes"}


def planned(data_dir, task=CONV, replicate=0, **options):
    """The subnetworks of a replicate, by level, condition and draw."""
    prepared = prepare(with_early_stopping(task, data_dir, 0), data_dir=data_dir, device="cpu")
    study = plan_lottery(prepared, LotteryOptions(**OPTIONS | options), K)
    return {(found.level, found.condition, found.draw): found for found in plan_replicate(study, replicate)}


def cohorts(plan, level):
    """For each cohort of a level, what each of its members is: a condition and the number of a copy."""
    places: dict[str, list[str]] = {}
    for found in plan.values():
        for number, copy in enumerate(found.copies, 1):
            if found.level == level:
                of = job_name(copy.cohort) if copy.cohort else f"none {job_name(copy)}"
                places.setdefault(of, []).append(f"{found.condition}{found.draw or ''} {number}")
    return list(places.values())


# --- which networks train together


# Options, and the groups of level 2.
GROUPS = [
    ({}, [["imp 1", "imp 2", "random 1", "reinit 1"]]),
    ({"together": "auto"}, [["imp 1", "imp 2", "random 1", "reinit 1"]]),
    ({"together": "no"}, [["imp 1"], ["imp 2"], ["random 1"], ["reinit 1"]]),
    ({"barriers": (), "copies": 1}, [["imp 1", "random 1", "reinit 1"]]),
    ({"barriers": (), "copies": 1, "conditions": ("imp",)}, [["imp 1"]]),
    ({"conditions": ("imp",), "retrain": "rate"}, [["imp 1", "imp 2"]]),
    ({"conditions": ("imp",), "retrain": "finetune"}, [["imp 1", "imp 2"]]),
    # Which levels are asked for must change no mask.
    ({"at_levels": (2,)}, [["imp 1"], ["imp 2", "random 1", "reinit 1"]]),
    ({"at_levels": (1,)}, [["imp 1"]]),
    # Their optimizers have taken other numbers of steps.
    ({"conditions": ("imp", "rewind0")}, [["imp 1", "imp 2"], ["rewind0 1"]]),
    ({"carry_optimizer": True}, [["imp 1", "imp 2", "random 1"], ["reinit 1"]]),
    (
        {"carry_optimizer": True, "conditions": ("imp", "reinit", "sign", "snip-reinit")},
        [["imp 1", "imp 2"], ["reinit 1", "sign 1", "snip-reinit 1"]],
    ),
    ({"conditions": ("imp", "rewind0"), "carry_optimizer": True}, [["imp 1", "imp 2", "rewind0 1"]]),
    # More than eight in cohorts as even as can be.
    (
        {"conditions": ("imp", "reinit"), "reinits": 3, "copies": 4, "barriers_of": ("imp", "reinit")},
        [
            [f"{name} {copy}" for name in ("imp", "reinit") for copy in range(1, 5)],
            [f"reinit{draw} {copy}" for draw in (1, 2) for copy in range(1, 5)],
        ],
    ),
]


@pytest.mark.parametrize(("options", "groups"), GROUPS, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_which_networks_train_together(options, groups, data_dir):
    found = cohorts(planned(data_dir, **options), level=2)
    assert found == groups


def test_a_subnetwork_that_is_two_conditions_at_a_level_is_one_member(data_dir):
    """One-shot pruning and the ticket at the first."""
    plan = planned(data_dir, conditions=("imp", "oneshot"))
    assert cohorts(plan, 1) == [["imp 1", "imp 2", "oneshot 1"]]
    assert plan[1, "imp", 0].copies[0] is plan[1, "oneshot", 0].copies[0]
    assert len(plan[1, "imp", 0].copies[0].cohort.members) == 2
    assert len(plan[2, "imp", 0].copies[0].cohort.members) == 3


def test_by_default_the_digits_train_together_and_others_do_not(data_dir):
    assert len(cohorts(planned(data_dir, CONV, together="auto"), 1)) == 1
    assert len(cohorts(planned(data_dir, MLP, together="auto"), 1)) == 4


@pytest.mark.parametrize(
    "options", [{}, {"copies": 9}, {"barriers": ()}], ids=["two", "more than a cohort of tickets", "one of them"]
)
def test_the_networks_of_auto_are_the_dense_ones(data_dir, options):
    prepared = prepare(with_early_stopping(CONV, data_dir, 0), data_dir=data_dir, device="cpu")
    options = OPTIONS | {"rewind_iter": "auto", "rewind_iters": (K,), "replicates": 2} | options
    pairs = list(plan_pairs(plan_dense(prepared, LotteryOptions(**options))))
    measured = {job_name(job) for pair in pairs for job in pair.jobs}
    trained = {job_name(job) for pair in pairs for path in pair.measurements.values() for job in path.path.inputs}
    dense = planned(data_dir, **options)[0, "dense", 0]
    if options.get("barriers") != ():  # nor does it matter whether k was found or given
        given = planned(data_dir, **options | {"rewind_iter": K})[0, "dense", 0]
        assert [job_name(copy) for copy in given.copies] == [job_name(copy) for copy in dense.copies]
    assert {job_name(copy) for copy in dense.copies} <= trained
    assert {job_name(job) for paths in dense.instability.values() for p in paths for job in p.jobs} <= measured


def names(plan):
    return {place: [job_name(copy) for copy in found.copies] for place, found in plan.items()}


def test_more_replicates_leave_the_others_alone_and_other_levels_their_masks(data_dir):
    assert names(planned(data_dir, replicates=3)) == names(planned(data_dir))
    at = {levels: planned(data_dir, levels=max(levels), at_levels=levels) for levels in ((1,), (2,), (1, 2))}
    assert {name[0] for plan in at.values() for name in names(plan)} == {0, 1, 2}
    for level in (1, 2):
        found = [plan[level, "imp", 0] for levels, plan in at.items() if level in levels]
        assert len({job_name(one.mask) for one in found}) == 1
        assert len({job_name(copy) for one in found for copy in one.copies}) == 2


@given(st.integers(0, 60))
def test_cohorts_are_few_and_even(count):
    jobs = [TrainJob(None, seed, Noise.of(seed), 5) for seed in range(count)]  # type: ignore[arg-type]
    found = train_in_cohorts(jobs, "networks")
    assert [job.init_seed for job in found] == list(range(count))
    members = [len(job.cohort.members) if job.cohort else 1 for job in found]
    sizes = sorted({id(job.cohort or job): size for job, size in zip(found, members, strict=True)}.values())
    assert sum(sizes) == count
    assert len(sizes) == (count + 7) // 8
    assert not sizes or sizes[-1] - sizes[0] <= 1


# --- what they become


@pytest.fixture(scope="module")
def stores(tmp_path_factory, data_dir):
    """A store of the same lottery whose networks train together, and one whose train alone."""
    folder = tmp_path_factory.mktemp("together")
    run = {"store": None, "data_dir": data_dir, "workers": 0, "device": "cpu", "alphas": 3, "calibration": 100}
    found = {}
    for together in ("yes", "no"):
        asked = OPTIONS | {"together": together}
        found[together] = lottery(CONV, **asked, **run | {"store": folder / together}), Store(folder / together)
    return found


@pytest.mark.slow
def test_networks_that_train_together_are_those_that_train_alone_but_for_rounding(stores, data_dir):
    """After four steps; later, training amplifies the difference. Of 3,032 weights, masks differ in two at most."""
    compared = 0
    plans = [planned(data_dir, together=together) for together in ("yes", "no")]
    kept_in = [store for _, store in stores.values()]
    for place, together in plans[0].items():
        alone = plans[1][place]
        masks = []
        for store, found in zip(kept_in, (together, alone), strict=True):
            masks.append(found.mask and mask_from_bytes(store.require(found.mask).read(MASK)))
        if masks[0] and masks[1]:
            assert sum(int((masks[0][name] != masks[1][name]).sum()) for name in masks[0]) <= 2
        for one, other in zip(together.copies, alone.copies, strict=True):
            states = [
                load_state(store.require(job)) for (_, store), job in zip(stores.values(), (one, other), strict=True)
            ]
            for name, value in states[0].model.items():
                kept = masks[0][name] & masks[1][name] if masks[0] and name in masks[0] else torch.tensor(True)
                torch.testing.assert_close(value * kept, states[1].model[name] * kept, rtol=1e-3, atol=1e-4)
                compared += 1
            if masks[0]:
                assert all(bool((states[0].model[name][~kept] == 0).all()) for name, kept in masks[0].items())
    assert compared == len(states[0].model) * (2 + 2 * 4)


@pytest.mark.slow
def test_errors_and_masks_are_those_of_the_table(stores):
    (together, _), (alone, _) = stores.values()
    for row, other in zip(together.rows, alone.rows, strict=True):
        assert (row["weights"], row["density"]) == (other["weights"], other["density"])
        assert row["test_error"] == pytest.approx(other["test_error"], abs=2 / 360)


@pytest.mark.slow
def test_a_lottery_of_diverging_networks_reports_as_one_by_one(tmp_path, data_dir):
    """The dense network diverges, so that there is neither a mask nor a ticket; or the tickets alone do."""
    breaking = replace(MLP, model="tickets.test_lottery_cases:breaking_when_pruned", init="own")
    for task in (replace(MLP, learning_rate=1e30), breaking):
        found = []
        for together in ("yes", "no"):
            asked = OPTIONS | {"together": together, "conditions": ("imp", "invert")}
            machine = {"data_dir": data_dir, "workers": 0, "device": "cpu", "alphas": 3, "calibration": 100}
            result = lottery(task, **asked, **machine, store=tmp_path / f"{together}-{task.learning_rate}")
            found.append((result.summary["diverged"], result.summary["not_trained"]))
        assert found[0] == found[1]
        assert found[0][0]
        assert found[0][1]


def test_what_cannot_train_together_is_refused_before_anything_is_computed(tmp_path, data_dir):
    machine = {"store": tmp_path / "store", "data_dir": data_dir, "workers": 0, "device": "cpu"}
    with pytest.raises(OptionError, match="unknown choice for together 'maybe'"):
        LotteryOptions(together="maybe")
    with pytest.raises(NetworkError, match="random numbers of its own"):
        lottery(replace(MLP, model="cases:fragile"), **OPTIONS, **machine)
    assert not (tmp_path / "store").exists()
