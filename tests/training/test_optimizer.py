"""Optimizers compute what the classes of `torch.optim` do."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from modeconn.tasks import Task
from modeconn.training.optimizer import Optimizer

SGD = Task(optimizer="sgd", learning_rate=0.125)
TASKS = {
    "plain": SGD,
    "weight decay": replace(SGD, weight_decay=0.01),
    "momentum": replace(SGD, momentum=0.9, weight_decay=0.01),
    "nesterov": replace(SGD, momentum=0.9, nesterov=True),
    "adam": replace(SGD, optimizer="adam", weight_decay=0.01),
    "adamw": replace(SGD, optimizer="adamw", weight_decay=0.01),
}


def of_torch(task: Task, network: nn.Module) -> torch.optim.Optimizer:
    """Each parameter for itself, without fused kernels: another implementation of the same formulas."""
    if task.optimizer == "sgd":
        options = {"momentum": task.momentum, "nesterov": task.nesterov}
        return torch.optim.SGD(
            network.parameters(), task.learning_rate, weight_decay=task.weight_decay, foreach=False, **options
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[task.optimizer]
    return kind(network.parameters(), task.learning_rate, weight_decay=task.weight_decay, foreach=False)


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.ModuleDict({"a": nn.Linear(3, 4), "late": nn.Linear(3, 4), "never": nn.Linear(3, 4)})
    made["frozen"] = nn.Linear(3, 4).requires_grad_(False)
    return made.double()


def loss(net: nn.Module, step: int) -> torch.Tensor:
    torch.manual_seed(step)
    inputs = torch.randn(5, 3, dtype=torch.float64)
    used = [net["a"], net["frozen"]] + ([net["late"]] if step >= 2 else [])
    return torch.stack([layer(inputs).square().mean() for layer in used]).sum()


@pytest.mark.parametrize("rate", [float, torch.tensor], ids=["number", "tensor"])
@pytest.mark.parametrize("name", TASKS)
def test_steps_are_those_of_torch_optim(name, rate):
    """Learning rates that change, a parameter that has a gradient only later, one that never has, and a frozen one."""
    task = TASKS[name]
    ours, theirs = network(), network()
    optimizer, reference = Optimizer(task, ours), of_torch(task, theirs)
    for step in range(5):
        optimizer.rate = rate(0.125 * 2.0**-step)
        reference.param_groups[0]["lr"] = 0.125 * 2.0**-step
        reference.zero_grad()
        loss(ours, step).backward()
        loss(theirs, step).backward()
        optimizer.step()
        reference.step()
        assert all(parameter.grad is None for parameter in ours.parameters())
        for (key, found), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, msg=key)
    for key, parameter in theirs.named_parameters():
        slots = {slot: value for slot, value in reference.state.get(parameter, {}).items() if value is not None}
        assert optimizer.slots.get(key, {}).keys() == slots.keys()
        for slot, expected in slots.items():
            torch.testing.assert_close(optimizer.slots[key][slot], expected, rtol=1e-12, atol=0)


@pytest.mark.processes
def test_no_compiler_is_imported():
    """It would take longer than the digits network's training."""
    code = (
        "import sys, torch; from modeconn import get_task; from modeconn.training.optimizer import Optimizer\n"
        "net = torch.nn.Linear(2, 2); optimizer = Optimizer(get_task('mnist-lenet'), net)\n"
        "net(torch.ones(1, 2)).sum().backward(); optimizer.step()\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
