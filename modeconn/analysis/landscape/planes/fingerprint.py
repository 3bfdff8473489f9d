"""What decides the values of a landscape, by its content: networks, data, architecture, and how it is measured."""

import hashlib
from collections.abc import Iterable
from typing import Any

from torch import nn

from modeconn.analysis.connectivity.comparison import SPLIT, Comparison
from modeconn.analysis.landscape.architecture import architecture_of
from modeconn.evaluation.batches import fingerprint_batches
from modeconn.training.content import content_hash
from modeconn.weights.state_dicts import Weights


def fingerprint_of(comparison: Comparison, basis: Iterable[Weights]) -> dict[str, Any]:
    """All that decides what is measured at a point, as JSON of hashes and words.

    Two measurements with one fingerprint give the same values; after a change of weights, of data, of the network's
    code or of an option the fingerprint is another.

    Raises:
        OptionError: the network or `evaluate` refers to something that has no content to be told by.
    """
    evaluator = comparison.evaluator
    meter = evaluator.meter
    names = ("precision", "device", "adapter", "inputs")
    return {
        "basis": [fingerprint_weights(weights) for weights in basis],
        "network": content_hash([architecture_of(network) for network in _networks(comparison, basis)], "the network"),
        "data": fingerprint_batches(evaluator.data[SPLIT]),
        "calibration": fingerprint_batches(evaluator.calibration) if evaluator.calibration else None,
        "batchnorm": evaluator.batchnorm,
        "measured": [meter.name, meter.about, content_hash(meter.measure, "evaluate") if meter.name == "own" else ""],
        **{name: comparison.settings.get(name) for name in names},
    }


def fingerprint_weights(weights: Weights) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256()
    for name in sorted(weights.layout):
        digest.update(f"{name}\0".encode())
        digest.update(fingerprint_batches([weights.read(name)]).encode())
    return digest.hexdigest()


def _networks(comparison: Comparison, basis: Iterable[Weights]) -> list[nn.Module]:
    """The network that points are measured in, and those that networks of the basis are."""
    own = comparison.evaluator.ends
    return [comparison.evaluator.network, *(own[one]() for one in basis if one in own)]
