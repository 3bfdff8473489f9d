"""Layerwise pruning rates, by kinds of layers: say, the output layer at half the rate and the first not at all."""

from collections.abc import Iterable

from torch import nn

from modeconn.errors import OptionError, unknown
from modeconn.pruning.prunable import prunable

GROUPS = ("conv", "linear", "first", "output")


def layer_rates(network: nn.Module, rates: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Work out the rate of each weight from rates of names and of groups of layers.

    Frankle & Carbin (2019) prune the output layers of LeNet and of the convolutional networks at half the rate of the
    others, and the convolutions of Conv-2, Conv-4 and Conv-6 more slowly than their linear layers.

    Args:
        network: whose layers; without masks and parametrizations.
        rates: what to multiply the fraction by, for the name of a weight or for `"first"` or `"output"` (the first and
            the last in the network's order), `"conv"` or `"linear"`. A name says more than `"first"` and
            `"output"`, and these more than a kind.

    Raises:
        OptionError: no such layer, no layer of that kind, or two rates for one thing.

    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 2))
    >>> layer_rates(network, [("output", 0.5), ("conv", 0.75)])
    {'0.weight': 0.75, '3.weight': 0.5}
    """
    given = list(rates)
    if len(dict(given)) < len(given):
        raise OptionError(f"a layer has two rates: {', '.join(f'{name}={rate:g}' for name, rate in given)}")
    names = list(prunable(network))
    kinds = {"conv": nn.modules.conv._ConvNd, "linear": nn.Linear}
    modules = {name: network.get_submodule(name.rpartition(".")[0]) for name in names}
    groups = {word: [name for name in names if isinstance(modules[name], kind)] for word, kind in kinds.items()}
    groups |= {"first": names[:1], "output": names[-1:]}
    found: dict[str, float] = {}
    for word in GROUPS:  # kinds, then places, then names: what comes later says more
        if word in dict(given):
            if not groups[word]:
                raise OptionError(f"a rate is given for {word} layers, but the network has none")
            found |= dict.fromkeys(groups[word], dict(given)[word])
    for name, rate in given:
        if name not in GROUPS:
            if name not in names:
                raise unknown("layer", name, (*names, *GROUPS))
            found[name] = rate
    return {name: found[name] for name in names if name in found}
