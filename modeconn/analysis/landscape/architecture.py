"""What a network computes besides its tensors, to be told by: the code and the plain attributes of its modules."""

from typing import Any

from torch import nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def architecture_of(network: nn.Module) -> list[Any]:
    """Of every module, its name, its code, what it says of itself and its plain attributes.

    `modeconn.training.content.content_hash` makes one text of it.

    >>> relu, tanh = (nn.Sequential(nn.Linear(2, 2), activation) for activation in (nn.ReLU(), nn.Tanh()))
    >>> architecture_of(relu) == architecture_of(tanh)
    False
    """
    return [
        [
            name,
            type(module),
            module.extra_repr(),
            {key: value for key, value in sorted(vars(module).items()) if isinstance(value, _PLAIN)},
        ]
        for name, module in network.named_modules()
    ]
