"""What is asked of the old code and of the new one, by the same calls of public names.

`make_old_store.py` runs these under version 0.1.0, the tests under the code that they test.
"""

import copy
import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compatibility import own
from torch import nn

import modeconn
from modeconn import (
    Run,
    Task,
    barrier_matrix,
    error_barrier,
    feature_connectivity,
    get_task,
    instability,
    layerwise_barrier,
    lottery,
    train,
)

MADE = Path(__file__).parent / "made_by_0.1.0"


@dataclass(frozen=True)
class Study:
    """A study that is computed, on short trainings of a narrow network for digits.

    Attributes:
        run: `instability` or `lottery`.
        store: the name of the store that it is in.
        later: options that version 0.1.0 did not have, under which its runs are found.
    """

    run: Callable[..., Any]
    store: str
    options: dict[str, Any]
    learning_rate: float = 0.1
    later: tuple[tuple[str, Any], ...] = ()

    def __call__(self, store: Path, data: Path, **more: Any) -> Any:
        """Its result."""
        task = get_task(TASK, learning_rate=self.learning_rate)
        return self.run(task, **(self._asked | _here(store, data) | more))

    @property
    def command(self) -> list[str]:
        """The same as a command, in a folder with the store and with data sets in `data`."""
        given = {"iterations": 24, "task.width": 0.25, "task.evaluate-every": 6, "store": self.store, "workers": 0}
        given |= {"task.learning-rate": self.learning_rate, **self._asked}
        given["threshold"] = 100 * self.options.get("threshold", 0.02)  # in points of error
        texts = {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in given.items()}
        options = [part for name in texts for part in (f"--{name.replace('_', '-')}", texts[name])]
        return [self.run.__name__, "digits-conv", *_DATA, *options]

    @property
    def _asked(self) -> dict[str, Any]:
        return self.options | ({} if modeconn.__version__ == "0.1.0" else dict(self.later))


ONE_BY_ONE = (("together", "no"),)  # as all networks of a lottery trained
TASK = get_task("digits-conv", width=0.25, evaluate_every=6).shortened(24)
STUDIES = {
    "instability": Study(
        instability,
        "whole",
        {"rewind_iters": "0,8", "replicates": 2, "copies": 2, "alphas": 4, "calibration": 100, "seed": 1},
    ),
    "lottery": Study(
        lottery,
        "whole",
        {"rewind_iters": "8", "threshold": 0.9, "levels": 2, "fraction": 0.5, "replicates": 1, "alphas": 3}
        | {"conditions": ("imp", "reinit"), "calibration": 100, "seed": 2},
        later=ONE_BY_ONE,
    ),
    "instability-diverged": Study(
        instability, "diverged", {"rewind_iters": "0", "replicates": 1, "alphas": 3}, learning_rate=1e30
    ),
    "lottery-diverged": Study(
        lottery,
        "diverged",
        {"rewind_iter": 8, "levels": 1, "replicates": 1, "alphas": 3, "conditions": ("imp", "random")},
        learning_rate=1e30,
        later=ONE_BY_ONE,
    ),
}
TRAINING = {"save_at": "0,8", "seed": 3}
LATER = {"save_at": "16", "seed": 4}  # of which the interrupted store holds a half


def run_training(store: Path, data: Path, **asked: Any) -> Run:
    """One training, with saved states."""
    return train(TASK, **asked, **_here(store, data))


def commands() -> dict[str, list[str]]:
    """Commands about the stores, in the order in which they are given in the folder that these are in."""
    states = [f"whole/runs/{name}" for name in json.loads((MADE / "training.json").read_bytes())["states"].values()]
    return {
        "runs": ["runs", "--store", "whole"],
        "runs-diverged": ["runs", "--store", "diverged"],
        "verify": ["runs", "verify", "--store", "whole"],
        "show-state": ["runs", "show", "--store", "whole", Path(states[1]).name],
        "show-study": ["runs", "show", "--store", "whole", "lottery-digits-conv"],
        "clean": ["runs", "clean", "--store", "whole", "--yes"],
        "barrier": ["barrier", *states[1:], "--alphas", "5", "--out", "pair", "--device", "cpu", *_DATA],
        **{kind: [*study.command, "--out", kind] for kind, study in STUDIES.items()},
        "export": ["export", "lottery", "--store", "whole", "--level", "2", "--out", "ticket"],
    }


