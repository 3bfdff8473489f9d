"""Networks that train together against the same networks alone."""

from dataclasses import replace

import pytest
import torch

from cases import NAMED, OWN
from modeconn.data import load_data
from modeconn.errors import NetworkError
from modeconn.execution import Store
from modeconn.tasks import get_task
from modeconn.training.cohort.jobs import CohortJob
from modeconn.training.cohort.training import Member, train_cohort_until
from modeconn.training.jobs import TrainJob
from modeconn.training.noise import Noise
from modeconn.training.state import State, state_from_bytes, state_to_bytes
from modeconn.training.task_training import prepare
from modeconn.training.trainer import TrainResult, train_until
from trajectories import same

CPU = torch.device("cpu")
TASK = replace(get_task("digits-conv").shortened(120), learning_rate=0.01)
ADAM = replace(TASK, optimizer="adam", learning_rate=1e-3, momentum=0.0)
NOISES = (Noise.of(1), Noise.of(1).fork(2, 2), Noise.of(3))
MEMBERS = [Member(seed, noise) for seed, noise in enumerate(NOISES)]
SMALL = [case for case in (*NAMED, *OWN) if case.shape == (1, 8, 8) and "tied" not in case.model]


@pytest.fixture(scope="module")
def data(data_dir):
    return load_data("digits", data_dir)


def together(members, stop, data, progress=None, task=TASK, **options) -> list[TrainResult]:
    progress = progress or [None] * len(members)
    return train_cohort_until(members, progress, stop, task=task, data=data, device=CPU, **options)


def alone(member, stop, data, state=None, task=TASK, **more) -> TrainResult:
    options = {"task": task, "data": data, "noise": member.noise, "init_seed": member.init_seed, "device": CPU}
    return train_until(state, stop, mask=member.mask, **options, **more)


def test_bfloat16_is_that_of_one_network(data):
    """To the three digits that it has."""
    for member, found in zip(MEMBERS, together(MEMBERS, 2, data, precision="bfloat16"), strict=True):
        expected = alone(member, 2, data, precision="bfloat16").state.model
        assert all(value.dtype == expected[name].dtype for name, value in found.state.model.items())
        moved = alone(member, 2, data).state.model["22.weight"]
        torch.testing.assert_close(found.state.model["22.weight"], expected["22.weight"], rtol=0.02, atol=2e-3)
        assert not torch.equal(found.state.model["22.weight"], moved)


def through_files(results: list[TrainResult]) -> list[TrainResult]:
    """As after an interruption."""
    return [replace(one, state=state_from_bytes(state_to_bytes(one.state), one.state.iteration)) for one in results]


