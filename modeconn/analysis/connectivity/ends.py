"""The scratch network shown to compute what the ends of a path compute, on a first batch."""

from typing import Any

import torch
from torch import nn

from modeconn.analysis.connectivity.networks import Networks
from modeconn.analysis.paths.evaluator import PathEvaluator
from modeconn.analysis.paths.linear import equal_values, load_weights
from modeconn.errors import NetworkError
from modeconn.evaluation.agreement import TOLERANCE, departure
from modeconn.evaluation.modes import evaluating
from modeconn.weights.state_dicts import Weights, state_tensors


def check_ends(evaluator: PathEvaluator, networks: Networks, batch: Any) -> list[str]:
    """See that the scratch network, given the weights of a network, computes what that network computes; gives notes.

    Only then is what is measured between two networks a path from one to the other. The way in which weights are put
    into the scratch network is the first of `Scratch.ways` with which it does. Costs two passes of one batch for every
    network but the one that the scratch network is a copy of, and one pass for weights alone.

    Raises:
        NetworkError: it does not; with the module whose output departs first, and what differs.
    """
    scratch = evaluator.scratch
    given = networks.host is not None and networks.weights[networks.host] in networks.own
    notes = [] if given else _settle(evaluator, networks.weights[-1], batch)
    # A copy of itself, with its own weights, is no other function unless there is more in it than weights.
    ends = {
        name: end
        for index, (name, end) in enumerate(zip(networks.names, networks.weights, strict=True))
        if end in networks.own and not (index == networks.host and scratch.simple)
    }
    apart = None
    for way in scratch.ways:
        scratch.way = way
        found = next(((name, said) for name, end in ends.items() if (said := _apart(evaluator, end, batch))), None)
        if found is None:
            return notes
        apart = apart or found
    assert apart is not None
    name, said = apart
    host = "model=" if networks.host is None else networks.names[networks.host]
    raise NetworkError(
        f"{name} does not compute what its weights compute in the network of {host} (here), in which the path is "
        f"measured: on the first batch {said} (at most {TOLERANCE:g} of it is allowed). Give networks with one code, "
        "one configuration and one mode; or state dicts and model=, to measure all weights in one network"
    )


def _apart(evaluator: PathEvaluator, end: Weights, batch: Any) -> str | None:
    """Where the scratch network with the weights of an end departs from the end itself."""

    def ours() -> nn.Module:
        with evaluator.scratch.rewriting():
            load_weights(evaluator.network, end)
        return evaluator.network

    tolerance = max(TOLERANCE, 16 * torch.finfo(torch.bfloat16).eps) if evaluator.precision == "bfloat16" else TOLERANCE
    return departure(ours, evaluator.ends[end], batch, evaluator.forward, tolerance)


@torch.no_grad()
def _settle(evaluator: PathEvaluator, end: Weights, batch: Any) -> list[str]:
    """Have a fresh network that sets weights by the first batch that it sees do so before weights are put into it."""
    network = evaluator.network
    with evaluator.scratch.rewriting():
        load_weights(network, end)
    with evaluating(network):
        evaluator.forward(network, batch)
    tensors = state_tensors(network).items()
    written = [name for name, tensor in tensors if not equal_values(end.read(name).to(tensor), tensor)]
    if not written or not evaluator.scratch.changed:
        return []
    evaluator.scratch.remember()
    return [
        f"the network sets {', '.join(written)} by the first batch that it sees; it has seen one before each network's "
        "weights are put in"
    ]
