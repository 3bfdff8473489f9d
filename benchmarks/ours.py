"""modeconn's sides: trainings in processes like its workers, and paths as users ask for them in processes of theirs."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks.tutorial import test_loader
from modeconn import error_barrier, get_task, load_data
from modeconn import train as train_and_store
from modeconn.data import DataSet
from modeconn.evaluation.compute import autocast, computing
from modeconn.execution import Store
from modeconn.execution.memory import keep_freed_memory
from modeconn.options import THRESHOLD
from modeconn.tasks import Task
from modeconn.training import trainer
from modeconn.training.cohort.training import Member, train_cohort_until
from modeconn.training.fork import trunk
from modeconn.training.noise import Noise, Seeds, epoch_length
from modeconn.training.optimizer import Optimizer
from modeconn.training.step_inputs import training_batch
from modeconn.training.task_training import prepare
from modeconn.training.trainer import build_task_network, train_until

CPU = torch.device("cpu")
_WARM_UP = 5  # iterations


def train(
    index: int,
    task: str,
    iterations: int,
    data_dir: str,
    precision: str = "float32",
    changes: Mapping[str, Any] | None = None,
    autograd: bool = False,
) -> Callable[[], dict[str, Any]]:
    """The trainer alone, from a state to a later one; work is images.

    Args:
        index: of the process, which seeds it.
        task: its name.
        iterations: that are timed.
        data_dir: where its data are.
        precision: as of studies.
        changes: other values of the task's fields.
        autograd: leave the steps of fully-connected networks to autograd, too.
    """
    keep_freed_memory()
    chosen, data = get_task(task, **changes or {}), load_data(get_task(task).data, data_dir)
    if autograd:
        trainer.written_out = lambda network: None

    def to(stop: int, state: Any = None) -> Any:
        return train_until(
            state,
            stop,
            task=chosen,
            data=data,
            noise=Noise.of(index),
            init_seed=index,
            device=CPU,
            precision=precision,
        ).state

    start = to(_WARM_UP)

    def measure() -> dict[str, Any]:
        to(_WARM_UP + iterations, start)
        return {"work": images_before(_WARM_UP + iterations, chosen, data) - images_before(_WARM_UP, chosen, data)}

    return measure


def cohort(index: int, task: str, iterations: int, data_dir: str, members: int) -> Callable[[], dict[str, Any]]:
    """The trainer of several networks as one program, or with one member alone; work is images."""
    keep_freed_memory()
    chosen, data = get_task(task), load_data(get_task(task).data, data_dir)
    networks = [Member(init_seed=seed, noise=Noise.of(seed)) for seed in range(index * members, (index + 1) * members)]

    def to(stop: int, progress: Any) -> Any:
        return train_cohort_until(networks, progress, stop, task=chosen, data=data, device=CPU)

    start = to(_WARM_UP, [None] * members)

    def measure() -> dict[str, Any]:
        to(_WARM_UP + iterations, start)
        images = images_before(_WARM_UP + iterations, chosen, data) - images_before(_WARM_UP, chosen, data)
        return {"work": members * images}

    return measure


def study_job(
    index: int, task: str, iterations: int, data_dir: str, checkpoint_every: float
) -> Callable[[], dict[str, Any]]:
    """A training as a study's job, with a store, checkpoints and reports; work is images."""
    keep_freed_memory()
    chosen = get_task(task).shortened(iterations)
    training = prepare(chosen, data_dir=data_dir, device="cpu", checkpoint_every=checkpoint_every).training
    work = images_before(iterations, chosen, load_data(chosen.data, data_dir))
    (job,) = trunk(training, [iterations], seed=index, replicate=0)

    def measure() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            job.run(Store(folder))
        return {"work": work}

    return measure


def bare_steps(index: int, task: str, iterations: int, data_dir: str) -> Callable[[], dict[str, Any]]:
    """What no training can do without: forward, backward and optimizer, on batches made before; work is images."""
    keep_freed_memory()
    chosen, data = get_task(task), load_data(get_task(task).data, data_dir)
    batches = [training_batch(chosen, data, Seeds.all(index), i) for i in range(8)]
    with computing(CPU):
        network = build_task_network(chosen, data, init_seed=index).train()
        optimizer = Optimizer(chosen, network)

    def steps(count: int) -> int:
        passed = 0
        with computing(CPU):
            for i in range(count):
                images, labels = batches[i % len(batches)]
                passed += len(labels)
                with autocast(CPU, "float32"):
                    loss = cross_entropy(network(images), labels)
                loss.backward()
                optimizer.step()
        return passed

    steps(_WARM_UP)
    return lambda: {"work": steps(iterations)}


def trained(index: int, task: str, iterations: int, data_dir: str, folder: str) -> Callable[[], dict[str, Any]]:
    """Not compared with anything: trains a network for each process and leaves its weights in `index.safetensors`."""

    def measure() -> dict[str, Any]:
        store = Path(folder) / "store"
        run = train_and_store(
            task, iterations=iterations, seed=index, device="cpu", workers=0, store=store, data_dir=data_dir
        )
        shutil.copy(run.folders[max(run.folders)] / "weights.safetensors", Path(folder) / f"{index}.safetensors")
        return {"work": 1}

    return measure


def path(
    index: int,
    task: str,
    files: list[str],
    images: int,
    data_dir: str,
    alphas: int | str,
    precision: str = "float32",
    decide: float | None = None,
) -> Callable[[], dict[str, Any]]:
    """`error_barrier` between two stored networks, on the loader that the tutorial's loop has; work is paths."""
    a, b, loader = *files, test_loader(task, data_dir, images, loader_workers=0)
    chosen, data = get_task(task), load_data(get_task(task).data, data_dir)

    def measure() -> dict[str, Any]:
        result = error_barrier(
            a,
            b,
            loader,
            model=lambda: build_task_network(chosen, data, init_seed=0),
            alphas=alphas,
            precision=precision,
            device="cpu",
            decide=decide,
        )
        above = result.decided.decision == "above" if result.decided else bool(result.barrier >= THRESHOLD)
        curve = {"alphas": result.alphas.tolist(), "error": result.error.tolist(), "loss": result.loss.tolist()}
        return {"work": 1, **curve, "barrier": float(result.barrier), "above": above}

    return measure


def images_before(iteration: int, task: Task, data: DataSet) -> int:
    """How many images a training has seen; the last batch of an epoch is short."""
    epochs, position = divmod(iteration, epoch_length(len(data.train), task.batch_size))
    return epochs * len(data.train) + position * task.batch_size
