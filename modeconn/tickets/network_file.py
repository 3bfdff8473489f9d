"""The text of `network.py`, by which whoever has a ticket's folder builds its network."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from modeconn.errors import DataError

NETWORK = "network.py"

_HEAD = '''"""{title}.

    network = load()  # weights at iteration {iteration}, pruned ones zero
    mask = load_mask()  # booleans by parameter name: keep the others zero in training
{trained}"""

from pathlib import Path

import torch
from safetensors.torch import load_file

from {module} import {function}

FOLDER = Path(__file__).parent


def build() -> torch.nn.Module:
    """A network of this architecture, with weights of its own."""
    made = {function}({arguments})
    return made["model"] if isinstance(made, dict) else made


def load(weights: str = "{weights}") -> torch.nn.Module:
    """A network with the weights of a file in this folder."""
    network = build()
    network.load_state_dict(load_file(FOLDER / weights))
    return network


def load_mask() -> dict[str, torch.Tensor]:
    """Which weights remain."""
    return load_file(FOLDER / "{mask}")
'''
_SCALE = '''

def scale(images: torch.Tensor) -> torch.Tensor:
    """Images uint8 [batch, channels, height, width] as the network takes them: (pixel / 255 - mean) / std."""
    mean = torch.tensor({mean}).reshape(-1, 1, 1)
    std = torch.tensor({std}).reshape(-1, 1, 1)
    return (images / 255 - mean) / std
'''


def network_text(
    builder: Mapping[str, Any],
    *,
    title: str,
    iteration: int,
    weights: str,
    mask: str,
    trained: str | None,
    test_error: float,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> str:
    """Python code that loads a ticket.

    Args:
        builder: `function` by import path, and its `arguments`.
        title: what the ticket is.
        iteration: of its weights.
        weights, mask, trained: names of files; None for no trained weights.
        test_error: of the trained weights.
        mean, std: of the input scaling, for each channel; None for inputs that are taken as they are.

    Raises:
        DataError: the builder is no function by import path, or its arguments have no names.

    >>> text = network_text({"function": "nets:make", "arguments": {"classes": 10}}, title="A ticket", iteration=5,
    ...                     weights="w", mask="m", trained=None, test_error=0.1, mean=None, std=None)
    >>> "from nets import make" in text, "made = make(classes=10)" in text
    (True, True)
    """
    module, _, function = builder["function"].partition(":")
    # A folder of results may come from anybody, and this is code.
    if not all(re.fullmatch(r"[^\W\d]\w*", name) for name in (*module.split("."), function, *builder["arguments"])):
        raise DataError(f"summary.json names no function that builds the network: {builder}")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in builder["arguments"].items()}
    after = f'    trained = load("{trained}")  # test error {100 * test_error:.2f} %\n' if trained else ""
    head = _HEAD.format(
        title=title.replace("\\", "/").replace('"', "'"),
        iteration=iteration,
        trained=after,
        module=module,
        function=function,
        arguments=", ".join(f"{name}={value!r}" for name, value in given.items()),
        weights=weights,
        mask=mask,
    )
    return head if mean is None or std is None else head + _SCALE.format(mean=list(mean), std=list(std))
