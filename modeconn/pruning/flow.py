"""The pass of SynFlow: through norms of each example as through their scale, in double precision throughout."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}


class Flow(TorchFunctionMode):
    """Within it, a network passes on what flows into its norms, and computes in double precision whatever it asks for.

    A norm of each example (layer, group, instance and root-mean-square norms, as modules or functions) would divide
    the flow by itself: the sum of outputs would hardly depend on any weight before it, and no layer's scores would sum
    to what flows. It becomes x times its scale plus its shift, as BatchNorm is in evaluation mode with the statistics
    that it begins with. Norms that somebody wrote out by hand are not recognised.

    >>> with Flow():
    ...     functional.layer_norm(torch.tensor([1.0, 3.0]), (2,), weight=torch.tensor([2.0, 0.5]))
    tensor([2.0000, 1.5000], dtype=torch.float64)
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of PyTorch, or what stands in its place."""
        args, kwargs = tuple(map(_wide, args)), {name: _wide(value) for name, value in (kwargs or {}).items()}
        if func in _NORMS:
            given = inspect.signature(func).bind(*args, **kwargs).arguments
            if given.get("use_input_stats", True):
                return _scaled(given["input"], given.get("weight"), given.get("bias"), _NORMS[func])
        found = func(*args, **kwargs)
        # A tensor made of no other, such as a first state of zeros.
        made = isinstance(found, Tensor) and not any(isinstance(value, Tensor) for value in (*args, *kwargs.values()))
        return found.to(_WIDE[found.dtype]) if made and found.dtype in _WIDE else found


_NORMS = {  # whether weights are of channels, or of the last dims
    functional.layer_norm: False,
    functional.rms_norm: False,
    functional.group_norm: True,
    functional.instance_norm: True,
}


def _scaled(values: Tensor, scale: Tensor | None, shift: Tensor | None, of_channels: bool) -> Tensor:
    def fit(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, *[1] * (values.dim() - 2)) if of_channels else tensor

    values = values if scale is None else values * fit(scale)
    return values if shift is None else values + fit(shift)


def _wide(value: Any) -> Any:
    return _WIDE.get(value, value) if isinstance(value, torch.dtype) else value