def assert_close(a: State, b: State) -> None:
    """But for rounding, which is relative to what a tensor's largest entries are summed from."""
    assert a.iteration == b.iteration
    for x, y in ((a.model, b.model), (a.optimizer, b.optimizer)):
        assert x.keys() == y.keys()
        for name in x:
            scale = max(1.0, float(y[name].abs().max()))
            torch.testing.assert_close(x[name], y[name], rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("task", [TASK, ADAM], ids=["sgd", "adam"])
def test_members_become_what_they_become_alone(task, norm, data):
    task = replace(task, norm=norm)
    for member, found in zip(MEMBERS, together(MEMBERS, 4, data, task=task), strict=True):
        assert_close(found.state, alone(member, 4, data, task=task).state)


@pytest.mark.parametrize("case", [case for case in SMALL if "dropout" not in case.model], ids=lambda case: case.model)
def test_every_small_network_trains_together_as_alone(case, data):
    task = replace(TASK, model=case.model, norm=case.norm)
    if case.model == "cases:with_batchnorm":
        pytest.skip("it has dropout, whose masks are others alone")
    for member, found in zip(MEMBERS, together(MEMBERS, 4, data, task=task), strict=True):
        assert_close(found.state, alone(member, 4, data, task=task).state)


def test_augmentation_and_a_short_last_batch_are_each_members_own(data):
    task = replace(TASK, augmentation="crop-flip", batch_size=1000)  # of 1,437
    for member, found in zip(MEMBERS, together(MEMBERS, 2, data, task=task), strict=True):
        assert_close(found.state, alone(member, 2, data, task=task).state)


@pytest.mark.parametrize("task", [TASK, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("cut", [23, *(pytest.param(cut, marks=pytest.mark.slow) for cut in (50, 64))])
@pytest.mark.slow
def test_a_cohort_in_pieces_equals_one_in_one_piece(cut, task, data):
    """Bit for bit, and wherever it was cut."""
    whole = together(MEMBERS, 70, data, task=task)
    pieces = together(MEMBERS, 70, data, through_files(together(MEMBERS, cut, data, task=task)), task=task)
    assert all(same(one.state, other.state) for one, other in zip(whole, pieces, strict=True))


@pytest.mark.slow
def test_a_member_that_is_ahead_joins_when_the_others_reach_it(data):
    """Copies of one trunk that fork at different iterations; cut before, at and after the one that joins."""
    trunk = alone(MEMBERS[0], 10, data)
    members = [MEMBERS[0], Member(0, MEMBERS[0].noise.fork(10, 7))]
    whole = together(members, 70, data, [None, trunk])
    assert [one.state.iteration for one in whole] == [70, 70]
    assert_close(together(members, 12, data, [None, trunk])[1].state, alone(members[1], 12, data, trunk.state).state)
    for cut in (6, 10, 33):
        first = through_files(together(members, cut, data, [None, trunk]))
        assert [one.state.iteration for one in first] == [cut, max(10, cut)]
        assert all(same(a.state, b.state) for a, b in zip(together(members, 70, data, first), whole, strict=True))


def test_the_same_cohort_twice_gives_the_same_bits_and_leaves_its_start_alone(data):
    start = together(MEMBERS, 10, data)
    before = [state_to_bytes(one.state) for one in start]
    first, second = (together(MEMBERS, 30, data, start) for _ in range(2))
    assert all(same(one.state, other.state) for one, other in zip(first, second, strict=True))
    assert [state_to_bytes(one.state) for one in start] == before


def test_metrics_are_those_of_the_members_states(data):
    task = replace(TASK, evaluate_every=4)
    found = together(MEMBERS, 8, data, task=task)
    for member, one in zip(MEMBERS, found, strict=True):
        assert [row["iteration"] for row in one.metrics] == [4, 4, 8, 8]
        expected = alone(member, 8, data, task=task).metrics
        assert [row["loss"] for row in one.metrics] == pytest.approx([row["loss"] for row in expected], rel=1e-3)


def test_each_member_trains_under_its_own_mask(data):
    """One of three has no mask; the others have one of a layer that both prune, and of one that one does."""
    task = replace(TASK, model="lenet-16-8", norm="none")
    weights = alone(MEMBERS[0], 0, data, task=task).state.model
    generator = torch.Generator().manual_seed(0)

    def mask(*names):
        return {name: torch.rand(weights[name].shape, generator=generator) < 0.4 for name in names}

    first, _, last = [name for name in weights if weights[name].ndim == 2]
    masks = [mask(first, last), {}, mask(first)]
    members = [Member(seed, NOISES[seed], masks[seed]) for seed in range(3)]
    for member, one in zip(members, together(members, 3, data, task=task), strict=True):
        assert_close(one.state, alone(member, 3, data, task=task).state)
        for name in (first, last):
            kept = member.mask.get(name, torch.ones_like(weights[name], dtype=torch.bool))
            assert torch.equal(one.state.model[name] != 0, kept)


def test_a_cohort_of_jobs_trains_each_under_the_mask_of_that_job(monkeypatch, tmp_path, data_dir):
    training = prepare(TASK, data_dir=data_dir, device="cpu").training
    jobs = [TrainJob(training, seed, NOISES[seed], 120) for seed in range(3)]
    masks = [{"3.weight": torch.tensor([True])}, None, {"3.weight": torch.tensor([False])}]
    monkeypatch.setattr("modeconn.training.cohort.jobs.mask_of", lambda store, job: masks[jobs.index(job)])

    class Seen(Exception):
        pass

    def look(members, *_, **__):
        assert [member.mask for member in members] == [mask or {} for mask in masks]
        assert [(member.init_seed, member.noise) for member in members] == list(enumerate(NOISES))
        raise Seen

    monkeypatch.setattr("modeconn.training.cohort.jobs.train_cohort_until", look)
    with pytest.raises(Seen):
        CohortJob(tuple(jobs)).run(Store(tmp_path))


@pytest.mark.slow
def test_pruned_weights_are_zero_at_every_step_and_masks_are_each_members_own(data):
    network = alone(MEMBERS[0], 0, data).state.model
    masks = [
        {name: torch.rand(network[name].shape) < density for name in ("3.weight", "18.weight")}
        for density in (0.2, 0.6)
    ]
    members = [Member(0, NOISES[0], masks[0]), Member(1, NOISES[0], masks[1]), MEMBERS[2]]
    seen = []
    found = together(
        members, 60, data, task=replace(TASK, evaluate_every=1), on_chunk=lambda now: seen.append(list(now))
    )
    assert len(seen) == 60
    for now in seen:
        for mask, one in zip(masks, now, strict=False):
            for name, kept in mask.items():
                assert (one.state.model[name][~kept] == 0).all()
                assert (one.state.model[name][kept] != 0).all()
    assert (found[2].state.model["3.weight"] != 0).all()
    assert_close(together(members, 4, data)[1].state, alone(members[1], 4, data).state)


def test_one_that_diverges_does_not_disturb_the_others(data):
    """Its weights overflow after the first of its steps, as its momentum is enormous."""
    task = replace(TASK, model="lenet-16", norm="none", momentum=0.9)
    start = [alone(member, 8, data, task=task) for member in MEMBERS]
    sick = replace(start[1].state, optimizer={k: v * 1e30 for k, v in start[1].state.optimizer.items()})
    start[1] = TrainResult(sick)
    expected = alone(MEMBERS[1], 60, data, sick, task)
    assert expected.diverged_at is not None
    found = together(MEMBERS, 60, data, start, task=task)
    assert found[1].diverged_at == expected.diverged_at
    assert_close(found[1].state, expected.state)
    assert all(torch.isfinite(value).all() for value in found[1].state.model.values())
    for i in (0, 2):
        assert (found[i].diverged_at, found[i].state.iteration) == (None, 60)
        assert_close(
            together(MEMBERS, 12, data, start, task=task)[i].state,
            alone(MEMBERS[i], 12, data, start[i].state, task).state,
        )
    # And what diverged stays as it is.
    again = together(MEMBERS, 70, data, found, task=task)
    assert again[1] is found[1]
    assert again[0].state.iteration == 70


def test_dropout_is_each_members_noise(data):
    task = replace(TASK, model="lenet-16", norm="none", dropout=0.5)
    base = Noise.of(1)
    members = [Member(0, base), Member(0, base), Member(0, base.fork(0, 2, ["dropout"]))]
    one, equal, other = (found.state.model["1.weight"] for found in together(members, 3, data, task=task))
    torch.testing.assert_close(one, equal)
    assert not torch.allclose(one, other)
    assert not torch.allclose(
        one, together(members[:1], 3, data, task=replace(task, dropout=0.0))[0].state.model["1.weight"]
    )


def test_optimizers_of_different_age_are_refused(data):
    old = alone(MEMBERS[0], 5, data, task=ADAM)
    fresh = replace(old, state=replace(old.state, optimizer={}))
    with pytest.raises(NetworkError, match="different numbers of steps"):
        together(MEMBERS[:2], 8, data, [old, fresh], task=ADAM)


def test_a_member_without_momentum_has_one_of_zero(data):
    old = alone(MEMBERS[0], 5, data)
    fresh = replace(old, state=replace(old.state, optimizer={}))
    found = together(MEMBERS[:2], 7, data, [old, fresh])
    assert_close(found[1].state, alone(MEMBERS[1], 7, data, fresh.state).state)
