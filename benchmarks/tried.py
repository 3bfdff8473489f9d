"""What was tried and is not used, beside what is: other ways to train or measure several small networks at once."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import batch_norm, cross_entropy, max_pool2d, pad

from modeconn.evaluation.compute import computing
from modeconn.execution.memory import keep_freed_memory
from modeconn.models import build_network
from modeconn.training.cohort.stacked import stack

CPU = torch.device("cpu")
_SHAPES = {"digits-conv": (1, 8, 8), "resnet-20": (3, 32, 32)}
_BATCH, _CLASSES, _LAYERS, _POOLED = 32, 10, 6, (1, 3)  # of the digits' training and network


def steps(index: int, way: str, members: int, seconds: float) -> Callable[[], dict[str, Any]]:
    """Training steps of several digits networks at once, forward, backward and SGD; work is images of all of them."""
    keep_freed_memory()
    torch.manual_seed(index)
    with computing(CPU):
        logits, parameters = _WAYS[way](members)
        optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9, fused=True)
        images, labels = torch.randn(members, _BATCH, 1, 8, 8), torch.randint(_CLASSES, (members * _BATCH,))

    def step() -> None:
        cross_entropy(logits(images).flatten(0, 1), labels, reduction="sum").div(_BATCH).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _measure(step, members * _BATCH, seconds)


def forward(index: int, network: str, batch: int, members: int, seconds: float) -> Callable[[], dict[str, Any]]:
    """Images through several networks, as when a path is measured; work is images. One member is the network itself."""
    keep_freed_memory()
    torch.manual_seed(index)
    with computing(CPU):
        alone = build_network(network, _SHAPES[network], _CLASSES, seed=0).to(memory_format=torch.channels_last).eval()
        images = torch.randn(batch, *_SHAPES[network])
        passed: Callable[[Tensor], Tensor] = alone
        if members > 1:
            stacked = stack(alone, members)
            stacked.load([alone.state_dict()] * members)
            stacked.network.eval()
            passed = stacked

    @torch.inference_mode()
    def once() -> None:
        passed(images)

    return _measure(once, members * batch, seconds)


def _measure(once: Callable[[], None], images: int, seconds: float) -> Callable[[], dict[str, Any]]:
    """As often as it goes in so many seconds, after a few times that do not count."""

    def measure() -> dict[str, Any]:
        count, end = 0, time.perf_counter() + seconds
        with computing(CPU):
            while time.perf_counter() < end:
                once()
                count += 1
        return {"work": images * count}

    with computing(CPU):
        for _ in range(5):
            once()
    return measure


Ways = tuple[Callable[[Tensor], Tensor], list[nn.Parameter]]  # images [members, batch, ...] to logits, and the weights


def _grouped(members: int) -> Ways:
    stacked = stack(_digits(), members)
    return stacked, list(stacked.network.parameters())


def _vmapped(members: int) -> Ways:
    networks = [_digits() for _ in range(members)]
    for network in networks:
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):  # running statistics are written in place, which vmap refuses
                layer.track_running_stats = False
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    stacked, buffers = stack_module_state(networks)
    weights = {name: nn.Parameter(value.detach()) for name, value in stacked.items()}
    base = networks[0]
    one = lambda weights, buffers, images: functional_call(base, (weights, buffers), (images,))  # noqa: E731
    return lambda images: vmap(one)(weights, buffers, images), list(weights.values())


def _products(members: int) -> Ways:
    """Every convolution as a batched matrix product with the patches of its input."""
    make = lambda *shape: nn.Parameter(torch.randn(members, *shape) * 0.2)  # noqa: E731
    kernels = [make(8, 9 * (1 if layer == 0 else 8)) for layer in range(_LAYERS)]
    scales, shifts = ([make(8) for _ in range(_LAYERS)] for _ in range(2))
    last, bias = make(8, _CLASSES), make(1, _CLASSES)

    def logits(images: Tensor) -> Tensor:
        x = images.transpose(1, 2)  # [members, channels, batch, height, width]
        for layer in range(_LAYERS):
            height, width = x.shape[3:]
            padded = pad(x, (1, 1, 1, 1))
            shifted = [padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
            patches = torch.stack(shifted, 2).reshape(members, -1, x.shape[2] * height * width)
            x = torch.bmm(kernels[layer], patches).view(1, members * 8, -1)
            x = batch_norm(x, None, None, scales[layer].flatten(), shifts[layer].flatten(), training=True).relu()
            x = x.view(members, 8, -1, height, width)
            if layer in _POOLED:
                x = max_pool2d(x.flatten(0, 1), 2).view(members, 8, -1, height // 2, width // 2)
        return torch.baddbmm(bias, x.mean((3, 4)).transpose(1, 2), last)

    return logits, [*kernels, *scales, *shifts, last, bias]


_WAYS: dict[str, Callable[[int], Ways]] = {"grouped": _grouped, "vmap": _vmapped, "products": _products}


def _digits() -> nn.Module:
    return build_network("digits-conv", (1, 8, 8), _CLASSES, seed=0)
