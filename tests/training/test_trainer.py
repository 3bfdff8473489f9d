import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from cases import NAMED, OWN
from modeconn.data import MemoryImages, load_data, normalize
from modeconn.evaluation.compute import computing, resolve_device
from modeconn.tasks import Task, get_task
from modeconn.training.noise import Noise, batch_indices
from modeconn.training.optimizer import Optimizer
from modeconn.training.splits import SplitBatches, evaluate
from modeconn.training.state import State, capture, restore, state_from_bytes, state_to_bytes
from modeconn.training.step_inputs import training_batch
from modeconn.training.trainer import CHUNK, build_task_network, train_until, training_loss
from modeconn.weights.tensor_files import in_order
from trajectories import same

CPU = torch.device("cpu")
TASK = get_task("digits-conv").shortened(120)
SMALL = [case for case in (*NAMED, *OWN) if case.shape == (1, 8, 8)]


def run(task: Task, stop: int, data, state: State | None = None, noise: Noise | None = None, **options):
    noise = noise or Noise.of(1)
    return train_until(state, stop, task=task, data=data, noise=noise, init_seed=0, device=CPU, **options)


@pytest.fixture(scope="module")
def data(data_dir):
    return load_data("digits", data_dir)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.model)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", pytest.param("adamw", marks=pytest.mark.slow)])
def test_a_training_in_pieces_equals_one_in_one_piece(case, optimizer, data):
    rate = 0.05 if optimizer == "sgd" else 1e-3
    momentum = 0.9 if optimizer == "sgd" else 0.0
    task = replace(TASK, model=case.model, optimizer=optimizer, learning_rate=rate, momentum=momentum)
    whole = run(task, 70, data).state
    first = run(task, 23, data).state
    # Through the files, as after an interruption.
    first = state_from_bytes(state_to_bytes(first), 23)
    assert list(first.model) == in_order(first.model)
    assert same(run(task, 70, data, first).state, whole)


def test_the_same_training_twice_gives_the_same_bits(data):
    assert same(run(TASK, 60, data).state, run(TASK, 60, data).state)


def test_bfloat16_in_pieces_equals_one_piece_and_is_not_float32(data):
    whole = run(TASK, 70, data, precision="bfloat16").state
    first = run(TASK, 31, data, precision="bfloat16").state
    assert same(run(TASK, 70, data, first, precision="bfloat16").state, whole)
    assert not same(run(TASK, 70, data).state, whole)


@pytest.mark.parametrize("source", ["order", "augmentation", "dropout"])
def test_each_source_of_noise_alone_makes_copies_differ(source, data):
    task = replace(TASK, model="cases:with_dropout", augmentation="crop-flip")
    trunk, copy = Noise.of(1), Noise.of(1).fork(10, 2, [source])
    assert same(run(task, 10, data, noise=trunk).state, run(task, 10, data, noise=copy).state)
    assert not same(run(task, 12, data, noise=trunk).state, run(task, 12, data, noise=copy).state)


def test_sources_that_a_task_lacks_change_nothing(data):
    copy = Noise.of(1).fork(10, 2, ["augmentation", "dropout"])
    assert same(run(TASK, 30, data).state, run(TASK, 30, data, noise=copy).state)


def test_the_start_is_left_unchanged(data):
    start = run(TASK, 20, data).state
    files = state_to_bytes(start)
    run(TASK, 40, data, start)
    assert state_to_bytes(start) == files


