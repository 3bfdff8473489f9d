"""What lottery tickets are compared with: masks at their overall density, one-shot pruning, signs, controls."""

from dataclasses import replace

import pytest
import torch

from modeconn import get_task, lottery
from modeconn.errors import OptionError
from modeconn.execution import Store
from modeconn.execution.names import job_name
from modeconn.pruning.allocation import layer_counts
from modeconn.pruning.criteria import score
from modeconn.pruning.prunable import everything
from modeconn.tickets.lottery import with_early_stopping
from modeconn.tickets.options import ABLATIONS, CONDITIONS, LotteryOptions
from modeconn.tickets.plan import plan_lottery, plan_replicate
from modeconn.tickets.scoring import labelled
from modeconn.training.jobs import load_state
from modeconn.training.task_training import prepare
from modeconn.weights.masks import MASK, mask_from_bytes

K = 2
TASK = replace(get_task("digits-conv", model="lenet-16-12", norm="none", evaluate_every=0), iterations=6)
SCORES = ("snip", "oneshot", "grasp")
CONTROLS = [f"{name}-{control}" for name in SCORES for control in ABLATIONS]
ASKED = ("imp", "reinit", "sign", "uniform", "balanced", "erk", *SCORES, *CONTROLS)
OPTIONS = {"levels": 2, "fraction": 0.6, "rewind_iter": K, "replicates": 1, "alphas": 3, "per_class": 2}
OPTIONS |= {"barriers": [], "validation": 0, "rates": [("output", 0)]}


def settings(store, data_dir):
    return {"workers": 0, "store": store, "data_dir": data_dir, "device": "cpu"}


@pytest.fixture(scope="module")
def plan(tmp_path_factory, data_dir):
    """The jobs of a study, by level and condition, all done in the store."""
    store = tmp_path_factory.mktemp("conditions") / "store"
    lottery(TASK, **OPTIONS, conditions=ASKED, **settings(store, data_dir))
    return store, planned(data_dir, conditions=ASKED)


def planned(data_dir, **options):
    prepared = prepare(with_early_stopping(TASK, data_dir, 0), data_dir=data_dir, device="cpu")
    study = plan_lottery(prepared, LotteryOptions(**OPTIONS | options), K)
    return {(found.level, found.condition): found for found in plan_replicate(study, 0)}


def masks(plan):
    store, found = plan
    return {
        place: mask_from_bytes(Store(store).require(one.mask).read(MASK)) for place, one in found.items() if one.mask
    }


def counts(mask):
    return {name: int(kept.sum()) for name, kept in mask.items()}


def state_of(plan, job):
    return load_state(Store(plan[0]).require(job)).model


@pytest.mark.slow
def test_every_condition_has_as_many_weights_as_the_ticket_and_the_output_stays(plan):
    found = masks(plan)
    for (level, condition), mask in found.items():
        assert sum(counts(mask).values()) == sum(counts(found[level, "imp"]).values()), condition
        assert all(bool(kept.all()) for name, kept in mask.items() if kept.shape[0] == 10), condition


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["uniform", "balanced", "erk"])
def test_random_masks_by_a_rule_have_its_counts_and_are_nested(rule, plan):
    found = masks(plan)
    for level in (1, 2):
        shapes = {name: tuple(kept.shape) for name, kept in found[level, "imp"].items() if kept.shape[0] != 10}
        total = sum(int(found[level, "imp"][name].sum()) for name in shapes)
        assert {n: c for n, c in counts(found[level, rule]).items() if n in shapes} == layer_counts(rule, shapes, total)
    assert all(bool((found[1, rule][name] | ~kept).all()) for name, kept in found[2, rule].items())


@pytest.mark.slow
def test_oneshot_prunes_the_smallest_weights_of_the_trained_dense_network_in_one_step(plan):
    dense = state_of(plan, plan[1][0, "dense"].copies[0])
    for level in (1, 2):
        mask = {name: kept for name, kept in masks(plan)[level, "oneshot"].items() if kept.shape[0] != 10}
        magnitudes = torch.cat([dense[name].abs().flatten() for name in mask])
        kept = torch.cat([entry.flatten() for entry in mask.values()])
        assert magnitudes[kept].min() >= magnitudes[~kept].max()
    assert job_name(plan[1][1, "oneshot"].mask) == job_name(plan[1][1, "imp"].mask)
    assert job_name(plan[1][2, "oneshot"].mask) != job_name(plan[1][2, "imp"].mask)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORES)
