"""Products of vectors with the Hessian, or the Gauss-Newton matrix, of a network's mean loss over data."""

import contextlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeconn.analysis.landscape.curvature.differentiable import naming_functions, refuse_once_differentiable, through
from modeconn.analysis.landscape.curvature.micro_batches import examples_in, micro_batches, weight_of
from modeconn.errors import DataError, NetworkError, OptionError, unknown
from modeconn.evaluation.batches import BATCH, EMPTY
from modeconn.evaluation.forward import split_batch
from modeconn.evaluation.losses import Loss, mean_loss
from modeconn.evaluation.meters import kind_of_target
from modeconn.evaluation.structures import map_tensors

KINDS = ("hessian", "gauss-newton")
_ASYMMETRY = 0.005  # of u^T H v in random directions, relative to H; rounding leaves less
_LOSSES = {
    "classification": "cross-entropy",
    "tokens": "cross-entropy per token",
    "multi-label": "binary cross-entropy",
    "regression": "mean squared error",
}


class NotFinite(DataError, NetworkError):
    """A loss, or a product with the matrix, that is not finite: of a network that diverged, or beyond its precision."""


@dataclass(frozen=True, eq=False)
class Curvature:
    """The Hessian, or the Gauss-Newton matrix, of a network's mean loss over data, by its products with vectors.

    Vectors are flat: the parameters in their order, one after the other. The network is in the mode that it is in.

    Attributes:
        network: ours; nothing of it is changed.
        batches: gone through for every product, the same in each pass.
        parameters: those with respect to which the loss is differentiated, by name, each tensor once.
        kind: `"hessian"`, H; or `"gauss-newton"`, G = J^T H_out J with the Jacobian J of the network's outputs and the
            Hessian H_out of the loss with respect to these (Schraudolph 2002).
        loss: the caller's own, or None; see `modeconn.evaluation.losses.mean_loss`.
        size: examples that are differentiated at once, at most: the memory of second derivatives grows with them.
        examples: how many of the data count; all if None.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> curvature = curvature_of(nn.Linear(2, 1, bias=False), [(x, torch.tensor([[0.5], [2.0]]))])
    >>> curvature.product(torch.ones(2))  # (2 / N) X^T X v
    tensor([1., 4.])
    """

    network: nn.Module
    batches: Iterable[Any]
    parameters: Mapping[str, Tensor]
    kind: str = "hessian"
    loss: Loss | None = None
    size: int = BATCH
    examples: int | None = None
    _found: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def dimension(self) -> int:
        """How many parameters there are."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def like(self) -> Tensor:
        """A parameter, whose type and device vectors have."""
        return next(iter(self.parameters.values()))

    def product(self, vector: Tensor) -> Tensor:
        """The product with a vector, float [parameters].

        Raises:
            NetworkError: the loss has no second derivative.
            NotFinite: the product overflows, or is of a second derivative that is infinite.
        """
        parts = self._parts(vector)
        total = torch.zeros_like(vector)
        multiply = self._gauss_newton if self.kind == "gauss-newton" else self._hessian
        weights = 0
        with self._differentiating():
            for batch in self._pieces():
                weight = weight_of(self.network, batch, self.loss is not None)
                if weight:
                    total.add_(_flat(multiply(batch, parts), self.parameters.values()), alpha=weight)
                weights += weight
        if not bool(total.isfinite().all()):
            raise NotFinite(
                "a product with the matrix is not finite: second derivatives overflow, or are infinite as those of "
                "sqrt are at 0; double=True may help"
            )
        return total / weights

    def gradient(self) -> tuple[float, Tensor]:
        """The mean loss over the data, and its gradient, float [parameters].

        Raises:
            DataError: there are no data, or the batches suggest different losses.
            NotFinite: the loss is not finite on them.
        """
        total, value, weights, examples = torch.zeros(self.dimension).to(self.like), 0.0, 0, 0
        reached: set[str] = set()
        kinds: dict[str, None] = {}
        with self._differentiating():
            for batch in self._pieces():
                weight = weight_of(self.network, batch, self.loss is not None)
                examples += examples_in(batch)
                kinds[_kind_of_loss(self.network, batch, self.loss)] = None
                if not weight:
                    continue
                loss = mean_loss(self.network, batch, self.loss)
                if not loss.requires_grad:
                    raise NetworkError(
                        "the loss does not depend on the parameters by operations that PyTorch differentiates; compute "
                        "it without no_grad, detach or NumPy"
                    )
                found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
                reached |= {name for name, part in zip(self.parameters, found, strict=True) if part is not None}
                total.add_(_flat(found, self.parameters.values()), alpha=weight)
                value += weight * float(loss.detach())
                weights += weight
        if not weights:
            raise DataError("no label of the data counts" if examples else EMPTY)
        if len(kinds) > 1:
            raise DataError(
                f"some batches suggest one loss and some another ({', '.join(kinds)}); say with loss= what the loss is"
            )
        self._found.update(loss=next(iter(kinds)), examples=examples)
        self._found["unreached"] = [name for name in self.parameters if name not in reached]
        if not math.isfinite(value):
            raise NotFinite(
                f"the loss over the data is {value / weights}, so that it has no curvature; it is one of a network "
                "that diverged, or of data that are not finite"
            )
        return value / weights, total / weights

    def check(self) -> tuple[float, Tensor]:
        """See, before anything long, that the loss is finite and has second derivatives; it and its gradient."""
        first = next(iter(self._pieces()), None)
        if first is None:
            raise DataError(EMPTY)
        found = self.gradient()
        u, v = torch.randn(2, self.dimension, generator=torch.Generator().manual_seed(0)).to(self.like)
        multiply = self._gauss_newton if self.kind == "gauss-newton" else self._hessian
        with self._differentiating():
            of_u, of_v = (
                _flat(multiply(map_tensors(torch.clone, first), self._parts(x)), self.parameters.values())
                for x in (u, v)
            )
            functions = through(mean_loss(self.network, first, self.loss))
        # Derivatives that an own backward pass drops in silence leave a matrix that is not symmetric. Without such a
        # function, it is rounding, as where a network is so sure of its answers that float32 cannot tell them from 1.
        if functions and abs(float(u @ of_v - v @ of_u)) > _ASYMMETRY * float(of_v.norm() + of_u.norm()):
            raise NetworkError(
                "the second derivatives of the loss are not symmetric, so that some are missing: a backward pass of "
                f"its own drops them{functions}; write it with operations that PyTorch can differentiate, or take "
                "double=True if that is rounding"
            )
        return found

    @property
    def about(self) -> str:
        """Which loss on how many examples, in words, once the data were gone through."""
        return f"{self._found['loss']} on {self._found['examples']:,} examples"

    @property
    def counted(self) -> int:
        """How many examples there are, once the data were gone through."""
        return int(self._found["examples"])

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noticed, once the data were gone through."""
        notes = []
        if unreached := self._found.get("unreached", []):
            notes.append(f"the loss does not depend on {_few(unreached)}: rows and columns of zeros")
        others = [name for name, parameter in self.network.named_parameters() if parameter.is_floating_point()]
        if numbers := [name for name, parameter in self.network.named_parameters() if parameter.is_complex()]:
            notes.append(f"complex parameters are left out, as if they were constants: {_few(numbers)}")
        if frozen := [name for name in others if name not in self.parameters]:
            notes.append(
                f"parameters that do not require gradients, or are others' memory, are left out: {_few(frozen)}"
            )
        return tuple(notes)

    def on(self, batches: Iterable[Any]) -> "Curvature":
        """That of the same loss on all of other batches."""
        return replace(self, batches=batches, examples=None, _found={})

    def state_of(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector as a state dict of the parameters."""
        return {name: part.clone() for name, part in zip(self.parameters, self._parts(vector), strict=True)}

    def _parts(self, vector: Tensor) -> list[Tensor]:
        sizes = [parameter.numel() for parameter in self.parameters.values()]
        return [
            part.view(parameter.shape)
            for part, parameter in zip(vector.split(sizes), self.parameters.values(), strict=True)
        ]

    def _pieces(self) -> Iterator[Any]:
        return micro_batches(self.batches, self.size, self.like.dtype, self.examples)

    @contextlib.contextmanager
    def _differentiating(self) -> Iterator[None]:
        # Fused kernels of attention have no second derivative; cuDNN's of recurrent layers have none either, and in
        # evaluation mode no first one.
        recurrent = any(isinstance(module, nn.RNNBase) for module in self.network.modules())
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if recurrent:
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield

    def _hessian(self, batch: Any, vector: list[Tensor]) -> list[Tensor | None]:
        loss = mean_loss(self.network, batch, self.loss)
        with naming_functions(loss):
            gradient = torch.autograd.grad(loss, list(self.parameters.values()), create_graph=True, allow_unused=True)
            refuse_once_differentiable(gradient)
            return list(_differentiate_again(gradient, vector, list(self.parameters.values())))

    def _gauss_newton(self, batch: Any, vector: list[Tensor]) -> list[Tensor | None]:
        loss, output, leaf = _with_output(self.network, batch, self.loss)
        parameters = list(self.parameters.values())
        with naming_functions(output):
            # J v is the derivative of J^T u, which is linear in u, with respect to u.
            u = torch.zeros_like(output, requires_grad=True)
            pulled = torch.autograd.grad(output, parameters, u, create_graph=True, allow_unused=True)
            refuse_once_differentiable(pulled)
            used = [(part, v) for part, v in zip(pulled, vector, strict=True) if part is not None]
            (pushed,) = torch.autograd.grad([part for part, _ in used], u, [v for _, v in used], retain_graph=True)
            (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
            (curved,) = _differentiate_again((slope,), [pushed], [leaf])
            if curved is None:
                return [None] * len(parameters)
            return list(torch.autograd.grad(output, parameters, curved, allow_unused=True))


def curvature_of(
    network: nn.Module,
    batches: Iterable[Any],
    *,
    kind: str = "hessian",
    loss: Loss | None = None,
    names: Collection[str] | None = None,
    size: int = BATCH,
    examples: int | None = None,
) -> Curvature:
    """The curvature of a network of ours, which is in the mode and the type that it is to be differentiated in.

    Args:
        network: the loss is differentiated with respect to its floating-point parameters that require gradients, or
            all of them where none does.
        batches: on the network's device.
        kind: `"hessian"` or `"gauss-newton"`.
        loss: as of `modeconn.evaluation.losses.mean_loss`.
        names: parameters that count; all if None.
        size: examples that are differentiated at once, at most.
        examples: how many of the data count, the first ones; all if None.

    Raises:
        OptionError: another kind.
        NetworkError: no parameters.
    """
    if kind not in KINDS:
        raise unknown("kind of curvature", str(kind), KINDS)
    found = {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.is_floating_point() and parameter.numel() and (names is None or name in names)
    }
    if not found:
        raise NetworkError("the network has no floating-point parameters, so that its loss has no curvature")
    trainable = {name: parameter for name, parameter in found.items() if parameter.requires_grad}
    if not trainable:
        for parameter in found.values():
            parameter.requires_grad_(True)
    return Curvature(network, batches, trainable or found, kind, loss, size, examples)


def _kind_of_loss(network: nn.Module, batch: Any, loss: Loss | None) -> str:
    """Which loss a batch suggests, in words."""
    if loss is not None:
        return f"loss={getattr(loss, '__name__', type(loss).__name__)}"
    outputs: list[Any] = []
    handle = network.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        with torch.no_grad():  # on a copy, as a network may write to its input
            mean_loss(network, map_tensors(torch.clone, batch))
    finally:
        handle.remove()
    *_, target = split_batch(network, batch)
    if not isinstance(outputs[-1], Tensor):
        return "the network's own loss" if hasattr(outputs[-1], "loss") else "the loss of the network's logits"
    return _LOSSES[kind_of_target(outputs[-1], target) or "regression"]


def _with_output(network: nn.Module, batch: Any, loss: Loss | None) -> tuple[Tensor, Tensor, Tensor]:
    """The loss as a function of the network's output: the loss, the output, and the leaf that stands for it there.

    Raises:
        OptionError: the network's output is no tensor, or it is called several times.
    """
    outputs: list[tuple[Tensor, Tensor]] = []

    def cut(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or outputs:
            what = "is called several times" if outputs else f"gives {type(output).__name__}, not one tensor"
            raise OptionError(
                f"the Gauss-Newton matrix needs a loss of the network's output, and the network {what}; take "
                'kind="hessian"'
            )
        outputs.append((output, output.detach().requires_grad_(True)))
        return outputs[0][1]

    handle = network.register_forward_hook(cut)
    try:
        value = mean_loss(network, batch, loss)
    finally:
        handle.remove()
    if not outputs:
        raise OptionError("loss(network, batch) does not call the network, so that it is no loss of its output")
    (output, leaf), *_ = outputs
    return value, output, leaf


def _differentiate_again(
    gradient: Iterable[Tensor | None], vector: list[Tensor], of: list[Tensor]
) -> tuple[Tensor | None, ...]:
    """The derivative of the product of a gradient and a vector; None where it is zero."""
    used = [(part, v) for part, v in zip(gradient, vector, strict=True) if part is not None and part.requires_grad]
    if not used:  # a loss that is linear
        return (None,) * len(of)
    return torch.autograd.grad([part for part, _ in used], of, [v for _, v in used], allow_unused=True)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _flat(parts: Iterable[Tensor | None], like: Iterable[Tensor]) -> Tensor:
    pairs = zip(parts, like, strict=True)
    return torch.cat([(torch.zeros_like(of) if part is None else part.detach()).reshape(-1) for part, of in pairs])