_DATA = ("--data-dir", "data")


def _here(store: Path, data: Path) -> dict[str, Any]:
    return {"store": store, "data_dir": data, "device": "cpu", "workers": 0}


# --- names


class Planned(Exception):
    """Raised where computing would begin."""


def names_of_jobs(folder: Path, *only: str, **more: Any) -> dict[str, list[str]]:
    """The names of all jobs of some studies, none of which is computed.

    Args:
        folder: for data sets and stores.
        only: the titles of those that are planned; of none, all.
        more: options that they get besides.
    """
    make_data(folder)
    found = {}
    for title, (run, task, options) in _planned(folder).items():
        if only and title not in only:
            continue
        store = folder / title.replace(" ", "-")
        try:
            run(task, **options, **more, store=store, data_dir=folder, device="cpu", executor=_stop)
        except Planned:
            (record,) = (store / "studies").glob("*.json")
            found[title] = sorted(json.loads(record.read_bytes())["jobs"])
    return found


def make_data(folder: Path) -> None:
    """Images that are numbered pixels, in the form of prepared data sets."""
    rng = np.random.default_rng(0)
    for name, shape in (("grey", (10, 10)), ("colour", (16, 16, 3))):
        labels = {"train_labels": np.arange(60) % 10, "test_labels": np.arange(30) % 10}
        images = {f"{split}_images": rng.integers(0, 256, (n, *shape), np.uint8) for split, n in _SIZES.items()}
        np.savez(folder / f"{name}.npz", **images, **labels)


_SIZES = {"train": 60, "test": 30}


def _stop() -> Executor:
    raise Planned


def _planned(folder: Path) -> dict[str, tuple[Callable[..., Any], Task | str, dict[str, Any]]]:
    grey = {"data": str(folder / "grey.npz"), "batch_size": 12, "iterations": 30}
    colour = {"data": str(folder / "colour.npz"), "batch_size": 12, "iterations": 30, "width": 0.25}
    resnet = get_task("cifar10-resnet20", **colour, milestones=(10, 20), warmup=3)
    vgg = get_task("cifar10-vgg16", **colour | {"width": 0.0625}, norm="group", augmentation="flip")
    lenet = get_task("mnist-lenet", **grey, dropout=0.25)
    conv = get_task("cifar10-conv2", **colour, schedule="cosine", final_learning_rate=1e-5, optimizer="adamw")
    mine = get_task("mnist-lenet", **grey, model="compatibility.own:network", init="own", nesterov=True, momentum=0.5)
    every = ("imp", "random", "reinit", "shuffle", "invert", "rewind0", "magnitude", "snip", "grasp", "synflow")
    one = {"replicates": 1}
    few = one | {"levels": 2, "rewind_iter": "10%", "conditions": ("imp", "reinit")}
    few |= {"scope": "global", "rates": ()}  # which version 0.1.0 took for every network
    own_loop = one | {"train": own.train, "init": own.init, "data": own.DATA, "iterations": 20, "alphas": "paper"}
    return {
        "digits by default": (instability, "digits-conv", {}),
        "one by one": (instability, "digits-conv", {"together": "no", "copies": 3, "seed": 7, "iterations": 100}),
        "adaptive alphas": (instability, "digits-conv", one | {"alphas": "adaptive", "splits": ("test",)}),
        "one source of noise": (instability, resnet, one | {"noise": ("augmentation",), "rewind_iters": "0,1ep,10%"}),
        "bfloat16": (instability, vgg, one | {"precision": "bfloat16", "rewind_iters": "0,5", "alphas": [0, 0.3, 1]}),
        "dropout": (instability, lenet, one | {"rewind_iters": "0,30", "noise": ("order", "dropout")}),
        "another optimizer": (instability, conv, one | {"rewind_iters": 7, "together": "yes"}),
        "imported network": (instability, mine, one | {"rewind_iters": "3"}),
        "bisection": (instability, "digits-conv", {"search": True, "threshold": 0.05}),
        "own loop": (instability, "mine", own_loop | {"rewind_iters": "0,10"}),
        "tickets by default": (lottery, "digits-conv", {"rewind_iter": 4, "conditions": ("imp", "reinit")}),
        "tickets and all controls": (lottery, resnet, few | {"conditions": every, "barriers_of": every, "levels": 1}),
        "tickets without BatchNorm": (lottery, lenet, few | {"scope": "layerwise", "rates": (("output", 0.5),)}),
        "rate rewinding": (lottery, lenet, few | {"conditions": ("imp",), "retrain": "rate", "validation": 0}),
        "fine-tuning": (lottery, resnet, few | {"conditions": ("imp",), "retrain": "finetune"}),
        "optimizer carried": (lottery, conv, few | {"conditions": ("imp", "snip"), "carry_optimizer": True}),
        "scored late": (lottery, resnet, few | {"conditions": ("snip",), "prune_iter": "100%", "per_class": 3}),
    }