def test_controls_of_a_scored_mask_keep_each_layers_count(name, plan):
    found = masks(plan)
    for level in (1, 2):
        for ablation in ABLATIONS:
            control = found[level, f"{name}-{ablation}"]
            assert counts(control) == counts(found[level, name])
            same = all(torch.equal(control[n], kept) for n, kept in found[level, name].items())
            assert same == (ablation == "reinit")
    state, anew = (plan[1][1, f"{name}{ablation}"].start.source for ablation in ("", "-reinit"))
    assert state.init_seed != anew.init_seed
    assert job_name(anew) == job_name(plan[1][1, "reinit"].start.source)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORES)
def test_an_inverted_scored_mask_keeps_the_lowest_scores_of_each_layer(name, plan):
    subnetwork = plan[1][2, name]
    training = subnetwork.start.training
    network = training.network()
    network.load_state_dict(state_of(plan, subnetwork.mask.source))
    criterion = "magnitude" if name == "oneshot" else name
    batches = () if name == "oneshot" else labelled(training, 2)
    scores = score(network, criterion, batches, mask=everything(network))
    for layer, kept in masks(plan)[2, f"{name}-invert"].items():
        if not kept.all():
            assert scores[layer][kept].max() <= scores[layer][~kept].min()


@pytest.mark.slow
def test_signs_are_those_at_k_and_magnitudes_those_of_the_reinitialised_network(plan):
    for level in (1, 2):
        ticket, signed, anew = (state_of(plan, plan[1][level, name].start) for name in ("imp", "sign", "reinit"))
        for name, value in signed.items():
            if name in masks(plan)[level, "imp"]:
                assert torch.equal(value.abs(), anew[name].abs())
                assert torch.equal(value.sign(), ticket[name].sign())
                assert not torch.equal(value, anew[name])
            else:
                assert torch.equal(value, anew[name])
    start = plan[1][1, "sign"].start
    assert start.iteration == K
    assert start.init_seed == plan[1][1, "reinit"].start.init_seed
    assert start.noise == plan[1][1, "imp"].start.noise


@pytest.mark.slow
def test_a_condition_does_not_depend_on_the_others(data_dir):
    together = planned(data_dir, conditions=ASKED)
    for name in ASKED:
        alone = planned(data_dir, conditions=[name])
        for level in (1, 2):
            assert job_name(alone[level, name].copies[0]) == job_name(together[level, name].copies[0])


def test_every_scored_mask_has_its_controls_and_a_slip_is_told():
    for name in ("magnitude", "snip", "grasp", "grasp-abs", "synflow", "oneshot"):
        assert {f"{name}-{control}" for control in ("shuffle", "reinit", "invert")} <= set(CONDITIONS)
    with pytest.raises(OptionError, match="unknown condition 'snip-shufle'; did you mean 'snip-shuffle'"):
        LotteryOptions(conditions=["snip-shufle"])


# --- pruning later


@pytest.mark.slow
def test_criteria_score_the_network_that_is_rewound_to_if_asked(data_dir):
    """At one k it is that iteration's study; at several, each k is scored at its own."""
    prepared = prepare(with_early_stopping(TASK, data_dir, 0), data_dir=data_dir, device="cpu")
    names = ["snip", "snip-shuffle", "magnitude-invert"]

    def jobs(prune_iter, *ks):
        options = LotteryOptions(**OPTIONS | {"conditions": names, "prune_iter": prune_iter, "rewind_iter": ks})
        found = plan_replicate(plan_lottery(prepared, options, *ks), 0)
        return [job_name(one.copies[0]) for one in found]

    assert jobs("rewind", 2) == jobs(2, 2) != jobs(0, 2)
    assert jobs("rewind", 0) == jobs(0, 0)
    assert jobs("rewind", 0, 2, 4) == [*jobs(0, 0), *jobs(2, 2), *jobs(4, 4)]


@pytest.mark.slow
def test_a_study_that_prunes_later_says_so(tmp_path, data_dir):
    options = OPTIONS | {"levels": 1, "rewind_iter": [0, K], "prune_iter": "rewind", "conditions": ["snip"]}
    result = lottery(TASK, **options, **settings(tmp_path, data_dir))
    assert result.summary["prune_iter"] == "rewind"
    assert result.rewind_iters == [0, K]
    later = lottery(TASK, **options | {"rewind_iter": K, "prune_iter": K}, **settings(tmp_path, data_dir))
    assert str(result.at(K).rows) == str(later.rows)
