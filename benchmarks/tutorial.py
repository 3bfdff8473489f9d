"""The baselines: the same work as PyTorch's tutorials write it: torchvision's data sets and transforms, a loader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

from modeconn.models import build_network
from modeconn.tasks import Task, get_task

_WARM_UP = 5  # iterations
_EVALUATED = 250  # images in a batch, as many as modeconn takes


class CIFAR10(datasets.CIFAR10):
    """torchvision's, with arrays from a prepared file instead of the published ones."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable[[Any], torch.Tensor]) -> None:
        datasets.VisionDataset.__init__(self, root="", transform=transform)
        self.data, self.targets = images, labels.tolist()


class MNIST(datasets.MNIST):
    """torchvision's, with arrays from a prepared file instead of the published ones."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable[[Any], torch.Tensor]) -> None:
        datasets.VisionDataset.__init__(self, root="", transform=transform)
        self.data, self.targets = torch.from_numpy(images), torch.from_numpy(labels)


def train(index: int, task: str, iterations: int, data_dir: str, loader_workers: int) -> Callable[[], dict[str, Any]]:
    """A training loop; work is images."""
    chosen = get_task(task)
    torch.manual_seed(index)
    data = _data_set(chosen, data_dir, train=True)
    loader = DataLoader(data, batch_size=chosen.batch_size, shuffle=True, num_workers=loader_workers)
    net = _network(chosen)
    criterion = nn.CrossEntropyLoss()
    if chosen.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(net.parameters(), lr=chosen.learning_rate)
    else:
        optimizer = torch.optim.SGD(
            net.parameters(),
            lr=chosen.learning_rate,
            momentum=chosen.momentum,
            weight_decay=chosen.weight_decay,
        )
    batches = iter(loader)
    running_loss = 0.0

    def steps(count: int) -> int:
        nonlocal batches, running_loss
        images = 0
        for _ in range(count):
            try:
                inputs, labels = next(batches)
            except StopIteration:  # the next epoch
                batches = iter(loader)
                inputs, labels = next(batches)
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            images += len(labels)
        return images

    steps(_WARM_UP)
    return lambda: {"work": steps(iterations)}


def path(
    index: int, task: str, files: list[str], images: int, data_dir: str, alphas: int, loader_workers: int
) -> Callable[[], dict[str, Any]]:
    """A loop over the path: interpolate the state dicts, load, and evaluate over a loader; work is paths."""
    state_a, state_b = map(load_file, files)
    loader = test_loader(task, data_dir, images, loader_workers)
    net = _network(get_task(task))

    def measure() -> dict[str, Any]:
        grid = [i / (alphas - 1) for i in range(alphas)]
        curve = []
        for alpha in grid:
            net.load_state_dict(
                {
                    name: (1 - alpha) * state_a[name] + alpha * state_b[name]
                    if state_a[name].is_floating_point()
                    else state_a[name]
                    for name in state_a
                }
            )
            curve.append(_evaluate(net, loader))
        losses, errors = zip(*curve, strict=True)
        barrier = max(errors) - (errors[0] + errors[-1]) / 2
        return {"work": 1, "alphas": grid, "error": errors, "loss": losses, "barrier": barrier}

    return measure


def test_loader(task: str, data_dir: str, images: int, loader_workers: int) -> DataLoader[Any]:
    """The first so many test images."""
    data = Subset(_data_set(get_task(task), data_dir, train=False), range(images))
    return DataLoader(data, batch_size=_EVALUATED, shuffle=False, num_workers=loader_workers)


def _evaluate(net: nn.Module, loader: DataLoader[Any]) -> tuple[float, float]:
    """Mean loss, and error."""
    net.eval()
    test_loss, wrong, total = 0.0, 0, 0
    with torch.no_grad():
        for inputs, labels in loader:
            outputs = net(inputs)
            test_loss += nn.functional.cross_entropy(outputs, labels, reduction="sum").item()
            wrong += (outputs.argmax(1) != labels).sum().item()
            total += len(labels)
    return test_loss / total, wrong / total


def _network(task: Task) -> nn.Module:
    shape = {"cifar10": (3, 32, 32), "mnist": (1, 28, 28)}[task.data]
    return build_network(task.model, shape, 10, seed=0, norm=task.norm, init=task.init)


def _data_set(task: Task, data_dir: str, train: bool) -> Dataset[Any]:
    with np.load(Path(data_dir) / f"{task.data}.npz") as file:
        split = "train" if train else "test"
        pixels, images, labels = file["train_images"], file[f"{split}_images"], file[f"{split}_labels"]
    channels = pixels.reshape(-1, pixels.shape[3] if pixels.ndim == 4 else 1)
    normalize = transforms.Normalize(_per_channel(channels, np.mean), _per_channel(channels, np.std))
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    augmented = train and task.augmentation == "crop-flip"
    transform = transforms.Compose([*(augment if augmented else []), transforms.ToTensor(), normalize])
    kind: Any = {"cifar10": CIFAR10, "mnist": MNIST}[task.data]
    data: Dataset[Any] = kind(images, labels, transform)
    return data


def _per_channel(values: np.ndarray, statistic: Callable[[np.ndarray], Any]) -> list[float]:
    """Of pixels [n, channels], as fractions of the full range."""
    return [float(statistic(channel.astype(np.float64))) / 255 for channel in values.T]