# --- results about networks that exist


def results() -> Iterator[tuple[str, Any]]:
    """Results of every kind, with all that JSON has no number for."""
    inputs = (torch.arange(96.0) ** 2 * 3 % 11 / 2 - 2).reshape(24, 4)  # [examples, features]
    labels, targets = (inputs[:, 0] > inputs[:, 1]).long(), inputs[:, :1] * inputs[:, 2:3]
    a, b = (_network(start, 2) for start in (1, 2))
    yield "barrier", error_barrier(a, b, [(inputs, labels)], alphas=5, names=("first", "second"))
    yield "barrier-of-equal-networks", error_barrier(a, a, [(inputs, labels)], alphas=3)
    yield (
        "barrier-extrapolated",
        error_barrier(a, b, [(inputs, labels)], alphas=[-0.5, 0, 0.5, 1, 1.5], extrapolate=True),
    )
    many = [(inputs.repeat(50, 1), labels.repeat(50))]
    yield "barrier-decided", error_barrier(a, b, many, alphas=3, decide=0.02)
    reals = [_network(start, 1) for start in (1, 2, 3)]
    yield "barrier-of-a-regression", error_barrier(*reals[:2], [(inputs, targets)], alphas=5)
    large = _network(4, 1)
    for parameter in large.parameters():
        parameter.data *= 1e15  # finite, but the squares of what it computes are not
    larger = copy.deepcopy(large)
    larger[2].weight.data *= 1e10  # what it computes is not finite
    yield "matrix", barrier_matrix([a, b, _network(3, 2)], [(inputs, labels)], alphas=3)
    yield "matrix-not-finite", barrier_matrix([*reals, large], [(inputs, targets)], alphas=3)
    yield "layerwise", layerwise_barrier(a, b, [(inputs, labels)], alphas=3)
    yield "layerwise-infinite", layerwise_barrier(reals[0], large, [(inputs, targets)], alphas=3)
    yield "layerwise-not-a-number", layerwise_barrier(reals[0], larger, [(inputs, targets)], alphas=3)
    yield "features", feature_connectivity(a, b, [(inputs, labels)])
    dead = [_network(start, 2) for start in (1, 2)]
    for network in dead:
        nn.init.constant_(network[0].bias, -99.0)  # behind the ReLU nothing is left, and a cosine of nothing is NaN
    yield "features-of-nothing", feature_connectivity(*dead, [(inputs, labels)])


def _network(start: int, outputs: int) -> nn.Sequential:
    """A network whose weights are quarters, so that every processor computes the same."""
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, outputs))
    for index, parameter in enumerate(network.parameters()):
        at = torch.arange(parameter.numel())
        parameter.data = ((at * at * 3 + start * (7 + at) + index) % 9 / 4 - 1).reshape(parameter.shape)
    return network


# --- the processor


def rounding() -> str:
    """A hash of what a few steps of plain PyTorch make of a network like those that are trained here.

    Where it is the same, the processor and PyTorch round as those did that made the files, and floats must be equal.
    """
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(4, 10)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 10
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    content = b"".join(value.detach().numpy().tobytes() for value in network.state_dict().values())
    return hashlib.sha256(content).hexdigest()


def assert_close(new: list[dict[str, Any]], old: list[dict[str, Any]]) -> None:
    """Rows of equal columns and text, whose floats differ by 1e-5 at most."""
    for row, before in zip(new, old, strict=True):
        assert row.keys() == before.keys()
        for name, value in before.items():
            floats = isinstance(value, float)
            assert row[name] == (pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=True) if floats else value), name


# --- archives


def unpack(name: str, folder: Path) -> Path:
    """Unpack a store that the old code made; its folder."""
    with tarfile.open(MADE / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name
