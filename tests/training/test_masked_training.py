"""Training under a mask: what is pruned is zero in every state, and what remains is trained as ever."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cases import NAMED, OWN
from modeconn.data import load_data
from modeconn.errors import NetworkError, OptionError
from modeconn.evaluation.compute import computing
from modeconn.pruning.prunable import prunable
from modeconn.tasks import get_task
from modeconn.training.noise import Noise
from modeconn.training.splits import evaluate
from modeconn.training.trainer import CHUNK, build_task_network, train_until
from modeconn.weights.masks import check_mask, mask_enforcer, mask_from_bytes, mask_to_bytes

pytestmark = pytest.mark.slow  # whole trainings and commands

CPU = torch.device("cpu")
TASK = get_task("digits-conv").shortened(200)
SMALL = [case for case in (*NAMED, *OWN) if case.shape == (1, 8, 8)]
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1},
}


@pytest.fixture(scope="module")
def data(data_dir):
    return load_data("digits", data_dir)


def run(task, stop, data, state=None, **options):
    return train_until(state, stop, task=task, data=data, noise=Noise.of(1), init_seed=0, device=CPU, **options)


def random_mask(task, data, density=0.5):
    weights = prunable(build_task_network(task, data, 0))
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(weight.shape, generator=generator) < density for name, weight in weights.items()}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.model, marks=pytest.mark.slow if case.model == "digits-conv" else ())
        for case in SMALL
    ],
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pruned_weights_are_zero_after_every_step_whatever_momentum_and_weight_decay_do(case, optimizer, data):
    """Two hundred steps, one at a time, with an optimizer that already carries momentum of the pruned weights."""
    task = replace(TASK, model=case.model, **OPTIMIZERS[optimizer])
    mask = random_mask(task, data)
    steps = 200 if case.model == "digits-conv" else 20
    state = run(task, 5, data).state
    assert any(bool(state.model[name][~kept].any()) for name, kept in mask.items())
    for stop in range(6, 6 + steps):
        state = run(task, stop, data, state, mask=mask).state
        for name, kept in mask.items():
            assert not state.model[name][~kept].any()
    assert all(bool(state.model[name][kept].any()) for name, kept in mask.items())


def test_every_state_that_is_handed_out_on_the_way_is_pruned(data):
    mask = random_mask(TASK, data)
    seen = []
    run(TASK, 3 * CHUNK, data, mask=mask, on_chunk=lambda progress: seen.append(progress.state))
    assert len(seen) == 3
    assert not any(state.model[name][~kept].any() for state in seen for name, kept in mask.items())


def test_a_mask_that_keeps_everything_changes_no_bit(data):
    everything = {name: torch.ones_like(kept) for name, kept in random_mask(TASK, data).items()}
    plain, masked = run(TASK, 60, data).state, run(TASK, 60, data, mask=everything).state
    assert all(torch.equal(plain.model[name], masked.model[name]) for name in plain.model)


def test_training_under_a_mask_equals_a_plain_loop_that_multiplies_before_every_forward_pass(data):
    """The weights that remain see the same gradients, whichever way zeros are kept zero."""
    task = replace(TASK, model="lenet-16", **OPTIMIZERS["sgd"])
    mask = random_mask(task, data)
    found = run(task, 30, data, mask=mask).state.model
    from modeconn.training.step_inputs import training_batch
    from modeconn.training.trainer import training_loss

    network = build_task_network(task, data, 0)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=0.01)
    weights = dict(network.named_parameters())
    for t in range(30):
        with torch.no_grad():
            for name, kept in mask.items():
                weights[name].mul_(kept)
        images, labels = training_batch(task, data, Noise.of(1).at(t), t)
        optimizer.zero_grad()
        training_loss(network(images), labels).backward()
        optimizer.step()
    for name, weight in weights.items():
        kept = mask.get(name, torch.ones_like(weight, dtype=torch.bool))
        torch.testing.assert_close(found[name][kept], weight.detach()[kept], rtol=1e-4, atol=1e-6)


def test_training_under_a_mask_in_pieces_equals_one_piece(data):
    mask = random_mask(TASK, data)
    whole = run(TASK, 70, data, mask=mask).state
    later = run(TASK, 70, data, run(TASK, 23, data, mask=mask).state, mask=mask).state
    assert all(torch.equal(whole.model[name], later.model[name]) for name in whole.model)
    assert all(torch.equal(whole.optimizer[name], later.optimizer[name]) for name in whole.optimizer)


def test_a_run_that_diverges_under_a_mask_ends_in_a_pruned_state(data):
    task = replace(TASK, model="cases:exploding", learning_rate=0.5)
    mask = random_mask(task, data)
    result = run(task, 60, data, mask=mask)
    assert result.diverged_at is not None
    assert not any(result.state.model[name][~kept].any() for name, kept in mask.items())


def test_a_mask_that_does_not_fit_is_refused_with_names_and_shapes(data):
    network = build_task_network(TASK, data, 0)
    yes = torch.ones(3, 3, dtype=torch.bool)
    with pytest.raises(NetworkError) as error:
        mask_enforcer(network, {"0.weight": yes, "nobody": yes, "22.weight": torch.ones(10, 8)})
    for part in ("0.weight is [3, 3]", "[8, 1, 3, 3]", "nobody is no parameter", "22.weight is torch.float32"):
        assert part in str(error.value)
    check_mask({}, network)


def test_a_mask_through_a_file_is_the_same_and_in_its_order():
    mask = {"b": torch.tensor([True, False]), "a": torch.tensor([[False]])}
    back = mask_from_bytes(mask_to_bytes(mask))
    assert list(back) == ["b", "a"]
    assert all(torch.equal(back[name], mask[name]) for name in mask)


# --- validation, which chooses the iteration of early stopping


def test_held_out_examples_and_those_left_are_the_training_examples_once_each(data_dir):
    whole, held = load_data("digits", data_dir), load_data("digits", data_dir, validation=143)
    assert (len(held.train), len(held.validation)) == (len(whole.train) - 143, 143)

    def rows(split):
        images = split.images.read(torch.arange(len(split))).flatten(1).double()
        return torch.cat([images, split.labels[:, None].double()], 1).numpy()

    together = np.concatenate([rows(held.train), rows(held.validation)])
    assert np.array_equal(np.sort(together, 0), np.sort(rows(whole.train), 0))
    assert np.array_equal(together[np.lexsort(together.T)], rows(whole.train)[np.lexsort(rows(whole.train).T)])
    assert (held.mean, held.std, held.fingerprint) == (whole.mean, whole.std, whole.fingerprint)
    assert held.to(CPU).validation.labels.equal(held.validation.labels)


def test_held_out_examples_are_of_all_classes_and_the_same_every_time(data_dir):
    first, again = (load_data("digits", data_dir, validation=200).validation.labels for _ in range(2))
    assert first.equal(again)
    assert first.bincount(minlength=10).min() >= 8


@pytest.mark.parametrize("examples", [-1, 1437, 5000])
def test_holding_out_too_much_is_refused(examples, data_dir):
    with pytest.raises(OptionError, match=f"{examples} of 1437"):
        load_data("digits", data_dir, validation=examples)


def test_the_test_error_of_a_masked_training_is_that_at_its_lowest_validation_loss(data_dir):
    """Without a mask, and however it is cut: test_early_stopping."""
    held = load_data("digits", data_dir, validation=143)
    # The rate is raised a thousandfold at 150, so that the lowest loss is there whatever the processor rounds.
    task = replace(TASK, validation=143, evaluate_every=10, learning_rate=0.02, milestones=(150,), gamma=1000.0)
    mask = random_mask(task, held)
    rows = run(task, 200, held, mask=mask).metrics
    validation, test = ([row for row in rows if row["split"] == split] for split in ("validation", "test"))
    assert [row["iteration"] for row in validation] == list(range(10, 201, 10))
    lowest = min(validation, key=lambda row: row["loss"])
    assert lowest["iteration"] == 150
    network = build_task_network(task, held, 0)
    with computing(CPU, "float32"):
        network.load_state_dict(run(task, lowest["iteration"], held, mask=mask).state.model)
        there = evaluate(network, held, "test")
    assert test == [{"iteration": lowest["iteration"], "split": "test", "loss": there.loss, "error": there.error}]
    # The same rows, wherever it was interrupted.
    first = run(task, 55, held, mask=mask)
    assert run(task, 200, held, first.state, metrics=first.metrics, best=first.best, mask=mask).metrics == rows
