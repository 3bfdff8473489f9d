"""Plain code that measures a network of the list, and the call that tests of refusals make."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modeconn import Barrier, ModeconnError, error_barrier
from modeconn.evaluation.modes import evaluating
from networks import IGNORED, Batch, Network, by_name


@torch.no_grad()
def direct(case: Network, network: nn.Module, batches: list[Batch]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Sums and counts of each metric for each example, from a plain loop over the caller's own network."""
    with evaluating(network):
        found = [_score(case, network, copy.deepcopy(batch)) for batch in batches]
    joined = {}
    for name in found[0]:
        pairs = [(sums, torch.as_tensor(counts).expand_as(sums)) for sums, counts in (score[name] for score in found)]
        joined[name] = tuple(torch.cat(parts).numpy() for parts in zip(*pairs, strict=True))
    return joined


def _score(case: Network, network: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    if case.kind == "own":
        return case.evaluate(network, batch)
    output = case.call(network, batch)
    output = output if output.dtype == torch.float64 else output.float()
    target = batch.get("labels", batch.get("label")) if isinstance(batch, dict) else batch[-1]
    if case.kind == "regression":
        return {"loss": ((output - target).square().sum(1), torch.full((len(output),), output.shape[1]))}
    if case.kind == "classification":
        loss = cross_entropy(output, target, reduction="none")
        return {"error": (output.argmax(1) != target, torch.ones_like(loss)), "loss": (loss, torch.ones_like(loss))}
    if case.kind == "next-token":
        output, target = output[:, :-1], target[:, 1:]
    losses = cross_entropy(output.transpose(1, 2), target, reduction="none", ignore_index=IGNORED)
    counted = target != IGNORED
    wrong = (output.argmax(2) != target) & counted
    return {"error": (wrong.sum(1), counted.sum(1)), "loss": (losses.sum(1), counted.sum(1))}


def barrier_of(a: Any = None, b: Any = None, data: Any = None, **how: Any) -> Barrier:
    """Of two MLPs on their data, unless others are given."""
    case = by_name("mlp")
    ends = [case.network(seed) if given is None else given for seed, given in ((1, a), (2, b))]
    return error_barrier(*ends, case.data if data is None else data, **({"alphas": 3} | how))


def refused(kind: type[ModeconnError], *parts: str, **how: Any) -> str:
    """The message with which it is refused; all the parts must be in it."""
    with pytest.raises(kind) as caught:
        barrier_of(**how)
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    return message


def everything(network: nn.Module) -> list[Any]:
    """All that must not change of a network: objects, bits, gradients, modes, hooks and classes."""
    found: list[Any] = []
    for module in network.modules():
        found += [id(module), type(module), module.training, [(name, id(v)) for name, v in vars(module).items()]]
        found += [(name, list(hooks.items())) for name, hooks in vars(module).items() if name.endswith("_hooks")]
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                found.append((name, id(tensor), tensor.data_ptr(), tensor.requires_grad, tensor._version))
                found += [bits(tensor), None if tensor.grad is None else bits(tensor.grad)]
    return found


def bits(tensor: Tensor) -> bytes:
    """The bytes of its values."""
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def random_state() -> list[Any]:
    """The states of all random generators."""
    return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]


def equal(a: Any, b: Any) -> bool:
    """The same names, types and bits."""
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)
