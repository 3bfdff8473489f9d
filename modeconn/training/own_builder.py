"""The call by which others build the network of somebody's own training loop, if its function can be imported."""

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn


def own_builder(init: Callable[[int], Any], names: Sequence[str], network: nn.Module) -> dict[str, Any] | None:
    """A `function` by import path and its `arguments`; None where it has no path, or gives a network with other names.

    Args:
        init: from a seed to a network, or to a state with one under `"model"`.
        names: of the state dict of the network that it gives.
        network: plain, as weights are stored.

    >>> own_builder(lambda seed: nn.Linear(2, 1), ["weight", "bias"], nn.Linear(2, 1))
    """
    name, home = getattr(init, "__name__", ""), getattr(init, "__module__", None) or ""
    module = sys.modules.get(home)
    if getattr(module, name, None) is not init or list(names) != list(network.state_dict()):
        return None
    if home == "__main__":  # a script is imported by the name of its file, which a notebook has not
        file = Path(getattr(module, "__file__", None) or "")
        home = file.stem if file.suffix == ".py" else ""
    parameters = list(inspect.signature(init).parameters.values())
    if not all(part.isidentifier() for part in home.split(".")) or not parameters:
        return None
    first = parameters[0]
    named = first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    return {"function": f"{home}:{name}", "arguments": {first.name: 0}} if named else None