def test_the_callers_settings_and_random_state_return(data):
    torch.manual_seed(5)
    before = torch.random.get_rng_state(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    run(TASK, 5, data)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[1:]


def test_training_equals_a_plain_loop(data):
    """Momentum, weight decay and steps written out by hand."""
    task = replace(TASK, schedule="step", milestones=(8,), weight_decay=1e-3)
    network = build_task_network(task, data, 0)
    with computing(CPU):
        weights = list(network.parameters())
        momenta = [torch.zeros_like(weight) for weight in weights]
        pixels = data.train.images.read(torch.arange(len(data.train)))
        for t in range(12):
            indices = batch_indices(1, t, len(data.train), task.batch_size)
            loss = cross_entropy(network(normalize(pixels[indices], data)), data.train.labels[indices])
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for weight, momentum, gradient in zip(weights, momenta, gradients, strict=True):
                    momentum.mul_(0.9).add_(gradient + 1e-3 * weight)
                    weight.sub_((0.1 if t < 8 else 0.01) * momentum)
    state = run(task, 12, data).state
    for name, value in network.state_dict().items():
        torch.testing.assert_close(state.model[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_metrics_come_at_their_interval_and_survive_an_interruption(data):
    task = replace(TASK, evaluate_every=30)
    whole = run(task, 120, data)
    assert [row["iteration"] for row in whole.metrics] == [30, 30, 60, 60, 90, 90, 120, 120]
    first = run(task, 70, data)
    second = run(task, 120, data, first.state, metrics=first.metrics)
    assert second.metrics == whole.metrics
    assert same(second.state, whole.state)
    network = build_task_network(task, data, 0)
    network.load_state_dict(whole.state.model)
    with computing(CPU):
        last = {split: evaluate(network, data, split) for split in ("train", "test")}
    assert [(row["loss"], row["error"]) for row in whole.metrics[-2:]] == [
        (last[split].loss, last[split].error) for split in ("train", "test")
    ]


def test_a_loss_that_is_not_finite_ends_the_run_at_its_iteration(data):
    task = replace(TASK, learning_rate=1e30, momentum=0.0)
    result = run(task, 120, data)
    assert result.diverged_at is not None
    assert result.state.iteration <= result.diverged_at
    assert all(torch.isfinite(value).all() for value in result.state.model.values())


def test_divergence_is_found_at_one_iteration_however_it_is_reached(data):
    task = replace(TASK, model="cases:exploding", learning_rate=0.1, momentum=0.0)
    found = run(task, 120, data).diverged_at
    assert found is not None
    assert found > CHUNK
    first = run(task, CHUNK - 7, data).state
    assert run(task, 120, data, first).diverged_at == found


def test_evaluation_equals_a_plain_computation_and_changes_nothing(data):
    network = build_task_network(TASK, data, 3)
    network[1].eval()  # a mixed mode
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    counts = evaluate(network, data, "test")
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    pixels = data.test.images.read(torch.arange(len(data.test))).double() / 255
    network.double().eval()
    with torch.no_grad():
        logits = network((pixels - data.mean[0]) / data.std[0])
    assert counts.errors == int((logits.argmax(1) != data.test.labels).sum())
    assert counts.loss == pytest.approx(float(cross_entropy(logits, data.test.labels)), rel=1e-5)


@pytest.mark.parametrize(("size", "batch"), [(1, 2000), (8, 2000), (16, 512), (32, 250)])
def test_small_images_are_evaluated_in_larger_batches(size, batch, data):
    images = MemoryImages(torch.zeros(2100, 1, size, size, dtype=torch.uint8))
    split = replace(data.train, images=images, labels=torch.zeros(2100, dtype=torch.int64))
    many = replace(data, train=split)
    assert len(next(iter(SplitBatches(many, "train")))[1]) == batch


def test_outputs_that_are_not_finite_are_errors(data):
    network = build_task_network(TASK, data, 0)
    with torch.no_grad():
        network[-1].bias.fill_(torch.nan)
    assert evaluate(network, data, "test").error == 1.0


def test_capture_and_restore_are_inverse(data):
    network = build_task_network(TASK, data, 0)
    optimizer = Optimizer(TASK, network)
    images, labels = training_batch(TASK, data, Noise.of(0).at(0), 0)
    cross_entropy(network(images), labels).backward()
    optimizer.step()
    state = capture(1, network, optimizer)
    other = build_task_network(TASK, data, 9)
    other_optimizer = Optimizer(TASK, other)
    restore(state, other, other_optimizer)
    assert same(capture(1, other, other_optimizer), state)


def test_the_auxiliary_loss_of_inception_counts_0_4():
    main, auxiliary = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 3.0], [1.0, 0.0]])
    labels = torch.tensor([0, 1])
    # -log softmax is log(1 + exp(-margin)): margins 2 and 1 of the main logits, -3 and -1 of the auxiliary ones.
    means = [sum(math.log1p(math.exp(-margin)) for margin in margins) / 2 for margins in ((2, 1), (-3, -1))]
    assert float(training_loss((main, auxiliary), labels)) == pytest.approx(means[0] + 0.4 * means[1], rel=1e-6)
    assert float(training_loss(main, labels)) == pytest.approx(means[0], rel=1e-6)


def test_a_device_that_is_not_here_is_refused():
    with pytest.raises(ValueError, match="GPUs are visible"):
        resolve_device("cuda:63")
    with pytest.raises(ValueError, match="use auto, cpu, cuda"):
        resolve_device("tpu9")


def test_a_blow_up_in_the_very_last_step_is_seen(data):
    """No loss follows it, so only the weights tell."""
    result = run(replace(TASK, schedule="step", milestones=(59,), gamma=1e50, iterations=60), 60, data)
    assert (result.diverged_at, result.state.iteration) == (60, 59)
    assert all(torch.isfinite(value).all() for value in result.state.model.values())
