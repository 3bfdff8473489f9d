"""The training loss of anyone's network as a function of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from modeconn.analysis.connectivity.comparison import Comparison
from modeconn.analysis.landscape.curves.feed import seed_everything
from modeconn.analysis.paths.linear import can_interpolate, compute_dtype, load_weights
from modeconn.errors import NetworkError
from modeconn.evaluation.compute import autocast
from modeconn.evaluation.losses import Loss, mean_loss
from modeconn.evaluation.measure import device_of
from modeconn.seeds import mix
from modeconn.weights.plain_copy import plain_copy


@dataclass(frozen=True, eq=False)
class TrainingLoss:
    """The loss of a batch at any weights, in training mode: BatchNorm normalizes by the batch, and dropout draws.

    Attributes:
        network: ours, in training mode, its tensors at least float32.
        loss: see `modeconn.evaluation.losses.mean_loss`.
        trained: names of the parameters that are trained, each tensor once.
        precision: of the forward pass.
        seed: of dropout.
    """

    network: nn.Module
    loss: Loss | None
    trained: tuple[str, ...]
    precision: str
    seed: int

    def __call__(self, weights: Mapping[str, Tensor], batch: Any, step: int) -> Tensor:
        """The mean loss of a batch, a scalar with its graph.

        Args:
            weights: the parameters and buffers that are not those of the network.
            batch: it may be written to.
            step: what dropout draws is a function of it.
        """
        # What layers count in buffers is not carried from one point to another.
        tensors = {name: buffer.clone() for name, buffer in self.network.named_buffers()} | dict(weights)
        device = device_of(self.network)
        seed_everything(mix(self.seed, "dropout", step), device)
        with autocast(device, self.precision):
            found: Tensor = functional_call(
                _Loss(self.network, self.loss),
                {f"network.{name}": tensor for name, tensor in tensors.items()},
                (batch,),
            )
        if torch.is_grad_enabled() and not found.requires_grad and any(w.requires_grad for w in weights.values()):
            raise NetworkError(
                "the training loss does not depend on the weights; let loss= compute it with the network it is given"
            )
        return found


class _Loss(nn.Module):
    """A network with its loss, as one module whose weights can be given for a call."""

    def __init__(self, network: nn.Module, loss: Loss | None) -> None:
        super().__init__()
        self.network, self._loss = network, loss

    def forward(self, batch: Any) -> Tensor:
        return mean_loss(self.network, batch, self._loss)


def training_loss(comparison: Comparison, loss: Loss | None, seed: int) -> TrainingLoss:
    """The training loss of the network that a comparison's networks fit.

    Trained is what requires gradients in that network; of what it holds twice in one memory, the one.

    Raises:
        NetworkError: a scripted network, weights that are one in memory in two shapes, or nothing to train.
    """
    network = plain_copy(comparison.evaluator.network)
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise NetworkError(
            "scripted and traced networks are not trained here; give the network as it was before torch.jit"
        )
    load_weights(network, comparison.networks[0])
    named = dict(network.named_parameters())
    if reshaped := named.keys() - set(comparison.parameters):
        raise NetworkError(
            f"{', '.join(sorted(reshaped))} has its numbers in the memory of another weight, in another shape, and "
            "would be trained apart from it; give a network that has each weight once"
        )
    for tensor in (*network.parameters(), *network.buffers()):
        if can_interpolate(tensor):
            tensor.data = tensor.data.to(compute_dtype(tensor.dtype))
    trained = tuple(name for name, parameter in named.items() if parameter.requires_grad)
    if not trained:
        raise NetworkError("no parameter of the network requires gradients, so there is nothing to train")
    return TrainingLoss(network.train(), loss, trained, comparison.evaluator.precision, seed)
