"""The floor: how many operations and bytes a piece of work takes, and how fast this machine does either."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from modeconn.evaluation.compute import autocast
from modeconn.models import build_network
from modeconn.tasks import get_task
from modeconn.training.optimizer import Optimizer

_SHAPES = {"cifar10": (3, 32, 32), "mnist": (1, 28, 28)}
_COPIED = 64 << 20  # bytes; more than caches hold


@dataclass(frozen=True)
class Amount:
    """What one image takes.

    Attributes:
        operations: multiplications and additions of matrix products and convolutions.
        bytes: that all operators read and write, as if there were no cache.
    """

    operations: float
    bytes: float


def amount(task_name: str, precision: str, batch: int, training: bool) -> Amount:
    """Counted while a batch passes through a network without numbers: forward, or a whole iteration."""
    operations, traffic = _count(task_name, precision, batch, training)
    return Amount(operations.get_total_flops() / batch, traffic.bytes / batch)


def operations_by_operator(task_name: str, precision: str, batch: int) -> dict[str, float]:
    """Of one image in a training iteration, by the names that the operators have in PyTorch's profiler on a CPU."""
    operations, _ = _count(task_name, precision, batch, training=True)
    counts = {str(packet).split(".")[-1]: float(n) for packet, n in operations.get_flop_counts()["Global"].items()}
    counts["mkldnn_convolution"] = counts.pop("convolution", 0.0)
    return {name: count / batch for name, count in counts.items() if count}


def _count(task_name: str, precision: str, batch: int, training: bool) -> tuple[FlopCounterMode, "_Traffic"]:
    task = get_task(task_name)
    device = torch.device("cpu")
    with FakeTensorMode():
        network = build_network(task.model, _SHAPES[task.data], 10, seed=0, norm=task.norm, init="own")
        network.train(training)
        optimizer = Optimizer(task, network)
        images = torch.empty(batch, *_SHAPES[task.data])
        labels = torch.zeros(batch, dtype=torch.int64)
        with FlopCounterMode(display=False) as operations, _Traffic() as traffic, torch.set_grad_enabled(training):
            with autocast(device, precision):
                loss = nn.functional.cross_entropy(network(images), labels)
            if training:
                loss.backward()
                optimizer.step()
    return operations, traffic


def matrix_products(index: int, precision: str, size: int, seconds: float) -> Callable[[], dict[str, Any]]:
    """Square ones for so many seconds; work is operations."""
    torch.manual_seed(index)
    a, b = torch.randn(2, size, size).to(getattr(torch, precision)).unbind()
    out = a @ b

    def measure() -> dict[str, Any]:
        return {"work": 2 * size**3 * _repeat(lambda: torch.mm(a, b, out=out), seconds)}

    return measure


def copies(index: int, seconds: float) -> Callable[[], dict[str, Any]]:
    """Of a large tensor for so many seconds; work is bytes, each read and written."""
    source = torch.full((_COPIED,), index, dtype=torch.uint8)
    target = source.clone()

    def measure() -> dict[str, Any]:
        return {"work": 2 * _COPIED * _repeat(lambda: target.copy_(source), seconds)}

    return measure


def _repeat(function: Callable[[], Any], seconds: float) -> int:
    """How often a function was called in at least so many seconds."""
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        function()
        count += 1
    return count


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of all operators' inputs and outputs; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operator."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.namespace == "aten":  # and not when asked what device a tensor is on
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out
