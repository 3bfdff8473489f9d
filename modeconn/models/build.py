"""Networks by name: the papers', and anyone's by import path."""

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from modeconn.errors import NetworkError, OptionError, unknown
from modeconn.models import conv, digits, imagenet, lenet, resnet, transformer, vgg
from modeconn.models.imported import build_imported, factory_arguments, import_function
from modeconn.models.layers import INITS, NORMS, Architecture

_COPIES = 3  # of a network's parameters that training holds: weights, gradients, momentum
# pattern of a name: builder, called with what the pattern's group matched (a depth, widths, ...) and the dimensions
_BUILDERS: dict[str, Callable[[str, Architecture], nn.Module]] = {
    r"lenet((?:-\d+)+)": lenet.build,
    r"conv-(2|4|6)": conv.build,
    r"resnet-(\d+)": resnet.build,
    r"vgg-(11|13|16|19)": vgg.build,
    r"vit-(\d+)": transformer.build,
    r"digits-conv": digits.build,
    r"imagenet-(resnet50|inception-v3)": imagenet.build,
}
MODEL_NAMES = (
    *("lenet-300-100", "conv-2", "conv-4", "conv-6", "resnet-20", "vgg-11", "vgg-13", "vgg-16", "vgg-19"),
    *("vit-4", "digits-conv", "imagenet-resnet50", "imagenet-inception-v3", "package.module:factory"),
)


def build_network(
    model: str,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    seed: int,
    width: float = 1.0,
    norm: str = "batch",
    dropout: float = 0.0,
    init: str = "kaiming",
) -> nn.Module:
    """Build a freshly initialized network, the same for the same arguments; the caller's random state is unchanged.

    Args:
        model: a name (`MODEL_NAMES`; LeNets of any widths, ResNets of any depth 6n + 2, vision transformers over
            patches of any number of pixels), or `package.module:factory`. A factory may take `input_shape` and
            `classes`; it keeps its own initialisation, and `width`, `norm`, `dropout` and `init` do not apply to it.
        input_shape: channels, height, width.
        classes: number of outputs.
        seed: of the initialisation.
        width: multiplies the number of channels.
        norm: `"batch"`, `"layer"`, `"group"` or `"none"`; see `modeconn.models.layers.NORMS`.
        dropout: probability before every fully-connected layer but the first.
        init: `"glorot"`, `"kaiming"`, `"open-lth"` or `"own"`; see `modeconn.models.layers.INITS`.

    Raises:
        OptionError: unknown name, or a depth or width that the family does not have.
        NetworkError: a factory that cannot be imported or does not give a module; a network without parameters.

    >>> network = build_network("lenet-300-100", (1, 28, 28), 10, seed=0)
    >>> sum(parameter.numel() for parameter in network.parameters())
    266610
    """
    for kind, name, known in (("norm", norm, NORMS), ("init", init, INITS)):
        if name not in known:
            raise unknown(kind, name, known)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # and not the GPUs' generators, which are the caller's
        if ":" in model:
            network = build_imported(model, input_shape, classes)
        else:
            network = _build_named(model, Architecture(input_shape, classes, width, norm, dropout))
            network.apply(INITS[init])
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise NetworkError(f"network {model!r} has no parameters that can be trained")
    return network


def builder_of(model: str, input_shape: tuple[int, int, int], classes: int, **options: Any) -> dict[str, Any]:
    """The call that builds a network, for whoever has its weights alone: a `function` by import path, its `arguments`.

    Args:
        model, input_shape, classes: as of `build_network`.
        options: `width`, `norm`, `dropout` and `init`, as of `build_network`.

    Raises:
        NetworkError: a factory that cannot be imported.

    >>> builder_of("vgg-16", (3, 32, 32), 10)["arguments"]
    {'model': 'vgg-16', 'input_shape': (3, 32, 32), 'classes': 10, 'seed': 0}
    """
    if ":" in model:
        return {"function": model, "arguments": factory_arguments(import_function(model), input_shape, classes)}
    arguments = {"model": model, "input_shape": input_shape, "classes": classes, "seed": 0, **options}
    return {"function": f"{__package__}:{build_network.__name__}", "arguments": arguments}


def _build_named(model: str, wanted: Architecture) -> nn.Module:
    for pattern, builder in _BUILDERS.items():
        match = re.fullmatch(pattern, model)
        if not match:
            continue
        if wanted.dropout and builder not in (lenet.build, conv.build):
            raise OptionError(f"network {model!r} has no dropout; LeNet and Conv-N do")
        build = partial(builder, match[1] if match.groups() else "", wanted)
        try:
            if wanted.width > 1 or builder is lenet.build:
                _require_room(build)
            return build()
        except (ValueError, OverflowError) as error:
            raise OptionError(f"network {model!r:.60}: {error}") from error
    if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", model):
        module, _, factory = model.rpartition(".")
        raise OptionError(f"unknown network {model!r}; a function of yours is written with a colon: {module}:{factory}")
    raise unknown("network", model, MODEL_NAMES)


def _require_room(build: Callable[[], nn.Module]) -> None:
    """Count the parameters of a network that is asked to be wide, before its memory is asked for.

    Raises:
        ValueError: this machine has not enough to train it.
    """
    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in build().parameters())
    except (RuntimeError, TypeError) as error:  # more than PyTorch can count
        raise ValueError("its layers would have more weights than can be counted; choose a smaller width") from error
    needed, there = _COPIES * 4 * count, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(
            f"its {count:,} parameters would take {needed / 1e9:,.0f} GB in training, and this machine has "
            f"{there / 1e9:,.0f} GB; choose a smaller width"
        )
