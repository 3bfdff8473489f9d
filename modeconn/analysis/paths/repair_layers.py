"""Which outputs REPAIR rescales: of single layers, of residual blocks, of the output layer."""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from modeconn.errors import NetworkError
from modeconn.evaluation.modes import evaluating

KINDS = ("layers", "blocks", "output")

_ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}


@dataclass(frozen=True, eq=False)
class RepairedLayers:
    """What is rescaled.

    Attributes:
        layers: convolution, linear and BatchNorm layers, and residual blocks, by module, with their names.
        output: whether the one that is called last is rescaled too.
        note: in words.
    """

    layers: Mapping[nn.Module, str]
    output: bool
    note: str


def choose_repaired_layers(
    network: nn.Module, batch: Any, forward: Callable[[Any], Any] | None = None, kinds: str | Collection[str] = "auto"
) -> RepairedLayers:
    """Choose what REPAIR rescales in a network, by default as the authors do (Jordan et al. 2022, and their notebooks).

    They rescale the outputs of convolutions (VGG), and with residual blocks (ResNet) those of the blocks as well, since
    the sum of two branches loses variance whatever the branches' normalization; in networks of linear layers alone
    (MLP), the output layer as well. Of other networks, such as transformers, nothing of theirs is known: hidden
    layers are rescaled.

    Args:
        network: unchanged afterwards.
        batch: one that is passed through the network to see what adds.
        forward: how to pass it; the network itself if None.
        kinds: among `KINDS`: `"layers"`, hidden convolution, linear and BatchNorm layers; `"blocks"`, the innermost
            modules, other than the network itself, that add two equally shaped tensors and have such a layer inside;
            `"output"`, the layer that is called last. `"auto"` for the authors'.

    Raises:
        NetworkError: a scripted or traced network.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> choose_repaired_layers(network, torch.ones(1, 2)).note
    'rescaled by REPAIR: 2 convolution, linear and BatchNorm layers, with the output layer'
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise NetworkError(
            "layers of scripted or traced networks cannot be rescaled; give the network as it was before torch.jit"
        )
    layers = repairable_layers(network)
    blocks, last = _look(network, batch, forward or network, layers)
    if kinds == "auto":
        kinds = _as_the_authors(network, layers, blocks)
    chosen = (layers if "layers" in kinds else {}) | (blocks if "blocks" in kinds else {})
    output = last if "output" in kinds else None
    if output is not None:
        chosen = chosen | {output: (layers | blocks)[output]}
    return RepairedLayers(chosen, output is not None, _note(chosen, blocks, last, output is not None))


def repairable_layers(network: nn.Module) -> dict[nn.Module, str]:
    """The convolution, linear and BatchNorm layers, by module, with their names.

    BatchNorm layers with an activation inside, such as `timm`'s, are not among them.
    """
    kinds = (nn.Linear, _ConvNd, _BatchNorm)
    return {
        module: name
        for name, module in network.named_modules()
        if (isinstance(module, kinds) or is_linear(module)) and not _activates(module)
    }


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer is a linear one; Hugging Face's GPT-2 has its own."""
    return isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"


def _as_the_authors(
    network: nn.Module, layers: Collection[nn.Module], blocks: Collection[nn.Module]
) -> tuple[str, ...]:
    if blocks:
        return ("layers", "blocks") if any(isinstance(layer, _ConvNd) for layer in layers) else ("layers",)
    parametrized = [module for module in network.modules() if any(True for _ in module.parameters(recurse=False))]
    of_mlps = (nn.Linear, _BatchNorm, nn.LayerNorm)
    return ("layers", "output") if all(isinstance(module, of_mlps) for module in parametrized) else ("layers",)


def _note(chosen: Collection[nn.Module], blocks: Collection[nn.Module], last: nn.Module | None, output: bool) -> str:
    """What is rescaled, in words; the output layer counts if it is."""
    rescaled = [module for module in chosen if output or module is not last]
    of_blocks = sum(module in blocks for module in rescaled)
    parts = [(len(rescaled) - of_blocks, "convolution, linear and BatchNorm layers"), (of_blocks, "residual blocks")]
    said = " and ".join(f"{count} {what}" for count, what in parts if count) or "nothing"
    return f"rescaled by REPAIR: {said}, {'with' if output else 'without'} the output layer"


@torch.no_grad()
def _look(
    network: nn.Module, batch: Any, forward: Callable[[Any], Any], layers: Mapping[nn.Module, str]
) -> tuple[dict[nn.Module, str], nn.Module | None]:
    """The residual blocks, and which of them and of the layers is called last, in one pass."""
    inside = {module: any(part in layers for part in module.modules()) for module in network.modules()}
    stack: list[nn.Module] = []
    called: list[nn.Module] = []
    adding: set[nn.Module] = set()

    def before(module: nn.Module, _: Any) -> None:
        stack.append(module)

    def after(module: nn.Module, _: Any, output: Any) -> None:
        while stack and stack.pop() is not module:  # those that ended in an exception that was caught
            pass
        if isinstance(output, Tensor):
            called.append(module)

    def added() -> None:
        # A module of sums alone, without a layer inside, adds on behalf of the one around it.
        block = next((module for module in reversed(stack) if inside[module]), network)
        adding.add(block)

    with evaluating(network), contextlib.ExitStack() as hooks:
        for module in network.modules():
            hooks.enter_context(module.register_forward_pre_hook(before))
            hooks.enter_context(module.register_forward_hook(after))
        hooks.enter_context(_Additions(added))
        forward(batch)
    names = {module: name for name, module in network.named_modules()}
    blocks = {
        module: names[module]
        for module in called
        if module in adding
        and module is not network
        and module not in layers
        and not any(part in adding for part in module.modules() if part is not module)
    }
    return blocks, next((module for module in reversed(called) if module in layers or module in blocks), None)


class _Additions(TorchFunctionMode):
    """Tells of every sum of two tensors of one shape, of two dims at least."""

    def __init__(self, added: Callable[[], None]) -> None:
        super().__init__()
        self.added = added

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _ADDITIONS:
            tensors = [arg for arg in args[:2] if isinstance(arg, Tensor) and arg.dim() > 1]
            if len(tensors) == 2 and tensors[0].shape == tensors[1].shape and tensors[0].is_floating_point():
                self.added()
        return func(*args, **(kwargs or {}))


def _activates(layer: nn.Module) -> bool:
    children = layer.children() if isinstance(layer, _BatchNorm) else ()
    return any(not isinstance(child, nn.Identity) for child in children)
