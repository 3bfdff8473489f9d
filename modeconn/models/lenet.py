"""LeNet-300-100 and its relatives: fully-connected networks of any widths (LeCun et al. 1998)."""

import itertools
import math

from torch import nn

from modeconn.models.layers import Architecture


def build(widths: str, wanted: Architecture) -> nn.Module:
    """Linear and ReLU layers of the widths in `"-300-100"`, then a linear layer to the classes."""
    if any(int(w) < 1 for w in widths.split("-")[1:]):
        raise ValueError("every layer needs at least one unit")
    if widths.count("-") > 1000:
        raise ValueError(f"a LeNet has at most 1,000 layers here; got {widths.count('-'):,}")
    sizes = [math.prod(wanted.input_shape), *(wanted.channels(int(w)) for w in widths.split("-")[1:])]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU(), *wanted.dropout_layers()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], wanted.classes))
