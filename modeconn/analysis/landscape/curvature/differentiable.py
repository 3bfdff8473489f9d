"""What stands in the way of second derivatives, found in the graph of a loss and named."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from modeconn.errors import NetworkError


@contextlib.contextmanager
def naming_functions(value: Tensor) -> Iterator[None]:
    """Say which functions of the caller's own are on the way to a value that cannot be differentiated twice."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise NetworkError(
            f"the loss has no second derivative{through(value)}: {error}; write the backward pass of such a function "
            "with operations that PyTorch can differentiate"
        ) from error


def through(value: Tensor) -> str:
    """Which `torch.autograd.Function`s are on the way to a value, as words for a message."""
    names = sorted({node._forward_cls.__name__ for node in _nodes([value]) if hasattr(node, "_forward_cls")})
    return f" through {', '.join(names)}" if names else ""


def refuse_once_differentiable(gradient: Iterable[Tensor | None]) -> None:
    """Refuse gradients that go through a backward pass that is marked as differentiable once.

    PyTorch would only do so if the second derivative led into the place that it is marked at, and not past it.
    """
    if any(node.name() in ("torch::autograd::Error", "DelayedError") for node in _nodes(gradient)):
        raise RuntimeError("a backward pass on the way is marked as once differentiable")


def _nodes(values: Iterable[Tensor | None]) -> Iterator[Any]:
    """All nodes of the graphs that lead to values."""
    seen: set[Any] = set()
    left: list[Any] = [value.grad_fn for value in values if value is not None]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        left += [following for following, _ in node.next_functions]
