"""The optimizers of tasks: PyTorch's fused functions, with what they carry on under the names of parameters.

Without the classes of `torch.optim`: making one imports a compiler, at every start of a study, and what they do besides
in every step is felt in a small network's.
"""

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from modeconn.tasks import Task

_STEP = "step"  # Adam's count, a scalar
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class Optimizer:
    """A task's optimizer of a network; the same numbers as `torch.optim`'s of that name.

    SGD is `v <- momentum v + g + weight_decay w` and `w <- w - rate v`, with Nesterov's momentum
    `w <- w - rate (g + weight_decay w + momentum v)`, where g is the gradient of weight w.

    Attributes:
        rate: the learning rate of the next step, as a number or a scalar tensor on the network's device.
        parameters: those that are trained, by name.
        slots: what is carried on for each parameter, by the names of `torch.optim`, for instance `momentum_buffer`.
            Nothing before a parameter's first step.
    """

    def __init__(self, task: Task, network: nn.Module) -> None:
        self.rate: float | Tensor = task.learning_rate
        self.parameters = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self.slots: dict[str, dict[str, Tensor]] = {}
        self._task = task

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient, in place, and drop the gradients."""
        task = self._task
        ready = [name for name, parameter in self.parameters.items() if parameter.grad is not None]
        parameters: list[Tensor] = [self.parameters[name] for name in ready]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if task.optimizer == "sgd":
            sgd(
                parameters,
                gradients,
                [*self._slot("momentum_buffer", ready)] if task.momentum else [None] * len(ready),
                fused=True,
                lr=self.rate,
                momentum=task.momentum,
                dampening=0.0,
                nesterov=task.nesterov,
                weight_decay=task.weight_decay,
                maximize=False,
            )
        else:
            {"adam": adam, "adamw": adamw}[task.optimizer](
                parameters,
                gradients,
                self._slot("exp_avg", ready),
                self._slot("exp_avg_sq", ready),
                [],
                self._slot(_STEP, ready),
                fused=True,
                lr=self.rate,
                beta1=_BETAS[0],
                beta2=_BETAS[1],
                eps=_EPSILON,
                weight_decay=task.weight_decay,
                amsgrad=False,
                maximize=False,
            )
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Leave no gradients, as before a backward pass."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def empty(self, name: str, slot: str) -> Tensor:
        """Room for a slot of a parameter: moments have its layout in memory, and Adam's count is a scalar."""
        parameter = self.parameters[name]
        return torch.empty((), device=parameter.device) if slot == _STEP else torch.empty_like(parameter)

    def _slot(self, slot: str, names: list[str]) -> list[Tensor]:
        for name in names:
            known = self.slots.setdefault(name, {})
            if slot not in known:
                known[slot] = self.empty(name, slot).zero_()
        return [self.slots[name][slot] for name in names]
