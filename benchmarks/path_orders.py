"""Other orders in which a path could be measured, beside the one that is used: alpha by alpha, batch by batch within.

    python -m benchmarks.path_orders mnist-lenet --data-dir DIR --alphas 29
    python -m benchmarks.path_orders digits-conv --split train --alphas 29
    python -m benchmarks.path_orders cifar10-resnet20 --data-dir DIR --images 1000 --alphas 3

The path lies between two initialisations, as trained weights take as long. Ways take turns in one process on one
thread, and what is compared is processor time. The floor is the network's forward passes alone, on batches that are
ready.

- "batches kept": normalized once for all alphas, and kept in memory.
- "groups of 4": four batches at a time, normalized once, pass through all alphas, whose weights are interpolated anew.
- "first layer of both ends": without normalization before it, the first layer's product with interpolated weights is
  the interpolation of its products with both ends. Two products then serve all alphas, and numbers differ by rounding.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from modeconn.analysis.paths.alphas import grid
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import Line, make_line
from modeconn.data import load_data
from modeconn.data.batches import SplitBatches
from modeconn.evaluation.compute import computing
from modeconn.evaluation.meters import CLASSIFICATION
from modeconn.evaluation.scores import score_classification
from modeconn.execution.memory import keep_freed_memory
from modeconn.tasks import get_task
from modeconn.training.trainer import build_task_network
from modeconn.weights.sources import weights_of

_GROUP = 4
Sums = dict[float, tuple[float, float]]  # errors and sum of losses by alpha
Way = Callable[[], Sums]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.path_orders", description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("--split", default="test")
    parser.add_argument("--alphas", type=int, default=29, help="between the ends")
    parser.add_argument("--images", type=int, help="only the first so many, in whole batches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-dir", default="data")
    options = parser.parse_args()
    keep_freed_memory()
    task = get_task(options.task)
    data = load_data(task.data, options.data_dir)
    with computing(torch.device("cpu")):
        ends = [build_task_network(task, data, init_seed=seed).eval() for seed in range(2)]
        a, b = (weights_of(end, "an end") for end in ends)
        line = make_line(a, b, [name for name, _ in ends[0].named_parameters()])
        batches = _Few(SplitBatches(data, options.split), options.images)
        evaluator = PathEvaluator(build_task_network(task, data, init_seed=0).eval(), CLASSIFICATION, {"": batches})
        compare(ways(evaluator, line, batches, grid(options.alphas + 2)[1:-1]), options.rounds)


def ways(evaluator: PathEvaluator, line: Line, batches: Iterable[Any], alphas: tuple[float, ...]) -> dict[str, Way]:
    """The used way first; the floor last, which measures nothing."""
    kept = list(batches)
    found: dict[str, Way] = {
        "used": lambda: _alpha_by_alpha(evaluator, line, alphas),
        "batches kept": lambda: _alpha_by_alpha(replace(evaluator, data={"": kept}), line, alphas),
        f"groups of {_GROUP}": lambda: _group_by_group(evaluator, line, batches, alphas),
    }
    layers = [module for module in evaluator.network.modules() if not list(module.children())]
    if all(isinstance(layer, nn.Linear | nn.ReLU | nn.Flatten | nn.Identity) for layer in layers):
        found["first layer of both ends"] = lambda: _first_layer_of_both(line, batches, alphas)
    return found | {"floor": lambda: _forward_alone(evaluator.network, kept, len(alphas))}


def compare(found: dict[str, Way], rounds: int) -> None:
    """Print processor time, the ratio to the used way, and how far the numbers are from its."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    sums: dict[str, Sums] = {}
    for _ in range(rounds):
        for name, way in found.items():
            began = time.process_time()
            sums[name] = way()
            seconds[name].append(time.process_time() - began)
    used, *_ = found
    print(f"{'':26} processor time, times as fast, errors and losses apart; {rounds} rounds")
    for name, of_way in seconds.items():
        ratios = np.array(seconds[used]) / of_way
        line = (
            f"{name:26} {np.median(of_way):7.3f} s {np.median(ratios):6.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        )
        apart = [abs(np.subtract(sums[name][a], sums[used][a]) / (1, sums[used][a][1])) for a in sums[name]]
        print(line, "{:.0f} examples, {:.1g} of the loss".format(*np.max(apart, axis=0)) if apart else "")


def _alpha_by_alpha(evaluator: PathEvaluator, line: Line, alphas: Iterable[float]) -> Sums:
    measured = {alpha: evaluator.measure_at(line, alpha)[""] for alpha in alphas}
    return {alpha: (of.total("error"), of.total("loss")) for alpha, of in measured.items()}


@torch.no_grad()
def _group_by_group(evaluator: PathEvaluator, line: Line, batches: Iterable[Any], alphas: Iterable[float]) -> Sums:
    parts: dict[float, list[Any]] = {alpha: [] for alpha in alphas}
    reading = iter(batches)
    while group := list(islice(reading, _GROUP)):
        for alpha, of_alpha in parts.items():
            network = evaluator.network_at(line, alpha)
            of_alpha += [evaluator.meter.measure(network, batch).sums for batch in group]
    return {alpha: _total(of_alpha) for alpha, of_alpha in parts.items()}


@torch.no_grad()
def _first_layer_of_both(line: Line, batches: Iterable[Any], alphas: Iterable[float]) -> Sums:
    a, b = ([end.read(name) for name in end.layout] for end in (line.a, line.b))
    first, rest = slice(0, 2), slice(2, None)  # weight and bias, layer by layer
    weights = {alpha: [torch.lerp(x, y, alpha) for x, y in zip(a[rest], b[rest], strict=True)] for alpha in alphas}
    parts: dict[float, list[Any]] = {alpha: [] for alpha in alphas}
    for images, labels in batches:
        of_a, of_b = (linear(images.flatten(1), *end[first]) for end in (a, b))
        for alpha, of_alpha in parts.items():
            x = torch.lerp(of_a, of_b, alpha)
            for weight, bias in zip(weights[alpha][::2], weights[alpha][1::2], strict=True):
                x = linear(x.relu_(), weight, bias)
            of_alpha.append(score_classification(x, labels).sums)
    return {alpha: _total(of_alpha) for alpha, of_alpha in parts.items()}


@torch.no_grad()
def _forward_alone(network: nn.Module, batches: list[tuple[Tensor, Tensor]], times: int) -> Sums:
    for _ in range(times):
        for images, _ in batches:
            network(images)
    return {}


def _total(parts: list[dict[str, Tensor]]) -> tuple[float, float]:
    joined = {name: torch.cat([part[name] for part in parts]).numpy() for name in ("error", "loss")}
    return float(joined["error"].sum(dtype=np.float64)), float(joined["loss"].sum(dtype=np.float64))


class _Few:
    """Batches until there are so many images."""

    def __init__(self, batches: Iterable[Any], images: int | None) -> None:
        self.batches, self.images = batches, images

    def __iter__(self) -> Iterator[Any]:
        seen = 0
        for images, labels in self.batches:
            yield images, labels
            seen += len(labels)
            if self.images is not None and seen >= self.images:
                return


if __name__ == "__main__":
    main()
