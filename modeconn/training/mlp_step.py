"""Loss and gradients of a fully-connected network, written out: autograd's operators, hence its bits, without autograd.

The products of a small network take a fraction of a millisecond, and much of what autograd does besides costs the same
whatever their size. Written out, every product goes to memory that is taken once.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_aten = torch.ops.aten


def written_out(network: nn.Module) -> Callable[[Tensor, Tensor], Tensor] | None:
    """What computes the loss and leaves the gradients of a network's parameters, if it is one that is known here.

    Known is `Flatten, Linear, ReLU, ..., Linear` in a `Sequential`, in float32 on a CPU, every parameter trained and
    none shared, and nothing hooked into it or into all modules: there the layers are all that a forward pass is.

    Returns:
        A function of images, float32 [batch, ...], and labels, int64 [batch], that gives their mean cross-entropy, [];
        None for any other network.
    """
    if type(network) is not nn.Sequential or not _is_plain(network):
        return None
    first, *rest = network
    if type(first) is not nn.Flatten or (first.start_dim, first.end_dim) != (1, -1) or len(rest) % 2 == 0:
        return None
    if [type(layer) for layer in rest] != [nn.Linear if i % 2 == 0 else nn.ReLU for i in range(len(rest))]:
        return None
    linear = [layer for layer in rest if isinstance(layer, nn.Linear)]
    parameters = [parameter for layer in linear for parameter in (layer.weight, layer.bias)]
    if len({id(parameter) for parameter in parameters}) < 2 * len(linear):  # shared, or without biases
        return None
    if not all(map(_is_trained_here, parameters)) or not all(map(_is_plain, network)):
        return None
    return _WrittenOut([_Layer.of(layer) for layer in linear])


class _WrittenOut:
    """The function that `written_out` gives."""

    def __init__(self, layers: list["_Layer"]) -> None:
        self._layers = layers
        self._one = layers[0].bias.new_ones(())  # the gradient of the loss
        # By size of batch: the last of an epoch may be a short one.
        self._memory: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        outputs, of_inputs = self._memory_for(len(labels))
        inputs = [images.flatten(1)]  # of each layer
        for layer, output in zip(self._layers, outputs, strict=True):
            torch.addmm(layer.bias, inputs[-1], layer.weight.t(), out=output)
            inputs.append(output.relu_() if layer is not self._layers[-1] else output)
        loss, gradient = self._loss_and_gradient(inputs.pop(), labels)
        for i in reversed(range(len(self._layers))):  # of this layer's output is the gradient
            layer = self._layers[i]
            torch.sum(gradient, 0, out=layer.of_bias)
            torch.mm(gradient.t(), inputs[i], out=layer.of_weight)
            layer.parameters.weight.grad, layer.parameters.bias.grad = layer.of_weight, layer.of_bias
            if i:
                gradient = torch.mm(gradient, layer.weight, out=of_inputs[i - 1])
                _aten.threshold_backward.grad_input(gradient, inputs[i], 0, grad_input=gradient)
        return loss

    def _loss_and_gradient(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy and its gradient by the logits, in the four operators that it has in autograd."""
        log_softmax = _aten._log_softmax(logits, 1, False)
        how = (None, 1, -100)  # no weights of classes, the mean, the label that counts for nothing
        loss, total = _aten.nll_loss_forward(log_softmax, labels, *how)
        gradient = _aten.nll_loss_backward(self._one, log_softmax, labels, *how, total)
        return loss, _aten._log_softmax_backward_data(gradient, log_softmax, 1, logits.dtype)

    def _memory_for(self, batch: int) -> tuple[list[Tensor], list[Tensor]]:
        """For the outputs of all layers, and for the gradients of the inputs of all but the first."""
        if batch not in self._memory:
            outputs = [layer.bias.new_empty(batch, len(layer.bias)) for layer in self._layers]
            self._memory[batch] = outputs, [torch.empty_like(output) for output in outputs[:-1]]
        return self._memory[batch]


@dataclass(frozen=True, eq=False)
class _Layer:
    """A linear layer, its weights as plain tensors in the same memory, and memory for their gradients."""

    parameters: nn.Linear
    weight: Tensor
    bias: Tensor
    of_weight: Tensor
    of_bias: Tensor

    @classmethod
    def of(cls, layer: nn.Linear) -> "_Layer":
        weight, bias = layer.weight.detach(), layer.bias.detach()
        return cls(layer, weight, bias, torch.empty_like(weight), torch.empty_like(bias))


def _is_trained_here(parameter: Tensor | None) -> bool:
    if type(parameter) is not nn.Parameter:  # None, where there is no bias
        return False
    plain = parameter.is_leaf and not parameter._backward_hooks
    accumulated = getattr(parameter, "_post_accumulate_grad_hooks", None)
    known = parameter.device.type == "cpu" and parameter.dtype == torch.float32 and parameter.is_contiguous()
    return plain and not accumulated and known and parameter.requires_grad


def _is_plain(module: nn.Module) -> bool:
    """Whether calling a module is its class's `forward` and nothing else."""
    everywhere = nn.modules.module
    hooks = itertools.chain(
        *(getattr(module, name) for name in _HOOKS), *(getattr(everywhere, f"_global{name}") for name in _HOOKS)
    )
    compiled = module._compiled_call_impl is not None
    return next(hooks, None) is None and "forward" not in vars(module) and not compiled


_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
